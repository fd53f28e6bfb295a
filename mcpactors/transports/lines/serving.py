"""Serving one client at the other end of two streams of lines, in the era that its first request is of.

Rule: the reading task takes what comes, in order, and waits for nobody but the handshake; each request has a task.
What a client has cancelled is not answered; what runs when it leaves is answered that its connection closed. To stop
is to read no further once what was asked is answered, and so is the end of stdin. Who is served together:
lines/front.py. Promises F6 to F13, P10.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import anyio
import trio
from attrs import define, field
from mcp.server.connection import Connection, NotifyOnlyOutbound
from mcp.server.runner import aclose_shielded
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    INVALID_REQUEST,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from mcp_types.version import LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS

from mcpactors.errors import ActorStopped
from mcpactors.runtime.methods import CANCELLED
from mcpactors.transports.answering import (
    CLOSED,
    Channel,
    Message,
    Questions,
    Serving,
    failed,
    notification,
    unwritable,
)
from mcpactors.transports.lines.streams import StdioReader, StdioWriter

__all__ = ["Desk"]

logger = logging.getLogger("mcpactors")

EARLY: Final = 8
"""Notifications before the first request that are kept for the era of that; more are dropped."""
LAST_WORD: Final = 1.0
"""Seconds for the answer to what runs when its client leaves."""
LAST_ANSWERS: Final = 0.8
"""Seconds that what runs has when stdin ends. SIGTERM is sent 1 s after that by gateways like us, 2 s by clients."""
LASTING: Final = "subscriptions/listen"
_OLD: Final = TransportContext(kind="jsonrpc", can_send_request=True)
_MODERN: Final = TransportContext(kind="jsonrpc", can_send_request=False)
_STOPPING: Final = ErrorData(code=ActorStopped.code, message="this server is stopping: nothing new is begun")


@define(eq=False)
class Desk:
    """One client; towards the SDK, the way to it outside of its calls."""

    _serving: Serving
    _writer: StdioWriter
    _metadata: ServerMessageMetadata | None
    _connection: Connection = field(init=False)  # of the old era
    _outbound: NotifyOnlyOutbound = field(init=False)  # of all requests of the modern era: by it they are known as one
    _modern: bool | None = field(default=None, init=False)
    _served: bool = field(default=False, init=False)  # a request of the modern era had a result
    _early: list[JSONRPCNotification] = field(factory=list, init=False)
    _calls: dict[RequestId, Channel] = field(factory=dict, init=False)
    _questions: Questions = field(factory=Questions, init=False)
    _stopping: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)  # nothing more comes, and what runs is still answered
    _running: int = field(default=0, init=False)  # requests that will be answered by themselves

    def __attrs_post_init__(self) -> None:
        self._connection = Connection.for_loop(self)
        self._outbound = NotifyOnlyOutbound(self)

    async def read(self, reader: StdioReader) -> None:
        """Take what comes, to the end."""
        while True:
            try:
                item = await reader.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                return
            except anyio.BrokenResourceError as error:
                logger.error("%s", error)
                return
            assert isinstance(item, SessionMessage)
            await self._take(item.message)
            del item  # it may be large, and nothing may follow it for long
            self._look()

    async def read_and_answer(self, reader: StdioReader, started: Callable[[], Awaitable[None]]) -> None:
        """Take what comes, to the end, and answer what is answered soon after that, and after `started()`.

        Nobody can answer what is still asked. A stop ends it at once.
        """
        await self.read(reader)
        self._ended = True
        self._questions.end()
        self._look()
        if not self._stopping:
            await started()
            await trio.sleep(LAST_ANSWERS)

    def stop(self) -> None:
        """Begin nothing new, and end as soon as nothing is open; at once, if nothing more comes."""
        self._stopping = True
        if self._ended:
            self.end()
        self._look()

    def end(self) -> None:
        """Read no more, and cancel what runs; whatever the reading waits for: who takes nothing takes no answer to
        `initialize`, either."""
        self._serving.nursery.cancel_scope.cancel()

    async def aclose(self) -> None:
        """Nothing is answered any more, and the runtime is told, in bounded time; also when cancelled."""
        self._questions.end()
        await aclose_shielded(self._connection)

    def _look(self) -> None:
        """Something has been answered, or needs no answer any more."""
        if (self._stopping and not self._writer.owed.open) or (self._ended and not self._running):
            self.end()

    # --- What the client says -----------------------------------------------------------------------------------------

    async def _take(self, said: JSONRPCMessage) -> None:
        if isinstance(said, JSONRPCRequest):
            if self._stopping:
                self._serving.nursery.start_soon(self._say, failed(said.id, _STOPPING))
            else:
                await self._begin(said)
        elif isinstance(said, JSONRPCNotification):
            if said.method == CANCELLED and (given_up := cancelled_request_id_from_params(said.params)) is not None:
                channel = self._calls.get(given_up)
                if channel is not None:
                    channel.scope.cancel()
            if self._modern is not None:
                await self._hear(said)
            elif len(self._early) < EARLY:
                self._early.append(said)
        else:
            assert isinstance(said, JSONRPCResponse | JSONRPCError)
            self._questions.take(said)

    async def _begin(self, said: JSONRPCRequest) -> None:
        if self._modern is None:
            self._modern = _has_envelope(said.params)
            for early in self._early:
                await self._hear(early)
            self._early.clear()
        if said.method == "initialize" and not self._served:
            self._modern = False  # it has asked whether the modern era is spoken here, and was told that it is not
        if self._modern:
            channel = Channel(_MODERN, said.id, self._metadata, self.tell)
        else:
            channel = Channel(_OLD, said.id, self._metadata, self.tell, self.ask)
        self._calls[said.id] = channel
        self._running += said.method != LASTING
        if said.method == "initialize":  # who sends the next request without waiting for this is introduced
            await self._answer(channel, said)
        else:
            self._serving.nursery.start_soon(self._answer, channel, said)

    async def _hear(self, said: JSONRPCNotification) -> None:
        if self._modern:
            connection = Connection.from_envelope(LATEST_MODERN_VERSION, None, None, outbound=self._outbound)
            channel = Channel(_MODERN, None, self._metadata, self.tell)
        else:
            connection = self._connection
            channel = Channel(_OLD, None, self._metadata, self.tell, self.ask)
        await self._serving.runner(connection).on_notify(channel, said.method, said.params)

    # --- What it is answered ------------------------------------------------------------------------------------------

    async def _answer(self, channel: Channel, said: JSONRPCRequest) -> None:
        """The task of a call."""
        try:
            await self._answer_and_say(channel, said)
        finally:
            channel.end()
            self._running -= said.method != LASTING
        self._look()

    async def _answer_and_say(self, channel: Channel, said: JSONRPCRequest) -> None:
        try:
            answer = await (self._modern_answer if self._modern else self._old_answer)(channel, said)
        except trio.Cancelled:
            with trio.move_on_after(LAST_WORD, shield=True):
                await self._say(failed(said.id, CLOSED))
            raise
        finally:
            if self._calls.get(said.id) is channel:  # a client may use the id of a call again that it has cancelled
                del self._calls[said.id]
        if answer is not None:
            await self._say(answer)

    async def _old_answer(self, channel: Channel, said: JSONRPCRequest) -> Message | None:
        if said.method != "initialize" and _has_envelope(said.params):
            what = (
                "this connection serves the handshake protocol era; requests carrying the 2026-07-28 envelope are not"
            )
            return failed(said.id, ErrorData(code=INVALID_REQUEST, message=f"{what} accepted on it"))
        return await self._serving.answer(self._connection, channel, said)

    async def _modern_answer(self, channel: Channel, said: JSONRPCRequest) -> Message | None:
        if said.method == "initialize":
            what = "connection is serving the 2026-07-28 protocol; the initialize handshake is not accepted"
            data: dict[str, Any] = {"supported": list(MODERN_PROTOCOL_VERSIONS)}
            if isinstance(requested := (said.params or {}).get("protocolVersion"), str):
                data["requested"] = requested
            return failed(said.id, ErrorData(code=UNSUPPORTED_PROTOCOL_VERSION, message=what, data=data))
        route = classify_inbound_request({"method": said.method, "params": said.params})
        if isinstance(route, InboundLadderRejection):
            return failed(said.id, ErrorData(code=route.code, message=route.message, data=route.data))
        connection = Connection.from_envelope(
            route.protocol_version, route.client_info, route.client_capabilities, outbound=self._outbound
        )
        answer = await self._serving.answer_modern(connection, channel, said)
        self._served = self._served or (answer is not None and "result" in answer)
        return answer

    # --- What it is told and asked ------------------------------------------------------------------------------------

    async def tell(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Send a notification; waits while the client is behind."""
        await self._say(notification(method, params))

    async def ask(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask, and wait for the answer. Raises as `Questions.ask` does."""

        async def say(said: Message) -> None:
            try:
                await self._write(said)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                raise MCPError.from_error_data(CLOSED) from None

        return await self._questions.ask(method, params, say)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Beside the calls: see `tell`."""
        await self.tell(method, params)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Beside the calls: see `ask`."""
        return await self.ask(method, params)

    async def _say(self, said: Message) -> None:
        """Send it, if anybody is there; of an answer that has no JSON, an error."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            try:
                await self._write(said)
            except ValueError as error:
                if "method" in said:
                    logger.warning("%s cannot be written as JSON: %s", said["method"], error)
                else:
                    await self._write(unwritable(said, error))

    async def _write(self, said: Message) -> None:
        await self._writer.send(SessionMessage(_KINDS[frozenset(said) & _TELLING](**said)))


_TELLING: Final = frozenset(("id", "method", "error"))
_KINDS: Final[Mapping[frozenset[str], type[JSONRPCMessage]]] = {
    frozenset(("id", "method")): JSONRPCRequest,
    frozenset(("method",)): JSONRPCNotification,
    frozenset(("id",)): JSONRPCResponse,
    frozenset(("id", "error")): JSONRPCError,
}


def _has_envelope(params: Mapping[str, Any] | None) -> bool:
    """Whether a request is of the modern era, which says so in each."""
    meta = (params or {}).get("_meta")
    return isinstance(meta, Mapping) and PROTOCOL_VERSION_META_KEY in meta

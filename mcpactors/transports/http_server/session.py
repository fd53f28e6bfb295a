"""One session of an old client over streamable HTTP: what it has asked, what it was asked, and its streams.

Rule: a value without a task while nothing is asked on it. A call has a task, which its client's leaving does not end,
and a stream, which the task of some HTTP request sends: that of the POST, or of a GET that resumes it. One stream
waits for no other. MCP 2025-11-25, basic/transports "Streamable HTTP". Promises F20, F21, F43.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import trio
from attrs import define, field
from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.connection import Connection
from mcp.server.runner import aclose_shielded
from mcp.shared.dispatcher import CallOptions
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CONNECTION_CLOSED,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from starlette.requests import Request

from mcpactors.runtime.methods import CANCELLED
from mcpactors.transports.answering import (
    Channel,
    Message,
    Questions,
    Serving,
    failed,
    notification,
    unwritable,
)
from mcpactors.transports.asgi import Send, unread_of
from mcpactors.transports.http_server.events import STANDALONE, Place, SessionEvents
from mcpactors.transports.http_server.outlet import EVENT_FIELDS, Outlet
from mcpactors.transports.http_server.reply import as_json

__all__ = ["Session", "key_of"]

logger = logging.getLogger("mcpactors.http")

RETRY: Final = 1000
"""Milliseconds after which a client is to ask again for a stream that has ended before its response."""
REQUEST_CANCELLED: Final = ErrorData(code=-32800, message="Request cancelled")
"""The answer to a request that its client has cancelled: this era ends a stream by an answer only."""
ENDED: Final = ErrorData(code=CONNECTION_CLOSED, message="the session has ended, and this call with it")
"""The answer to what runs when its client ends the session."""
CLOSE: Final = 5.0
_TRANSPORT: Final = TransportContext(kind="streamable-http", can_send_request=True)


def key_of(identity: RequestId) -> str:
    """What a request and its stream are known by: 1 and "1" are two, and neither is STANDALONE."""
    return repr(identity)


@define(eq=False)
class Session:
    """One session; towards the SDK, the way to the client outside of its calls. `id` is a secret of `owner`'s."""

    id: str
    owner: AuthorizationContext | None
    events: SessionEvents
    comment: float
    """See `Outlet`."""
    _serving: Serving
    connection: Connection = field(init=False)
    used: float = field(factory=trio.current_time, init=False)
    """When an HTTP request of it ended last."""
    in_flight: int = field(default=0, init=False)
    """HTTP requests that are being answered."""
    replayed: int = field(default=0, init=False)
    """Bytes of kept events that are on their way again, each time anew: who takes none of them has them all here."""
    _closed: bool = field(default=False, init=False)
    _calls: dict[str, Channel] = field(factory=dict, init=False)
    _outlets: dict[str, Outlet] = field(factory=dict, init=False)  # of streams that somebody takes
    _questions: Questions = field(factory=Questions, init=False)
    _quiet: trio.Event | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.connection = Connection.for_loop(self, session_id=self.id)

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """Of a response."""
        return [(b"mcp-session-id", self.id.encode())]

    # --- What the client says ---------------------------------------------------------------------------------------

    async def call(self, said: JSONRPCRequest, request: Request, send: Send, *, resumable: bool) -> None:
        """Begin a call and send its stream, until it is answered or the client leaves. Its id is free."""
        key = key_of(said.id)
        self.events.ask(key, keep=said.method != "initialize")  # whose client has no session to ask again in
        metadata = ServerMessageMetadata(request_context=request)
        outlet = self._outlets[key] = Outlet(self.comment, unread_of(request.scope))
        if resumable:
            metadata.close_sse_stream = self._closing(key)
            metadata.close_standalone_sse_stream = self._closing(STANDALONE)
            outlet.put(f"id: {self.events.note(key, b'').id}\r\ndata: \r\nretry: {RETRY}\r\n\r\n".encode())
        channel = self._channel(key, said.id, metadata)
        self._calls[key] = channel
        self._serving.nursery.start_soon(self._answer, key, channel, said)
        await self._send(key, outlet, request, send)

    async def hear(self, said: JSONRPCNotification, request: Request) -> None:
        """Take a notification."""
        if said.method == CANCELLED and (given_up := cancelled_request_id_from_params(said.params)) is not None:
            channel = self._calls.get(key_of(given_up))
            if channel is not None:
                channel.scope.cancel()
        channel = self._channel(STANDALONE, None, ServerMessageMetadata(request_context=request))
        await self._serving.runner(self.connection).on_notify(channel, said.method, said.params)

    def answered(self, said: JSONRPCResponse | JSONRPCError) -> None:
        """Take an answer."""
        self._questions.take(said)

    def _channel(self, key: str, identity: RequestId | None, metadata: ServerMessageMetadata) -> Channel:
        return Channel(_TRANSPORT, identity, metadata, partial(self.tell, key), partial(self.ask, key))

    # --- Its streams ------------------------------------------------------------------------------------------------

    @property
    def listens(self) -> bool:
        """Whether the stream beside the calls is open, and was not come back to."""
        outlet = self._outlets.get(STANDALONE)
        return outlet is not None and not outlet.resumed

    def listen(self, request: Request, send: Send) -> Awaitable[None]:
        """Send the stream beside the calls; whoever had it before has it no more."""
        self._end_outlet(STANDALONE)
        outlet = self._outlets[STANDALONE] = Outlet(self.comment, unread_of(request.scope))
        return self._send(STANDALONE, outlet, request, send)

    def resume(self, place: Place, request: Request, send: Send) -> Awaitable[None]:
        """Go on with a stream; whoever had it before has it no more."""
        outlet = Outlet(self.comment, unread_of(request.scope), resumed=True)
        size = 0
        for event in self.events.after(place):
            outlet.put(event.event)
            size += len(event.json)
        if place.key is None:
            outlet.end()
        else:
            self._end_outlet(place.key)
            self._outlets[place.key] = outlet
        return self._send(place.key, outlet, request, send, size)

    async def _send(self, key: str | None, outlet: Outlet, request: Request, send: Send, replayed: int = 0) -> None:
        self.replayed += replayed
        try:
            fields = [*EVENT_FIELDS, *self.fields]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await outlet.feed(request.receive, send)
        finally:
            self.replayed -= replayed
            outlet.leave()
            if key is not None and self._outlets.get(key) is outlet:
                del self._outlets[key]

    def _closing(self, key: str) -> Callable[[], Any]:
        async def close() -> None:
            self._end_outlet(key)

        return close

    def _end_outlet(self, key: str) -> None:
        outlet = self._outlets.pop(key, None)
        if outlet is not None:
            outlet.end()

    # --- What the client is told ------------------------------------------------------------------------------------

    async def tell(self, key: str, method: str, params: Mapping[str, Any] | None) -> None:
        """Send a notification on a stream; waits while its client is behind."""
        try:
            self._say(key, as_json(notification(method, params)))
        except ValueError as error:
            logger.warning("%s cannot be written as JSON: %s", method, error)
        outlet = self._outlets.get(key)
        if outlet is not None:
            await outlet.room()

    async def ask(self, key: str, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask the client on a stream, and wait for its answer. Raises as `Questions.ask` does."""

        async def say(said: Message) -> None:
            self._say(key, as_json(said))

        return await self._questions.ask(method, params, say)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Beside the calls: see `tell`."""
        await self.tell(STANDALONE, method, params)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Beside the calls: see `ask`."""
        return await self.ask(STANDALONE, method, params)

    def _say(self, key: str, json: bytes, *, last: bool = False) -> None:
        if self._closed:
            return
        event = self.events.note(key, json, last=last)
        outlet = self._outlets.get(key)
        if outlet is not None:
            outlet.put(event.event)
            if last:
                outlet.end()

    # --- Calls ------------------------------------------------------------------------------------------------------

    async def _answer(self, key: str, channel: Channel, said: JSONRPCRequest) -> None:
        """The task of a call."""
        try:
            answer = await self._serving.answer(self.connection, channel, said)
        finally:
            outlet = self._outlets.get(key)
            if outlet is None:
                channel.end()
            else:  # until then it is in memory, and the client may be one that does not read
                outlet.taken = channel.end
            del self._calls[key]
            if self._quiet is not None and not self._calls:
                self._quiet.set()
        answer = answer or failed(said.id, REQUEST_CANCELLED)
        try:
            json = as_json(answer)
        except ValueError as error:
            json = as_json(unwritable(answer, error))
        self._say(key, json, last=True)

    # --- The end ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Cancel what runs, end every stream, and let the runtime know, in bounded time; also when cancelled."""
        for key, channel in self._calls.items():
            channel.scope.cancel()
            self._say(key, as_json(failed(channel.request_id, ENDED)), last=True)
        self._closed = True
        for outlet in self._outlets.values():
            outlet.end()
        self._questions.end()
        self.events.clear()
        if self._calls:
            self._quiet = trio.Event()
            with trio.move_on_after(CLOSE, shield=True):
                await self._quiet.wait()
        await aclose_shielded(self.connection)

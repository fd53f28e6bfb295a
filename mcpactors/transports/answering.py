"""What every way to a client has in common: a request of it is answered, it is told and asked while that runs.

Rule: knows messages and no bytes; whose stream they go out on is the caller's to say. The SDK's server is entered here,
as its `ServerRunner` is for one request, so that no transport has a dispatcher of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import anyio
import trio
from attrs import define, field, frozen
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, aclose_shielded, modern_error_data
from mcp.shared.dispatcher import CallOptions, coerce_request_id
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import CONNECTION_CLOSED, ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse, RequestId

from mcpactors.errors import INTERNAL_ERROR
from mcpactors.runtime.methods import CANCELLED

__all__ = ["CLOSED", "Channel", "Message", "Questions", "Serving", "failed", "notification", "unwritable"]

logger = logging.getLogger("mcpactors")

CLOSED: Final = ErrorData(code=CONNECTION_CLOSED, message="Connection closed")
WITHDRAW: Final = 5.0
"""Seconds that a client may take to hear that it is not to answer any more."""

Message = dict[str, Any]
Say = Callable[[Message], Awaitable[None]]
"""Sends a message. Raises ValueError: it has no JSON; MCPError: nobody is there."""
Tell = Callable[[str, Mapping[str, Any] | None], Awaitable[None]]
Ask = Callable[[str, Mapping[str, Any] | None], Awaitable[dict[str, Any]]]


# --- What the client is asked -----------------------------------------------------------------------------------------


@define(eq=False)
class _Question:
    answer: Mapping[str, Any] | ErrorData | None = None
    answered: trio.Event = field(factory=trio.Event)

    def take(self, answer: Mapping[str, Any] | ErrorData) -> None:
        self.answer = answer
        self.answered.set()


@define(eq=False)
class Questions:
    """What one client was asked and has not answered."""

    _open: dict[RequestId, _Question] = field(factory=dict, init=False)
    _count: int = field(default=0, init=False)
    _over: bool = field(default=False, init=False)

    async def ask(self, method: str, params: Mapping[str, Any] | None, say: Say) -> dict[str, Any]:
        """Ask by `say` and wait for the answer. Raises MCPError: the client's error, or why there is no answer."""
        if self._over:
            raise MCPError.from_error_data(CLOSED)
        self._count += 1
        identity = self._count
        question = self._open[identity] = _Question()
        try:
            await say({"jsonrpc": "2.0", "id": identity, **notification(method, params)})
            await question.answered.wait()
        except ValueError as error:
            raise MCPError(INTERNAL_ERROR, f"{method} cannot be written as JSON: {error}") from error
        except trio.Cancelled:
            with trio.move_on_after(WITHDRAW, shield=True), suppress(MCPError):
                await say(notification(CANCELLED, {"requestId": identity, "reason": "caller cancelled"}))
            raise
        finally:
            del self._open[identity]
        if isinstance(question.answer, ErrorData):
            raise MCPError.from_error_data(question.answer)
        return dict(question.answer or {})

    def take(self, said: JSONRPCResponse | JSONRPCError) -> None:
        """Take an answer; one to a question that nobody asks (any more) is dropped."""
        question = None if said.id is None else self._open.get(coerce_request_id(said.id))
        if question is not None:
            question.take(said.result if isinstance(said, JSONRPCResponse) else said.error)

    def end(self) -> None:
        """The client has gone: nothing is answered."""
        self._over = True
        for question in self._open.values():
            question.take(CLOSED)


# --- What the client asks ---------------------------------------------------------------------------------------------


@define(eq=False)
class Channel:
    """The SDK's `DispatchContext` of one message of the client: what belongs to it goes out by `tell` and `ask`."""

    transport: TransportContext
    request_id: RequestId | None
    message_metadata: ServerMessageMetadata | None
    _tell: Tell
    _ask: Ask | None = None
    scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    closed: bool = field(default=False, init=False)
    """The request is answered: nothing more belongs to it."""
    taken: Callable[[], None] | None = field(default=None, init=False)
    """Called when its answer has been taken to be sent, or nobody takes it; by whoever answers."""

    def end(self) -> None:
        """See `taken`."""
        if self.taken is not None:
            self.taken()
            self.taken = None

    @property
    def can_send_request(self) -> bool:
        return self._ask is not None and not self.closed

    @property
    def cancel_requested(self) -> anyio.Event:
        """Nobody waits for it: who is cancelled is cancelled."""
        return anyio.Event()

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        if not self.closed:
            await self._tell(method, params)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if self._ask is None or self.closed:
            raise NoBackChannelError(method)
        return await self._ask(method, params)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """A client that wants to be told has a token, and is told by `notify`."""


@frozen(eq=False)
class Serving:
    """What clients are served by, while they are."""

    server: Server[Any]
    state: Any
    """What the server's lifespan yielded."""
    nursery: trio.Nursery

    def runner(self, connection: Connection) -> ServerRunner[Any]:
        """The SDK's server, for one message on a connection."""
        return ServerRunner(self.server, connection, self.state)

    async def answer(self, connection: Connection, channel: Channel, said: JSONRPCRequest) -> Message | None:
        """The response to a request of the old era; None: its scope was cancelled."""
        answer: Message = {"jsonrpc": "2.0", "id": said.id}
        try:
            with channel.scope:
                answer["result"] = await self._result(connection, channel, said)
        except Exception as error:  # outside of the scope: a failure and a cancellation may come as one group
            known = handler_exception_to_error_data(error)
            if known is None:
                logger.error("%s failed", said.method, exc_info=error)
                known = ErrorData(code=0, message=str(error))
            answer = failed(said.id, known)
        finally:
            channel.closed = True
        return None if channel.scope.cancel_called else answer

    async def answer_modern(self, connection: Connection, channel: Channel, said: JSONRPCRequest) -> Message | None:
        """The response to a request of the modern era, with a connection of its own; None: its scope was cancelled."""
        answer: Message = {"jsonrpc": "2.0", "id": said.id}
        try:
            with channel.scope:
                try:
                    answer["result"] = await self._result(connection, channel, said)
                finally:
                    await aclose_shielded(connection)
        except Exception as error:
            answer = failed(said.id, modern_error_data(error))
        finally:
            channel.closed = True
        return None if channel.scope.cancel_called else answer

    async def _result(self, connection: Connection, channel: Channel, said: JSONRPCRequest) -> dict[str, Any]:
        runner = self.runner(connection)
        try:
            return await runner.on_request(channel, said.method, said.params)
        finally:
            del runner.on_request  # a circle, that only a collection of garbage would end


def notification(method: str, params: Mapping[str, Any] | None) -> Message:
    """A notification as it is said."""
    said: Message = {"jsonrpc": "2.0", "method": method}
    return said if params is None else {**said, "params": params}


def failed(identity: RequestId | None, error: ErrorData) -> Message:
    """An error as it is said."""
    return {"jsonrpc": "2.0", "id": identity, "error": error.model_dump(by_alias=True, exclude_unset=True)}


def unwritable(said: Message, error: Exception) -> Message:
    """What is said instead of a response that has no JSON."""
    logger.warning("a result cannot be written as JSON: %s", error)
    what = "the result cannot be written as JSON (no valid Unicode?)"
    return failed(said.get("id"), ErrorData(code=INTERNAL_ERROR, message=what))

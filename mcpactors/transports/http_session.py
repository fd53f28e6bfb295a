"""One session of an old client over streamable HTTP: what it has asked, what it was asked, and its streams.

Rule: a value without a task while nothing is asked on it. A call has a task, which its client's leaving does not end,
and a stream, which the task of some HTTP request sends: that of the POST, or of a GET that resumes it. One stream
waits for no other. MCP 2025-11-25, basic/transports "Streamable HTTP". Promises F20, F21, F43.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import trio
from attrs import define, field, frozen
from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, aclose_shielded
from mcp.shared.dispatcher import CallOptions, coerce_request_id
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params, handler_exception_to_error_data
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

from mcpactors.errors import INTERNAL_ERROR
from mcpactors.transports.http_events import STANDALONE, Place, SessionEvents
from mcpactors.transports.http_exchange import Receive, Send
from mcpactors.transports.http_outlet import EVENT_FIELDS, Outlet
from mcpactors.transports.http_reply import as_json

__all__ = ["Serving", "Session"]

logger = logging.getLogger("mcpactors.http")

RETRY: Final = 1000
"""Milliseconds after which a client is to ask again for a stream that has ended before its response."""
REQUEST_CANCELLED: Final = -32800
"""Of the answer to a request that its client has cancelled: this era ends a stream by an answer only."""
CLOSE: Final = 5.0
_CANCELLED: Final = "notifications/cancelled"
_CLOSED: Final = ErrorData(code=CONNECTION_CLOSED, message="Connection closed")
_TRANSPORT: Final = TransportContext(kind="streamable-http", can_send_request=True)

Answer = Mapping[str, Any] | ErrorData


@frozen(eq=False)
class Serving:
    """What all sessions of an endpoint are served by, while it is."""

    server: Server[Any]
    state: Any
    """What the server's lifespan yielded."""
    nursery: trio.Nursery
    comment: float
    """See `Outlet`."""


@define(eq=False)
class _Question:
    """What the client was asked."""

    answer: Answer | None = None
    answered: trio.Event = field(factory=trio.Event)

    def take(self, answer: Answer) -> None:
        self.answer = answer
        self.answered.set()


@define(eq=False)
class _Channel:
    """The SDK's `DispatchContext` of one message of the client: what belongs to it goes out on its stream."""

    session: Session
    key: str
    request_id: RequestId | None
    message_metadata: ServerMessageMetadata
    scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    closed: bool = field(default=False, init=False)

    @property
    def transport(self) -> TransportContext:
        return _TRANSPORT

    @property
    def can_send_request(self) -> bool:
        return not self.closed

    @property
    def cancel_requested(self) -> anyio.Event:
        """Nobody waits for it: who is cancelled is cancelled."""
        return anyio.Event()

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        if not self.closed:
            await self.session.tell(self.key, method, params)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if self.closed:
            raise NoBackChannelError(method)
        return await self.session.ask(self.key, method, params)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """A client that wants to be told has a token, and is told by `notify`."""


@define(eq=False)
class Session:
    """One session; towards the SDK, the way to the client outside of its calls. `id` is a secret of `owner`'s."""

    id: str
    owner: AuthorizationContext | None
    events: SessionEvents
    _serving: Serving
    connection: Connection = field(init=False)
    used: float = field(factory=trio.current_time, init=False)
    """When an HTTP request of it ended last."""
    in_flight: int = field(default=0, init=False)
    """HTTP requests that are being answered."""
    _closed: bool = field(default=False, init=False)
    _calls: dict[str, _Channel] = field(factory=dict, init=False)
    _outlets: dict[str, Outlet] = field(factory=dict, init=False)  # of streams that somebody takes
    _questions: dict[RequestId, _Question] = field(factory=dict, init=False)
    _asked: int = field(default=0, init=False)
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
        key = str(said.id)
        self.events.ask(key, keep=said.method != "initialize")  # whose client has no session to ask again in
        metadata = ServerMessageMetadata(request_context=request)
        outlet = self._outlets[key] = Outlet(self._serving.comment)
        if resumable:
            metadata.close_sse_stream = self._closing(key)
            metadata.close_standalone_sse_stream = self._closing(STANDALONE)
            outlet.put(f"id: {self.events.note(key, b'').id}\r\ndata: \r\nretry: {RETRY}\r\n\r\n".encode())
        channel = self._calls[key] = _Channel(self, key, said.id, metadata)
        self._serving.nursery.start_soon(self._answer, channel, said)
        await self._send(key, outlet, request.receive, send)

    async def hear(self, said: JSONRPCNotification, request: Request) -> None:
        """Take a notification."""
        if said.method == _CANCELLED and (given_up := cancelled_request_id_from_params(said.params)) is not None:
            channel = self._calls.get(str(given_up))
            if channel is not None:
                channel.scope.cancel()
        channel = _Channel(self, STANDALONE, None, ServerMessageMetadata(request_context=request))
        await self._runner().on_notify(channel, said.method, said.params)

    def answered(self, said: JSONRPCResponse | JSONRPCError) -> None:
        """Take an answer; to a question that nobody asks (any more) it is dropped."""
        question = None if said.id is None else self._questions.get(coerce_request_id(said.id))
        if question is not None:
            question.take(said.result if isinstance(said, JSONRPCResponse) else said.error)

    # --- Its streams ------------------------------------------------------------------------------------------------

    @property
    def listens(self) -> bool:
        """Whether the stream beside the calls is open, and was not come back to."""
        outlet = self._outlets.get(STANDALONE)
        return outlet is not None and not outlet.resumed

    async def listen(self, receive: Receive, send: Send) -> None:
        """Send the stream beside the calls; whoever had it before has it no more."""
        self._end_outlet(STANDALONE)
        outlet = self._outlets[STANDALONE] = Outlet(self._serving.comment)
        await self._send(STANDALONE, outlet, receive, send)

    async def resume(self, place: Place, receive: Receive, send: Send) -> None:
        """Go on with a stream; whoever had it before has it no more."""
        outlet = Outlet(self._serving.comment, resumed=True)
        for event in self.events.after(place):
            outlet.put(event.event)
        if place.key is None:
            outlet.end()
        else:
            self._end_outlet(place.key)
            self._outlets[place.key] = outlet
        await self._send(place.key, outlet, receive, send)

    async def _send(self, key: str | None, outlet: Outlet, receive: Receive, send: Send) -> None:
        try:
            fields = [*EVENT_FIELDS, *self.fields]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await outlet.feed(receive, send)
        finally:
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
        said = {"jsonrpc": "2.0", "method": method}
        try:
            self._say(key, as_json(said if params is None else {**said, "params": params}))
        except ValueError as error:
            logger.warning("%s cannot be written as JSON: %s", method, error)
        outlet = self._outlets.get(key)
        if outlet is not None:
            await outlet.room()

    async def ask(self, key: str, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask the client on a stream, and wait for its answer. Raises MCPError: its error, or why there is none."""
        if self._closed:
            raise MCPError.from_error_data(_CLOSED)
        self._asked += 1
        identity = self._asked
        said = {"jsonrpc": "2.0", "id": identity, "method": method}
        try:
            json = as_json({**said, "params": params} if params else said)
        except ValueError as error:
            raise MCPError(INTERNAL_ERROR, f"{method} cannot be written as JSON: {error}") from error
        question = self._questions[identity] = _Question()
        self._say(key, json)
        try:
            await question.answered.wait()
        except trio.Cancelled:
            withdrawn = {"requestId": identity, "reason": "caller cancelled"}
            self._say(key, as_json({"jsonrpc": "2.0", "method": _CANCELLED, "params": withdrawn}))
            raise
        finally:
            del self._questions[identity]
        if isinstance(question.answer, ErrorData):
            raise MCPError.from_error_data(question.answer)
        return dict(question.answer or {})

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

    async def _answer(self, channel: _Channel, said: JSONRPCRequest) -> None:
        """The task of a call."""
        json = b""
        try:
            with channel.scope:
                json = await self._outcome(channel, said)
            if channel.scope.cancel_called:
                error = ErrorData(code=REQUEST_CANCELLED, message="Request cancelled")
                json = as_json(_failed(said.id, error))
        finally:
            del self._calls[channel.key]
            if self._quiet is not None and not self._calls:
                self._quiet.set()
        self._say(channel.key, json, last=True)

    async def _outcome(self, channel: _Channel, said: JSONRPCRequest) -> bytes:
        try:
            result = await self._runner().on_request(channel, said.method, said.params)
        except Exception as error:
            known = handler_exception_to_error_data(error)
            if known is None:
                logger.exception("%s failed", said.method)
                known = ErrorData(code=0, message=str(error))
            answer = _failed(said.id, known)
        else:
            answer = {"jsonrpc": "2.0", "id": said.id, "result": result}
        finally:
            channel.closed = True
        try:
            return as_json(answer)
        except ValueError as error:
            logger.warning("the answer to %s cannot be written as JSON: %s", said.method, error)
            unsaid = "the result cannot be written as JSON (no valid Unicode?)"
            return as_json(_failed(said.id, ErrorData(code=INTERNAL_ERROR, message=unsaid)))

    def _runner(self) -> ServerRunner[Any]:
        return ServerRunner(self._serving.server, self.connection, self._serving.state)

    # --- The end ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Cancel what runs, end every stream, and let the runtime know, in bounded time; also when cancelled."""
        self._closed = True
        for channel in self._calls.values():
            channel.scope.cancel()
        for outlet in self._outlets.values():
            outlet.end()
        for question in self._questions.values():
            question.take(_CLOSED)
        self.events.clear()
        if self._calls:
            self._quiet = trio.Event()
            with trio.move_on_after(CLOSE, shield=True):
                await self._quiet.wait()
        await aclose_shielded(self.connection)


def _failed(identity: RequestId, error: ErrorData) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "error": error.model_dump(by_alias=True, exclude_unset=True)}

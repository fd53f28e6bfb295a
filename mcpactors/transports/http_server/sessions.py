"""The endpoint of streamable HTTP: whose request it is, of which era, and of which session.

Rule: here is what a request has to be, in its headers and its body, before a session or a call hears of it; every
refusal of the old era is written here. Sessions are values in a table: what one costs while nothing runs on it is
memory, and that is bounded by `SessionLimits`. MCP 2025-11-25, basic/transports "Streamable HTTP". Promises F35, F43.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

import trio
from attrs import define, field, frozen
from mcp.server.lowlevel import Server
from mcp.server.streamable_http import check_accept_headers
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import (
    DEFAULT_NEGOTIATED_VERSION,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    RequestId,
    jsonrpc_message_adapter,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, is_version_at_least
from pydantic import ValidationError
from starlette.requests import Request

from mcpactors.errors import OVERLOADED
from mcpactors.runtime.policy import DEFAULT_CLIENTS, ClientLimits
from mcpactors.transports.answering import Serving
from mcpactors.transports.asgi import Receive, Scope, Send
from mcpactors.transports.http_server.bearer import principal_of
from mcpactors.transports.http_server.body import BadBody, read_body
from mcpactors.transports.http_server.events import EventLimits, EventLog
from mcpactors.transports.http_server.modern import answer_modern
from mcpactors.transports.http_server.reply import JSON, TEXT, refuse, respond, whole_body
from mcpactors.transports.http_server.session import Session, key_of

__all__ = ["REPLAYS", "SessionLimits", "Sessions"]

JSON_TYPE: Final = "application/json"
POLLED_SINCE: Final = "2025-11-25"
"""The revision since which a client knows an event without data, and so what to come again with."""
LOOKS: Final = 60
"""How often sessions are looked through in the time after which they are forgotten; each is sure to be, when asked."""
REPLAYS: Final = 4
"""Times what is kept of a session that may be on its way again at one time; one stream more may be than it allows."""


@frozen
class SessionLimits:
    """Of the sessions of one endpoint; promise F43."""

    clients: ClientLimits = DEFAULT_CLIENTS
    asked: int = 1024
    """Requests of one session that may be unanswered."""
    events: EventLimits = EventLimits()


@frozen
class _Refusal(Exception):
    """Why a request of the old era is not served."""

    status: int
    message: str
    code: int = INVALID_REQUEST
    id: int | str | None = None
    fields: tuple[tuple[bytes, bytes], ...] = ()


@define(eq=False)
class Sessions:
    """Both eras on one endpoint; `handle_request` is an ASGI application while `run` lasts."""

    server: Server[Any]
    limits: SessionLimits = SessionLimits()
    log: EventLog = field(init=False)
    _open: dict[str, Session] = field(factory=dict, init=False)
    _unused: dict[str, Session] = field(factory=dict, init=False)  # those that nothing was asked on but who we are
    _serving: Serving = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.log = EventLog(self.limits.events)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Serve while the block lasts; then whatever still runs is cancelled."""
        async with self.server.lifespan(self.server) as state:
            try:
                async with trio.open_nursery() as nursery:
                    self._serving = Serving(self.server, state, nursery)
                    nursery.start_soon(self._forget_idle)
                    yield
                    nursery.cancel_scope.cancel()
            finally:
                async with trio.open_nursery() as closing:
                    for session in self._open.values():
                        closing.start_soon(session.aclose)
                    self._open = {}

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        said: Any = None
        if scope["method"] == "POST":
            if not request.headers.get("content-type", "").lower().startswith(JSON_TYPE):
                await respond(send, 400, b"Invalid Content-Type header", [TEXT])
                return
            body = await whole_body(scope, receive, send, self.limits.clients.body)
            if body is None:
                return
            try:
                said = read_body(body, self.limits.clients)
            except BadBody as bad:
                await refuse(send, 400, bad.code, bad.message, bad.id)
                return
        if request.headers.get(MCP_PROTOCOL_VERSION_HEADER, DEFAULT_NEGOTIATED_VERSION) in HANDSHAKE_PROTOCOL_VERSIONS:
            await self._answer_old(said, request, send)
        elif scope["method"] != "POST":
            await respond(send, 405, fields=[(b"allow", b"POST")])
        elif not all(check_accept_headers(request)):
            await respond(send, 406, fields=())
        else:
            await answer_modern(self._serving, said, request, send, self.limits.clients.comment)

    # --- The old era ------------------------------------------------------------------------------------------------

    async def _answer_old(self, said: Any, request: Request, send: Send) -> None:
        session = begun = None
        try:
            session = self._session_of(request)
            message = _message(said, request) if request.method == "POST" else None
            if message is not None and session is None:
                session = begun = self._begun(message, request)
            await self._answer_in(session, message, request, send)
        except _Refusal as no:
            fields = [*no.fields, *(session.fields if session is not None else ())]
            await refuse(send, no.status, no.code, no.message, no.id, fields)
        finally:
            if begun is not None and not begun.connection.initialize_accepted:
                await self._end(begun)

    def _session_of(self, request: Request) -> Session | None:
        """The session that a request names. One of another principal is not there, like one that is forgotten."""
        identity = request.headers.get("mcp-session-id")
        if identity is None:
            return None
        session = self._open.get(identity)
        if session is None or session.owner != principal_of(request.scope) or self._is_idle(session):
            raise _Refusal(404, "Session not found")
        return session

    def _begun(self, message: JSONRPCMessage, request: Request) -> Session:
        """A session for a request that names none."""
        if not isinstance(message, JSONRPCRequest) or message.method != "initialize":
            raise _Refusal(400, "Bad Request: Missing session ID")
        if len(self._open) >= self.limits.clients.sessions:
            self._make_room()
        session = Session(
            uuid4().hex, principal_of(request.scope), self.log.session(), self.limits.clients.comment, self._serving
        )
        self._open[session.id] = self._unused[session.id] = session
        return session

    async def _answer_in(
        self, session: Session | None, message: JSONRPCMessage | None, request: Request, send: Send
    ) -> None:
        if request.method == "GET" and not check_accept_headers(request)[1]:
            raise _Refusal(406, "Not Acceptable: Client must accept text/event-stream")
        if request.method not in ("POST", "GET", "DELETE"):
            raise _Refusal(405, "Method Not Allowed", fields=((b"allow", b"GET, POST, DELETE"),))
        if session is None:
            raise _Refusal(400, "Bad Request: Missing session ID")
        session.in_flight += 1
        if message is None or (isinstance(message, JSONRPCRequest) and message.method != "initialize"):
            self._unused.pop(session.id, None)
        try:
            if message is not None:
                await self._take(session, message, request, send)
            elif request.method == "GET":
                await _stream(session, request, send, self.limits.events.session_bytes * REPLAYS)
            else:
                await self._end(session)
                await respond(send, 200, fields=[JSON, *session.fields])
        finally:
            session.in_flight -= 1
            session.used = trio.current_time()

    async def _take(self, session: Session, message: JSONRPCMessage, request: Request, send: Send) -> None:
        if isinstance(message, JSONRPCRequest):
            _check_free(session, message.id, self.limits.asked)
            revision = request.headers.get(MCP_PROTOCOL_VERSION_HEADER, DEFAULT_NEGOTIATED_VERSION)
            if message.method == "initialize" and message.params:
                revision = str(message.params.get("protocolVersion", DEFAULT_NEGOTIATED_VERSION))
            await session.call(message, request, send, resumable=is_version_at_least(revision, POLLED_SINCE))
            return
        if isinstance(message, JSONRPCNotification):
            await session.hear(message, request)
        else:
            session.answered(message)
        await respond(send, 202, fields=[JSON, *session.fields])

    # --- The end of sessions ----------------------------------------------------------------------------------------

    def _is_idle(self, session: Session) -> bool:
        return not session.in_flight and trio.current_time() >= session.used + self.limits.clients.session_idle

    async def _forget_idle(self) -> None:
        while True:
            await trio.sleep(self.limits.clients.session_idle / LOOKS)
            for session in [session for session in self._open.values() if self._is_idle(session)]:
                self._serving.nursery.start_soon(self._end, session)

    def _make_room(self) -> None:
        """End the oldest session that was never used: who only begins sessions keeps nobody from beginning one."""
        oldest = next((session for session in self._unused.values() if not session.in_flight), None)
        if oldest is None:
            raise _Refusal(503, "Too many open sessions", INTERNAL_ERROR)
        del self._open[oldest.id], self._unused[oldest.id]
        self._serving.nursery.start_soon(oldest.aclose)

    async def _end(self, session: Session) -> None:
        self._unused.pop(session.id, None)
        if self._open.pop(session.id, None) is not None:
            await session.aclose()


def _stream(session: Session, request: Request, send: Send, most: int) -> Awaitable[None]:
    """What answers a GET."""
    after = request.headers.get("last-event-id")
    if after is None and session.listens:
        raise _Refusal(409, "Conflict: Only one SSE stream is allowed per session")
    if after is None:
        return session.listen(request, send)
    place = session.events.place(after)
    if place is None:
        raise _Refusal(400, "what came after that event is not kept (any more)")
    if session.replayed >= most:
        raise _Refusal(503, "as much is being sent again as may be; read it, or come again", OVERLOADED)
    return session.resume(place, request, send)


def _message(said: Any, request: Request) -> JSONRPCMessage:
    """What a POST says."""
    if not all(check_accept_headers(request)):
        raise _Refusal(406, "Not Acceptable: Client must accept both application/json and text/event-stream")
    if JSON_TYPE not in [part.strip() for part in request.headers["content-type"].partition(";")[0].split(",")]:
        raise _Refusal(415, "Unsupported Media Type: Content-Type must be application/json")
    try:
        return jsonrpc_message_adapter.validate_python(said, by_name=False)
    except ValidationError as error:
        raise _Refusal(400, f"Validation error: {error}", INVALID_PARAMS) from None


def _check_free(session: Session, identity: RequestId, most: int) -> None:
    asked = session.events.asked
    if key_of(identity) in asked:
        raise _Refusal(400, f"the id {identity!r} is that of a request in flight", id=identity)
    if len(asked) >= most:
        raise _Refusal(503, "more requests are unanswered than a session may have", OVERLOADED, identity)

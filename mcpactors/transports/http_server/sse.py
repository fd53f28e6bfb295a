"""Serving clients of the HTTP+SSE transport of 2024-11-05, which open a stream and post their messages elsewhere.

Rule: a session is its stream: it begins with it and ends with it. What is posted are the lines of that client, as on
stdio, and read by who posts them; the task of the stream only sees that the client is there. Whoever guards the
endpoint (Host, Origin, credentials) has seen both requests before.
MCP 2024-11-05, basic/transports "HTTP with SSE".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs
from uuid import uuid4

import trio
from attrs import define, field
from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.lowlevel import Server
from mcp.shared.message import ServerMessageMetadata
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.requests import Request
from trio.abc import Stream

from mcpactors.runtime.policy import DEFAULT_CLIENTS, ClientLimits
from mcpactors.transports.asgi import Receive, Scope, Send, unread_of
from mcpactors.transports.http_server.bearer import principal_of
from mcpactors.transports.http_server.body import PARTS, BadBody, read_body
from mcpactors.transports.http_server.outlet import COMMENT, EVENT_FIELDS, as_event
from mcpactors.transports.http_server.reply import refuse, respond, whole_body
from mcpactors.transports.lines.front import LinesFront
from mcpactors.transports.lines.serving import Desk
from mcpactors.transports.lines.streams import StdioLimits, StdioReader

__all__ = ["SSEFront"]

ACCEPTED: Final = b"Accepted"

LOOK: Final = 1.0
"""Seconds between two looks at whose comment is due."""
AT_ONCE: Final = 16
"""Comments that are sent before others have their turn."""


@define(eq=False)
class _Session(Stream):
    """One client. What is sent goes to it as events, a line each; what it posts is read in by who posts it."""

    owner: AuthorizationContext | None
    receive: Receive
    send: Send
    commented: float
    """When it had a comment, or began."""
    left: bool = field(default=False, init=False)
    """The client has, before we ended the stream."""
    _line: bytes = field(default=b"", init=False)
    _commenting: bool = field(default=False, init=False)
    _read: Callable[[], Awaitable[None]] | None = field(default=None, init=False)
    _turn: trio.Lock | None = field(default=None, init=False)  # while somebody posts
    _reading: trio.CancelScope | None = field(default=None, init=False)

    async def listen(self, place: bytes, desk: Desk, reader: StdioReader) -> None:
        """Until the client leaves: tell it where to post, and let `reader`, who reads from here, read that."""
        self._read = partial(desk.read, reader)
        try:
            await self.emit(as_event(place, kind="endpoint"))
            while (await self.receive())["type"] != "http.disconnect":
                pass
            self.left = True
        finally:
            self._read = None
            if self._reading is not None:
                self._reading.cancel()
            if self._turn is not None:
                with trio.CancelScope(shield=True):
                    async with self._turn:
                        pass

    async def post(self, line: bytes) -> bool:
        """Wait until it is read. False: the session is over."""
        turn = self._turn = self._turn or trio.Lock()
        try:
            async with turn:
                if self._read is None:
                    return False
                self._line = line + b"\n"
                with trio.CancelScope() as self._reading, suppress(trio.WouldBlock):
                    await self._read()
                self._reading = None
                return self._read is not None
        finally:
            if not turn.locked():
                self._turn = None

    async def emit(self, event: bytes) -> None:
        """Send it, of however many lines. Raises OSError once nobody reads it."""
        await self.send({"type": "http.response.body", "body": event, "more_body": True})

    async def comment(self) -> None:
        """By which proxies see that a stream is alive, and we that its client is; nothing once it has ended, or while
        the last one waits for a client that reads slowly."""
        if self._read is not None and not self._commenting:
            self._commenting = True
            try:
                with suppress(OSError):
                    await self.emit(COMMENT)
            finally:
                self._commenting = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            for line in bytes(data).split(b"\n"):
                if line:
                    await self.emit(as_event(line))
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What is posted just now, once. Raises trio.WouldBlock: that was all."""
        await trio.lowlevel.checkpoint()
        if not self._line:
            raise trio.WouldBlock
        line, self._line = self._line, b""
        return line

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@define(eq=False)
class SSEFront:
    """The sessions of one server; `stream` and `messages` are the paths."""

    server: Server[Any]
    stream: str = "/sse"
    messages: str = "/messages/"
    clients: ClientLimits = DEFAULT_CLIENTS
    drain: float = 30.0
    _open: dict[str, _Session] = field(factory=dict, init=False)
    _lines: LinesFront = field(init=False)

    def __attrs_post_init__(self) -> None:
        limits = self.clients
        lines = StdioLimits(line=limits.body + 1, depth=limits.depth, id=limits.id, parts=PARTS)
        self._lines = LinesFront(self.server, lines, self.drain)

    @asynccontextmanager
    async def run(self, stopping: trio.Event | None = None) -> AsyncIterator[None]:
        """Serve while the block lasts, which has to be longer than any request; see `LinesFront.run`."""
        async with self._lines.run(stopping) as nursery:
            nursery.start_soon(self._comment, nursery)
            yield

    def is_for(self, scope: Scope) -> bool:
        """Whether a request is for this."""
        return scope["path"].rstrip("/") in (self.stream, self.messages.rstrip("/"))

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request that is for this."""
        listens = scope["path"].rstrip("/") == self.stream
        allowed = "GET" if listens else "POST"
        if scope["method"] != allowed:
            return respond(send, 405, fields=[(b"allow", allowed.encode())])
        return (self._listen if listens else self._post)(scope, receive, send)

    async def _listen(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self._open) >= self.clients.sessions:
            await refuse(send, 503, INTERNAL_ERROR, "Too many open sessions")
            return
        identity = uuid4().hex
        session = self._open[identity] = _Session(principal_of(scope), receive, send, trio.current_time())
        listen = partial(session.listen, f"{self.messages}?session_id={identity}".encode())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": EVENT_FIELDS})
            metadata = ServerMessageMetadata(request_context=Request(scope))
            await self._lines.serve(session, session, metadata, read=listen, hold=unread_of(scope).hold)
        finally:
            del self._open[identity]
        if not session.left:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _comment(self, nursery: trio.Nursery) -> None:
        while True:
            await trio.sleep(LOOK)
            due = trio.current_time() - self.clients.comment
            late = [session for session in self._open.values() if session.commented <= due]
            for number, session in enumerate(late, 1):
                session.commented = trio.current_time()
                nursery.start_soon(session.comment)
                if number % AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        [identity] = parse_qs(scope["query_string"].decode("latin-1")).get("session_id", [""])[:1]
        session = self._open.get(identity.replace("-", "").lower())  # as a UUID may be written
        if session is None or session.owner != principal_of(scope):
            await refuse(send, 404, INVALID_REQUEST, "Session not found")
            return
        if Request(scope).headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            await refuse(send, 415, INVALID_REQUEST, "Content-Type must be application/json")
            return
        body = await whole_body(scope, receive, send, self.clients.body)
        if body is None:
            return
        try:
            read_body(body, self.clients)
        except BadBody as bad:
            await refuse(send, 400, bad.code, bad.message, bad.id)
            return
        if await session.post(body.replace(b"\n", b" ")):  # in JSON only between its tokens
            await respond(send, 202, ACCEPTED, [(b"content-type", b"text/plain")])
        else:
            await refuse(send, 404, INVALID_REQUEST, "Session not found")

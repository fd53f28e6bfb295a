"""Serving clients of the HTTP+SSE transport of 2024-11-05, which open a stream and post their messages elsewhere.

Rule: a session is its stream: it begins with it, ends with it, and is served in its task. What is posted are the lines
of that client, as on stdio. Whoever guards the endpoint (Host, Origin, credentials) has seen both requests before.
MCP 2024-11-05, basic/transports "HTTP with SSE".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final
from urllib.parse import parse_qs
from uuid import uuid4

import trio
from attrs import define, field, frozen
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, AuthorizationContext, authorization_context
from mcp.server.lowlevel import Server
from mcp.shared.message import ServerMessageMetadata
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.requests import Request
from trio.abc import ReceiveStream, SendStream

from mcpactors.runtime.policy import DEFAULT_CLIENTS, ClientLimits
from mcpactors.transports.asgi import Receive, Scope, Send
from mcpactors.transports.http_server.body import PARTS, BadBody, read_body
from mcpactors.transports.http_server.outlet import COMMENT, EVENT_FIELDS, as_event
from mcpactors.transports.http_server.reply import refuse, respond, whole_body
from mcpactors.transports.lines.front import LinesFront
from mcpactors.transports.lines.streams import StdioLimits

__all__ = ["SSEFront"]

ACCEPTED: Final = b"Accepted"

Emit = Callable[[bytes], Awaitable[None]]


@define(eq=False)
class _Mail(ReceiveStream):
    """What a client posts, a line a message. Who posts waits until it is read."""

    owner: AuthorizationContext | None
    _lines: tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]] = field(
        factory=lambda: trio.open_memory_channel[bytes](0), init=False
    )

    async def post(self, line: bytes) -> None:
        """Raises trio.BrokenResourceError, trio.ClosedResourceError: the session is over."""
        await self._lines[0].send(line + b"\n")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._lines[1].receive()

    async def aclose(self) -> None:
        self._lines[1].close()
        await trio.lowlevel.checkpoint()


@frozen(eq=False)
class _Events(SendStream):
    """What is sent to a client, each line as an event."""

    emit: Emit

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            for line in bytes(data).split(b"\n"):
                if line:
                    await self.emit(as_event(line))
        except OSError as error:
            raise trio.BrokenResourceError from error

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
    _open: dict[str, _Mail] = field(factory=dict, init=False)
    _lines: LinesFront = field(init=False)

    def __attrs_post_init__(self) -> None:
        limits = self.clients
        lines = StdioLimits(line=limits.body + 1, depth=limits.depth, id=limits.id, parts=PARTS)
        self._lines = LinesFront(self.server, lines, self.drain)

    def run(self, stopping: trio.Event | None = None) -> AbstractAsyncContextManager[object]:
        """Serve while the block lasts, which has to be longer than any request; see `LinesFront.run`."""
        return self._lines.run(stopping)

    def is_for(self, scope: Scope) -> bool:
        """Whether a request is for this."""
        return scope["path"].rstrip("/") in (self.stream, self.messages.rstrip("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is for this."""
        listens = scope["path"].rstrip("/") == self.stream
        if scope["method"] != ("GET" if listens else "POST"):
            allowed = b"GET" if listens else b"POST"
            await respond(send, 405, fields=[(b"allow", allowed)])
        elif listens:
            await self._listen(scope, receive, send)
        else:
            await self._post(scope, receive, send)

    async def _listen(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self._open) >= self.clients.sessions:
            await refuse(send, 503, INTERNAL_ERROR, "Too many open sessions")
            return
        identity, mail = uuid4().hex, _Mail(_principal(scope))
        metadata = ServerMessageMetadata(request_context=Request(scope))

        async def feed(emit: Emit) -> None:
            await emit(as_event(f"{self.messages}?session_id={identity}".encode(), kind="endpoint"))
            await self._lines.serve(mail, _Events(emit), metadata)

        self._open[identity] = mail
        try:
            await _send_events(receive, send, feed, self.clients.comment)
        finally:
            del self._open[identity]

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        [identity] = parse_qs(scope["query_string"].decode("latin-1")).get("session_id", [""])[:1]
        mail = self._open.get(identity.replace("-", "").lower())  # as a UUID may be written
        if mail is None or mail.owner != _principal(scope):
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
            await mail.post(body.replace(b"\n", b" "))  # in JSON only between its tokens
        except BadBody as bad:
            await refuse(send, 400, bad.code, bad.message, bad.id)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await refuse(send, 404, INVALID_REQUEST, "Session not found")
        else:
            await respond(send, 202, ACCEPTED, [(b"content-type", b"text/plain")])


async def _send_events(receive: Receive, send: Send, feed: Callable[[Emit], Awaitable[None]], every: float) -> None:
    """Answer with an event stream: what `feed` emits, and a comment every so many seconds.

    It ends when `feed` returns. When the client leaves, `feed` is cancelled.
    """
    await send({"type": "http.response.start", "status": 200, "headers": EVENT_FIELDS})

    async def emit(event: bytes) -> None:
        await send({"type": "http.response.body", "body": event, "more_body": True})

    async def comment() -> None:
        while True:
            await trio.sleep(every)
            await emit(COMMENT)

    async def watch(scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    whole = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        nursery.start_soon(comment)
        await feed(emit)
        whole = True
        nursery.cancel_scope.cancel()
    if whole:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _principal(scope: Scope) -> AuthorizationContext | None:
    user = scope.get("user")
    return authorization_context(user) if isinstance(user, AuthenticatedUser) else None

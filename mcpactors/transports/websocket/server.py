"""Serving MCP over WebSocket, on the port of the HTTP endpoint: the opening handshake, and a connection's life.

Rule: a handshake is an HTTP request like any other until it is accepted: whoever guards the endpoint (Host, Origin,
credentials) has seen it before. A connection is a session of the old era, or takes requests of the new one: as stdio.
RFC 6455 4.2; MCP basic/transports "Custom Transports". Promises F33, F57.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import trio
from attrs import define, field, frozen
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.lowlevel import Server
from mcp.shared.message import ServerMessageMetadata
from starlette.requests import Request
from trio.abc import Stream
from wsproto.connection import ConnectionType
from wsproto.utilities import generate_accept_token

from mcpactors.runtime.policy import DEFAULT_CLIENTS, ClientLimits
from mcpactors.transports.asgi import UPGRADE, Receive, Scope, Send, unread_of
from mcpactors.transports.http_server.bearer import valid_for
from mcpactors.transports.http_server.body import PARTS
from mcpactors.transports.http_server.reply import say
from mcpactors.transports.lines.front import LinesFront
from mcpactors.transports.lines.streams import StdioLimits
from mcpactors.transports.websocket.frames import MCP, WebSocket, WebSocketLimits, tend
from mcpactors.transports.websocket.streams import Incoming, Outgoing

__all__ = ["WebSocketFront", "wants_websocket"]

GOING_AWAY: Final = (1001, "the server is stopping")
EXPIRED: Final = (1008, "the token has expired")

Fields = tuple[tuple[bytes, bytes], ...]
_OURS: Final[Fields] = ((b"sec-websocket-version", b"13"),)


@frozen
class Refusal:
    """Why a handshake is not accepted: an HTTP status, a sentence for people, and fields that go with it."""

    status: int
    why: str
    fields: Fields = ()


def wants_websocket(scope: Scope) -> bool:
    """Whether the request is an opening handshake, or an attempt at one."""
    return any(name == b"upgrade" and b"websocket" in _tokens(value) for name, value in scope["headers"])


@define(eq=False)
class WebSocketFront:
    """The connections of one server; a request that `wants_websocket` is for this."""

    server: Server[Any]
    drain: float = 30.0
    clients: ClientLimits = DEFAULT_CLIENTS
    limits: WebSocketLimits = field(init=False)
    _lines: LinesFront = field(init=False)
    _nursery: trio.Nursery = field(init=False)
    _open: set[WebSocket] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        size, clients = self.clients.body, self.clients
        self.limits = WebSocketLimits(message=size)
        lines = StdioLimits(line=size, depth=clients.depth, id=clients.id, parts=PARTS, request_bytes=4 * size)
        self._lines = LinesFront(self.server, lines, self.drain)

    @asynccontextmanager
    async def run(self, stopping: trio.Event) -> AsyncIterator[None]:
        """Serve while the block lasts, which has to be longer than any request; see `LinesFront.run`."""
        async with self._lines.run(stopping) as self._nursery:
            self._nursery.start_soon(tend, self._open)
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a handshake, and serve the client until it leaves, or all is answered after a stop.

        When the token of the handshake expires, what runs is answered that the connection has closed.
        """
        judged, upgrade = judge(scope), scope["extensions"].pop(UPGRADE, None)
        if isinstance(judged, Refusal) or upgrade is None:
            refusal = judged if isinstance(judged, Refusal) else Refusal(501, "no WebSocket can be had here")
            await say(send, refusal.status, refusal.why, refusal.fields)
            return
        expires = trio.current_time() + valid_for(scope)
        await upgrade(judged, partial(self._serve, Request(scope), expires))

    async def _serve(self, request: Request, expires: float, stream: Stream, ahead: bytes) -> None:
        if isinstance(user := request.scope.get("user"), AuthenticatedUser):
            auth_context_var.set(user)  # what the guard said of this task was for the handshake
        parting, unread = partial(self._parting, expires), unread_of(request.scope)
        socket = WebSocket(stream, ConnectionType.SERVER, self.limits, self._nursery, ahead, parting, unread)
        self._open.add(socket)
        try:
            metadata = ServerMessageMetadata(request_context=request)
            await self._lines.serve(Incoming(socket), Outgoing(socket), metadata, expires, hold=unread.hold)
        finally:
            self._open.discard(socket)

    def _parting(self, expires: float) -> tuple[int, str]:
        if trio.current_time() >= expires:
            return EXPIRED
        return GOING_AWAY if self._lines.stopping else (1000, "")


def judge(scope: Scope) -> Fields | Refusal:
    """Why a handshake is refused, else the fields of the response that accepts it (RFC 6455 4.2.1, 4.2.2)."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        fields.setdefault(name, []).append(value)
    if scope["method"] != "GET" or scope["http_version"] != "1.1":
        return Refusal(400, "a WebSocket begins with GET of HTTP/1.1")
    if b"transfer-encoding" in fields or fields.get(b"content-length", [b"0"]) != [b"0"]:
        return Refusal(400, "an opening handshake has no body")
    if b"upgrade" not in _listed(fields, b"connection"):
        return Refusal(400, "an opening handshake has Connection: Upgrade")
    if fields.get(b"sec-websocket-version") != [b"13"]:
        return Refusal(426, "the version of WebSocket that is spoken here is 13", _OURS)
    keys = fields.get(b"sec-websocket-key", [])
    if len(keys) != 1 or not _is_key(keys[0]):
        return Refusal(400, "an opening handshake has one Sec-WebSocket-Key, of 16 bytes in base64")
    if MCP.encode() not in _listed(fields, b"sec-websocket-protocol"):
        return Refusal(400, f"the subprotocol that is spoken here is {MCP!r}; offer it (Sec-WebSocket-Protocol)")
    return (
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", generate_accept_token(keys[0])),
        (b"sec-websocket-protocol", MCP.encode()),
    )


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip().lower() for token in value.split(b",")]


def _listed(fields: Mapping[bytes, list[bytes]], name: bytes) -> list[bytes]:
    return [token for value in fields.get(name, ()) for token in _tokens(value)]


def _is_key(value: bytes) -> bool:
    try:
        return len(b64decode(value, validate=True)) == 16
    except (NotBase64, ValueError):
        return False

"""Serving MCP over WebSocket, on the port of the HTTP endpoint: the opening handshake, and a connection's life.

Rule: a handshake is an HTTP request like any other until it is accepted: whoever guards the endpoint (Host, Origin,
credentials) has seen it before. A connection is a session of the old era, or takes requests of the new one: as stdio.
RFC 6455 4.2; MCP basic/transports "Custom Transports". Promises F33, F57.
"""

from __future__ import annotations

import logging
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping
from typing import Any, Final

import trio
from attrs import frozen
from mcp.server.lowlevel import Server
from mcp.shared.message import ServerMessageMetadata
from starlette.requests import Request
from wsproto.connection import ConnectionType
from wsproto.utilities import generate_accept_token

from mcpactors.runtime.policy import DEFAULT_CLIENTS, ClientLimits
from mcpactors.transports.asgi import STOPPING, UPGRADE, Scope, Send
from mcpactors.transports.http_server.bearer import valid_for
from mcpactors.transports.http_server.body import PARTS
from mcpactors.transports.http_server.reply import say
from mcpactors.transports.lines.serving import serve_duplex
from mcpactors.transports.lines.streams import StdioLimits
from mcpactors.transports.websocket.frames import MCP, Incoming, Outgoing, WebSocket, WebSocketLimits

__all__ = ["serve_websocket", "wants_websocket"]

logger = logging.getLogger("mcpactors.websocket")

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


async def serve_websocket(
    server: Server[Any],
    scope: Scope,
    send: Send,
    limits: WebSocketLimits,
    drain: float = 30.0,
    clients: ClientLimits = DEFAULT_CLIENTS,
) -> None:
    """Answer a handshake, and serve the client until it leaves, or `STOPPING` of the scope's state is set.

    Then nothing new is begun, and what was asked has `drain` seconds to be answered. When the token of the handshake
    expires, what runs is answered that the connection has closed.
    """
    judged = judge(scope)
    upgrade = scope["extensions"].get(UPGRADE)
    if isinstance(judged, Refusal) or upgrade is None:
        refusal = judged if isinstance(judged, Refusal) else Refusal(501, "no WebSocket can be had here")
        await say(send, refusal.status, refusal.why, refusal.fields)
        return
    stream, ahead = await upgrade(judged)
    stopping: trio.Event | None = scope.get("state", {}).get(STOPPING)
    valid = trio.CancelScope(deadline=trio.current_time() + valid_for(scope))

    def parting() -> tuple[int, str]:
        if valid.cancel_called:
            return EXPIRED
        return GOING_AWAY if stopping is not None and stopping.is_set() else (1000, "")

    socket = WebSocket(stream, ConnectionType.SERVER, limits, ahead, parting)
    lines = StdioLimits(
        line=limits.message, depth=clients.depth, id=clients.id, parts=PARTS, request_bytes=4 * limits.message
    )
    metadata = ServerMessageMetadata(request_context=Request(dict(scope)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(socket.tend)
        try:
            with valid:
                await serve_duplex(server, Incoming(socket), Outgoing(socket), lines, stopping, drain, metadata)
        except Exception as error:
            logger.error("a WebSocket connection failed", exc_info=error)
        nursery.cancel_scope.cancel()


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

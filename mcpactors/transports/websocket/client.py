"""Connecting to a backend over WebSocket: the opening handshake from the client's end.

Rule: one connection, made at once or not at all, in bounded time; an answer that is none becomes an error that says
what to do. Redirects are not followed: headers that were given for one origin go there only. RFC 6455 4.1.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpx2
import trio
from trio.abc import Stream
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, Request
from wsproto.utilities import ProtocolError

from mcpactors.errors import BackendStartError
from mcpactors.runtime.policy import DEFAULT_BACKEND, BackendLimits
from mcpactors.transports.http_client.endpoint import system_tls
from mcpactors.transports.http_client.faults import ADVICE
from mcpactors.transports.http_client.reasons import reason_of, speaks_tls
from mcpactors.transports.lines.duplex import connected
from mcpactors.transports.lines.flood import Allowance
from mcpactors.transports.lines.streams import StdioLimits
from mcpactors.transports.streams import Streams
from mcpactors.transports.websocket.frames import MCP, WebSocket, WebSocketLimits, tend
from mcpactors.transports.websocket.streams import Incoming, Outgoing

__all__ = ["websocket_client"]

CONNECT_TIMEOUT: Final = 10.0
HEAD_LIMIT: Final = 64 * 1024
_END: Final = b"\r\n\r\n"
_PORTS: Final = {"ws": 80, "wss": 443}
_OURS: Final = frozenset(("connection", "content-length", "host", "transfer-encoding", "upgrade"))
"""Fields that a handshake has of us, whatever was given; and all that begin with `sec-websocket-`."""
_ADVICE: Final = {**ADVICE, 426: "it speaks another version of WebSocket than 13"}


@asynccontextmanager
async def websocket_client(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    ssl_context: ssl.SSLContext | None = None,
    taken: BackendLimits = DEFAULT_BACKEND,
    connect_timeout: float = CONNECT_TIMEOUT,
    allowance: Allowance | None = None,
) -> AsyncIterator[Streams]:
    """Connect to a ws:// or wss:// endpoint; `headers` go with the handshake. Yields the streams from and to it.
    All connections to one backend have one `allowance` for what nobody waits for.

    It is a nursery block: an exception from inside comes out in a group. A backend that closes the connection and says
    that something was wrong breaks the read stream with that; one that just leaves ends it.

    Raises:
        BackendStartError: the URL is none, or there is no connection within `connect_timeout` seconds.
    """
    place = _Place(url, headers or {}, ssl_context)
    try:
        with trio.fail_after(connect_timeout):
            stream, ahead = await place.open()
    except trio.TooSlowError:
        raise BackendStartError(f"{place}: no WebSocket within {connect_timeout:g} s; check its URL") from None
    lines, limits = StdioLimits.of(taken), WebSocketLimits(message=taken.message)
    allowance = allowance or Allowance()
    async with trio.open_nursery() as nursery:
        socket = WebSocket(stream, ConnectionType.CLIENT, limits, nursery, ahead, allowance=allowance)
        nursery.start_soon(tend, (socket,))
        incoming, outgoing = Incoming(socket, str(place)), Outgoing(socket)
        async with connected(str(place), incoming, outgoing, lines, allowance) as both:
            yield both
        nursery.cancel_scope.cancel()


class _Place:
    """Where, and with what."""

    def __init__(self, url: str, headers: Mapping[str, str], ssl_context: ssl.SSLContext | None) -> None:
        try:
            self._url = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise BackendStartError(f"the URL of a backend is none: {error}") from None
        if self._url.scheme not in _PORTS or not self._url.host:
            raise BackendStartError(f"{self._url.copy_with(userinfo=b'')} is no URL of a WebSocket with a host in it")
        self._headers = headers
        self._ssl_context = ssl_context
        self._advice = "" if self._url.scheme == "wss" else "; if it speaks TLS, try wss://"

    def __str__(self) -> str:
        """Without what may be secret: user, password and query."""
        return str(self._url.copy_with(userinfo=b"", query=None, fragment=None))

    async def open(self) -> tuple[Stream, bytes]:
        """A connection whose handshakes are over, and what has come on it behind them. Raises BackendStartError."""
        host = self._url.raw_host.decode("ascii").strip("[]")
        try:
            stream: Stream = await trio.open_tcp_stream(host, self._url.port or _PORTS[self._url.scheme])
        except OSError as error:
            raise BackendStartError(f"{self} cannot be reached: {error.strerror or error}; is it running?") from error
        try:
            if self._url.scheme == "wss":
                tls = self._ssl_context or await system_tls()
                secured = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
                stream = secured
                await secured.do_handshake()
            return stream, await self._shake_hands(stream)
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            failed = isinstance(error.__cause__, ssl.SSLError)
            why = reason_of(error, "ws://") if failed else f"it hung up{self._advice}"
            raise BackendStartError(f"{self} cannot be reached: {why}") from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    async def _shake_hands(self, stream: Stream) -> bytes:
        """Send the opening handshake, read what answers it; returns what came behind that."""
        handshake = WSConnection(ConnectionType.CLIENT)
        target = self._url.raw_path.decode("ascii")
        request = Request(self._url.netloc.decode("ascii"), target, subprotocols=[MCP], extra_headers=self._fields())
        try:
            asked = handshake.send(request)
        except (ProtocolError, ValueError) as error:
            raise BackendStartError(f"the headers for {self} cannot be sent: {error}") from error
        await stream.send_all(asked)
        answer = b""
        while _END not in answer:
            data = await stream.receive_some()
            if not data or len(answer) > HEAD_LIMIT:
                advice = "it speaks TLS; try wss://" if speaks_tls(answer) else f"check its URL{self._advice}"
                raise BackendStartError(f"{self} does not answer in HTTP: no WebSocket is served there; {advice}")
            answer += data
        head, _, ahead = answer.partition(_END)
        try:
            handshake.receive_data(head + _END)
            event = next(handshake.events(), None)
        except (ProtocolError, ValueError) as error:
            raise BackendStartError(f"{self} does not accept a WebSocket: {error}") from error
        if not isinstance(event, AcceptConnection):
            raise BackendStartError(self._refused(event.status_code if isinstance(event, RejectConnection) else 0))
        return ahead

    def _refused(self, status: int) -> str:
        if 300 <= status < 400:
            return f"{self} redirects (HTTP {status}), which is not followed; give the address that it leads to"
        why = _ADVICE.get(status, "no WebSocket is served there; check its URL" if status < 500 else "it is not well")
        return f"{self} answered HTTP {status} to the handshake: {why}"

    def _fields(self) -> list[tuple[bytes, bytes]]:
        fields = {"user-agent": "mcpactors"}
        if self._url.userinfo:
            plain = f"{self._url.username}:{self._url.password}".encode()
            fields["authorization"] = f"Basic {b64encode(plain).decode('ascii')}"
        for name, value in self._headers.items():
            if (lower := name.lower()) not in _OURS and not lower.startswith("sec-websocket-"):
                fields[lower] = value
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]

"""An HTTP server whose every byte a test writes, and our client's wire to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, field, frozen
from mcp.shared.dispatcher import CallOptions
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER

from mcpactors.transports.http_client.client import HTTPDispatcher, http_dispatcher

PATIENCE = 30
"""Seconds that only a test that hangs waits."""
MODERN: CallOptions = {"headers": {MCP_PROTOCOL_VERSION_HEADER: "2026-07-28"}}
LEGACY: CallOptions = {"headers": {MCP_PROTOCOL_VERSION_HEADER: "2025-11-25"}}


@frozen
class Asked:
    """A request as it came."""

    method: str
    target: str
    fields: dict[str, str]
    body: bytes
    connection: int

    @property
    def said(self) -> Any:
        return json.loads(self.body)

    @property
    def what(self) -> str:
        """`POST tools/call`, `POST answer`, `GET`."""
        return f"{self.method} {self.said.get('method', 'answer')}" if self.body else self.method


@define(eq=False)
class Peer:
    """The server's end of a connection."""

    stream: trio.SocketStream
    number: int
    rest: bytes = b""

    async def request(self) -> Asked | None:
        """The next request; None: the client has closed."""
        while b"\r\n\r\n" not in self.rest:
            if not await self._more():
                return None
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert len(fields) == len(lines), f"a field twice: {lines}"
        length = int(fields.get("content-length", "0"))
        while len(self.rest) < length:
            if not await self._more():
                return None
        body, self.rest = self.rest[:length], self.rest[length:]
        method, target, version = first.split(" ")
        assert version == "HTTP/1.1"
        return Asked(method, target, fields, body, self.number)

    async def _more(self) -> bool:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            return False
        self.rest += data
        return bool(data)

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            await self.stream.send_all(part)

    async def until_closed(self) -> None:
        """Wait until the client closes this connection."""
        while await self._more():
            pass


Handler = Callable[[Asked, Peer], Awaitable[None]]
"""Answers one request. Raises `Hangup` to close the connection after what it has said."""


class Hangup(Exception):
    """The connection is closed."""


@define(eq=False)
class Script:
    """A server, and what it was asked."""

    url: str
    asked: list[Asked] = field(factory=list)
    connections: int = 0
    _more: trio.Event = field(factory=trio.Event)

    @property
    def story(self) -> list[str]:
        return [asked.what for asked in self.asked]

    def note(self, asked: Asked) -> None:
        self.asked.append(asked)
        self._more.set()
        self._more = trio.Event()

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait, from request to request, until something is so."""
        with trio.fail_after(PATIENCE):
            while not happened():
                await self._more.wait()


@asynccontextmanager
async def scripted(handler: Handler, port: int = 0) -> AsyncIterator[Script]:
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    script = Script(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/mcp")

    async def serve(stream: trio.SocketStream) -> None:
        script.connections += 1
        peer = Peer(stream, script.connections)
        try:
            while (asked := await peer.request()) is not None:
                script.note(asked)
                await handler(asked, peer)
        except (Hangup, trio.BrokenResourceError):
            pass

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        yield script
        nursery.cancel_scope.cancel()


@define(eq=False)
class Heard:
    """What a backend said by itself, and what it is answered."""

    notices: list[tuple[str, Mapping[str, Any]]] = field(factory=list)
    answer: Callable[[str, Mapping[str, Any] | None], Awaitable[dict[str, Any]]] | None = None
    _more: trio.Event = field(factory=trio.Event)

    def notice(self, method: str, params: Mapping[str, Any] | None) -> bool:
        self.notices.append((method, params or {}))
        self._more.set()
        self._more = trio.Event()
        return True

    async def until(self, happened: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            while not happened():
                await self._more.wait()

    async def request(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        assert self.answer is not None, method
        return await self.answer(method, params)


@asynccontextmanager
async def wire_to(url: str, heard: Heard | None = None, **how: Any) -> AsyncIterator[HTTPDispatcher]:
    """Our wire to a server, called `b`; what `run` ends with is raised."""
    heard = heard or Heard()
    async with http_dispatcher(url, **how) as wire, trio.open_nursery() as nursery:
        wire.name = "b"
        await nursery.start(wire.run, heard.request, heard.notice)
        with trio.fail_after(PATIENCE):
            yield wire
        nursery.cancel_scope.cancel()


# --- What a server says -------------------------------------------------------------------------------------------


def reply(body: bytes, status: str = "200 OK", *fields: str, kind: str | None = "application/json") -> bytes:
    """A whole response with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def result(asked: Asked, **value: Any) -> bytes:
    """The JSON of a result."""
    return json.dumps({"jsonrpc": "2.0", "id": asked.said["id"], "result": value}).encode()


def error(identity: Any, code: int, message: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": message}}).encode()


def stream_head(*fields: str) -> bytes:
    """The head of an event stream in chunks."""
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes, identity: str | None = None, retry: int | None = None) -> bytes:
    """An event in a chunk of its own."""
    lines = [b"data: " + data]
    if identity is not None:
        lines.append(b"id: " + identity.encode())
    if retry is not None:
        lines.append(b"retry: %d" % retry)
    return chunk(b"\n".join([*lines, b"", b""]))


def message(method: str, identity: Any = None, **params: Any) -> bytes:
    said: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    return json.dumps(said if identity is None else {**said, "id": identity}).encode()


LAST = b"0\r\n\r\n"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


# --- A server of the old era --------------------------------------------------------------------------------------


async def shake_hands(wire: HTTPDispatcher) -> None:
    await wire.send_raw_request("initialize", {"protocolVersion": "2025-11-25"}, {"cancel_on_abandon": False})
    await wire.notify("notifications/initialized", None, LEGACY)


class OldServer:
    """Answers what every test of a session needs; `call` and `get` are the test's."""

    aside = True

    async def __call__(self, asked: Asked, peer: Peer) -> None:
        if asked.method == "DELETE":
            await peer.say(reply(b"", "204 No Content", kind=None))
        elif asked.method == "GET":
            await self.get(asked, peer)
        elif asked.what == "POST initialize":
            await peer.say(reply(result(asked, protocolVersion="2025-11-25"), "200 OK", "Mcp-Session-Id: s1"))
        elif asked.what == "POST tools/call":
            await self.call(asked, peer)
        else:
            await peer.say(ACCEPTED)

    async def get(self, asked: Asked, peer: Peer) -> None:
        await peer.say(reply(b"", "405 Method Not Allowed", kind=None))

    async def call(self, asked: Asked, peer: Peer) -> None:
        await peer.say(reply(result(asked)))

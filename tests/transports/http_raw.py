"""A client that knows as little HTTP as a test needs: it writes bytes and reads responses. And a host to speak to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio
from attrs import define, field, frozen

from mcpactors.transports.asgi import ASGIApp, HostLimits, HTTPHost, Message, Receive, Scope, Send, serve

HANG = 30
"""Seconds that only a test that hangs waits."""


@frozen
class Reply:
    """A response as it came: status, fields by their lower-case names, body without its framing."""

    status: int
    fields: dict[str, str]
    body: bytes


@define(eq=False)
class RawClient:
    """One connection. Everything here ends with TooSlowError after `patience` seconds."""

    stream: trio.abc.Stream
    patience: float = HANG
    rest: bytes = field(default=b"", init=False)

    async def write(self, *parts: bytes) -> None:
        with trio.fail_after(self.patience):
            for part in parts:
                await self.stream.send_all(part)

    async def until(self, mark: bytes) -> bytes:
        """What comes up to and including `mark`."""
        with trio.fail_after(self.patience):
            while mark not in self.rest:
                data = await self.stream.receive_some()
                assert data, f"closed before {mark!r}, after {self.rest!r}"
                self.rest += data
        found, _, self.rest = self.rest.partition(mark)
        return found + mark

    async def exactly(self, count: int) -> bytes:
        with trio.fail_after(self.patience):
            while len(self.rest) < count:
                data = await self.stream.receive_some()
                assert data, f"closed after {self.rest!r}"
                self.rest += data
        found, self.rest = self.rest[:count], self.rest[count:]
        return found

    async def to_the_end(self) -> bytes:
        """What still comes until the host closes; a reset counts as an end."""
        with trio.fail_after(self.patience):
            try:
                while data := await self.stream.receive_some():
                    self.rest += data
            except trio.BrokenResourceError:
                pass
        found, self.rest = self.rest, b""
        return found

    async def reply(self, bodiless: bool = False) -> Reply:
        """The next response, framed by its length, by chunks, or by the end."""
        head = (await self.until(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        fields = {name: value for name, _, value in (line.partition(": ") for line in lines)}
        assert len(fields) == len(lines), f"a field twice: {head}"
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        if bodiless or status in ("100", "101", "204", "304"):
            body = b""
        elif "content-length" in fields:
            assert "transfer-encoding" not in fields
            body = await self.exactly(int(fields["content-length"]))
        elif fields.get("transfer-encoding") == "chunked":
            body = b"".join([chunk async for chunk in self.chunks()])
        else:
            body = await self.to_the_end()
        return Reply(int(status), fields, body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of a body, each as it comes."""
        while size := int(await self.until(b"\r\n"), 16):
            yield await self.exactly(size)
            assert await self.exactly(2) == b"\r\n"
        assert await self.exactly(2) == b"\r\n"

    async def aclose(self) -> None:
        await self.stream.aclose()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[RawClient]:
    client = RawClient(await trio.open_tcp_stream("127.0.0.1", port))
    try:
        yield client
    finally:
        await trio.aclose_forcefully(client.stream)


@define(eq=False)
class Hosted:
    """A host on a port of the loopback."""

    host: HTTPHost
    port: int

    def client(self) -> AbstractAsyncContextManager[RawClient]:
        return connected(self.port)

    async def ask(self, *parts: bytes) -> Reply:
        """One request on a connection of its own."""
        async with self.client() as client:
            await client.write(*parts)
            return await client.reply()


@asynccontextmanager
async def hosted(
    app: ASGIApp, limits: HostLimits | None = None, lasting: Callable[[Scope], bool] = lambda scope: False
) -> AsyncIterator[Hosted]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with serve(app, listeners, limits or HostLimits(linger=5, drain=5), lasting) as host:
        yield Hosted(host, port)


async def body_of(receive: Receive) -> bytes:
    """The whole body of a request; AssertionError when the client leaves before."""
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        more = message["more_body"]
    return body


async def answer(send: Send, body: bytes, status: int = 200, *fields: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(fields)})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with method, path and body."""
    body = await body_of(receive)
    await answer(send, f"{scope['method']} {scope['path']} ".encode() + body)


def get(path: str = "/", *lines: str, version: str = "1.1") -> bytes:
    """A GET with its Host."""
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: a", *lines, "", ""]).encode()


def post(body: bytes, path: str = "/", *lines: str) -> bytes:
    """A POST with its length."""
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *lines, "", ""])
    return head.encode() + body


def chunked(*chunks: bytes, path: str = "/", trailers: bytes = b"") -> bytes:
    """A POST in chunks."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n" + trailers + b"\r\n"


def start(status: int = 200, *fields: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(fields)}


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}

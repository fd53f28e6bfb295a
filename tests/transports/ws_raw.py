"""WebSocket byte by byte: frames as a test wants them, right or wrong, and what a peer makes of them."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import define, frozen

from tests.transports.http_raw import RawClient, Reply, connected

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK: Final = b"\x01\x02\x03\x04"
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT: Final = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""Key and answer of RFC 6455 1.3."""
META: Final = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    masked: bool = True,
    bits: int = 0,
    length: int | None = None,
) -> bytes:
    """A frame; `length`: what its header says, whatever the payload has."""
    size = len(payload) if length is None else length
    first, mask = opcode | (128 if fin else 0) | bits << 4, 128 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    if masked:
        payload = bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))
    return head + (MASK if masked else b"") + payload


def text(message: object, **how: Any) -> bytes:
    """A message of JSON in one frame."""
    return frame(TEXT, json.dumps(message).encode(), **how)


def closing(code: int, reason: str = "", **how: Any) -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason.encode(), **how)


def request(number: int | str, method: str, **params: Any) -> dict[str, Any]:
    """A modern one."""
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": META}}


def call(number: int | str, name: str, **arguments: Any) -> dict[str, Any]:
    return request(number, "tools/call", name=name, arguments=arguments)


def handshake(path: str = "/mcp", method: str = "GET", version: str = "1.1", **changed: str | None) -> bytes:
    """An opening handshake; `changed` are fields (`_` for `-`) that are others, or None: that are not there."""
    fields: dict[str, str | None] = {
        "host": "localhost",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "mcp",
    }
    fields |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/{version}", *lines, "", ""]).encode()


@frozen
class Closed:
    """A close frame: its code and reason; None and "": the connection ended without one."""

    code: int | None
    reason: str = ""


@define(eq=False)
class RawSocket:
    """The client's end of a connection on which both sides speak frames."""

    raw: RawClient

    async def send(self, *frames: bytes) -> None:
        await self.raw.write(*frames)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame of the server's, whole."""
        first, size = await self.raw.exactly(2)
        assert first & 128, "the server does not fragment"
        assert not size & 128, "the server does not mask"
        if size == 126:
            size = int.from_bytes(await self.raw.exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.raw.exactly(8), "big")
        return first & 15, await self.raw.exactly(size)

    async def message(self) -> Any:
        """The next text message, from JSON."""
        opcode, payload = await self.frame()
        assert opcode == TEXT, (opcode, payload)
        return json.loads(payload)

    async def ask(self, message: Mapping[str, Any]) -> Any:
        await self.send(text(message))
        return await self.message()

    async def closed(self) -> Closed:
        """The close frame, which has to be the next one, and behind it the end."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE, (opcode, payload)
        return Closed(int.from_bytes(payload[:2], "big") if payload else None, payload[2:].decode())

    async def ended(self) -> bytes:
        """What comes until the server closes."""
        return await self.raw.to_the_end()


@asynccontextmanager
async def speaking(url: str, *early: bytes) -> AsyncIterator[RawSocket]:
    """A connection after its handshake, with which `early` was sent in one piece."""
    port = urlsplit(url).port
    assert port is not None
    async with connected(port) as raw:
        await raw.write(handshake() + b"".join(early))
        head = await raw.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield RawSocket(raw)


async def answer_to(url: str, *parts: bytes) -> Reply:
    """What answers a handshake."""
    port = urlsplit(url).port
    assert port is not None
    async with connected(port) as raw:
        await raw.write(*parts)
        return await raw.reply()

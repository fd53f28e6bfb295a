"""A client that is nothing but a connection: it sends what it is told, under the ids that it is told.

Rule: no dispatcher, no session; what came back under which id is written down as it came.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import trio
import trio.testing
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from attrs import define, field
from mcp.shared.message import SessionMessage
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY
from mcp_types.jsonrpc import (
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)

from mcpactors import Runtime
from mcpactors.testing import Endings
from mcpactors.transports.lines.front import LinesFront
from mcpactors.transports.lines.streams import StdioLimits
from mcpactors.transports.memory import memory_client
from mcpactors.transports.streams import Streams

ENVELOPE = {
    PROTOCOL_VERSION_META_KEY: "2026-07-28",
    CLIENT_INFO_META_KEY: {"name": "peer", "version": "1"},
    CLIENT_CAPABILITIES_META_KEY: {},
}


@define(eq=False)
class Peer:
    """One client on a connection of its own."""

    streams: Streams
    envelope: dict[str, Any] = field(factory=lambda: ENVELOPE)
    """What goes with each request."""
    endings: Endings = field(factory=Endings)
    answers: dict[int | str, list[JSONRPCResponse | JSONRPCError]] = field(factory=dict)
    hear: Callable[[str, dict[str, Any]], None] = lambda method, params: None
    """Told each notification; set it to be."""
    reads_every: float = 0
    """Seconds that it takes to read a message."""
    _more: trio.Event = field(factory=trio.Event)

    async def request(self, request_id: int | str, method: str, **params: Any) -> None:
        meta = {**self.envelope, **params.pop("_meta", {})}
        await self._send(JSONRPCRequest(jsonrpc="2.0", id=request_id, method=method, params={**params, "_meta": meta}))

    async def call(self, request_id: int | str, tool: str, **arguments: Any) -> None:
        await self.request(request_id, "tools/call", name=tool, arguments=arguments)

    async def notify(self, method: str, **params: Any) -> None:
        await self._send(JSONRPCNotification(jsonrpc="2.0", method=method, params=params))

    async def cancel(self, request_id: int | str) -> None:
        await self.notify("notifications/cancelled", requestId=request_id)

    def texts(self, request_id: int | str) -> list[str]:
        """What came under an id: the text of each result (or else all of it), or the code of each error."""
        return [_text(answer) for answer in self.answers.get(request_id, [])]

    async def answered(self, request_id: int | str) -> None:
        while request_id not in self.answers:
            await self._more.wait()

    def forget(self) -> None:
        """From here on ids are new again."""
        self.answers.clear()

    async def _send(self, message: JSONRPCMessage) -> None:
        self.endings.sent(message)
        await self.streams[1].send(SessionMessage(message))

    async def read(self) -> None:
        try:
            async for item in self.streams[0]:
                assert isinstance(item, SessionMessage)
                self._take(item.message)
                if self.reads_every:
                    await trio.sleep(self.reads_every)
        except anyio.ClosedResourceError:
            pass

    def _take(self, message: JSONRPCMessage) -> None:
        self.endings.came(message)
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            assert message.id is not None
            self.answers.setdefault(message.id, []).append(message)
            self._more.set()
            self._more = trio.Event()
        elif isinstance(message, JSONRPCNotification):
            self.hear(message.method, message.params or {})


def _text(answer: JSONRPCResponse | JSONRPCError) -> str:
    if isinstance(answer, JSONRPCError):
        return str(answer.error.code)
    try:
        return str(answer.result["content"][0]["text"])
    except LookupError:
        return str(answer.result)


@define(eq=False)
class _WriteLines(ObjectSendStream[SessionMessage]):
    """Messages as lines, whatever they are."""

    stream: trio.abc.SendStream
    turn: trio.Lock = field(factory=trio.Lock)

    async def send(self, item: SessionMessage) -> None:
        async with self.turn:
            await self.stream.send_all(item.message.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n")

    async def aclose(self) -> None:
        await self.stream.aclose()


@define(eq=False)
class _ReadLines(ObjectReceiveStream[SessionMessage | Exception]):
    stream: trio.abc.ReceiveStream
    lines: list[bytes] = field(factory=list)
    rest: bytes = b""

    async def receive(self) -> SessionMessage:
        while not self.lines:
            if not (data := await self.stream.receive_some()):
                raise anyio.EndOfStream
            *self.lines, self.rest = (self.rest + data).split(b"\n")
        return SessionMessage(jsonrpc_message_adapter.validate_json(self.lines.pop(0), by_name=False))

    async def aclose(self) -> None:
        await self.stream.aclose()


@asynccontextmanager
async def peer(runtime: Runtime, *, legacy: bool = False) -> AsyncIterator[Peer]:
    """A client of the modern era, or one that has shaken hands in the old one."""
    async with memory_client(runtime.server) as streams, _peer(streams, legacy) as client:
        yield client


@asynccontextmanager
async def peer_on_lines(runtime: Runtime, *, legacy: bool = False) -> AsyncIterator[Peer]:
    """The same by lines, as over stdio and WebSocket."""
    client, served = trio.testing.memory_stream_pair()
    front = LinesFront(runtime.server, StdioLimits())
    async with front.run() as nursery:
        nursery.start_soon(front.serve, served, served)
        async with _peer((_ReadLines(client), _WriteLines(client)), legacy) as found:
            yield found


@asynccontextmanager
async def _peer(streams: Streams, legacy: bool) -> AsyncIterator[Peer]:
    async with trio.open_nursery() as nursery:
        client = Peer(streams, {} if legacy else ENVELOPE)
        nursery.start_soon(client.read)
        if legacy:
            hello = {"capabilities": {}, "clientInfo": {"name": "peer", "version": "1"}}
            await client.request("hello", "initialize", protocolVersion="2025-11-25", **hello)
            await client.answered("hello")
            await client.notify("notifications/initialized")
        yield client
        nursery.cancel_scope.cancel()

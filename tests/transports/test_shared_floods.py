"""All sessions with one backend wait for what one of them floods: it is the backend that floods. Real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket
from attrs import define
from mcp.shared.message import SessionMessage

from mcpactors.transports.lines.flood import LONGEST, Allowance
from mcpactors.transports.lines.streams import StdioLimits, StdioReader, StdioWriter
from mcpactors.transports.streams import Streams
from mcpactors.transports.values import SSETransport, WSTransport
from tests.transports.http_scripted import Asked, Peer, chunk, message, scripted, stream_head

Say = Callable[[bytes], Awaitable[None]]
LOG = message("notifications/message", level="info", data="x")
PINGS = b"\x89\x00" * 1_000


@asynccontextmanager
async def old(said: list[Say]) -> AsyncIterator[SSETransport]:
    async def handler(asked: Asked, peer: Peer) -> None:
        async def say(told: bytes) -> None:
            await peer.say(chunk(b"data: " + told + b"\n\n"))

        await peer.say(stream_head(), chunk(b"event: endpoint\ndata: /post\n\n"))
        said.append(say)

    async with scripted(handler) as script:
        yield SSETransport(script.url)


@asynccontextmanager
async def websocket(said: list[Say]) -> AsyncIterator[WSTransport]:
    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        socket = await request.accept(subprotocol="mcp")

        async def say(told: bytes) -> None:
            await (socket._stream.send_all(told) if told == PINGS else socket.send_message(told.decode()))

        said.append(say)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        serve = partial(trio_websocket.serve_websocket, handler, "127.0.0.1", 0, None)
        served: trio_websocket.WebSocketServer = await nursery.start(serve)
        yield WSTransport(f"ws://127.0.0.1:{served.port}/mcp")
        nursery.cancel_scope.cancel()


async def flood(say: Say, what: bytes) -> None:
    for _ in repeat(None):
        await say(what)


@pytest.mark.parametrize(("backend", "what"), [(old, LOG), (websocket, LOG), (websocket, PINGS)])
async def test_p6_a_flood_in_one_session_is_waited_for_in_the_others(
    backend: Any, what: bytes, mock_clock: trio.testing.MockClock
) -> None:
    said, heard = list[Say](), list[str]()

    async def listen(streams: Streams, name: str) -> None:
        async for item in streams[0]:
            if isinstance(item, SessionMessage) and f'"{name}"' in item.message.model_dump_json():
                heard.append(name)

    async def settle() -> None:
        await trio.testing.wait_all_tasks_blocked(0.005)  # the flood, too: its socket is full

    last = json.dumps({"jsonrpc": "2.0", "method": "last"}).encode()
    async with backend(said) as transport:
        connect = transport.connections()
        async with connect() as one, connect() as other, trio.open_nursery() as nursery:
            nursery.start_soon(listen, one, "no such")
            nursery.start_soon(listen, other, "last")
            while len(said) < 2:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(flood, said[0], what)
            await settle()
            await said[1](last)
            await settle()  # time stands still
            assert heard == []
            while not heard:
                mock_clock.jump(0.1)
                await settle()
            nursery.cancel_scope.cancel()
            mock_clock.rate = 100  # closing takes a while


@define(eq=False)
class Floods(trio.abc.ReceiveStream):
    """Says the same for ever."""

    said: bytes
    reads: int = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        return self.said[:max_bytes]

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def reads_of(sessions: int) -> int:
    """How often so many sessions with one backend read in a minute, behind its burst."""
    allowance, streams = Allowance(), [Floods((LOG + b"\n") * 1_000) for _ in range(sessions)]

    async def listen(stream: Floods) -> None:
        async for _ in StdioReader("backend", stream, StdioWriter(1024), StdioLimits(), allowance=allowance):
            pass

    with trio.move_on_after(70):
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(listen, stream)
            await trio.sleep(10)
            before = sum(stream.reads for stream in streams)
            await trio.sleep_forever()
    return sum(stream.reads for stream in streams) - before


async def test_p6_when_many_sessions_wait_one_goes_on_and_the_others_see_what_that_costs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    alone = await reads_of(1)
    assert await reads_of(32) < 2 * alone


async def test_who_is_cancelled_while_it_waits_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    allowance = Allowance()
    send, receive = trio.testing.memory_stream_one_way_pair()
    reader = StdioReader("backend", receive, StdioWriter(1024), StdioLimits(), allowance=allowance)
    await send.send_all(LOG + b"\n")
    allowance.spend(1)
    with trio.move_on_after(0.01) as soon:
        await reader.receive()
    assert soon.cancelled_caught
    assert isinstance(await reader.receive(), SessionMessage)


def test_what_is_owed_stays_owed_though_another_session_reads_less_at_once() -> None:
    allowance = Allowance()
    allowance.spend(1)
    allowance.spend(0.001, LONGEST / 16)
    assert allowance.wait(0) == pytest.approx(LONGEST)

"""What a client session that keeps a connection open costs `mcpactors serve`: 2,000 at once, each on its own socket.

Rule: the gateway is a process of its own, and what is measured is what that has more (its resident set) for each
session; what the kernel keeps for a socket is not in it. The sessions are of the old era, over HTTP with the stream of
a GET open, over the old HTTP+SSE and over WebSocket. While all are open one of them calls: what it waits is told beside
what it waited before the others came. Promise F43 says what is aimed at; `tests/end_to_end/test_memory.py` holds it.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define

from benchmarks._targets import running
from benchmarks.capacity import INITIALIZE, INITIALIZED, PAGE, Wire
from benchmarks.measure import Report, options, print_columns

SESSIONS = 2_000
CALLS = 200
PING = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
LIMIT = 60.0

Open = Callable[[int], Awaitable["Connection"]]


@define
class Connection:
    """A session on a socket of its own."""

    ping: Callable[[], Awaitable[Any]]
    aclose: Callable[[], Awaitable[None]]
    live: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    """Gives the sign of life that the gateway asks for."""


async def over_http(port: int) -> Connection:
    """Past the handshake; its stream of what the server says by itself is open, pings go by a socket opened then."""
    wire = Wire(await trio.open_tcp_stream("127.0.0.1", port))
    session = (await wire.post(INITIALIZE))["mcp-session-id"]
    await wire.post(INITIALIZED, session)
    head = (
        "GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
        f"Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n\r\n"
    )
    await wire.stream.send_all(head.encode())
    said = await wire._until(b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200"), said
    beside: list[Wire] = []

    async def ping() -> None:
        if not beside:
            beside.append(Wire(await trio.open_tcp_stream("127.0.0.1", port)))
        await beside[0].post(PING, session)

    return Connection(ping, partial(_close, wire, beside))


async def _close(wire: Wire, beside: list[Wire]) -> None:
    for each in (wire, *beside):
        await each.stream.aclose()


async def over_sse(port: int) -> Connection:
    """Past the handshake; what it says after that goes by a socket opened then."""
    wire = Wire(await trio.open_tcp_stream("127.0.0.1", port))
    await wire.stream.send_all(b"GET /sse HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
    await wire._until(b"event: endpoint\r\ndata: ")
    place = (await wire._until(b"\r\n")).decode()
    beside: list[Wire] = []

    async def say(message: dict[str, Any], answered: bool = True) -> None:
        if not beside:
            beside.append(Wire(await trio.open_tcp_stream("127.0.0.1", port)))
        await beside[0].post(message, path=place)
        said = b"" if answered else b'"id":'
        while b'"id":' not in said:  # a notification may come before
            await wire._until(b"event: message\r\ndata: ")
            said = await wire._until(b"\r\n\r\n")

    await say(INITIALIZE)
    await say(INITIALIZED, answered=False)
    await beside.pop().stream.aclose()
    return Connection(partial(say, PING), partial(_close, wire, beside))


async def over_websocket(port: int) -> Connection:
    """Past the handshakes."""
    wire = Wire(await trio.open_tcp_stream("127.0.0.1", port))
    head = (
        "GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Protocol: mcp\r\n\r\n"
    )
    await wire.stream.send_all(head.encode())
    assert (await wire._until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")

    async def send(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        length = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack("!BH", 0x80 | 126, len(data))
        await wire.stream.send_all(b"\x81" + length + bytes(4) + data)  # the mask is four zeros

    async def receive() -> None:
        """One answer, of one frame that is not longer than 64 KiB; what comes before it is passed over."""
        kind, said = 0, b""
        while kind != 0x81 or b'"id":' not in said:
            while len(wire.rest) < 2 or len(wire.rest) < (size := _size(wire.rest)):
                wire.rest += await wire.stream.receive_some(65536)
            kind, said, wire.rest = wire.rest[0], wire.rest[:size], wire.rest[size:]

    async def live() -> None:
        await wire.stream.send_all(b"\x8a\x80" + bytes(4))

    async def ping() -> None:
        await send(PING)
        await receive()

    await send(INITIALIZE)
    await receive()
    await send(INITIALIZED)
    return Connection(ping, wire.stream.aclose, live)


def _size(frame: bytes) -> int:
    """Bytes of a frame with its head; of one that comes from a server, without a mask."""
    length = frame[1]
    return 2 + length if length < 126 else 4 + int.from_bytes(frame[2:4])


@asynccontextmanager
async def served() -> AsyncIterator[tuple[int, int]]:
    """A gateway with nothing behind it but the built-in example: the process, and the port."""
    command = [sys.executable, "-m", "mcpactors", "serve", "--port", "0", "--websocket", "--drain", "1"]
    async with running(command, stderr=-1) as (process, nursery):
        stderr, said = process.stderr, b""
        assert stderr is not None
        with trio.fail_after(LIMIT):
            while b"serving http" not in said or not said.endswith(b"\n"):
                said += await stderr.receive_some()

        async def drain() -> None:
            async for _ in stderr:
                pass

        nursery.start_soon(drain)
        yield process.pid, int(said.split(b"serving ")[1].split(b":")[2].split(b"/")[0])


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    if sys.platform != "linux":
        raise SystemExit("the memory of a process is read off /proc, which Linux has")
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


async def pings(connection: Connection) -> float:
    """The median of what a ping takes, in seconds."""
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await connection.ping()
        times.append(time.perf_counter() - began)
    return sorted(times)[CALLS // 2]


async def sessions(report: Report, what: str, connect: Open, number: int) -> Sequence[str]:
    """So many open at one time, after a tenth of them whose cost is not theirs alone; a row of the table."""
    async with served() as (pid, port):
        connections = [await connect(port) for _ in range(number // 10)]
        alone, before, began = await pings(connections[0]), resident(pid), time.perf_counter()
        rest = number - len(connections)
        for _ in range(rest):
            connections.append(await connect(port))
            if len(connections) % 100 == 0:
                for connection in connections:
                    await connection.live()
        took, each = (time.perf_counter() - began) / rest, (resident(pid) - before) / rest / 1024
        among = await pings(connections[0])
        for connection in connections:
            await connection.aclose()
    row = {"table": "sockets", "case": what, "number": number, "kib_each": each, "seconds_each": took}
    report.rows.append({**row, "ping_alone_s": alone, "ping_among_s": among})
    report.claim(f"memory of one of {number:,} sessions over {what}, beside 24 KiB", each / 24, 1)
    return (what, f"{number:,}", f"{each:.1f}", f"{took * 1e6:.0f}", f"{alone * 1e6:.0f}", f"{among * 1e6:.0f}")


OVER: Final[Mapping[str, Open]] = {"HTTP": over_http, "HTTP+SSE": over_sse, "WebSocket": over_websocket}


async def main() -> None:
    """Measure, print, exit 0."""
    chosen = options(__doc__ or "")
    report, number = Report(), SESSIONS // (10 if chosen.quick else 1)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lines: list[Sequence[str]] = [
        ("sessions on sockets", "open", "KiB each", "us to open", "ping us, few", "ping us, among all")
    ]
    for what, connect in OVER.items():
        lines.append(await sessions(report, what, connect, number))
    print_columns(lines)
    report.write(chosen.json)


if __name__ == "__main__":
    trio.run(main)

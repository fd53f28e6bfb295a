"""How much one runtime holds: actors, mounts, client sessions; and how soon the watchdog names who stalls it.

Rule: each size is measured in turns with a tenth of it, after a first round that fills caches; the best round counts,
since what else the machine does only ever adds. Memory is what the process has more (its resident set) once garbage is
collected. The sessions are of the old era, over real HTTP on one connection: clients of the new era have none. Promises
F43, F44 and F58 say what is aimed at; what does not hold is printed like what does.
"""

from __future__ import annotations

import gc
import json
import logging
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define
from mcp.server.lowlevel import Server as LowLevelServer

from benchmarks.measure import Report, options, print_columns
from mcpactors import RuntimeSettings, Server, open_runtime
from mcpactors.runtime.actor import Actor
from mcpactors.runtime.mailbox import ActorRef, Mailbox
from mcpactors.runtime.supervisor import ChildSpec, Supervisor

ACTORS = 10_000
SESSIONS = 10_000
MOUNTS = 1_000
ROUNDS = 3
PAGE = resource.getpagesize()
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "many", "version": "1"}},
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}

Times = tuple[float, float]
"""Seconds of processor time to spawn, and to stop: there is nothing to wait for."""


class Trivial(Actor):
    """Does nothing but live."""

    @asynccontextmanager
    async def lifespan(self):
        yield

    async def handle(self, request, reply):
        raise NotImplementedError


async def actors(number: int) -> Times:
    """So many supervised actors: all started and up, then all stopped."""
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        refs = [ActorRef(f"actor{n}", Trivial.kind, Mailbox(f"actor{n}")) for n in range(number)]
        began = time.process_time()
        for ref in refs:
            supervisor.start_child(ChildSpec(ref, Trivial))
        for ref in refs:
            await supervisor.wait_settled(ref.name)
        up = time.process_time()
        await supervisor.stop_all()
        down = time.process_time()
        nursery.cancel_scope.cancel()
    return up - began, down - up


async def mounts(number: int) -> Times:
    """A server with so many others mounted on it: until all are up and known, and until all are stopped."""
    server = Server("main")
    for n in range(number):
        server.mount(LowLevelServer(f"server{n}"), namespace=f"n{n}")
    began = time.process_time()
    async with open_runtime(server, settings=RuntimeSettings(stall=None)):
        up = time.process_time()
    return up - began, time.process_time() - up


async def sizes(report: Report, what: str, case: Callable[[int], Awaitable[Times]], most: int) -> dict[str, float]:
    """Measure `most` and a tenth of it in turns; returns the seconds that the most took."""
    best: dict[int, list[float]] = {}
    for _ in range(ROUNDS + 1):
        for number in (most // 10, most):
            gc.collect()
            times = await case(number)
            seen = best.setdefault(number, [float("inf")] * 2)
            best[number] = [min(pair) for pair in zip(seen, times, strict=True)]
    lines = [(what, "spawn s", "stop s")]
    for number, (spawn, stop) in best.items():
        lines.append((f"{number:,}", f"{spawn:.3f}", f"{stop:.3f}"))
        report.rows.append({"table": what, "case": number, "spawn_s": spawn, "stop_s": stop})
    print_columns(lines)
    for place, word in enumerate(("spawn", "stop")):
        few, many = best[most // 10][place], best[most][place]
        report.claim(f"{what}: {word} of {most:,} beside {most // 10:,}", many / few, 20)
    return dict(zip(("spawn", "stop"), best[most], strict=True))


# --- Sessions -------------------------------------------------------------------------------------------------------


@define
class Wire:
    """One HTTP/1.1 connection, kept alive; a request at a time."""

    stream: trio.SocketStream
    rest: bytes = b""

    async def post(self, message: dict[str, Any], session: str | None = None, path: str = "/mcp") -> dict[str, str]:
        """Send a message; returns the response's headers, once all of its body has come."""
        body = json.dumps(message).encode()
        head = [
            f"POST {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"Content-Length: {len(body)}",
        ]
        if session is not None:
            head += [f"Mcp-Session-Id: {session}", "MCP-Protocol-Version: 2025-11-25"]
        await self.stream.send_all("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        said = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in said if line)}
        if headers.get("transfer-encoding") == "chunked":
            await self._until(b"\r\n0\r\n\r\n")
        else:
            size = int(headers.get("content-length", 0))
            while len(self.rest) < size:
                self.rest += await self.stream.receive_some(65536)
            self.rest = self.rest[size:]
        return headers

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self.rest:
            self.rest += await self.stream.receive_some(65536)
        found, _, self.rest = self.rest.partition(mark)
        return found


def resident() -> int:
    """Bytes of memory that this process has now."""
    gc.collect()
    if sys.platform != "linux":
        raise SystemExit("the memory of a session is read off /proc, which Linux has")
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def sessions(report: Report, number: int) -> None:
    """So many client sessions of the old era, open at one time; what each costs."""
    async with open_runtime() as runtime, runtime.serve_http(port=0) as url:
        wire = Wire(await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2].partition("/")[0])))

        async def open_session() -> None:
            session = (await wire.post(INITIALIZE))["mcp-session-id"]
            await wire.post(INITIALIZED, session)

        for _ in range(number // 10):  # what the first ones cost is not theirs alone
            await open_session()
        rest = number - number // 10  # no more than are allowed
        before, began = resident(), time.perf_counter()
        for _ in range(rest):
            await open_session()
        took, each = (time.perf_counter() - began) / rest, (resident() - before) / rest / 1024
        await wire.stream.aclose()
    print_columns(
        [("sessions over HTTP", "KiB each", "us to open"), (f"{number:,}", f"{each:.1f}", f"{took * 1e6:.0f}")]
    )
    report.rows.append({"table": "sessions", "case": number, "kib_each": each, "seconds_each": took})
    report.claim(f"memory of one of {number:,} sessions, beside 24 KiB", each / 24, 1)


# --- The watchdog ---------------------------------------------------------------------------------------------------


class Named(logging.Handler):
    """Notes when the watchdog has named somebody."""

    at: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if "has kept the loop from turning" in record.getMessage():
            self.at = time.perf_counter()


async def stall(report: Report, times: int) -> None:
    """How long after it began a handler that computes, and so blocks the loop, is named."""
    server, named = Server("heavy"), Named()
    logger = logging.getLogger("mcpactors")
    logger.addHandler(named)
    logger.propagate = False
    took: list[float] = []

    @server.tool
    async def block() -> str:
        named.at, began = None, time.perf_counter()
        while named.at is None and time.perf_counter() - began < 5:
            pass
        took.append((named.at or float("inf")) - began)
        return "done"

    async with open_runtime(server) as runtime, runtime.client() as client:
        for n in range(times):
            await client.call_tool("block", {})
            await trio.sleep(0.013 * (n % 5))  # stalls begin anywhere between two ticks
    logger.removeHandler(named)
    half, worst = sorted(took)[times // 2] * 1000, max(took) * 1000
    print_columns([("stalls", "named after ms, p50", "at worst"), (str(times), f"{half:.0f}", f"{worst:.0f}")])
    report.rows.append({"table": "stalls", "case": times, "p50_ms": half, "worst_ms": worst})
    report.claim("a handler that computes is named, p50, beside 200 ms", half / 200, 1)
    report.claim("a handler that computes is named, at worst, beside 200 ms", worst / 200, 1)


async def main() -> None:
    """Measure, print, exit 0."""
    chosen = options(__doc__ or "")
    report, part = Report(), 10 if chosen.quick else 1
    took = await sizes(report, "actors", actors, ACTORS // part)
    if not chosen.quick:
        report.claim(f"spawn of {ACTORS:,} actors, beside 2 s", took["spawn"] / 2, 1)
        report.claim(f"stop of {ACTORS:,} actors, beside 1 s", took["stop"], 1)
    print()
    await sizes(report, "mounts", mounts, MOUNTS // part)
    print()
    await stall(report, 20 // part)
    print()
    await sessions(report, SESSIONS // part)
    report.write(chosen.json)


if __name__ == "__main__":
    trio.run(main)

"""What a call and a list cost through a gateway, beside the direct call and beside FastMCP's proxy.

Rule: one backend program (`_proxy_backend.py`, an SDK server), one client, one run. Each gateway is a process of its
own with a backend of its own, HTTP or stdio, and is served over HTTP. "direct" is the same client at the backend: over
HTTP for the HTTP backend, over its pipes for the stdio backend, so that the ratio there has the whole HTTP front in
it. The client writes prepared requests of MCP 2026-07-28 on kept-alive sockets and looks for the answer in the bytes
that come back; it parses nothing else, so it adds little, and the same to all. "In flight" is that many connections
with one request each (over pipes: that many requests). Cases take turns of a tenth of a second; a case whose requests
outlast that sits out until the others had as much time. `CPU us` is what the process that the client speaks to burns
a call: the gateway alone, or the backend where the call is direct. A gateway is one process more at work than a direct
call: where other programs take processors too, its ratios grow, and `CPU us` is what stays; so the load is told.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field

from benchmarks._proxy_client import QUESTIONS, Peer, Question
from benchmarks._targets import FASTMCP, Target, fastmcp_python, http_target, stdio_target
from benchmarks.measure import Report, Series, option_parser, print_columns

HERE: Final = Path(__file__).parent
IN_FLIGHT: Final = (1, 8, 32)
TURN: Final = 0.1
"""Seconds that a case has before the next one has its turn."""
ROUNDS: Final = 12
TURN_LIMIT: Final = 120.0
CALL_BOUND: Final = 2.5
LIST_BOUND: Final = 1.0
"""What issue 4 aims at: p50 beside the direct call."""

DIRECT: Final = "direct"
OURS: Final = "mcpactors"
FRESH: Final = "FastMCP"
SHARED: Final = "FastMCP, shared client"


# --- Who is asked -----------------------------------------------------------------------------------------------------


async def open_targets(
    stack: AsyncExitStack, folder: Path, fastmcp: str | None, backends: Sequence[str]
) -> dict[tuple[str, str], Target]:
    """Start everything; gives a target for each (backend, path)."""
    program = [sys.executable, str(HERE / "_proxy_backend.py")]
    targets: dict[tuple[str, str], Target] = {}
    for backend in backends:
        if backend == "http":
            direct, url = await stack.enter_async_context(http_target([*program, "http"]))
            entry: dict[str, Any] = {"url": url}
            words = [url]
        else:
            words = [*program, "stdio"]
            entry = {"command": words[0], "args": words[1:]}
            direct = await stack.enter_async_context(stdio_target(words))
        config = folder / f"{backend}.json"
        config.write_text(json.dumps({"mcpServers": {"backend": entry}}))
        commands = {OURS: [sys.executable, "-m", "mcpactors", "serve", str(config), "--port", "0"]}
        if fastmcp is not None:
            for path, strategy in ((FRESH, "fresh"), (SHARED, "shared")):
                commands[path] = [fastmcp, str(HERE / "_proxy_fastmcp.py"), strategy, *words]
        targets[backend, DIRECT] = direct
        for path, command in commands.items():
            targets[backend, path], _ = await stack.enter_async_context(http_target(command))
    return targets


# --- Turns ------------------------------------------------------------------------------------------------------------


@define(eq=False)
class Case:
    """One question to one target, so many in flight: what was measured so far."""

    target: Target
    question: Question
    in_flight: int
    times: list[int] = field(factory=list)
    seconds: float = 0.0
    cpu: float | None = 0.0
    """Seconds that its process burnt meanwhile."""

    @property
    def series(self) -> Series:
        """What each request took."""
        return Series(sorted(self.times))

    async def turn(self) -> None:
        """Ask for a tenth of a second. Connecting, and the first request of each connection, are not counted."""
        with trio.fail_after(TURN_LIMIT):
            peers = [await self.target.open() for _ in range(self.in_flight)]
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(peer.ask, self.question)
            cpu, began = self.target.cpu(), time.perf_counter()
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(self._ask_until, peer, began + TURN)
            self.seconds += time.perf_counter() - began
            after = self.target.cpu()
            self.cpu = None if cpu is None or after is None or self.cpu is None else self.cpu + after - cpu
            for peer in peers:
                await peer.aclose()

    async def _ask_until(self, peer: Peer, until: float) -> None:
        while True:
            began = time.perf_counter_ns()
            await peer.ask(self.question)
            self.times.append(time.perf_counter_ns() - began)
            if time.perf_counter() >= until:
                return


async def take_turns(cases: Sequence[Case], rounds: int) -> None:
    """Give each case `rounds` turns' time; who overdraws it (three turns at least) sits out. Forth, then back."""
    gc.collect()
    gc.freeze()
    order = list(cases)
    for number in range(rounds):
        for case in order:
            if case.seconds <= number * TURN or number < 3:
                await case.turn()
        order.reverse()
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


# --- What came of it --------------------------------------------------------------------------------------------------

Key = tuple[str, str, str, int]
"""Backend, method, path, how many in flight."""
HEAD: Final = ("in flight", "calls", "p50 us", "p99 us", "p50 ratio", "p99 ratio", "calls/s", "CPU us")


def tell(report: Report, measured: Mapping[Key, Case]) -> None:
    """A table a backend and method; then what the issue aims at."""
    rows = {key: _row(key, case, measured[*key[:2], DIRECT, key[3]]) for key, case in measured.items()}
    report.rows += rows.values()
    for table in dict.fromkeys(row["table"] for row in rows.values()):
        print_columns([(table, *HEAD), *(_line(row) for row in rows.values() if row["table"] == table)])
    for (backend, method, path, in_flight), row in rows.items():
        if path == OURS:
            what = f"{method}, {backend} backend, {in_flight} in flight, beside direct, p50"
            report.claim(what, row["p50_ratio"], CALL_BOUND if method == "tools/call" else LIST_BOUND)


def _row(key: Key, case: Case, beside: Case) -> dict[str, Any]:
    backend, method, path, in_flight = key
    series, direct = case.series, beside.series
    return {
        "table": f"{method}, {backend} backend",
        "case": path,
        "in_flight": in_flight,
        "calls": len(case.times),
        "p50_us": series.p50,
        "p99_us": series.p99,
        "beside": DIRECT,
        "p50_ratio": series.p50 / direct.p50,
        "p99_ratio": series.p99 / direct.p99,
        "calls_per_second": len(case.times) / case.seconds,
        "cpu_us": None if case.cpu is None else case.cpu / len(case.times) * 1e6,
    }


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    cpu = "-" if row["cpu_us"] is None else f"{row['cpu_us']:.0f}"
    times = (f"{row['p50_us']:.0f}", f"{row['p99_us']:.0f}", f"{row['p50_ratio']:.2f}", f"{row['p99_ratio']:.2f}")
    name, numbers = f"  {row['case']}", (str(row["in_flight"]), str(row["calls"]))
    return (name, *numbers, *times, f"{row['calls_per_second']:.0f}", cpu)


def command_line() -> argparse.Namespace:
    """What every benchmark takes, and which FastMCP, which backends, how many rounds."""
    parser = option_parser(__doc__ or "")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns of {TURN} s that each case has ({ROUNDS})")
    parser.add_argument("--backend", choices=("http", "stdio"), help="measure one kind of backend only")
    parser.add_argument("--fastmcp-python", metavar="PATH", help=f"a Python that has {FASTMCP}; else one is made")
    parser.add_argument("--no-fastmcp", action="store_true", help="measure ours and the direct call only")
    return parser.parse_args()


async def main() -> None:
    """Measure, print, exit 0."""
    said = command_line()
    fastmcp = None if said.no_fastmcp else said.fastmcp_python or fastmcp_python()
    backends = (said.backend,) if said.backend else ("http", "stdio")
    measured: dict[Key, Case] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            targets = await open_targets(stack, Path(folder), fastmcp, backends)
            for question in QUESTIONS:
                for in_flight in IN_FLIGHT:
                    for (backend, path), target in targets.items():
                        measured[backend, question.method, path, in_flight] = Case(target, question, in_flight)
            await take_turns(list(measured.values()), said.rounds or (4 if said.quick else ROUNDS))
    report = Report()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors; load of the last minute {load:.1f}, of it some 2 this benchmark's\n")
    tell(report, measured)
    report.write(said.json)


if __name__ == "__main__":
    trio.run(main)

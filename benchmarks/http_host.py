"""What a request costs on our HTTP host, beside hypercorn on trio and uvicorn on asyncio with uvloop.

Rule: one application (`_http_host_server.py`), one client, one run; each host is a process of its own. `echo` is a POST
that is answered with its JSON, so nearly all of it is the host; `call` is a tool's call through the SDK's whole server;
`events` is a call that tells of its progress a hundred times, on an event stream. The client, its connections ("in
flight": one request each) and the turns are those of benchmarks/proxy.py. `CPU us` is what the host's process burns a
request; that is what is claimed of, as processors are shared here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import trio
from attrs import evolve

from benchmarks._proxy_client import QUESTIONS, Question
from benchmarks._targets import http_target, python_with
from benchmarks.measure import Report, option_parser, print_columns
from benchmarks.proxy import TURN, Case, take_turns

PROGRAM: Final = str(Path(__file__).parent / "_http_host_server.py")
OTHERS: Final = ("hypercorn[trio]==0.18.0", "uvicorn==0.54.0", "uvloop==0.22.1")
SAME: Final = ("mcp", "trio", "httptools")
"""What every host has in the version that stands here."""
ROUNDS: Final = 12
IN_FLIGHT: Final = (1, 32)
CALL: Final = QUESTIONS[0]
ECHO: Final = evolve(CALL, answer=b"20000")
EVENTS: Final = Question("tools/call", {"name": "count", "arguments": {"to": 100}}, b"counted", {"progressToken": 1})
ASKED: Final = (("echo", "echo", ECHO), ("call", "mcp", CALL), ("events", "mcp", EVENTS))
"""What is measured, on which application, with which request."""
BOUNDS: Final = {"hypercorn": {"echo": 0.25, "call": 0.75, "events": 0.75}, "uvicorn": {"echo": 3.0, "call": 1.25}}
"""What is claimed of our CPU a request, beside theirs."""

Key = tuple[str, int, str]
"""What is asked, how many in flight, the host."""


def tell(report: Report, measured: Mapping[Key, Case]) -> None:
    """One table; then what is claimed."""
    lines: list[tuple[str, ...]] = [("", "in flight", "requests", "p50 us", "p99 us", "requests/s", "CPU us")]
    burnt: dict[Key, float] = {}
    for (asked, in_flight, host), case in measured.items():
        row: dict[str, Any] = {
            "table": asked,
            "case": host,
            "in_flight": in_flight,
            "calls": len(case.times),
            "p50_us": case.series.p50,
            "p99_us": case.series.p99,
            "calls_per_second": len(case.times) / case.seconds,
            "cpu_us": None if case.cpu is None else case.cpu / len(case.times) * 1e6,
        }
        report.rows.append(row)
        if row["cpu_us"] is not None:
            burnt[asked, in_flight, host] = row["cpu_us"]
        numbers = [f"{row[name] or 0:.0f}" for name in ("p50_us", "p99_us", "calls_per_second", "cpu_us")]
        lines.append((f"{asked}, {host}", str(in_flight), str(row["calls"]), *numbers))
    print_columns(lines)
    for host, bounds in BOUNDS.items():
        for asked, bound in bounds.items():
            for in_flight in IN_FLIGHT:
                if (asked, in_flight, host) in burnt:
                    ratio = burnt[asked, in_flight, "ours"] / burnt[asked, in_flight, host]
                    report.claim(f"{asked}, {in_flight} in flight, CPU beside {host}", ratio, bound)


def command_line() -> argparse.Namespace:
    """What every benchmark takes, and where the other hosts are."""
    parser = option_parser(__doc__ or "")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns of {TURN} s that each case has ({ROUNDS})")
    parser.add_argument("--python", metavar="PATH", help=f"a Python that has {', '.join(OTHERS)}; else one is made")
    parser.add_argument("--alone", action="store_true", help="measure ours only")
    return parser.parse_args()


async def main() -> None:
    """Measure, print, exit 0."""
    said = command_line()
    same = [f"{name}=={version(name)}" for name in SAME]
    python = None if said.alone else said.python or python_with("http-hosts", [*OTHERS, *same])
    pythons = {"ours": sys.executable, **({} if python is None else {"hypercorn": python, "uvicorn": python})}
    async with AsyncExitStack() as stack:
        targets = {}
        for app, question in (("echo", ECHO), ("mcp", CALL)):
            for host, program in pythons.items():
                command = [program, PROGRAM, host, app]
                targets[app, host], _ = await stack.enter_async_context(http_target(command, [question]))
        measured: dict[Key, Case] = {}
        for asked, app, question in ASKED:
            for in_flight in IN_FLIGHT:
                for host in pythons:
                    measured[asked, in_flight, host] = Case(targets[app, host], question, in_flight)
        await take_turns(list(measured.values()), said.rounds or (4 if said.quick else ROUNDS))
    report = Report()
    print(f"{os.cpu_count()} processors; load of the last minute {os.getloadavg()[0]:.1f}, of it some 2 this one's\n")
    tell(report, measured)
    report.write(said.json)


if __name__ == "__main__":
    trio.run(main)

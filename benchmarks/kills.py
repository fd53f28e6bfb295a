"""How soon the calls of a killed backend fail, and another life of it answers: 1,000 times `kill -9`, calls in flight.

Rule: what is timed is from the SIGKILL to each caller's error, in the caller's own task, and to the first answer of the
next life. The backend is a shell script, so that what is measured of a restart is ours, and the policy restarts at
once. That nothing is left behind is for `tests/faults/test_killed.py` to check, which does the same; here only the
calls that do not end so are counted. Promise F1. Linux and macOS.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Final

import trio
import trio.testing
from mcp.shared.exceptions import MCPError

from benchmarks.measure import Report, Series, options
from tests.faults.helpers import SHELL, Ward, ward

KILLS: Final = 1000
QUICK: Final = 100
CALLS: Final = 3
"""In flight at each kill."""
CUT: Final = 5.0
"""Seconds after which a call counts as one that hangs."""
P99: Final = 0.05


async def _fail(sick: Ward, errors: list[int]) -> None:
    try:
        await sick.call("ignore")
    except MCPError as error:
        if "outcome is unknown" in error.message:
            errors.append(time.perf_counter_ns())


async def kills(count: int) -> dict[str, Series]:
    """Kill the backend `count` times; nanoseconds from each kill to each error, and to the next life's answer."""
    failed: list[int] = []
    lives: list[int] = []
    async with ward(SHELL) as sick:
        pid = (await sick.call("echo"))["pid"]
        for _ in range(count):
            errors: list[int] = []
            with trio.move_on_after(CUT):
                async with trio.open_nursery() as nursery:
                    for _ in range(CALLS):
                        nursery.start_soon(_fail, sick, errors)
                    await trio.testing.wait_all_tasks_blocked()
                    killed = time.perf_counter_ns()
                    os.kill(pid, signal.SIGKILL)
            pid = await sick.pid_of_next_life(pid)
            lives.append(time.perf_counter_ns() - killed)
            failed += (at - killed for at in errors)
    return {"to a call's error": Series(sorted(failed)), "to the next life's answer": Series(sorted(lives))}


async def main() -> None:
    """Measure, print, exit 0."""
    chosen = options(__doc__ or "")
    report = Report()
    count = QUICK if chosen.quick else KILLS
    measured = await kills(count)
    report.table(f"{count} kills", measured, {})
    failed = measured["to a call's error"]
    report.claim("from SIGKILL to the error, p99, beside 50 ms", failed.p99 / (P99 * 1e6), 1)
    report.claim("calls without that error", count * CALLS - len(failed.times), 0)
    report.write(chosen.json)


if __name__ == "__main__":
    trio.run(main)

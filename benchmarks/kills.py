"""How soon the calls of a killed backend fail, and another life of it answers: 1,000 times `kill -9`, calls in flight.

Rule: what is timed is from the SIGKILL to each caller's error, in the caller's own task, and to the first answer of the
next life. The backend is a shell script, so that what is measured of a restart is ours, and the policy restarts at
once. That nothing is left behind is for `tests/faults/test_killed.py` to check, which does the same; here only the
calls that do not end so are counted. Then, a few times each, other ends of a backend, or of one call: half a connection
is closed, a line is far too long, nothing but SIGKILL helps. Promises F1, F8, F18, F46. Linux; the kills macOS, too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any, Final

import trio
import trio.testing
from mcp.shared.exceptions import MCPError

from benchmarks.measure import Report, Series, options
from tests.faults.helpers import SHELL, Ward, ended, ward

KILLS: Final = 1000
QUICK: Final = 100
CALLS: Final = 3
"""In flight at each kill."""
CUT: Final = 5.0
"""Seconds after which a call counts as one that hangs."""
P99: Final = 0.05
TIMES: Final = 10
"""Of each other end."""
ENDS: Final[dict[str, tuple[str, dict[str, Any], float]]] = {
    "closes its stdin": ("close_stdin", {}, 1.2),
    "closes its stdout": ("close_stdout", {}, 1.2),
    "a line of 64 MiB": ("say_long", {"mebibytes": 64}, 0.3),
}
"""What the backend is told to do, and within how many seconds it is gone, or only its call has failed."""
LADDER: Final = 3.5
"""Seconds in which a backend is gone that heeds neither the end of its stdin nor SIGTERM."""


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


async def end(tool: str, arguments: dict[str, Any]) -> int:
    """Nanoseconds until the process is gone, or, where that lives on, until its call has failed."""
    async with ward() as sick:
        pid = (await sick.call("echo"))["pid"]
        began = time.perf_counter_ns()
        try:
            await sick.call(tool, **arguments)
        except MCPError as error:
            if "outcome is unknown" in error.message:
                await ended(pid)
            return time.perf_counter_ns() - began
    raise RuntimeError(f"{tool} was answered")


async def ladder() -> int:
    """Nanoseconds to leave a runtime whose backend, and a grandchild in another session, ignore all but SIGKILL."""
    async with ward() as sick:
        await sick.call("spawn", session=True)
        await sick.call("ignore_everything")
        began = time.perf_counter_ns()
    return time.perf_counter_ns() - began


async def ends(report: Report, times: int) -> None:
    """The other ends, so many times each."""
    measured = {
        what: Series(sorted([await end(tool, arguments) for _ in range(times)]))
        for what, (tool, arguments, _) in ENDS.items()
    }
    measured["ignores everything"] = Series(sorted([await ladder() for _ in range(times)]))
    report.table("a backend that", measured, {})
    for what, (*_, seconds) in ENDS.items():
        report.claim(f"{what}: at worst, beside {seconds:g} s", measured[what].percentile(1) / (seconds * 1e6), 1)
    worst = measured["ignores everything"].percentile(1)
    report.claim(f"ignores everything: gone at worst, beside {LADDER:g} s", worst / (LADDER * 1e6), 1)


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
    if sys.platform == "linux":
        await ends(report, TIMES // 5 if chosen.quick else TIMES)
    report.write(chosen.json)


if __name__ == "__main__":
    trio.run(main)

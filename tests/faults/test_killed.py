"""A backend that dies, at any moment: each call one error, nothing left behind, and the next life works (F1, F49).

`MCPACTORS_KILL_CYCLES=1000 pytest -s tests/faults/test_killed.py` is the whole of promises.md, and prints its figures.
"""

from __future__ import annotations

import os
import signal
import statistics

import pytest
import trio
import trio.testing
from mcp.shared.exceptions import MCPError

from mcpactors.transports.lines.streams import StdioLimits
from mcpactors.transports.stdio.child import stdio_client
from tests.faults.helpers import CHILD, SICK, Ward, descriptors, ended, linux_only, ward
from tests.processes import below

CYCLES = int(os.environ.get("MCPACTORS_KILL_CYCLES", "30"))

pytestmark = linux_only


@pytest.mark.parametrize("cut", [0, 1, 40, 80])
async def test_f1_whoever_dies_within_its_reply_costs_its_call_one_error(cut: int) -> None:
    async with ward() as sick:
        pid = (await sick.call("echo"))["pid"]
        with pytest.raises(MCPError, match="outcome is unknown"):
            await sick.call("die_within", cut=cut)
        await sick.pid_of_next_life(pid)


async def test_f1_a_reply_that_was_whole_counts_though_its_backend_died_with_it() -> None:
    async with ward() as sick:
        pid = (await sick.call("echo"))["pid"]
        assert await sick.call("die_within", cut=10**6) == {"value": "x" * 20}
        await sick.pid_of_next_life(pid)


async def test_f1_f49_a_backend_killed_again_and_again_leaves_no_call_no_process_and_no_descriptor() -> None:
    async with ward() as sick:
        pid = (await sick.call("echo"))["pid"]
        count, open_before = len(below(os.getpid())), descriptors()
        waits: list[float] = []
        for cycle in range(CYCLES):
            outcomes: list[str] = []
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(_outcome, sick, outcomes)
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(cycle % 20):  # at another moment of their way each time
                    await trio.lowlevel.checkpoint()
                os.kill(pid, signal.SIGKILL)
                killed = trio.current_time()
            waits.append(trio.current_time() - killed)
            assert outcomes == ["unknown"] * 3
            assert (await sick.call("echo", "well", value=cycle))["value"] == cycle
            pid = await sick.pid_of_next_life(pid)
        assert descriptors() == open_before
        assert (len(below(os.getpid())), sick.restarts()) == (count, CYCLES)
    assert len(below(os.getpid())) == count - 2
    percentile = statistics.quantiles(waits, n=100)[98]
    print(
        f"{CYCLES} kills: all calls failed after {percentile * 1000:.1f} ms (p99), {max(waits) * 1000:.1f} ms (worst)"
    )


async def _outcome(sick: Ward, outcomes: list[str]) -> None:
    try:
        outcomes.append(str(await sick.call("ignore")))
    except MCPError as error:
        outcomes.append("unknown" if "outcome is unknown" in error.message else error.message)


async def test_f46_whoever_ignores_everything_is_gone_after_the_ladder() -> None:
    limits = StdioLimits(exit_grace=0.1, term_grace=0.1)
    async with stdio_client(SICK.command, SICK.args, limits=limits) as (_, _):
        [pid] = [pid for pid, command in below(os.getpid()).items() if CHILD in command]
    await ended(pid)
    assert pid not in below(os.getpid())

"""A backend that dies, at any moment: each call one error, nothing left behind, and the next life works (F1, F49).

How soon its calls fail is measured by `benchmarks/kills.py`.
"""

from __future__ import annotations

import os
import signal

import pytest
import trio
import trio.testing
from mcp.shared.exceptions import MCPError

from mcpactors import BackendLimits, RestartPolicy, StdioTransport
from mcpactors.testing import nothing_left_behind
from tests.faults.helpers import SHELL, SICK, Ward, descriptors, ended, linux_only, runs, ward
from tests.processes import below

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


@pytest.mark.parametrize(("child", "cycles"), [(SHELL, 1000), (SICK, 20)], ids=["sh", "python"])
async def test_f1_f49_a_backend_killed_a_thousand_times_leaves_no_call_no_process_and_no_descriptor(
    child: StdioTransport, cycles: int
) -> None:
    async with ward(child) as sick:
        pid = (await sick.call("echo"))["pid"]
        count, open_before = len(below(os.getpid())), descriptors()
        for cycle in range(cycles):
            left = [(await sick.call("spawn", session=True))["pid"]] if cycle % 20 == 0 else []
            outcomes: list[str] = []
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(_outcome, sick, outcomes)
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(cycle % 19):  # at another moment of their way each time
                    await trio.lowlevel.checkpoint()
                os.kill(pid, signal.SIGKILL)
            assert outcomes == ["unknown"] * 3
            assert (await sick.call("echo", "well", value=cycle))["value"] == cycle
            pid = await sick.pid_of_next_life(pid)
            assert not any(map(runs, left))  # before there is another
        assert descriptors() == open_before
        assert (len(below(os.getpid())), sick.restarts()) == (count, cycles)
    assert len(below(os.getpid())) == count - 2


async def _outcome(sick: Ward, outcomes: list[str]) -> None:
    try:
        outcomes.append(str(await sick.call("ignore")))
    except MCPError as error:
        outcomes.append("unknown" if "outcome is unknown" in error.message else error.message)


async def test_p9_leaving_leaves_no_task_process_grandchild_descriptor_or_call_even_when_the_body_raises() -> None:
    errors: list[str] = []

    async def hold(sick: Ward) -> None:
        with pytest.raises(MCPError) as caught:
            await sick.call("ignore")
        errors.append(caught.value.message)

    async with ward() as first:  # what this process opens once, and keeps
        await first.call("echo")
    with nothing_left_behind():
        async with trio.open_nursery() as callers:
            with pytest.raises(BaseExceptionGroup) as caught:
                async with ward() as sick:
                    await sick.call("spawn", session=True)
                    for _ in range(3):
                        callers.start_soon(hold, sick)
                    await trio.testing.wait_all_tasks_blocked()
                    raise KeyError("of the body")
    assert caught.group_contains(KeyError, match="of the body")
    assert len(errors) == 3


async def test_f46_whoever_ignores_everything_is_gone_after_the_ladder() -> None:
    async with ward(backends=BackendLimits(exit_grace=0.1, term_grace=0.1)) as sick:
        pid = (await sick.call("ignore_everything"))["pid"]
        assert runs(pid)
    assert not runs(pid)


@pytest.mark.parametrize("tool", ["close_stdout", "endless"])
async def test_f29_a_message_at_which_a_backend_hangs_up_and_does_not_die_is_refused_the_third_time(tool: str) -> None:
    policy = RestartPolicy(intensity=10**9, backoff_initial=0, backoff_max=0)
    async with ward(restart=policy) as sick:
        pid = (await sick.call("echo"))["pid"]
        for _ in range(2):
            with pytest.raises(MCPError, match="outcome is unknown"):
                await sick.call(tool)
            await ended(pid)  # a second later: so long it has to go by itself
            pid = await sick.pid_of_next_life(pid)
        with pytest.raises(MCPError, match="has gone down 2 times while it held this very message"):
            await sick.call(tool)
        assert (await sick.call("echo"))["pid"] == pid

"""The steps of the ladder by which a child is stopped last as long as is set. Real processes.

Rule: no time is asserted: of two children that heed nothing, one has no time at a step and the other has ages.
"""

from __future__ import annotations

import os
import signal

import pytest
import trio
from attrs import evolve

from mcpactors.transports.stdio.child import StdioLimits
from tests.faults.helpers import ended, linux_only
from tests.transports.test_stdio import HANG, announced, child, runs

pytestmark = linux_only


@pytest.mark.parametrize("grace", ["exit_grace", "term_grace"])
async def test_f46_each_step_of_the_ladder_lasts_as_long_as_is_set(grace: str) -> None:
    hasty = StdioLimits(exit_grace=0.01, term_grace=0.01)
    both = trio.Event()

    async def leave(limits: StdioLimits, task_status: trio.TaskStatus[int]) -> None:
        async with child("stubborn", limits) as (read, _):
            task_status.started(await announced(read))
            await both.wait()

    async with trio.open_nursery() as nursery:
        stays = await nursery.start(leave, evolve(hasty, **{grace: 2 * HANG}))
        goes = await nursery.start(leave, hasty)
        both.set()
        await ended(goes)
        assert runs(stays)
        os.kill(stays, signal.SIGKILL)

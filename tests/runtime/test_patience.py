"""Callers wait five seconds, in all, for the restart of what has crashed (issue 4, "degraded honestly")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from mcpactors.runtime.reply import Failure, Result
from mcpactors.runtime.restart import RestartPolicy
from tests.runtime.actors import Child, Wire, ask, supervising

POLICY = RestartPolicy(backoff_initial=1, jitter=0, intensity=100)


def slow(seconds: list[float]) -> Wire:
    """A wire that takes these seconds to make, one after the other."""

    class Slow(Wire):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            await trio.sleep(seconds.pop(0))
            async with super().lifespan():
                yield

    return Slow()


@pytest.mark.parametrize("attempt", range(10))  # trio wakes those of one instant in any order
async def test_a_restart_that_is_over_at_the_very_instant_is_no_crash_and_leaves_the_mailbox_open(
    attempt: int, autojump_clock
) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor, POLICY, wire=slow([0, 4, 0])).start()
        await child.wire.up.wait()
        child.wire.cut()
        await trio.sleep(5.5)
        assert child.state() == "running"
        assert isinstance(await ask(child.ref), Result)


async def test_it_begins_anew_with_each_crash(autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor, POLICY, wire=slow([0, 3.5, 100])).start()
        await child.wire.up.wait()
        child.wire.cut()
        await trio.sleep(4.7)
        assert child.state() == "running"
        child.wire.cut()
        await trio.sleep(1)
        began = trio.current_time()
        outcome = await ask(child.ref)
        assert isinstance(outcome, Failure)
        assert "is down for 5.0 s" in outcome.message
        assert trio.current_time() - began == pytest.approx(4)


async def test_it_ends_with_a_stop(autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor, POLICY, wire=slow([0, 100])).start()
        await child.wire.up.wait()
        child.wire.cut()
        await trio.sleep(0.5)
        stopped = trio.current_time()
        await supervisor.stop_child(child.ref.name)
    assert trio.current_time() == stopped

"""The supervisor against a small reference of OTP's, on random lives of a child, on virtual time (P7, P8, F27).

The reference knows no tasks and no clock: it adds up when each state begins. Times are whole, so that a crash falls on
the edge of the window, of `reset_after` and of another crash all the time, and so that sums are exact.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import chain, cycle, repeat

import pytest
import trio
from attrs import frozen
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcpactors.runtime.restart import RestartPolicy
from mcpactors.runtime.supervisor import ChildSpec, ChildState, Supervisor
from tests.runtime.actors import Scripted, assert_books_balance, make_ref, simulate

START_TIMEOUT = 4
History = list[tuple[float, ChildState]]


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    logger = logging.getLogger("mcpactors")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@frozen
class Life:
    """How long a child takes to start, more than 4 s being too long; whether it can; how long it lives, how it ends."""

    start: int = 0
    starts: bool = True
    lasts: float = 0
    crashes: bool = True


FOREVER = Life(lasts=1e9)

lives = st.lists(
    st.builds(
        Life, st.sampled_from([0, 0, 1, 9]), st.sampled_from([1, 1, 0]).map(bool), st.integers(0, 6), st.booleans()
    ),
    max_size=14,
)
policies = st.builds(
    RestartPolicy,
    restart=st.sampled_from(["permanent", "permanent", "transient", "temporary"]),
    intensity=st.integers(0, 4),
    period=st.integers(1, 12),
    backoff_initial=st.integers(0, 2),
    backoff_max=st.integers(2, 8),
    jitter=st.just(0.5),
    reset_after=st.integers(1, 6),
    probe_after=st.integers(1, 20),
)
# 0 makes a wait half as long, 0.5 leaves it as it is
jitters = st.lists(st.sampled_from([0, 0.5]), min_size=1, max_size=5)


def reference(policy: RestartPolicy, trace: list[Life], jitter: list[float]) -> History:
    """What has to happen, and when."""
    now, said, draws = 0.0, History(), cycle(jitter)
    restarts: list[float] = []
    waits, given_up = 0, False
    for life in chain(trace, [FOREVER]):
        said.append((now, "starting"))
        now += min(life.start, START_TIMEOUT)
        up = life.starts and life.start < START_TIMEOUT
        if up:
            said.append((now, "running"))
            if life is FOREVER:
                break
            now += life.lasts
        crashed = life.crashes or not up
        if policy.restart == "temporary" or (policy.restart == "transient" and not crashed):
            break
        if up and life.lasts >= policy.reset_after:
            waits, given_up = 0, False
        restarts = [time for time in restarts if time >= now - policy.period] + [now]
        if given_up or len(restarts) > policy.intensity:
            said.append((now, "quarantined"))
            now += policy.probe_after
            waits, given_up = 0, True
        else:
            said.append((now, "backoff"))
            now += min(policy.backoff_initial * 2**waits, policy.backoff_max) * (0.5 if next(draws) == 0 else 1)
            waits += 1
    return [*said, (now, "stopped")]


async def history(policy: RestartPolicy, trace: list[Life], jitter: list[float], until: float) -> History:
    """What does happen until the child stops by itself, or is stopped at `until`."""
    ref, said, ahead, draws = make_ref(), History(), chain(trace, repeat(FOREVER)), cycle(jitter)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        life = next(ahead)
        await trio.sleep(life.start)
        if not life.starts:
            raise OSError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end, life, nursery.cancel_scope)
            yield
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(
            nursery, lambda ref, state: said.append((trio.current_time(), state)), lambda: next(draws)
        )
        supervisor.start_child(ChildSpec(ref, lambda: Scripted(lifespan=lifespan), policy, START_TIMEOUT))
        await trio.sleep_until(until)
        await trio.testing.wait_all_tasks_blocked()
        await supervisor.stop_child("api")
    assert_books_balance(ref)
    return said


async def end(life: Life, scope: trio.CancelScope) -> None:
    await trio.sleep(life.lasts)
    if life.crashes:
        raise OSError
    scope.cancel()


@given(policies, lives, jitters)
@example(RestartPolicy(intensity=1, period=5, backoff_initial=0, backoff_max=0), [Life(), Life(lasts=5), Life()], [0.5])
@example(RestartPolicy(intensity=0, reset_after=3, probe_after=9), [Life(), Life(lasts=2), Life(lasts=3)], [0.5])
@settings(max_examples=600)
def test_supervisor_equals_a_reference_of_otps_on_random_lives(policy, trace, jitter) -> None:
    expected = reference(policy, trace, jitter)
    assert simulate(1, lambda: history(policy, trace, jitter, until=expected[-1][0])) == expected

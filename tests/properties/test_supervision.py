"""The supervisor against a small reference of OTP's, on random lives of a child, on virtual time (P7, P8, F27).

The reference knows no tasks and no clock: it adds up when each state begins. Times are whole, so that a crash falls on
the edge of the window, of `reset_after` and of another crash all the time, and so that sums are exact.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import chain, cycle, repeat

import pytest
import trio
from attrs import frozen
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcpactors.runtime.mailbox import ActorRef
from mcpactors.runtime.restart import RestartLimit, RestartPolicy
from mcpactors.runtime.supervisor import ChildSpec, ChildState, Supervisor
from tests.runtime.actors import Scripted, ask, assert_books_balance, make_ref, simulate

START_TIMEOUT = 4
AT_ONCE = RestartLimit(burst=1_000_000, per_second=1e6)
"""For children that are looked at one by one: nobody waits for anybody."""
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
    """How long a child takes to start, more than 4 s being too long; whether it can; how long it lives, how it ends;
    whether it has answered anything then.
    """

    start: int = 0
    starts: bool = True
    lasts: float = 0
    crashes: bool = True
    answers: bool = True


FOREVER = Life(lasts=1e9)

lives = st.lists(
    st.builds(
        Life,
        st.sampled_from([0, 0, 1, 9]),
        st.sampled_from([1, 1, 0]).map(bool),
        st.integers(0, 6),
        st.booleans(),
        st.sampled_from([1, 1, 0]).map(bool),
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
    probe_initial=st.integers(1, 9),
)
# 0 makes a wait half as long, 0.5 leaves it as it is
jitters = st.lists(st.sampled_from([0, 0.5]), min_size=1, max_size=5)


def reference(policy: RestartPolicy, trace: list[Life], jitter: list[float], stays: float = 0) -> History:
    """What has to happen, and when. A child that is up for good is stopped when it has been so for `stays` seconds."""
    now, said, draws = 0.0, History(), cycle(jitter)
    restarts: list[float] = []
    waits, given_up, never_up = 0, False, 0
    for life in chain(trace, [FOREVER]):
        said.append((now, "starting"))
        now += min(life.start, START_TIMEOUT)
        up = life.starts and life.start < START_TIMEOUT
        if up:
            said.append((now, "running"))
            if life is FOREVER:
                now += stays
                break
            now += life.lasts
        crashed = life.crashes or not up
        if policy.restart == "temporary" or (policy.restart == "transient" and not crashed):
            break
        if up and life.answers and life.lasts >= policy.reset_after:
            waits, given_up = 0, False
        never_up = 0 if up else never_up
        restarts = [time for time in restarts if time >= now - policy.period] + [now]
        if given_up or len(restarts) > policy.intensity:
            said.append((now, "quarantined"))
            now += policy.probe_after if up else min(policy.probe_initial * 2**never_up, policy.probe_after)
            waits, given_up, never_up = 0, True, never_up + 1
        else:
            said.append((now, "backoff"))
            now += min(policy.backoff_initial * 2**waits, policy.backoff_max) * (0.5 if next(draws) == 0 else 1)
            waits += 1
    return [*said, (now, "stopped")]


def lives_of(trace: list[Life], ref: ActorRef) -> Callable[[], AbstractAsyncContextManager[None]]:
    """The lifespan of a child that lives these lives, one after the other."""
    ahead = chain(trace, repeat(FOREVER))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        life = next(ahead)
        await trio.sleep(life.start)
        if not life.starts:
            raise OSError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end, life, nursery.cancel_scope)
            if life.answers and life.lasts >= 1:
                nursery.start_soon(ask, ref)
            yield
            nursery.cancel_scope.cancel()

    return lifespan


async def history(policy: RestartPolicy, trace: list[Life], jitter: list[float], until: float) -> History:
    """What does happen until the child stops by itself, or is stopped at `until`."""
    ref, said, draws = make_ref(), History(), cycle(jitter)
    lifespan = lives_of(trace, ref)
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(
            nursery, lambda ref, state: said.append((trio.current_time(), state)), lambda: next(draws), AT_ONCE
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
@settings(max_examples=100)
def test_f27_the_supervisor_equals_a_reference_of_otps_on_random_lives(policy, trace, jitter) -> None:
    expected = reference(policy, trace, jitter)
    assert simulate(1, lambda: history(policy, trace, jitter, until=expected[-1][0])) == expected


# --- Ten thousand of them, a thousand side by side under one supervisor -----------------------------------------------


def drawn(seed: int) -> tuple[RestartPolicy, list[Life]]:
    draw = random.Random(seed)
    policy = RestartPolicy(
        restart=draw.choice(("permanent", "permanent", "permanent", "transient", "temporary")),
        intensity=draw.randint(0, 4),
        period=draw.randint(1, 12),
        backoff_initial=draw.randint(0, 2),
        backoff_max=draw.randint(2, 8),
        jitter=0,
        reset_after=draw.randint(1, 6),
        probe_after=draw.randint(1, 20),
        probe_initial=draw.randint(1, 9),
    )

    def likely() -> bool:
        return draw.random() < 0.7

    trace = [
        Life(draw.choice((0, 0, 1, 9)), likely(), draw.randint(0, 6), likely(), likely())
        for _ in range(draw.randint(0, 8))
    ]
    return policy, trace


async def histories(traces: dict[str, tuple[RestartPolicy, list[Life]]], ends: dict[str, float]) -> dict[str, History]:
    said: dict[str, History] = {name: [] for name in traces}

    async def stop(name: str) -> None:
        await trio.sleep_until(ends[name])
        await supervisor.stop_child(name)

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(
            nursery, lambda ref, state: said[ref.name].append((trio.current_time(), state)), limit=AT_ONCE
        )
        for name, (policy, trace) in traces.items():
            ref = make_ref(name)
            start = partial(Scripted, lifespan=lives_of(trace, ref))
            supervisor.start_child(ChildSpec(ref, start, policy, START_TIMEOUT))
            nursery.start_soon(stop, name)
    return said


@pytest.mark.parametrize("thousand", range(10))
def test_f27_ten_thousand_random_crash_traces_side_by_side_each_equal_the_reference(thousand: int) -> None:
    traces = {str(seed): drawn(seed) for seed in range(1000 * thousand, 1000 * thousand + 1000)}
    expected = {name: reference(policy, trace, [0.5], stays=0.5) for name, (policy, trace) in traces.items()}
    ends = {name: said[-1][0] // 1 + 0.5 for name, said in expected.items()}  # who ends by itself does so before
    found = simulate(thousand, lambda: histories(traces, ends))
    for name in traces:
        assert found[name] == expected[name], f"trace {name}: {traces[name]}"


# --- All at once (F28) ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12)), min_size=1, max_size=12),
    st.builds(RestartLimit, burst=st.integers(1, 4), per_second=st.sampled_from([0.5, 1, 4])),
)
@settings(max_examples=60)
def test_f28_in_no_span_of_time_are_there_more_restarts_than_the_limiter_lets_through(
    children: list[tuple[int, int]], limit: RestartLimit
) -> None:
    """Each child dies at a moment of its own, and so many times more as soon as it is up again."""

    async def storm() -> list[float]:
        starts: list[float] = []
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(nursery, lambda ref, state: note(state), limit=limit)

            def note(state: ChildState) -> None:
                if state == "starting":
                    starts.append(trio.current_time())

            for number, (at, times) in enumerate(children):
                ref = make_ref(str(number))
                lifespan = lives_of([Life(lasts=at), *[Life()] * times], ref)
                policy = RestartPolicy(intensity=50, backoff_initial=0.125, backoff_max=1)
                supervisor.start_child(ChildSpec(ref, partial(Scripted, lifespan=lifespan), policy))
            await trio.sleep(500)
            await supervisor.stop_all()
        assert len(starts) == sum(1 + 1 + times for _, times in children)
        return sorted(starts)[len(children) :]

    restarts = simulate(1, storm)
    for first, begin in enumerate(restarts):
        for last, end in enumerate(restarts[first:], first):
            assert last - first + 1 <= limit.burst + limit.per_second * (end - begin) + 1e-6


def test_f28_ten_backends_that_die_at_once_come_back_a_few_at_a_time_each_and_all() -> None:
    async def storm() -> list[float]:
        ups: list[float] = []
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(
                nursery, lambda ref, state: ups.append(trio.current_time()) if state == "running" else None
            )
            for number in range(10):
                ref = make_ref(str(number))
                lifespan = lives_of([Life(lasts=100)], ref)
                supervisor.start_child(ChildSpec(ref, partial(Scripted, lifespan=lifespan)))
            await trio.sleep(110)
            await supervisor.stop_all()
        return ups[10:]

    ups = simulate(7, storm)
    assert len(ups) == 10
    assert sum(at < 100.15 for at in ups) == 4
    assert 101.5 <= ups[-1] <= 101.7

"""Crash loops and storms with the settings as they are by default (promises P7, P8, F27, F31, F32)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, field
from trio.testing import wait_all_tasks_blocked

from mcpactors.runtime.restart import RestartLimit, RestartPolicy, Spread, probe_wait
from mcpactors.runtime.supervisor import Supervisor
from tests.runtime.actors import Child, Wire, make_ref, supervising


@define(eq=False)
class Late(Wire):
    """What it connects to is there from `since` on, and ends every connection after `lasts` seconds."""

    since: float = 0
    lasts: float = 1e9

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        if trio.current_time() < self.since:
            self.made.append(trio.current_time())
            raise OSError("nobody listens there")
        async with Wire.lifespan(self):  # attrs makes the class anew: `super()` would miss
            with trio.CancelScope(deadline=trio.current_time() + self.lasts):
                yield


@define(eq=False)
class Storm:
    supervisor: Supervisor
    children: list[Child] = field(factory=list)

    def start(self, number: int, wire: Any = Wire, policy: RestartPolicy = RestartPolicy()) -> Storm:
        self.children = [
            Child(self.supervisor, policy, ref=make_ref(f"child{n}"), wire=wire()).start() for n in range(number)
        ]
        return self

    def restarts(self) -> list[float]:
        return sorted(at for child in self.children for at in child.wire.made[1:])


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("lasts", [None, 0.0, 1.0], ids=["cannot start", "dies at once", "dies after a second"])
async def test_f27_a_crash_loop_is_at_most_six_spawns_in_ten_seconds(
    lasts: float | None, jitter: float, autojump_clock
) -> None:
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, jitter=lambda: jitter)
        wire = Late(since=1e9) if lasts is None else Late(lasts=lasts)
        Child(supervisor, RestartPolicy(), wire=wire).start()
        await trio.sleep(200)
        await supervisor.stop_all()
    for at in wire.made:
        assert sum(at <= other < at + 10 for other in wire.made) <= 6
    assert len(wire.made) >= 6


@pytest.mark.parametrize(("since", "up"), [(0.5, 0.7), (4, 11.1), (12, 27.1), (40, 59.1), (200, 239.1)])
async def test_p8_a_backend_that_comes_up_late_is_found_within_its_lateness_doubled_and_a_minute_at_most(
    since: float, up: float, autojump_clock
) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor, RestartPolicy(), wire=Late(since=since)).start()
        await child.wire.up.wait()
        assert trio.current_time() == pytest.approx(up)
        assert up - since <= 60
        await wait_all_tasks_blocked()
        assert child.state() == "running"


async def test_p8_a_child_that_was_up_and_crashes_too_often_is_probed_after_a_minute(autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor, RestartPolicy(), wire=Late(lasts=0.5)).start()
        await trio.sleep(100)
        given_up = child.wire.made[5] + 0.5
        assert child.wire.made[6] == pytest.approx(given_up + 60)


def test_the_waits_of_a_child_that_cannot_be_started_double_up_to_a_minute_by_default() -> None:
    policy = RestartPolicy()
    assert [probe_wait(policy, times) for times in (0, 1, 2, 3, 4, 10**9)] == [8, 16, 32, 60, 60, 60]
    assert probe_wait(policy, None) == 60
    assert probe_wait(RestartPolicy(probe_after=5), 0) == 5


async def test_p7_ten_backends_that_die_at_once_come_back_four_a_second(autojump_clock) -> None:
    async with supervising() as supervisor:
        storm = Storm(supervisor).start(10)
        await trio.sleep(100)
        for child in storm.children:
            child.wire.cut()
        await trio.sleep(10)
        waits = [round(at - 100, 3) for at in storm.restarts()]
        assert waits == [0.1] * 4 + [0.35, 0.6, 0.85, 1.1, 1.35, 1.6]
        assert {child.state() for child in storm.children} == {"running"}


async def test_p7_a_child_that_restarts_alone_is_not_held_up_by_one_that_waits_long(autojump_clock) -> None:
    async with supervising() as supervisor:
        policy = RestartPolicy(backoff_initial=30)
        Storm(supervisor).start(8, lambda: Late(since=25), policy)
        await trio.sleep(1)
        lone = Child(supervisor, RestartPolicy(), ref=make_ref("lone")).start()
        await lone.crash()
        await trio.sleep(0.2)
        assert lone.state() == "running"


async def test_a_child_can_be_stopped_while_it_waits_for_its_turn(autojump_clock) -> None:
    async with supervising() as supervisor:
        storm = Storm(supervisor).start(10)
        await wait_all_tasks_blocked()
        for child in storm.children:
            child.wire.cut()
        await trio.sleep(0.2)
        await supervisor.stop_all()
        assert trio.current_time() == pytest.approx(0.2)
        assert len(storm.restarts()) == 4


async def test_f32_after_a_suspend_nothing_stampedes_and_whoever_was_up_still_is(autojump_clock) -> None:
    """The machine sleeps for a day: every wait has come to its end at one moment."""
    async with supervising() as supervisor:
        up = Child(supervisor, ref=make_ref("up")).start()
        storm = Storm(supervisor).start(12, lambda: Late(since=20))
        await trio.sleep(19)
        before = len(storm.restarts())
        autojump_clock.jump(86_400)
        await wait_all_tasks_blocked()
        woke = trio.current_time()
        await trio.sleep(10)
        assert up.state() == "running"
        assert [at - woke for at in storm.restarts()[before:]] == pytest.approx([0] * 4 + [n / 4 for n in range(1, 9)])
        assert {child.state() for child in storm.children} == {"running"}


# --- The limiter ----------------------------------------------------------------------------------------------------


def test_a_limit_lets_a_burst_through_and_then_so_many_a_second() -> None:
    spread, turns = Spread(RestartLimit(burst=2, per_second=2)), []
    for now in (0, 0, 0, 0, 10, 10, 10):
        spread, turn = spread.add(now)
        turns.append(turn)
    assert turns == [0, 0, 0.5, 1, 10, 10, 10.5]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"burst": 0}, r"burst: expected an integer >= 1, got 0"),
        ({"burst": True}, r"burst: expected an integer >= 1, got True"),
        ({"per_second": 0}, r"per_second: expected a finite number > 0, got 0"),
    ],
)
def test_wrong_limit_is_refused_by_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        RestartLimit(**wrong)

"""Stopping a child: at any moment, in good order, in bounded time (design.md section 4, rule 5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mcpactors.errors import CONNECTION_CLOSED, UNAVAILABLE, ActorStopped
from mcpactors.runtime.reply import Failure, Outcome
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.runtime.supervisor import ChildSpec, Supervisor
from tests.runtime.actors import (
    Child,
    Script,
    Scripted,
    Wire,
    ask,
    counted,
    make_ref,
    place,
    supervising,
)


async def test_stopped_child_fails_its_calls_at_once_and_ends_in_good_order(autojump_clock) -> None:
    async with supervising() as supervisor, trio.open_nursery() as callers:
        child = Child(supervisor, wire=Wire(closing_takes=3), concurrency=1).start()
        calls = [await place(callers, child.ref, "hang") for _ in range(2)]
        callers.start_soon(supervisor.stop_child, "api")
        await wait_all_tasks_blocked()
        assert [(call.done_at, call.code) for call in calls] == [(0, CONNECTION_CLOSED), (0, UNAVAILABLE)]
        with pytest.raises(ActorStopped):
            await ask(child.ref)
        await supervisor.stop_child("api")
        assert (trio.current_time(), child.wire.left, child.state()) == (3, [3], "stopped")
        assert counted(child.ref) == {"accepted": 2, "failed": 2}


@pytest.mark.parametrize("moment", ["before its first turn", "starting", "running", "backoff", "quarantined"])
async def test_child_can_be_stopped_at_any_time_and_twice(moment: str, autojump_clock) -> None:
    async with supervising() as supervisor:
        policy = RestartPolicy(intensity=0 if moment == "quarantined" else 5)
        broken = Wire(refused=OSError("no"))
        wire = {"starting": Never(), "backoff": broken, "quarantined": broken}.get(moment, Wire())
        child = Child(supervisor, policy, wire=wire).start()
        if moment != "before its first turn":
            await wait_all_tasks_blocked()
            assert child.state() == moment
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop_child, "api")
            nursery.start_soon(supervisor.stop_child, "api")
        assert child.state() == "stopped"
        assert trio.current_time() == 0
        child.start()  # its name is free again


class Never(Wire):
    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await trio.sleep_forever()
        yield


async def test_second_stop_does_not_give_a_slow_lifespan_more_time(autojump_clock) -> None:
    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        await trio.sleep(100)

    async with supervising() as supervisor:
        ref = make_ref()
        supervisor.start_child(ChildSpec(ref, lambda: Scripted(lifespan=slow), stop_timeout=5))
        await supervisor.wait_settled("api")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop_child, "api")
            await trio.sleep(4)
            nursery.start_soon(supervisor.stop_child, "api")
        assert trio.current_time() == 5


async def test_stop_that_takes_too_long_is_reported_and_does_not_hang(autojump_clock, caplog) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor, wire=Wire(closing_takes=60)).start()
        await supervisor.wait_settled("api")
        await supervisor.stop_child("api")
        assert trio.current_time() == 10
    assert "actor api does not end within 10 s of being stopped" in caplog.text
    assert child.state() == "stopped"


async def test_crash_while_the_nursery_is_cancelled_is_logged_and_does_not_come_out(caplog, autojump_clock) -> None:
    class Bad(Wire):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            try:
                yield
            finally:
                raise OSError("cleanup failed")

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        child = Child(supervisor, wire=Bad()).start()
        await supervisor.wait_settled("api")
        nursery.cancel_scope.cancel()
    assert child.state() == "stopped"
    assert "actor api crashed: OSError: cleanup failed" in caplog.text


async def test_handler_that_raises_while_its_actor_is_stopped_is_no_crash(caplog, autojump_clock) -> None:
    async def fails_at_the_end(request, reply) -> Outcome:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleanup failed")

    async with supervising() as supervisor, trio.open_nursery() as callers:
        child = Child(supervisor, script=Script({"hang": fails_at_the_end})).start()
        call = await place(callers, child.ref, "hang")
        await supervisor.stop_child("api")
    assert isinstance(call.read, Failure)
    assert "crashed" not in caplog.text
    assert counted(child.ref) == {"accepted": 1, "failed": 1}


async def test_p10_children_are_stopped_in_reverse_order_each_when_the_one_after_it_has_ended(autojump_clock) -> None:
    async with supervising() as supervisor:
        children = [
            Child(supervisor, ref=make_ref(f"child{n}"), wire=Wire(closing_takes=0.5)).start() for n in range(4)
        ]
        await wait_all_tasks_blocked()
        await supervisor.stop_all()
        assert [child.wire.left for child in children] == [[2.0], [1.5], [1.0], [0.5]]


async def test_p10_one_that_does_not_end_holds_the_others_up_for_two_seconds_in_all(autojump_clock) -> None:
    async with supervising() as supervisor:
        children = [Child(supervisor, ref=make_ref(f"child{n}"), wire=Wire(closing_takes=4)).start() for n in range(10)]
        await wait_all_tasks_blocked()
        await supervisor.stop_all()
        assert [child.wire.left for child in children] == [[6.0]] * 9 + [[4.0]]

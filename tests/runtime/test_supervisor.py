"""Crash, wait, come back, be given up, be stopped: OTP's supervisor for one child at a time (promises P6 to P8)."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mcpactors.errors import CONNECTION_CLOSED, UNAVAILABLE, ActorUnavailable
from mcpactors.runtime.actor import Actor
from mcpactors.runtime.mailbox import ActorRef
from mcpactors.runtime.reply import Failure, Outcome, Result
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.runtime.supervisor import ChildSpec
from tests.runtime.actors import (
    POLICY,
    Child,
    Script,
    Wire,
    ask,
    assert_books_balance,
    counted,
    make_ref,
    place,
    raising,
    supervising,
)


async def unavailable(ref: ActorRef) -> ActorUnavailable:
    with pytest.raises(ActorUnavailable) as caught:
        await ask(ref)
    return caught.value


# --- Starting -------------------------------------------------------------------------------------------------------


async def test_child_takes_calls_while_it_starts_and_answers_them_when_it_has_started(autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor).start()
        assert child.state() == "starting"
        assert await ask(child.ref, n=1) == Result({"n": 1})
        assert await supervisor.wait_settled("api") == "running"


async def test_two_children_of_one_name_are_refused(autojump_clock) -> None:
    async with supervising() as supervisor:
        Child(supervisor).start()
        with pytest.raises(ValueError, match="an actor named 'api' is already supervised; unmount it first"):
            Child(supervisor).start()


async def test_child_that_cannot_start_turns_calls_away_with_its_name_how_long_and_why(autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor, wire=Wire(refused=OSError("no such file"))).start()
        waiting = await place_before_it_starts(child)
        assert isinstance(waiting, Failure)
        await trio.sleep(1.25)
        error = await unavailable(child.ref)
        assert error.message == "api is down for 1.2 s: OSError: no such file; it is tried again by itself"
        assert error.data == {"actor": "api", "since": 1.25, "reason": "OSError: no such file"}
        assert waiting == Failure(UNAVAILABLE, waiting.message, {**error.data, "since": 0.0})
        assert_books_balance(child.ref)


async def place_before_it_starts(child: Child) -> Outcome:
    assert child.state() == "starting"
    return await ask(child.ref)


async def test_child_that_could_not_start_comes_back_by_itself_after_waits_that_double(autojump_clock) -> None:
    policy = RestartPolicy(intensity=10, backoff_initial=1, backoff_max=4)
    async with supervising() as supervisor:
        child = Child(supervisor, policy, wire=Wire(refused=OSError("no"))).start()
        await trio.sleep(14)
        child.wire.refused = None
        await trio.sleep(2)
        assert child.wire.made == [0, 1, 3, 7, 11, 15]
        assert await ask(child.ref, n=1) == Result({"n": 1})


async def test_child_whose_start_hangs_is_cancelled_at_its_timeout_and_tried_again(autojump_clock) -> None:
    class Slow(Wire):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            self.made.append(trio.current_time())
            await trio.sleep(100)
            yield

    async with supervising() as supervisor:
        child = Child(supervisor, wire=Slow(), start_timeout=5).start()
        assert await supervisor.wait_settled("api") == "backoff"
        assert trio.current_time() == 5
        await trio.sleep(2)
        assert child.wire.made == [0, 6]
        assert (await unavailable(child.ref)).data == {"actor": "api", "since": 2, "reason": "not started within 5 s"}


@pytest.mark.parametrize("shield", [False, True])
async def test_start_that_ends_at_the_very_instant_of_its_timeout_is_a_failed_start_or_a_life(
    shield, autojump_clock
) -> None:
    class Late(Wire):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            self.made.append(trio.current_time())
            with trio.CancelScope(shield=shield):
                await trio.sleep(5)
            yield

    policy = RestartPolicy(restart="transient", backoff_initial=1)
    async with supervising() as supervisor:
        child = Child(supervisor, policy, wire=Late(), start_timeout=5).start()
        await trio.sleep(10)
        assert child.state() in ("running", "starting")  # and not "stopped", as after a life that ended by itself
        assert len(child.wire.made) == 1 + (child.state() == "starting")


async def test_actor_that_cannot_be_made_is_a_failed_start(autojump_clock) -> None:
    def cannot() -> Actor:
        raise ImportError("no module named nope")

    async with supervising() as supervisor:
        child = Child(supervisor)
        supervisor.start_child(ChildSpec(child.ref, cannot, POLICY))
        assert await supervisor.wait_settled("api") == "backoff"
        assert (await unavailable(child.ref)).data == {
            "actor": "api",
            "since": 0,
            "reason": "ImportError: no module named nope",
        }


# --- Crashing -------------------------------------------------------------------------------------------------------


async def test_calls_in_flight_fail_at_once_and_those_that_wait_are_answered_by_the_next_life(autojump_clock) -> None:
    async with supervising() as supervisor, trio.open_nursery() as callers:
        child = Child(supervisor, wire=Wire(closing_takes=3), concurrency=1).start()
        in_flight = await place(callers, child.ref, "hang")
        waiting = await place(callers, child.ref, n=1)
        await trio.sleep(5)
        child.wire.cut()
        await wait_all_tasks_blocked()
        assert (in_flight.code, in_flight.done_at) == (CONNECTION_CLOSED, 5)
        meanwhile = await place(callers, child.ref, n=2)
        await trio.sleep(10)
        assert [call.read for call in (waiting, meanwhile)] == [Result({"n": 1}), Result({"n": 2})]
        assert waiting.done_at == 5 + 3 + 1  # cleanup, then the wait before a restart
        assert counted(child.ref) == {"accepted": 3, "answered": 2, "failed": 1}


async def test_p6_crash_changes_nothing_for_a_sibling(autojump_clock) -> None:
    async with supervising() as supervisor, trio.open_nursery() as callers:
        child, sibling = Child(supervisor).start(), Child(supervisor, ref=make_ref("sibling")).start()
        call = await place(callers, sibling.ref, "hang")
        await child.crash()
        assert call.read is None
        assert (child.state(), sibling.state()) == ("backoff", "running")
        assert await ask(sibling.ref, n=1) == Result({"n": 1})
        call.scope.cancel()


class Forged(BaseException):
    """Not an Exception."""


BLOWS = [
    SystemExit(3),
    Forged("no"),
    ExceptionGroup("both", [KeyError("no")]),
    BaseExceptionGroup("it", [Forged("no")]),
]


@pytest.mark.parametrize("blow", BLOWS, ids=lambda blow: type(blow).__name__)
async def test_f59_whatever_a_lifespan_raises_is_its_own_crash(blow: BaseException, autojump_clock) -> None:
    async with supervising() as supervisor:
        child, sibling = Child(supervisor).start(), Child(supervisor, ref=make_ref("sibling")).start()
        await supervisor.wait_settled("api")
        child.wire.cut(blow)
        await wait_all_tasks_blocked()
        assert child.state() == "backoff"
        await trio.sleep(2)
        assert (child.state(), sibling.state()) == ("running", "running")


async def test_f59_cancelled_that_nobody_asked_for_out_of_a_lifespan_is_its_own_crash(autojump_clock) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            forged = cancelled
            raise
    async with supervising() as supervisor:
        child = Child(supervisor, wire=Wire(refused=forged)).start()
        await wait_all_tasks_blocked()
        assert child.state() == "backoff"
        child.wire.refused = None
        await trio.sleep(2)
        assert child.state() == "running"


INTERRUPTS = [KeyboardInterrupt(), BaseExceptionGroup("both", [KeyboardInterrupt(), OSError("no")])]


@pytest.mark.parametrize("blow", INTERRUPTS, ids=["alone", "with a crash"])
async def test_keyboard_interrupt_in_a_lifespan_ends_the_program(blow: BaseException, autojump_clock) -> None:
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with supervising() as supervisor:
            child = Child(supervisor).start()
            await supervisor.wait_settled("api")
            child.wire.cut(blow)
            await trio.sleep(60)


async def test_crash_is_one_line_in_the_log_and_in_ps(caplog, autojump_clock) -> None:
    caplog.set_level(logging.WARNING, "mcpactors")
    async with supervising() as supervisor:
        await Child(supervisor).start().crash()
        assert supervisor.info("api").last_exit == "OSError: the wire was cut"
    assert [record.getMessage() for record in caplog.records] == ["actor api crashed: OSError: the wire was cut"]


async def test_the_log_says_once_that_a_child_is_given_up_and_that_it_is_up(caplog, autojump_clock) -> None:
    caplog.set_level(logging.WARNING, "mcpactors")
    async with supervising() as supervisor:
        child = Child(supervisor, wire=Wire(refused=OSError("no such file"))).start()
        await trio.sleep(300)
        assert [record.getMessage() for record in caplog.records] == [
            "actor api is given up: calls to it fail at once, and it is tried again in 8 s; it went down for this: "
            "OSError: no such file"
        ]
        caplog.clear()
        child.wire.refused = None
        await trio.sleep(100)
    [record] = caplog.records
    assert re.fullmatch(r"actor api is up, after 3\d\d\.\d s", record.getMessage())


async def test_restart_that_cost_nobody_a_call_is_no_warning(caplog, autojump_clock) -> None:
    caplog.set_level(logging.INFO, "mcpactors")
    async with supervising() as supervisor:
        await Child(supervisor).start().crash()
        await trio.sleep(10)
    assert [(record.levelname, record.getMessage()[:19]) for record in caplog.records] == [
        ("WARNING", "actor api crashed: "),
        ("INFO", "actor api: backoff "),
        ("INFO", "actor api is up, af"),
    ]


@pytest.mark.parametrize(
    ("restart", "after"), [("permanent", "backoff"), ("transient", "stopped"), ("temporary", "stopped")]
)
async def test_child_that_ends_by_itself_is_restarted_when_it_is_permanent(restart, after, autojump_clock) -> None:
    class Brief(Wire):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            with trio.CancelScope() as scope:
                scope.cancel()
                yield

    async with supervising() as supervisor:
        child = Child(supervisor, RestartPolicy(restart=restart), wire=Brief()).start()
        await wait_all_tasks_blocked()
        assert child.state() == after
        assert supervisor.info("api").last_exit == "it ended by itself"


async def test_temporary_child_stays_down_after_its_crash_and_says_so_until_it_is_taken_out(autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor, RestartPolicy(restart="temporary")).start()
        await child.crash()
        assert child.state() == await supervisor.wait_settled("api") == "stopped"
        assert supervisor.info("api").last_exit == "OSError: the wire was cut"
        error = await unavailable(child.ref)
        assert error.message.endswith("its restart policy is 'temporary', so it is not started again")
        assert error.data == {"actor": "api", "since": 0, "reason": "OSError: the wire was cut"}
        await supervisor.stop_child("api")
        assert await supervisor.wait_settled("api") == "stopped"
        fresh = Child(supervisor).start()
        assert await supervisor.wait_settled("api") == fresh.state() == "running"


async def test_handlers_own_errors_never_count_as_crashes(caplog, autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor, script=Script({"fail": raising(ValueError("no"))})).start()
        for _ in range(10):
            assert isinstance(await ask(child.ref, "fail"), Failure)
        assert (child.state(), supervisor.info("api").restarts) == ("running", 0)
        assert supervisor.info("api").accounting["failed"] == 10


# --- Quarantine -----------------------------------------------------------------------------------------------------


async def test_p8_child_that_crashes_too_often_is_quarantined_and_its_calls_fail_at_once(autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor).start()
        await child.crash(times=2)
        assert child.state() == "backoff"
        await child.crash()
        assert child.state() == "quarantined"
        await trio.sleep(59)
        error = await unavailable(child.ref)
        assert error.data == {"actor": "api", "since": 59, "reason": "OSError: the wire was cut"}


async def test_calls_that_wait_when_the_child_is_quarantined_fail_at_once(autojump_clock) -> None:
    async with supervising() as supervisor, trio.open_nursery() as callers:
        child = Child(supervisor, RestartPolicy(intensity=0), concurrency=1).start()
        calls = [await place(callers, child.ref, "hang") for _ in range(3)]
        await child.crash()
        assert [call.code for call in calls] == [CONNECTION_CLOSED, UNAVAILABLE, UNAVAILABLE]
        assert counted(child.ref) == {"accepted": 3, "failed": 3}


async def test_p8_quarantined_child_gets_one_probe_and_no_more(autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor, RestartPolicy(intensity=0, reset_after=20, probe_after=60)).start()
        await child.crash()
        await child.crash(apart=19)
        assert child.state() == "quarantined"
        assert child.wire.made == [0, 60]
        await trio.sleep(59)
        assert child.wire.made == [0, 60]


async def test_p8_child_is_back_to_normal_when_its_probe_has_lived_long_enough(autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor).start()
        await child.crash(times=3)
        began = trio.current_time()
        await trio.sleep(60)
        await child.wire.up.wait()
        assert await ask(child.ref, n=1) == Result({"n": 1})
        await child.crash(apart=20)
        assert child.state() == "backoff"
        await trio.sleep(5)
        assert child.wire.made[-2:] == [began + 60, began + 60 + 20 + POLICY.backoff_initial]


async def test_p8_child_that_answered_nothing_was_of_no_use_however_long_its_probe_has_lived(autojump_clock) -> None:
    async with supervising() as supervisor:
        child = Child(supervisor).start()
        await child.crash(times=3)
        await trio.sleep(60)
        await child.wire.up.wait()
        await child.crash(apart=1000)
        assert child.state() == "quarantined"


async def test_probe_whose_start_hangs_for_long_has_not_lived(autojump_clock) -> None:
    """`reset_after` is of useful life: a start that takes longer than that does not end a quarantine."""

    class Slow(Wire):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            self.made.append(trio.current_time())
            await trio.sleep(50 if len(self.made) > 1 else 0)
            raise OSError("no")
            yield

    policy = RestartPolicy(intensity=0, period=1, reset_after=30, probe_after=60, probe_initial=60)
    async with supervising() as supervisor:
        child = Child(supervisor, policy, wire=Slow(), start_timeout=100).start()
        await trio.sleep(60 + 50 + 1)
        assert child.state() == "quarantined"


async def test_waits_begin_anew_after_a_long_life(autojump_clock) -> None:
    policy = RestartPolicy(intensity=9, backoff_initial=1, backoff_max=64, reset_after=20)
    async with supervising() as supervisor:
        child = Child(supervisor, policy).start()
        await child.crash(times=3)  # at 0, 1, 3; the next life begins at 7
        await child.wire.up.wait()
        await ask(child.ref)
        await child.crash(apart=20)
        await trio.sleep(5)
        assert child.wire.made == [0, 1, 3, 7, 28]

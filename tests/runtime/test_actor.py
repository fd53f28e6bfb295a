"""One life of an actor: its handlers' errors, its slots, its callers who leave (design.md section 4, rules 1 and 2)."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mcpactors.errors import CONNECTION_CLOSED, INTERNAL_ERROR, InvalidParams
from mcpactors.runtime.actor import Actor, Forwarded
from mcpactors.runtime.mailbox import ActorRef, Envelope, Request
from mcpactors.runtime.reply import Failure, Outcome, ReplyChannel, Result
from tests.runtime.actors import (
    PATIENT,
    Call,
    Script,
    Scripted,
    Wire,
    ask,
    assert_books_balance,
    counted,
    hang,
    living,
    make_ref,
    place,
    raising,
)

WENT_DOWN = CONNECTION_CLOSED


# --- What a handler raises ------------------------------------------------------------------------------------------


class Forged(BaseException):
    """Not an Exception, and nobody's but the handler's."""


async def raise_a_cancelled_that_nobody_asked_for(request: Request, reply: ReplyChannel) -> Outcome:
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
            raise
    raise kept.pop()


async def exit_in_a_nursery(request: Request, reply: ReplyChannel) -> Outcome:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raising(SystemExit(3)), request, reply)
    raise AssertionError


HANDLERS = {
    "Exception": raising(ValueError("no")),
    "ExceptionGroup": raising(ExceptionGroup("both", [ValueError(), KeyError()])),
    "SystemExit": raising(SystemExit(3)),
    "SystemExit in a nursery": exit_in_a_nursery,
    "BaseException": raising(Forged()),
    "GroupOfForged": raising(BaseExceptionGroup("both", [Forged(), ValueError()])),
    "Cancelled": raise_a_cancelled_that_nobody_asked_for,
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
async def test_f59_what_a_handler_raises_is_an_error_reply_and_the_actor_lives(handler, caplog, autojump_clock) -> None:
    async with living(Scripted(Script({"raise": handler, "hang": hang}))) as ref, trio.open_nursery() as nursery:
        other = await place(nursery, ref, "hang")
        failed = await ask(ref, "raise")
        assert isinstance(failed, Failure)
        assert failed.code == INTERNAL_ERROR
        assert failed.message.startswith("api failed while answering raise (")
        assert await ask(ref, n=1) == Result({"n": 1})
        assert other.read is None
        other.scope.cancel()
    assert counted(ref) == {"accepted": 3, "answered": 1, "failed": 1, "cancelled": 1}
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_error_of_ours_is_a_reply_with_its_own_code_and_data_and_is_not_logged(caplog, autojump_clock) -> None:
    async with living(Scripted(raising(InvalidParams("n is missing", {"field": "n"})))) as ref:
        assert await ask(ref) == Failure(InvalidParams.code, "n is missing", {"field": "n"})
    assert not caplog.records


async def test_what_a_handler_raises_is_not_shown_to_the_caller(caplog, autojump_clock) -> None:
    async with living(Scripted(raising(ValueError("password: hunter2")))) as ref:
        outcome = await ask(ref)
    assert "hunter2" not in str(outcome)
    assert "hunter2" in caplog.text


async def test_keyboard_interrupt_in_a_handler_ends_the_program_and_every_call_fails(caplog, autojump_clock) -> None:
    ref, script = make_ref(), Script({"raise": raising(KeyboardInterrupt()), "hang": hang})
    calls = [Call(ref, Request(method, {})) for method in ("hang", "raise")]
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with living(Scripted(script), ref), trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call)
                await wait_all_tasks_blocked()
    outcomes = [call.channel.outcome for call in calls]
    assert [outcome.code for outcome in outcomes if isinstance(outcome, Failure)] == [WENT_DOWN] * 2
    assert_books_balance(ref)


async def test_control_message_that_the_actor_does_not_know_is_a_crash(autojump_clock) -> None:
    class Deaf(Scripted):
        def receive_cast(self, message: object) -> None:
            Actor.receive_cast(self, message)

    ref = make_ref()
    with pytest.RaisesGroup(TypeError, flatten_subgroups=True):
        async with living(Deaf(), ref):
            ref.cast("look")
            await trio.sleep_forever()


# --- Leaving --------------------------------------------------------------------------------------------------------


async def test_caller_that_leaves_cancels_the_handler_and_those_whom_the_handler_asks(autojump_clock) -> None:
    script = Script({"hang": hang})
    async with living(Scripted(script), make_ref("last")) as last, asking(last) as middle, asking(middle) as first:
        async with trio.open_nursery() as nursery:
            call = await place(nursery, first, "hang")
            assert script.begun == ["hang"]
            call.scope.cancel()
        await wait_all_tasks_blocked()
        assert script.ended == ["hang cancelled"]
        assert [ref.tally.cancelled for ref in (first, middle, last)] == [1, 1, 1]
        assert [len(ref.in_flight) for ref in (first, middle, last)] == [0, 0, 0]


@asynccontextmanager
async def asking(other: ActorRef) -> AsyncIterator[ActorRef]:
    """An actor that asks another one."""

    async def handle(request: Request, reply: ReplyChannel) -> Outcome:
        return await other.ask(request, PATIENT)

    async with living(Scripted(handle), make_ref(f"asks {other.name}")) as ref:
        yield ref


async def stubborn(request: Request, reply: ReplyChannel) -> Outcome:
    with trio.CancelScope(shield=True):
        await trio.sleep(100)
    return Result({})


async def test_cancelled_call_is_not_counted_as_a_late_outcome_and_one_that_came_too_late_is(autojump_clock) -> None:
    script = Script({"hang": hang, "stubborn": stubborn})
    async with living(Scripted(script)) as ref, trio.open_nursery() as nursery:
        obeys, stays = [await place(nursery, ref, method) for method in ("hang", "stubborn")]
        obeys.scope.cancel()
        stays.scope.cancel()
        await trio.sleep(200)
    assert [call.channel.late for call in (obeys, stays)] == [0, 1]
    assert counted(ref) == {"accepted": 2, "cancelled": 2}


async def test_f24_caller_of_a_handler_that_ignores_its_cancellation_is_free_at_once_and_its_slot_stays_taken(
    autojump_clock,
) -> None:
    async with living(Scripted(stubborn, concurrency=1)) as ref, trio.open_nursery() as nursery:
        began = trio.current_time()
        call = await place(nursery, ref)
        call.scope.cancel()
        await wait_all_tasks_blocked()
        assert call.done_at == began
        assert len(ref.in_flight) == 1  # the slot stays taken until the handler ends
        await trio.sleep(100)
        await wait_all_tasks_blocked()
        assert len(ref.in_flight) == 0


async def test_f24_caller_of_a_handler_that_runs_in_a_thread_is_free_at_once() -> None:
    may_end = threading.Event()

    async def in_a_thread(request: Request, reply: ReplyChannel) -> Outcome:
        await trio.to_thread.run_sync(may_end.wait)
        return Result({})

    async with living(Scripted(in_a_thread)) as ref, trio.open_nursery() as nursery:
        call = await place(nursery, ref)
        call.scope.cancel()
        await wait_all_tasks_blocked()
        assert call.done_at is not None
        assert len(ref.in_flight) == 1
        may_end.set()
    assert counted(ref) == {"accepted": 1, "cancelled": 1}


async def test_caller_that_leaves_after_the_result_but_before_reading_it_counts_as_answered(
    autojump_clock,
) -> None:
    async with living(Scripted()) as ref, trio.open_nursery() as nursery:
        call = Call(ref, Request("echo", {}))
        nursery.start_soon(call)
        while call.channel.outcome is None:
            await trio.lowlevel.checkpoint()
        call.scope.cancel()
    assert isinstance(call.channel.outcome, Result)
    assert counted(ref) == {"accepted": 1, "answered": 1}


# --- Going down -----------------------------------------------------------------------------------------------------


async def test_calls_in_flight_fail_at_once_when_the_actor_goes_down_and_those_that_wait_stay(autojump_clock) -> None:
    wire, ref, script = Wire(closing_takes=60), make_ref(), Script({"hang": hang, "stubborn": stubborn})
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with trio.open_nursery() as callers, living(Scripted(script, wire.lifespan, 2), ref):
            calls = [await place(callers, ref, method) for method in ("hang", "stubborn", "echo")]
            await trio.sleep(5)
            wire.cut()
            await wait_all_tasks_blocked()
            assert [call.done_at for call in calls] == [5, 5, None]
            callers.cancel_scope.cancel()
    failure = calls[0].read
    assert isinstance(failure, Failure)
    assert (failure.code, failure.data) == (WENT_DOWN, {"actor": "api"})
    assert "the outcome is unknown, and nothing was retried" in failure.message
    assert wire.left == [100 + 60]


# --- Forwarding -----------------------------------------------------------------------------------------------------


def forwarding(to: ActorRef) -> Scripted:
    async def handle(request: Request, reply: ReplyChannel) -> Forwarded:
        to.offer(Envelope(request, reply))
        return Forwarded()

    return Scripted(handle)


async def test_forwarded_call_is_answered_by_the_other_actor_and_cancelled_there(autojump_clock) -> None:
    script = Script({"hang": hang})
    async with living(Scripted(script), make_ref("last")) as last, living(forwarding(last)) as first:
        assert await ask(first, n=1) == Result({"n": 1})
        async with trio.open_nursery() as nursery:
            call = await place(nursery, first, "hang")
            assert [len(ref.in_flight) for ref in (first, last)] == [0, 1]
            call.scope.cancel()
    assert script.ended == ["echo", "hang cancelled"]
    assert counted(first) == {"accepted": 2, "forwarded": 2}
    assert counted(last) == {"accepted": 2, "answered": 1, "cancelled": 1}


async def test_caller_that_leaves_a_forwarded_call_does_not_cancel_what_the_first_actor_does_now(
    autojump_clock,
) -> None:
    async def handle(request: Request, reply: ReplyChannel) -> Outcome | Forwarded:
        if request.method == "echo":
            asleep.offer(Envelope(request, reply))
            return Forwarded()
        return await hang(request, reply)

    asleep = make_ref("asleep")
    async with living(Scripted(handle, concurrency=1)) as ref, trio.open_nursery() as nursery:
        forwarded, other = await place(nursery, ref), await place(nursery, ref, "hang")
        forwarded.scope.cancel()
        await wait_all_tasks_blocked()
        assert other.done_at is None
        other.scope.cancel()


async def test_call_that_cannot_be_forwarded_fails_with_what_the_other_mailbox_says(autojump_clock) -> None:
    full = make_ref("full", capacity=0)
    async with living(forwarding(full)) as first:
        outcome = await ask(first)
    assert isinstance(outcome, Failure)
    assert outcome.data == {"actor": "full", "retryAfter": 1.0}
    assert (counted(first), counted(full)) == ({"accepted": 1, "failed": 1}, {})


async def test_actor_that_forwards_a_call_to_itself_answers_it_all_the_same(autojump_clock) -> None:
    ref, hops = make_ref(), iter(range(3))

    async def handle(request: Request, reply: ReplyChannel) -> Outcome | Forwarded:
        if next(hops) == 2:
            return Result({})
        ref.offer(Envelope(request, reply))
        await wait_all_tasks_blocked()
        return Forwarded()

    async with living(Scripted(handle), ref):
        assert await ask(ref) == Result({})
        await wait_all_tasks_blocked()
    assert counted(ref) == {"accepted": 3, "answered": 1, "forwarded": 2}

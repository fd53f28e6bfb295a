"""How an actor takes its requests: in order, within its slots, one task after another for many calls (rule 1)."""

from __future__ import annotations

from contextvars import ContextVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mcpactors.errors import MailboxFull
from mcpactors.runtime.actor import SPARE_WORKERS
from mcpactors.runtime.mailbox import Envelope, Request
from mcpactors.runtime.reply import Failure, Outcome, ReplyChannel, Result
from tests.runtime.actors import (
    Script,
    Scripted,
    ask,
    counted,
    hang,
    living,
    make_ref,
    place,
    simulate,
    take_a_second,
)

_who: ContextVar[str] = ContextVar("who", default="nobody")


# --- Slots ----------------------------------------------------------------------------------------------------------


async def test_no_more_requests_run_at_once_than_the_actor_has_slots_for(autojump_clock) -> None:
    actor = Scripted(Script({"work": take_a_second}), concurrency=2)
    async with living(actor, make_ref(capacity=3)) as ref, trio.open_nursery() as nursery:
        calls = [await place(nursery, ref, "work", n=n) for n in range(5)]
        assert (len(ref.in_flight), ref.mailbox.statistics().waiting) == (2, 3)
        with pytest.raises(MailboxFull):
            await ask(ref, "work")
        await trio.sleep(10)
    assert [call.done_at for call in calls] == [1, 1, 2, 2, 3]


async def test_f25_control_message_is_received_although_every_slot_is_taken_and_the_mailbox_is_full(
    autojump_clock,
) -> None:
    actor = Scripted(hang, concurrency=1)
    async with living(actor, make_ref(capacity=1)) as ref, trio.open_nursery() as nursery:
        await place(nursery, ref)
        await place(nursery, ref)
        ref.cast("look")
        await wait_all_tasks_blocked()
        assert actor.casts == ["look"]
        assert ref.mailbox.statistics().waiting == 1
        nursery.cancel_scope.cancel()


async def test_call_whose_caller_left_while_it_waited_is_never_begun(autojump_clock) -> None:
    script = Script({"work": take_a_second})
    async with living(Scripted(script, concurrency=1)) as ref, trio.open_nursery() as nursery:
        await place(nursery, ref, "work")
        waiting = await place(nursery, ref, "other")
        waiting.scope.cancel()
        await trio.sleep(5)
    assert script.begun == ["work"]
    assert counted(ref) == {"accepted": 2, "answered": 1, "cancelled": 1}


async def test_call_that_waits_is_begun_when_the_caller_of_the_one_before_it_leaves(autojump_clock) -> None:
    async with living(Scripted(Script({"hang": hang}), concurrency=1)) as ref, trio.open_nursery() as nursery:
        before, waiting = await place(nursery, ref, "hang"), await place(nursery, ref, n=1)
        before.scope.cancel()
        await wait_all_tasks_blocked()
        assert waiting.read == Result({"n": 1})


# --- One task answers many calls ------------------------------------------------------------------------------------


def test_p2_requests_of_one_sender_are_begun_in_the_order_they_were_sent() -> None:
    async def scenario() -> list[object]:
        begun: list[object] = []

        async def handle(request: Request, reply: ReplyChannel) -> Outcome:
            begun.append(request.params["n"])
            await trio.sleep(request.params["n"] % 3)
            return Result({})

        async with living(Scripted(handle, concurrency=4)) as ref:
            for n in range(20):
                ref.offer(Envelope(Request("echo", {"n": n}), ReplyChannel()))
            await trio.sleep(100)
        return begun

    for seed in range(50):
        assert simulate(seed, scenario) == list(range(20)), seed


async def test_what_a_call_puts_into_a_context_variable_is_not_seen_by_the_next_one(autojump_clock) -> None:
    seen: list[str] = []

    async def handle(request: Request, reply: ReplyChannel) -> Outcome:
        seen.append(_who.get())
        _who.set("a caller before")
        return Result({})

    async with living(Scripted(handle, concurrency=1)) as ref, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, ref)
        await wait_all_tasks_blocked()
        await ask(ref)
    assert seen == ["nobody"] * 4


async def test_tasks_of_a_burst_do_not_stay(autojump_clock) -> None:
    async with living(Scripted(Script({"work": take_a_second}))) as ref, trio.open_nursery() as nursery:
        await ask(ref)
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(100):
            await place(nursery, ref, "work")
        await trio.sleep(5)
        assert counted(ref)["answered"] == 101
        assert trio.lowlevel.current_statistics().tasks_living - before <= SPARE_WORKERS


async def leave_a_scope_open(request: Request, reply: ReplyChannel) -> Outcome:
    """As one does who breaks out of an async generator that has such a scope around its `yield`."""
    trio.CancelScope(relative_deadline=5).__enter__()
    await trio.sleep(request.params["stay"])
    return Result({})


@pytest.mark.parametrize("stay", [0, 6])
async def test_handler_that_leaves_a_cancel_scope_open_changes_nothing_for_other_calls(
    stay: int, autojump_clock, caplog
) -> None:
    script = Script({"leave open": leave_a_scope_open, "work": take_a_second, "hang": hang})
    async with living(Scripted(script)) as ref, trio.open_nursery() as nursery:
        other = await place(nursery, ref, "hang")
        culprit = await place(nursery, ref, "leave open", stay=stay)
        await trio.sleep(10)
        assert isinstance(culprit.read, Failure if stay else Result)
        assert await ask(ref, "work", n=1) == Result({"n": 1})
        assert other.read is None
        other.scope.cancel()
    assert "api: a handler left a cancel scope or nursery open" in caplog.text

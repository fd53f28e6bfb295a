"""One call's way back: the notices, the questions, the one outcome (promises P1, P4 and P5)."""

from __future__ import annotations

from collections import deque
from weakref import ref

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from mcpactors.errors import INVALID_REQUEST
from mcpactors.runtime.mailbox import Envelope, Request
from mcpactors.runtime.reply import CallDeadlines, Failure, Notice, Outcome, Question, Replies, ReplyChannel, Result
from tests.runtime.actors import PATIENT, Call, Scripted, ask, living, make_ref, place

PROGRESS, LOG, ASK = "notifications/progress", "notifications/message", "elicitation/create"
DONE, OTHER = Result({"done": True}), Result({"done": False})


def said(replies: list[Notice | Question]) -> list[object]:
    return [event.params["n"] if event.params else None for event in replies]


async def read(replies: Replies) -> list[Notice | Question]:
    return [event async for event in replies]


# --- The outcome ----------------------------------------------------------------------------------------------------


async def test_p4_first_outcome_is_the_one_and_later_ones_are_counted_and_dropped(autojump_clock) -> None:
    with Replies() as replies:
        assert replies.channel.finish(DONE)
        assert not replies.channel.finish(OTHER)
        assert await read(replies) == []
    assert replies.outcome == DONE
    assert replies.channel.late == 1


async def test_f60_an_outcome_is_held_no_longer_than_its_caller_holds_it(autojump_clock) -> None:
    class Value(dict[str, object]):
        """A dict that can be watched."""

    value = Value()
    seen = ref(value)
    async with trio.open_nursery() as nursery:
        with Replies() as replies:
            nursery.start_soon(read, replies)
            await wait_all_tasks_blocked()
            replies.channel.finish(Result(value))
    assert seen() is value
    del value, replies
    assert seen() is None


async def test_nothing_follows_the_outcome_and_what_comes_late_is_counted(autojump_clock) -> None:
    with Replies() as replies:
        replies.channel.notice(LOG, {"n": 0})
        replies.channel.finish(DONE)
        replies.channel.notice(LOG, {"n": 1})
        assert said(await read(replies)) == [0]
        assert await read(replies) == []
    assert replies.channel.late == 1


async def test_caller_that_leaves_decides_the_outcome_and_cancels_the_callee(autojump_clock) -> None:
    scope = trio.CancelScope()
    with Replies() as replies:
        replies.channel.runs_in(scope)
    assert replies.outcome == Failure(-32800, "the caller left before the call had ended")
    assert scope.cancel_called
    assert not replies.channel.finish(DONE)


async def test_caller_that_leaves_after_the_end_changes_nothing(autojump_clock) -> None:
    scope = trio.CancelScope()
    with pytest.raises(KeyError):
        with Replies() as replies:
            replies.channel.runs_in(scope)
            replies.channel.finish(DONE)
            raise KeyError
    assert (replies.outcome, replies.channel.late, scope.cancel_called) == (DONE, 0, False)


# --- Notices --------------------------------------------------------------------------------------------------------


async def test_p2_notices_come_in_the_order_they_were_sent_and_before_the_outcome(autojump_clock) -> None:
    async def chat(request: Request, reply: ReplyChannel) -> Outcome:
        for n in range(10):
            reply.notice(PROGRESS if n % 2 else LOG, {"n": n})
            if n % 3 == 0:
                await trio.sleep(1)
        return DONE

    async with living(Scripted(chat)) as ref, trio.open_nursery() as nursery:
        call = await place(nursery, ref)
        await trio.sleep(60)
        assert said(call.events) == list(range(10))
        assert call.read == DONE


def kept(channel: ReplyChannel) -> list[object]:
    return said(list(channel._feed or ()))


def test_p5_caller_that_does_not_read_loses_the_oldest_notices() -> None:
    channel = ReplyChannel()
    for n in range(100):
        channel.notice(LOG, {"n": n})
    assert kept(channel) == list(range(36, 100))
    assert channel.dropped == 36


def test_progress_replaces_the_last_progress_when_as_many_wait_as_may() -> None:
    channel = ReplyChannel()
    for n in range(1000):
        channel.notice(PROGRESS, {"n": n})
    assert kept(channel) == [*range(63), 999]
    assert channel.dropped == 936


def test_progress_does_not_replace_a_log_line_that_came_after_the_last_progress() -> None:
    channel = ReplyChannel()
    for n in range(64):
        channel.notice(LOG, {"n": n})
    channel.notice(PROGRESS, {"n": 64})
    assert kept(channel) == list(range(1, 65))


@pytest.mark.parametrize(("count", "apart"), [(1_000, 0.001), (100_000, 0), (2_000, 0.0101)])
async def test_p5_progress_is_coalesced_to_twenty_a_second_keeping_the_last(count, apart, autojump_clock) -> None:
    async def flood(request: Request, reply: ReplyChannel) -> Outcome:
        for n in range(count):
            reply.notice(PROGRESS, {"n": n})
            await trio.sleep(apart)
        return DONE

    read: list[tuple[float, int]] = []
    async with living(Scripted(flood)) as ref:
        with Replies() as replies:
            ref.offer(Envelope(Request("flood", {}), replies.channel))
            async for event in replies:
                assert isinstance(event, Notice)
                read.append((trio.current_time(), event.params["n"]))
        assert trio.current_time() == pytest.approx(count * apart)  # the reply is not held up
    assert [n for _, n in read] == sorted({n for _, n in read})
    assert read[-1][1] == count - 1
    assert len(read) + replies.channel.dropped == count
    for at, _ in read[:-1]:  # the last one comes with the reply
        assert sum(at <= other < at + 1 for other, _ in read[:-1]) <= 20
    if apart:
        assert len(read) >= 20 * count * apart


async def test_progress_that_is_held_back_goes_out_before_what_is_said_after_it(autojump_clock) -> None:
    async def work(request: Request, reply: ReplyChannel) -> Outcome:
        for n in range(50):
            reply.notice(PROGRESS, {"n": n})
            await trio.sleep(0.001)
        reply.notice(LOG, {"n": 50})
        for n in range(51, 60):
            reply.notice(PROGRESS, {"n": n})
        return await reply.question(ASK, {"n": 60})

    read: list[tuple[float, object]] = []
    async with living(Scripted(work)) as ref:
        with Replies(PATIENT) as replies:
            ref.offer(Envelope(Request("work", {}), replies.channel))
            async for event in replies:
                read.append((round(trio.current_time(), 3), said([event])[0]))
                if isinstance(event, Question):
                    event.answer(DONE)
    assert read[20:] == [(0.05, 49), (0.05, 50), (0.05, 59), (0.05, 60)]
    assert [n for _, n in read[:20]] == list(range(20))


async def test_held_back_progress_is_a_sign_of_life_and_puts_the_total_off_by_nothing(autojump_clock) -> None:
    async def flood(request: Request, reply: ReplyChannel) -> Outcome:
        while True:
            reply.notice(PROGRESS, {})
            await trio.sleep(0.01)

    async with living(Scripted(flood)) as ref, trio.open_nursery() as nursery:
        call = Call(ref, Request("flood", {}), CallDeadlines(idle=0.2, total=7.5))
        nursery.start_soon(call)
        await trio.sleep(20)
        assert call.done_at == pytest.approx(7.5)
        assert isinstance(call.read, Failure)
        assert "not finished within 7.5 s" in call.read.message


async def test_notice_for_which_only_questions_would_make_room_is_dropped(autojump_clock) -> None:
    channel = ReplyChannel()
    async with trio.open_nursery() as nursery:
        for n in range(64):
            nursery.start_soon(channel.question, ASK, {"n": n})
        await wait_all_tasks_blocked()
        channel.notice(LOG, {"n": "lost"})
        assert sorted(map(int, map(str, kept(channel)))) == list(range(64))
        assert channel.dropped == 1
        nursery.cancel_scope.cancel()


scripts = st.lists(st.sampled_from([PROGRESS, LOG, "read", "read"]), max_size=300)


@given(st.integers(0, 64), scripts)
def test_what_is_read_is_what_was_said_in_its_order_but_for_what_was_counted_as_dropped(
    ahead: int, script: list[str]
) -> None:
    channel, read_so_far, sent = ReplyChannel(), [], 0
    for step in [*[LOG] * ahead, *script]:
        feed: deque = channel._feed or deque()
        if step != "read":
            channel.notice(step, {"n": sent})
            sent += 1
        elif feed:
            read_so_far.append(feed.popleft())
        assert len(channel._feed or ()) <= 64
    numbers = [*said(read_so_far), *kept(channel)]
    assert numbers == sorted(set(map(int, map(str, numbers))))
    assert len(numbers) + channel.dropped == sent
    assert not sent or numbers[-1] == sent - 1


# --- Questions ------------------------------------------------------------------------------------------------------


async def test_question_gets_the_first_answer_and_no_other(autojump_clock) -> None:
    question, answers = Question(ASK, {}), []

    async def wait() -> None:
        answers.append(await question.outcome())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        assert question.answer(DONE)
        assert not question.answer(OTHER)
    assert answers == [DONE]


async def test_questions_asked_at_once_each_get_their_own_answer_in_whatever_order_they_are_given(
    autojump_clock,
) -> None:
    async def ask_five(request: Request, reply: ReplyChannel) -> Outcome:
        answers: dict[str, object] = {}

        async def one(n: int) -> None:
            outcome = await reply.question(ASK, {"n": n})
            assert isinstance(outcome, Result)
            answers[str(n)] = outcome.value["n"]

        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(one, n)
        return Result(answers)

    async with living(Scripted(ask_five)) as ref:
        with Replies(PATIENT) as replies:
            ref.offer(Envelope(Request("echo", {}), replies.channel))
            taken = [await anext(replies) for _ in range(5)]
            for question in reversed(taken):
                assert isinstance(question, Question)
                assert question.answer(Result(question.params or {}))
                await wait_all_tasks_blocked()
            assert await read(replies) == []
        assert replies.outcome == Result({str(n): n for n in range(5)})


async def test_nobody_is_behind_an_ask_so_its_questions_are_refused(autojump_clock) -> None:
    async def ask_back(request: Request, reply: ReplyChannel) -> Outcome:
        return await reply.question("sampling/createMessage", {})

    async with living(Scripted(ask_back)) as ref:
        outcome = await ask(ref)
    assert isinstance(outcome, Failure)
    assert outcome.code == INVALID_REQUEST
    assert outcome.message.startswith("sampling/createMessage cannot be asked")


async def test_f39_question_of_a_call_that_has_ended_fails_at_once(autojump_clock) -> None:
    channel = ReplyChannel()
    channel.finish(DONE)
    outcome = await channel.question(ASK, {})
    assert isinstance(outcome, Failure)
    assert outcome.message == f"{ASK} cannot be asked: the call it belongs to has ended"


async def test_f39_call_that_ends_answers_its_open_questions_and_the_caller_is_not_asked_any_more(
    autojump_clock,
) -> None:
    answers: list[Outcome] = []

    async def wait(channel: ReplyChannel) -> None:
        answers.append(await channel.question(ASK, {}))

    with Replies(PATIENT) as replies:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, replies.channel)
            await wait_all_tasks_blocked()
            replies.channel.finish(DONE)
            assert await read(replies) == []
            nursery.cancel_scope.deadline = trio.current_time() + 1
    assert [type(answer) for answer in answers] == [Failure]


async def test_question_that_the_callee_no_longer_waits_for_is_not_put_to_the_caller(autojump_clock) -> None:
    with Replies(PATIENT) as replies:
        with trio.move_on_after(5):
            await replies.channel.question(ASK, {})
        replies.channel.finish(DONE)
        assert await read(replies) == []


async def test_whoever_has_taken_a_question_learns_that_nobody_waits_for_the_answer(autojump_clock) -> None:
    with Replies(PATIENT) as replies:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replies.channel.question, ASK, {})
            question = await anext(replies)
            assert isinstance(question, Question)
            nursery.cancel_scope.cancel()
        assert isinstance(await question.outcome(), Failure)
        assert not question.answer(DONE)


async def test_sixty_fifth_open_question_is_refused_at_once(autojump_clock) -> None:
    channel = ReplyChannel()
    async with trio.open_nursery() as nursery:
        for n in range(64):
            nursery.start_soon(channel.question, ASK, {"n": n})
        await wait_all_tasks_blocked()
        with trio.fail_after(1):
            refused = await channel.question(ASK, {})
        assert isinstance(refused, Failure)
        assert refused.message == f"{ASK} cannot be asked: 64 questions of this call are open; await their answers"
        nursery.cancel_scope.cancel()
    assert not channel._feed


async def test_full_feed_of_notices_does_not_keep_a_question_out(autojump_clock) -> None:
    with Replies(PATIENT) as replies:
        for n in range(70):
            replies.channel.notice(LOG, {"n": n})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replies.channel.question, ASK, {"n": "asked"})
            await wait_all_tasks_blocked()
            replies.channel.notice(LOG, {"n": 70})
            assert kept(replies.channel) == [*range(7, 70), "asked", 70]
            nursery.cancel_scope.cancel()


async def test_call_whose_caller_left_while_a_question_was_open_ends_its_question_and_its_handler(
    autojump_clock,
) -> None:
    async def ask_back(request: Request, reply: ReplyChannel) -> Outcome:
        return await reply.question(ASK, {})

    async with living(Scripted(ask_back), ref := make_ref()), trio.open_nursery() as nursery:
        call = await place(nursery, ref)
        call.scope.cancel()
        await wait_all_tasks_blocked()
        assert (ref.tally.cancelled, len(ref.in_flight)) == (1, 0)
        assert not call.channel.asks

"""How long a call may take: without a sign of life, in all, and while it waits for an answer of its client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from hypothesis import example, given
from hypothesis import strategies as st

from mcpactors.errors import REQUEST_TIMEOUT
from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.reply import CallDeadlines, Failure, Outcome, Question, Replies, ReplyChannel, Result
from tests.runtime.actors import Call, Script, Scripted, hang, living, make_ref, simulate

DEADLINES = CallDeadlines(idle=10, total=30, question=100)
SILENT = "call timed out: no sign of life for 10 s; it was cancelled"
TOO_LONG = "call timed out: not finished within 30 s; it was cancelled"
UNANSWERED = "call timed out: the client did not answer a question within 100 s; it was cancelled"
DONE = Result({})

Callee = Callable[[ReplyChannel], Awaitable[object]]
Answerer = Callable[[Question], Awaitable[object]]


async def leave_open(question: Question) -> None:
    pass


async def converse(callee: Callee, answerer: Answerer = leave_open) -> tuple[float, Outcome]:
    """A call to `callee`, its questions given to `answerer` in a task each. Returns when and how it ended."""
    began = trio.current_time()
    with trio.fail_after(1000), Replies(DEADLINES) as replies:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, callee, replies.channel)
            async for event in replies:
                if isinstance(event, Question):
                    nursery.start_soon(answerer, event)
            nursery.cancel_scope.cancel()
        return trio.current_time() - began, replies.outcome


async def run(callee: Callee, channel: ReplyChannel) -> None:
    await callee(channel)
    channel.finish(DONE)


def answering_after(seconds: float) -> Answerer:
    async def answer(question: Question) -> None:
        await trio.sleep(seconds)
        question.answer(DONE)

    return answer


def timed_out(message: str) -> Failure:
    return Failure(REQUEST_TIMEOUT, message)


def test_call_has_30_seconds_without_a_sign_of_life_300_in_all_and_600_for_an_answer() -> None:
    assert CallDeadlines() == CallDeadlines(idle=30, total=300, question=600)


# --- Idle and total -------------------------------------------------------------------------------------------------


async def test_silent_callee_is_cancelled_when_the_idle_time_is_over(autojump_clock) -> None:
    async with living(Scripted(hang), ref := make_ref()):
        began = trio.current_time()
        outcome = await ref.ask(Request("echo", {}), DEADLINES)
        assert (trio.current_time() - began, outcome) == (10, timed_out(SILENT))
        await trio.testing.wait_all_tasks_blocked()
        assert (ref.tally.cancelled, len(ref.in_flight)) == (1, 0)


async def test_every_notice_puts_the_idle_deadline_off(autojump_clock) -> None:
    async def two_notices(channel: ReplyChannel) -> None:
        await trio.sleep(9)
        channel.notice("notifications/message", {})
        await trio.sleep(9)
        channel.notice("notifications/progress", {})
        await trio.sleep_forever()

    assert await converse(two_notices) == (28, timed_out(SILENT))


async def test_p1_total_time_is_not_put_off_by_any_sign_of_life(autojump_clock) -> None:
    async def chatter(channel: ReplyChannel) -> None:
        while True:
            channel.notice("notifications/progress", {})
            await trio.sleep(1)

    assert await converse(chatter) == (30, timed_out(TOO_LONG))


async def test_flood_that_the_caller_never_reads_to_its_end_does_not_outlive_the_total_time(autojump_clock) -> None:
    async def flood(channel: ReplyChannel) -> None:
        while not channel.finished:
            for _ in range(100):
                channel.notice("notifications/message", {})
            await trio.sleep(1)

    with trio.fail_after(1000), Replies(DEADLINES) as replies:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, replies.channel)
            async for _ in replies:
                await trio.sleep(1)
    assert replies.channel.outcome == timed_out(TOO_LONG)


def race_at_the_deadline(seed: int, act: Callable[[ReplyChannel], object]) -> tuple[float, str, int]:
    """The callee acts at the instant of the idle deadline. When the call ended, how, and what came too late."""
    channels: list[ReplyChannel] = []

    async def at_ten(channel: ReplyChannel) -> None:
        channels.append(channel)
        await trio.sleep(10)
        act(channel)
        await trio.sleep(1)

    async def scenario() -> tuple[float, str, int]:
        when, outcome = await converse(at_ten)
        return when, outcome.message if isinstance(outcome, Failure) else "done", channels[0].late

    return simulate(seed, scenario)


def test_outcome_at_the_very_instant_of_the_deadline_is_in_time() -> None:
    seen = {race_at_the_deadline(seed, lambda channel: channel.finish(DONE)) for seed in range(50)}
    assert seen == {(10, "done", 0)}


def test_notice_at_the_very_instant_of_the_deadline_is_a_sign_of_life() -> None:
    seen = {
        race_at_the_deadline(seed, lambda channel: channel.notice("notifications/message", {})) for seed in range(50)
    }
    assert seen == {(11, "done", 0)}


async def test_caller_that_was_busy_finds_the_outcome_that_came_meanwhile(autojump_clock) -> None:
    async def quick(channel: ReplyChannel) -> None:
        channel.notice("notifications/message", {})
        await trio.sleep(1)
        channel.notice("notifications/message", {})

    with Replies(DEADLINES) as replies:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, quick, replies.channel)
            async for _ in replies:
                await trio.sleep(1000)
    assert (replies.outcome, replies.channel.late) == (DONE, 0)


async def test_call_after_thousands_of_others_times_out_when_it_should_and_they_leave_nothing_behind(
    autojump_clock,
) -> None:
    script = Script({"hang": hang})
    async with living(Scripted(script), ref := make_ref()):
        for _ in range(3000):
            await ref.ask(Request("echo", {}), DEADLINES)
        assert len(Replies()._clock._heap) < 1000
        began = trio.current_time()
        assert await ref.ask(Request("hang", {}), DEADLINES) == timed_out(SILENT)
        assert trio.current_time() == began + 10


async def test_caller_that_was_busy_when_the_deadline_came_still_finds_out_that_the_callee_is_silent(
    autojump_clock,
) -> None:
    async def two_notices(channel: ReplyChannel) -> None:
        for _ in range(2):
            channel.notice("notifications/message", {})
            await trio.sleep(5)
        await trio.sleep_forever()

    began = trio.current_time()
    with trio.fail_after(1000), Replies(DEADLINES) as replies:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(two_notices, replies.channel)
            async for _ in replies:
                await trio.sleep(8)
            nursery.cancel_scope.cancel()
    assert (trio.current_time() - began, replies.outcome) == (18, timed_out(SILENT))


# --- Questions stop the clocks --------------------------------------------------------------------------------------


async def test_clocks_stand_still_while_a_question_is_open(autojump_clock) -> None:
    async def ask_at_nine(channel: ReplyChannel) -> None:
        await trio.sleep(9)
        await channel.question("elicitation/create", {})
        await hang_on(channel)

    # 9 s of work, 90 s of the client, then 21 s of work are left
    assert await converse(ask_at_nine, answering_after(90)) == (9 + 90 + 21, timed_out(TOO_LONG))


async def hang_on(channel: ReplyChannel) -> None:
    """Work forever and say so."""
    while True:
        await trio.sleep(3)
        channel.notice("notifications/progress", {})


def test_answer_at_the_very_instant_of_its_deadline_is_an_answer_or_too_late_and_never_called_silence() -> None:
    async def ask_and_work(channel: ReplyChannel) -> None:
        await channel.question("elicitation/create", {})
        await trio.sleep(1)

    async def scenario() -> tuple[float, Outcome]:
        return await converse(ask_and_work, answering_after(100))

    seen = [simulate(seed, scenario) for seed in range(50)]
    assert all(end in [(101, DONE), (100, timed_out(UNANSWERED))] for end in seen)
    assert (101, DONE) in seen


async def test_idle_time_begins_anew_after_an_answer(autojump_clock) -> None:
    async def ask_and_be_silent(channel: ReplyChannel) -> None:
        await channel.question("elicitation/create", {})
        await trio.sleep_forever()

    assert await converse(ask_and_be_silent, answering_after(50)) == (60, timed_out(SILENT))


async def test_clocks_stand_still_for_a_caller_that_answers_before_it_reads_on(autojump_clock) -> None:
    async def ask_and_work(channel: ReplyChannel) -> None:
        await channel.question("elicitation/create", {})
        await trio.sleep(9)

    with Replies(DEADLINES) as replies:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, ask_and_work, replies.channel)
            async for event in replies:
                assert isinstance(event, Question)
                await trio.sleep(90)
                event.answer(DONE)
    assert replies.outcome == DONE


async def test_time_for_an_answer_is_counted_for_each_question_by_itself(autojump_clock) -> None:
    async def ask_twice(channel: ReplyChannel) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.question, "first", {})
            await trio.sleep(60)
            await channel.question("second", {})

    async def answer(question: Question) -> None:
        await trio.sleep(90)
        question.answer(DONE)

    assert await converse(ask_twice, answer) == (150, DONE)


async def test_question_that_nobody_answers_ends_the_call_and_all_its_questions_at_once(autojump_clock) -> None:
    answers: list[tuple[float, Outcome]] = []

    async def ask_three(request: Request, reply: ReplyChannel) -> Outcome:
        async def one(delay: float) -> None:
            await trio.sleep(delay)
            outcome = await reply.question("elicitation/create", {})
            answers.append((trio.current_time() - began, outcome))

        async with trio.open_nursery() as nursery:
            for delay in (0, 1, 2):
                nursery.start_soon(one, delay)
        return DONE

    began = trio.current_time()
    async with living(Scripted(ask_three), ref := make_ref()):
        call = Call(ref, Request("echo", {}), DEADLINES)
        await call()
        assert (call.done_at, call.read) == (began + 100, timed_out(UNANSWERED))
        await trio.testing.wait_all_tasks_blocked()
        assert [(when, type(outcome)) for when, outcome in answers] == [(100, Failure)] * 3
        assert (ref.tally.cancelled, len(ref.in_flight)) == (1, 0)


async def test_unanswered_question_ends_the_call_however_much_the_callee_says_meanwhile(autojump_clock) -> None:
    async def ask_and_chatter(channel: ReplyChannel) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.question, "elicitation/create", {})
            await hang_on(channel)

    assert await converse(ask_and_chatter) == (100, timed_out(UNANSWERED))


# --- Against a model ------------------------------------------------------------------------------------------------

# When each question is asked and how long its answer takes; eighths of seconds are exact.
questions = st.lists(st.tuples(st.integers(0, 160), st.integers(0, 160)), max_size=4)


def model(asked: list[tuple[int, int]]) -> float:
    """When a call that works for ever times out: after 30 s without any question open."""
    worked, now = 0, 0
    while worked < 240:
        worked += not any(start <= now < start + takes for start, takes in asked)
        now += 1
    return now / 8


@given(questions)
@example([(16, 80), (32, 80), (200, 8)])
def test_total_time_is_the_time_without_an_open_question(asked: list[tuple[int, int]]) -> None:
    async def scenario() -> tuple[float, Outcome]:
        async def callee(channel: ReplyChannel) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hang_on, channel)
                for start, takes in asked:
                    nursery.start_soon(one, channel, start / 8, takes)

        async def one(channel: ReplyChannel, start: float, takes: int) -> None:
            await trio.sleep(start)
            await channel.question("elicitation/create", {"takes": takes})

        async def answer(question: Question) -> None:
            assert question.params is not None
            await trio.sleep(question.params["takes"] / 8)
            question.answer(DONE)

        return await converse(callee, answer)

    assert simulate(1, scenario) == (model(asked), timed_out(TOO_LONG))

"""The mailbox: bounded, never waiting to be filled, control before data (promises P2 and P5, fault F25)."""

from __future__ import annotations

from collections import deque

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from mcpactors.errors import OVERLOADED, ActorStopped, MailboxFull
from mcpactors.runtime.mailbox import ActorRef, Envelope, Mailbox, MailboxStatistics, Request
from mcpactors.runtime.reply import Failure, Replies, ReplyChannel, Result
from tests.runtime.actors import assert_books_balance, make_ref


def envelope(number: int = 0) -> Envelope:
    return Envelope(Request("echo", {"number": number}), ReplyChannel())


def always() -> bool:
    return True


def never() -> bool:
    return False


def fill(ref: ActorRef, count: int) -> list[Envelope]:
    envelopes = [envelope(number) for number in range(count)]
    for one in envelopes:
        ref.offer(one)
    return envelopes


# --- Order ----------------------------------------------------------------------------------------------------------


async def test_requests_come_out_in_the_order_they_went_in(autojump_clock) -> None:
    mailbox = Mailbox("api")
    sent = [envelope() for _ in range(5)]
    for one in sent:
        mailbox.offer(one)
    assert [await mailbox.receive(always) for _ in sent] == sent


async def test_p5_control_overtakes_data_and_keeps_its_own_order(autojump_clock) -> None:
    mailbox = Mailbox("api")
    data = envelope()
    mailbox.offer(data)
    mailbox.cast("first")
    mailbox.cast("second")
    assert [await mailbox.receive(always) for _ in range(3)] == ["first", "second", data]


async def test_receive_waits_for_the_first_message(autojump_clock) -> None:
    mailbox, received = Mailbox("api"), []

    async def receive() -> None:
        received.append(await mailbox.receive(always))

    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 1
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        assert received == []
        mailbox.cast("look")
    assert received == ["look"]


async def test_control_is_received_although_no_slot_is_free_and_data_only_when_one_is(autojump_clock) -> None:
    mailbox, free = Mailbox("api"), False
    received: list[object] = []

    async def receive() -> None:
        while len(received) < 2:
            received.append(await mailbox.receive(lambda: free))

    data = envelope()
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 1
        nursery.start_soon(receive)
        mailbox.offer(data)
        await wait_all_tasks_blocked()
        mailbox.cast("look")
        await wait_all_tasks_blocked()
        assert received == ["look"]
        free = True
        mailbox.slot_freed()
    assert received == ["look", data]


# --- Bounds ---------------------------------------------------------------------------------------------------------


def test_mailbox_holds_256_requests_and_64_control_messages_unless_told() -> None:
    mailbox = Mailbox("api")
    for number in range(256):
        mailbox.offer(envelope(number))
    for _ in range(64):
        mailbox.cast("look")
    with pytest.raises(MailboxFull):
        mailbox.offer(envelope())
    with pytest.raises(MailboxFull):
        mailbox.cast("look")
    assert mailbox.statistics() == MailboxStatistics(waiting=256, capacity=256, control_waiting=64, refused=2)


def test_f25_full_mailbox_says_whose_it_is_and_when_to_come_back() -> None:
    ref = make_ref("api", capacity=2)
    fill(ref, 2)
    with pytest.raises(MailboxFull, match=r"^api is overloaded: 2 calls are waiting already; retry in") as caught:
        ref.offer(envelope())
    assert Failure.of(caught.value) == Failure(
        OVERLOADED, caught.value.message, {"actor": "api", "retryAfter": pytest.approx(1.0)}
    )
    assert ref.tally.accepted == 2
    assert_books_balance(ref)


async def test_f25_full_data_lane_does_not_stop_casts(autojump_clock) -> None:
    mailbox = Mailbox("api", capacity=1)
    mailbox.offer(envelope())
    mailbox.cast("stop")
    assert await mailbox.receive(never) == "stop"


def test_full_control_lane_does_not_stop_data() -> None:
    mailbox = Mailbox("api", control_capacity=1)
    mailbox.cast("look")
    mailbox.offer(envelope())
    assert mailbox.statistics().waiting == 1


async def test_place_that_was_taken_out_is_free_again(autojump_clock) -> None:
    mailbox = Mailbox("api", capacity=1)
    for number in range(3):
        mailbox.offer(envelope(number))
        await mailbox.receive(always)
    assert mailbox.statistics().refused == 0


async def test_callers_that_gave_up_do_not_keep_others_out(autojump_clock) -> None:
    ref = make_ref(capacity=2)
    stays = envelope(1)
    with Replies() as left:
        ref.offer(Envelope(Request("echo", {}), left.channel))
    ref.offer(stays)
    newcomer = envelope(2)
    ref.offer(newcomer)
    ref.in_flight |= {await ref.mailbox.receive(always) for _ in range(2)}  # type: ignore[misc]
    assert ref.in_flight == {stays, newcomer}
    assert (ref.tally.accepted, ref.tally.cancelled, ref.mailbox.statistics().refused) == (3, 1, 0)


# --- Refusing -------------------------------------------------------------------------------------------------------


def test_refusing_fails_those_that_wait_and_turns_others_away_until_it_accepts_again() -> None:
    ref = make_ref()
    waiting = fill(ref, 3)
    ref.refuse(lambda: ActorStopped("api was stopped"))
    stopped = Failure.of(ActorStopped("api was stopped"))
    assert [one.reply.outcome for one in waiting] == [stopped] * 3
    with pytest.raises(ActorStopped):
        ref.offer(envelope())
    ref.mailbox.accept()
    ref.offer(envelope())
    assert (ref.tally.accepted, ref.tally.failed) == (4, 3)
    assert_books_balance(ref)


async def test_caller_that_left_before_the_refusal_is_counted_as_cancelled_not_as_failed(autojump_clock) -> None:
    ref = make_ref()
    with Replies() as left:
        ref.offer(Envelope(Request("echo", {}), left.channel))
    fill(ref, 1)
    ref.refuse(lambda: ActorStopped("api was stopped"))
    assert (ref.tally.cancelled, ref.tally.failed, left.channel.late) == (1, 1, 0)


# --- Against a model ------------------------------------------------------------------------------------------------

steps = st.lists(st.sampled_from(["offer", "cast", "receive", "leave", "sweep"]), max_size=40)


@given(steps, st.integers(1, 4), st.integers(1, 3))
def test_mailbox_equals_two_bounded_queues(script: list[str], capacity: int, control_capacity: int) -> None:
    trio.run(follow, script, capacity, control_capacity)


async def follow(script: list[str], capacity: int, control_capacity: int) -> None:
    mailbox = Mailbox("api", capacity=capacity, control_capacity=control_capacity)
    data: deque[Envelope] = deque()
    control: deque[object] = deque()
    for number, step in enumerate(script):
        if step == "offer":
            put(mailbox.offer, envelope(number), data, capacity)
        elif step == "cast":
            put(mailbox.cast, number, control, control_capacity)
        elif step == "receive" and (control or data):
            assert await mailbox.receive(always) is (control or data).popleft()
        elif step == "leave" and data:
            data[number % len(data)].reply.finish(Result({}))
        elif step == "sweep":
            staying = deque(one for one in data if one.reply.outcome is None)
            assert mailbox.sweep() == len(data) - len(staying)
            data = staying
        seen = mailbox.statistics()
        assert (seen.waiting, seen.control_waiting) == (len(data), len(control))


def put(into, message, model: deque, capacity: int) -> None:
    if len(model) < capacity:
        into(message)
        model.append(message)
    else:
        with pytest.raises(MailboxFull):
            into(message)

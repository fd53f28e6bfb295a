"""The kernel under thousands of schedules: one outcome for each call, books that balance, stops that end.

Rule: the scheduler's choices, and what a scenario draws, come from one seed; a failure names it, and
`simulate(seed, ...)` replays it. Times are small whole numbers, so that everything happens at once all the time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
from attrs import define, field

from mcpactors.errors import MCPActorsError
from mcpactors.runtime.actor import Forwarded
from mcpactors.runtime.mailbox import ActorRef, Envelope, Request
from mcpactors.runtime.reply import CallDeadlines, Outcome, ReplyChannel, Result
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.runtime.supervisor import ChildSpec, ChildState, Supervisor
from tests.runtime.actors import (
    PATIENT,
    Call,
    Scripted,
    Wire,
    assert_books_balance,
    counted,
    draws,
    echo,
    hang,
    make_ref,
    raising,
    simulate,
)
from tests.simulation.seeds import seeds

SEEDS = 2000


@pytest.fixture(autouse=True)
def _no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of crashes, formatted, would take longer than the crashes."""
    caplog.set_level(logging.CRITICAL, "mcpactors")


# --- Every accepted request has exactly one outcome (P1, P11, F22) --------------------------------------------------

FAST = RestartPolicy(intensity=1, period=2, backoff_initial=1, backoff_max=1, jitter=0, reset_after=1, probe_after=2)
METHODS = ("echo", "work", "stubborn", "hang", "fail", "forward", "relay", "back and forth")


async def work(request: Request, reply: ReplyChannel) -> Outcome:
    await trio.sleep(1)
    reply.notice("notifications/progress", {})
    await trio.sleep(1)
    return Result({})


async def stubborn(request: Request, reply: ReplyChannel) -> Outcome:
    with trio.CancelScope(shield=True):
        await trio.sleep(2)
    return Result({})


@define(eq=False)
class World:
    """Two actors, the first of which hands on to the second, callers who come and go, crashes and stops."""

    draw: Random
    first: ActorRef = field(factory=lambda: make_ref("first", capacity=2))
    second: ActorRef = field(factory=lambda: make_ref("second", capacity=2))
    wires: tuple[Wire, Wire] = field(factory=lambda: (Wire(), Wire()))
    calls: list[Call] = field(factory=list)
    left: list[Call] = field(factory=list)
    began: Counter[ReplyChannel] = field(factory=Counter)
    refused: int = 0

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome | Forwarded:
        assert not reply.finished, "a call that has ended must not be begun"
        self.began[reply] += 1
        if request.method == "forward":
            self.second.offer(Envelope(Request("work", {}), reply))
            return Forwarded()
        if request.method == "relay":
            return await self.second.ask(Request("work", {}), PATIENT)
        if request.method == "back and forth":
            return await reply.question("elicitation/create", {})
        handlers = {"work": work, "stubborn": stubborn, "hang": hang, "fail": raising(ValueError("no"))}
        return await handlers.get(request.method, echo)(request, reply)

    def spec(self, number: int) -> ChildSpec:
        ref, wire = (self.first, self.second)[number], self.wires[number]
        return ChildSpec(ref, lambda: Scripted(self.handle, wire.lifespan, concurrency=2), FAST, stop_timeout=1)

    async def call(self) -> None:
        await trio.sleep(self.draw.randint(0, 4))
        deadlines = CallDeadlines(idle=self.draw.choice([2, 9]), total=9, question=3)
        call = Call(self.first, Request(self.draw.choice(METHODS), {}), deadlines)
        self.calls.append(call)
        call.scope.deadline = trio.current_time() + self.draw.choice([0, 1, 2, 3, 99])
        if self.draw.random() < 0.2:
            call.scope.cancel()
        try:
            await call()
        except MCPActorsError:
            self.refused += 1
        if call.scope.cancelled_caught:
            self.left.append(call)

    async def crash(self) -> None:
        await trio.sleep(self.draw.randint(0, 6))
        self.draw.choice(self.wires).cut()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(nursery)
            for number in (1, 0):
                supervisor.start_child(self.spec(number))
            async with trio.open_nursery() as people:
                for task in [self.call] * 6 + [self.crash] * 2:
                    people.start_soon(task)
                if self.draw.random() < 0.3:
                    await trio.sleep(self.draw.randint(0, 5))
                    await supervisor.stop_child(self.draw.choice(["first", "second"]))
            await supervisor.stop_all()


def lived_through(seed: int) -> World:
    world = World(draws(seed))
    simulate(seed, world.run, world.first, world.second)
    return world


def moment_of_leaving(world: World, call: Call) -> str:
    """Where in the life of its call a caller left (fault F22)."""
    if not call.accepted:
        return "before it was offered"
    if isinstance(call.channel.outcome, Result):
        return "between result and write"
    return "running" if world.began[call.channel] else "before it was begun"


def assert_one_outcome_each(world: World) -> None:
    accepted = [call for call in world.calls if call.accepted]
    for call in accepted:
        assert call.channel.outcome is not None, call.request
        assert (call.read is not None) != (call in world.left), "it left, or it read how the call ended"
        assert call.read in (None, call.channel.outcome)
    for ref in (world.first, world.second):
        assert_books_balance(ref)
        assert not ref.in_flight
        assert ref.mailbox.statistics().waiting == 0
    assert world.first.tally.accepted == len(accepted)


def assert_tallies_say_what_callers_saw(world: World) -> None:
    """Each call that was not forwarded is counted once by the first actor, as its caller saw it."""
    plain = [call for call in world.calls if call.accepted and call.request.method != "forward"]
    if len(plain) < sum(call.accepted for call in world.calls):
        return
    results = sum(isinstance(call.channel.outcome, Result) for call in plain)
    assert world.first.tally.answered == results
    assert world.first.tally.failed + world.first.tally.cancelled == len(plain) - results


def test_p1_p11_every_accepted_request_has_exactly_one_outcome_and_the_books_balance_after_every_step() -> None:
    moments: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for seed in seeds(SEEDS):
        world = lived_through(seed)
        try:
            assert_one_outcome_each(world)
            assert_tallies_say_what_callers_saw(world)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
        moments.update(moment_of_leaving(world, call) for call in world.left)
        totals.update(counted(world.first))
        totals["refused"] += world.refused
        totals["late"] += sum(call.channel.late for call in world.calls)
    # every way to leave and every way to end was met, many times
    assert min(moments[moment] for moment in ("before it was begun", "running", "between result and write")) > 50
    assert min(totals[end] for end in ("answered", "failed", "cancelled", "forwarded", "refused", "late")) > 500


def test_seed_replays_the_very_same_run() -> None:
    def story(seed: int) -> list[object]:
        world = lived_through(seed)
        return [(call.request.method, call.channel.outcome, call.done_at) for call in world.calls]

    assert [story(seed) for seed in range(20)] == [story(seed) for seed in range(20)]


# --- Cancellation down the chain ------------------------------------------------------------------------------------


def test_nobody_works_for_a_caller_that_has_left_however_long_the_chain() -> None:
    for seed in seeds(300):
        assert simulate(seed, lambda: leave_a_chain(draws(seed))) == 0, seed  # noqa: B023


async def leave_a_chain(draw: Random) -> int:
    """How many of a chain of actors still work a moment after the caller has left."""
    refs = [make_ref(str(number)) for number in range(5)]
    at_work: set[str] = set()

    def handler(number: int):
        async def handle(request: Request, reply: ReplyChannel) -> Outcome:
            at_work.add(str(number))
            try:
                return await (refs[number + 1].ask(request, PATIENT) if number < 4 else hang(request, reply))
            finally:
                at_work.discard(str(number))

        return handle

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        for number, ref in enumerate(refs):
            supervisor.start_child(ChildSpec(ref, lambda number=number: Scripted(handler(number))))  # type: ignore[misc]
        call = Call(refs[0], Request("work", {}))
        nursery.start_soon(call)
        for _ in range(draw.randint(0, 20)):
            await trio.lowlevel.checkpoint()
        call.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        left = len(at_work) + sum(len(ref.in_flight) for ref in refs)
        assert_books_balance(*refs)
        await supervisor.stop_all()
    return left


# --- A crash at the very instant of a stop (design.md section 4, rule 5) --------------------------------------------


class Blow(Exception):
    """The world breaks."""


@define(eq=False)
class Fragile:
    """A lifespan that breaks at a given time, in a task of its own or when it is left, perhaps twice."""

    draw: Random
    left: int = 0

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(self.draw.randint(0, 2)):
                    nursery.start_soon(self.break_at, 1)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self.left += 1
            if self.draw.random() < 0.3:
                raise Blow("while it was left")

    async def break_at(self, when: float) -> None:
        try:
            await trio.sleep_until(when)
        finally:
            if self.draw.random() < 0.7:
                raise Blow("in its task")


async def stop_at_the_instant_of_a_crash(draw: Random, how: str) -> tuple[ChildState, ...]:
    """The states that the child went through."""
    ref, fragile, states = make_ref(), Fragile(draw), list[ChildState]()
    calls = [Call(ref, Request("hang", {})) for _ in range(3)]
    policy = RestartPolicy(backoff_initial=draw.choice([0, 1]), backoff_max=1, jitter=0)
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, lambda ref, state: states.append(state))
        supervisor.start_child(ChildSpec(ref, lambda: Scripted(hang, fragile.lifespan, 1), policy))
        for call in calls:
            nursery.start_soon(call)
        await trio.sleep_until(1)
        for _ in range(draw.randint(0, 12)):  # at any step of the crash's unwinding
            await trio.lowlevel.checkpoint()
        if how == "stop_child":
            await supervisor.stop_child("api")
            assert all(call.channel.outcome is not None for call in calls)
        else:
            nursery.cancel_scope.cancel()
    assert supervisor.state_of("api") == "stopped"
    assert all(call.channel.outcome is not None for call in calls)
    assert_books_balance(ref)
    assert (len(ref.in_flight), ref.mailbox.statistics().waiting, trio.current_time()) == (0, 0, 1)
    return tuple(states)


@pytest.mark.parametrize("how", ["stop_child", "nursery"])
def test_crash_at_the_instant_of_a_stop_leaks_nothing_and_the_stop_returns(how: str) -> None:
    seen: Counter[tuple[ChildState, ...]] = Counter()
    for seed in seeds(1000):
        try:
            seen[simulate(seed, lambda: stop_at_the_instant_of_a_crash(draws(seed), how))] += 1  # noqa: B023
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error
    stop_first = seen["starting", "running", "stopped"]
    crash_first = sum(count for states, count in seen.items() if "backoff" in states)
    assert min(stop_first, crash_first) > 50

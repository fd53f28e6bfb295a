"""An actor crashes at the very instant of a stop, of a reply, of a cancellation, and of any two or three of them.

Rule: 10^4 schedules of the kernel, all of whose events fall on one moment of virtual time. A schedule is one race, from
nothing in flight to nothing in flight: who takes part, what each does and when, and in which order tasks run is drawn
for it alone. However that goes, each call ends once, the books balance, and nothing is left (P1, P3, P11).
"""

from __future__ import annotations

from collections import Counter
from random import Random

import trio

from mcpactors.errors import ActorCrashed, ActorStopped, MCPActorsError
from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.reply import Failure, Outcome, ReplyChannel, Result
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.runtime.supervisor import ChildSpec, Supervisor
from mcpactors.testing import simulate_many
from tests.runtime.actors import Call, Scripted, Wire, assert_books_balance, make_ref
from tests.simulation.seeds import seeds, side_by_side

SCHEDULES = 10_000
SIDE_BY_SIDE = 20
MOMENT = 1
"""When everything happens."""
SOON = RestartPolicy(backoff_initial=0, backoff_max=0, jitter=0)
CALLS = 2


async def crash_race(draw: Random) -> tuple[str, ...]:
    """How each call ended."""
    ref, wire, begun = make_ref(), Wire(), Counter[ReplyChannel]()

    async def answer(request: Request, reply: ReplyChannel) -> Outcome:
        begun[reply] += 1
        await ready.wait()  # once it is set, not even a cancellation keeps this from going on
        reply.notice("notifications/progress", {"progress": 1})
        return Result({"number": request.params["number"]})

    async def steps() -> None:
        for _ in range(draw.randint(0, 4)):
            await trio.lowlevel.checkpoint()

    async def at_the_moment(event, *given: object) -> None:
        await trio.sleep_until(MOMENT)
        await steps()
        event(*given)

    async def stop() -> None:
        await trio.sleep_until(MOMENT)
        await steps()
        await supervisor.stop_child("api")

    async def place(call: Call) -> None:
        try:
            await call()
            decided.append((call, call.channel.outcome))
        except MCPActorsError:
            assert not call.accepted

    ready = trio.Event()
    decided: list[tuple[Call, Outcome | None]] = []
    calls = [Call(ref, Request("work", {"number": number})) for number in range(CALLS)]
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        supervisor.start_child(ChildSpec(ref, lambda: Scripted(answer, wire.lifespan, 1), SOON))
        async with trio.open_nursery() as people:
            people.start_soon(at_the_moment, wire.cut)
            people.start_soon(at_the_moment, ready.set)
            if draw.random() < 0.5:
                people.start_soon(stop)
            for call in calls:
                people.start_soon(place, call)
                if draw.random() < 0.5:
                    people.start_soon(at_the_moment, call.scope.cancel)
        assert trio.current_time() == MOMENT, "somebody was left waiting"
        await supervisor.stop_all()
        nursery.cancel_scope.cancel()
    assert wire.made == [] or len(wire.left) == len(wire.made)
    assert supervisor.state_of("api") == "stopped"
    assert (len(ref.in_flight), ref.mailbox.statistics().waiting) == (0, 0)
    assert_books_balance(ref)
    assert all(call.channel.outcome is outcome for call, outcome in decided), "an end was not the end"
    assert max(begun.values(), default=0) <= 1, "a call was begun twice (promise P3)"
    return tuple(how_it_ended(call) for call in calls)


def how_it_ended(call: Call) -> str:
    outcome = call.channel.outcome
    assert (call.read is not None) != call.scope.cancelled_caught, "it left, or it has read how the call ended"
    assert call.read in (None, outcome)
    if isinstance(outcome, Result):
        assert outcome.value == call.request.params, "another call's result"
        return "answered"
    assert isinstance(outcome, Failure)
    return {ActorCrashed.code: "crashed", ActorStopped.code: "stopped", -32800: "left"}[outcome.code]


def test_f1_f22_a_crash_at_the_instant_of_a_stop_a_reply_and_a_cancel_costs_each_call_one_ending() -> None:
    ends: Counter[str] = Counter()
    runs = simulate_many(side_by_side(crash_race, SIDE_BY_SIDE), seeds(SCHEDULES // SIDE_BY_SIDE))
    for run in runs:
        ends.update(end for race in run.value for end in race)
    assert ends.total() == SCHEDULES * CALLS
    assert min(ends[end] for end in ("answered", "crashed", "left", "stopped")) > 1000
    assert len({run.digest for run in runs}) == len(runs), "these were not so many schedules"

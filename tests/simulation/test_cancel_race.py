"""F22: a call is cancelled before it starts, while it runs, between its result and the write of it, and after.

Rule: 10^4 schedules of one actor, and 1,600 by clients that show the wire, through a whole runtime. A schedule is one
race, from nothing in flight to nothing in flight: who takes part, what each does and when, and in which order tasks run
is drawn for it alone. Every call has at most one answer, none comes to anybody else, and the books balance.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import trio
from attrs import define, field

from mcpactors import Server, open_runtime
from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.reply import Outcome, ReplyChannel, Result
from mcpactors.testing import assert_books_balance, simulate_many
from tests.runtime.actors import Call, Scripted, living
from tests.simulation.peers import Peer, peer
from tests.simulation.seeds import seeds, side_by_side

SEEDS = 40
BATCHES = 20
"""Schedules in one life of a runtime."""
MOST_AT_ONCE = 4
ALONE = 10_000
SIDE_BY_SIDE = 20
CALLS = 3
"""Schedules of one actor alone, how many of them have one life of trio, and the calls in each."""


@define(eq=False)
class Work:
    """A tool that takes as many steps as it is told, and what became of each call of it."""

    began: set[str] = field(factory=set)
    ended: dict[str, str] = field(factory=dict)

    def server(self) -> Server:
        server = Server("api")

        @server.tool()
        async def work(call: str, steps: int) -> str:
            assert call not in self.began, "begun twice (promise P3)"
            self.began.add(call)
            try:
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                self.ended[call] = "cancelled"
                raise
            self.ended[call] = "returned"
            return call

        return server

    def moment(self, call: str, answered: bool) -> str:
        """Where in the life of this call the cancellation came."""
        if answered:
            return "after"
        if call not in self.began:
            return "before it started"
        return "between result and write" if self.ended[call] == "returned" else "running"


def cancel_race(legacy: bool):
    async def scenario(draw: Random) -> Counter[str]:
        work, moments = Work(), Counter[str]()

        async def call(client: Peer, call_id: str) -> None:
            await client.call(call_id, "work", call=call_id, steps=draw.randint(0, 12))
            for _ in range(draw.randint(0, 6)):
                await trio.lowlevel.checkpoint()
            await client.cancel(call_id)

        async with open_runtime() as runtime:
            await runtime.mount(work.server())
            async with peer(runtime, legacy=legacy) as client:
                await client.call("first", "work", call="first", steps=0)
                await client.answered("first")
                for batch in range(BATCHES):
                    calls = [f"{batch}-{number}" for number in range(draw.randint(1, MOST_AT_ONCE))]
                    async with trio.open_nursery() as nursery:
                        for call_id in calls:
                            nursery.start_soon(call, client, call_id)
                    await trio.testing.wait_all_tasks_blocked()
                    for call_id in calls:
                        answers = client.texts(call_id)
                        moments[work.moment(call_id, bool(answers))] += 1
                        assert answers in ([], [call_id])
                        assert (call_id in work.began) == (call_id in work.ended), "it works for nobody"
                    assert_books_balance(runtime.ps())
                client.endings.assert_one_each()
                await client.call("last", "work", call="last", steps=0)  # the connection and the actor are as before
                await client.answered("last")
        return moments

    return scenario


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_f22_a_call_cancelled_at_any_moment_has_exactly_one_terminal_event(era: str) -> None:
    moments: Counter[str] = Counter()
    for run in simulate_many(cancel_race(era == "legacy"), seeds(SEEDS)):
        moments += run.value
    assert moments.total() > 0.45 * SEEDS * BATCHES * MOST_AT_ONCE
    assert min(moments[moment] for moment in ("before it started", "running", "between result and write", "after")) > 20


async def given_up(draw: Random) -> Counter[str]:
    """Calls of one actor, which may wait for their turn; each is given up at a moment of its own."""
    began: Counter[int] = Counter()
    returned: set[int] = set()
    moments: Counter[str] = Counter()

    async def steps(most: int) -> None:
        for _ in range(draw.randint(0, most)):
            await trio.lowlevel.checkpoint()

    async def work(request: Request, reply: ReplyChannel) -> Outcome:
        number = request.params["number"]
        began[number] += 1
        await steps(6)
        returned.add(number)
        return Result({"number": number})

    async def give_up(call: Call) -> None:
        number = call.request.params["number"]
        await steps(14)
        moment = "running" if number in began else "before it started"
        moment = "between result and write" if number in returned else moment
        moments["after" if call.read is not None else moment] += 1
        call.scope.cancel()

    async with living(Scripted(work, concurrency=draw.randint(1, CALLS))) as ref:
        calls = [Call(ref, Request("work", {"number": number})) for number in range(CALLS)]
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call)
                nursery.start_soon(give_up, call)
        await trio.testing.wait_all_tasks_blocked()
        for call in calls:
            assert call.channel.finished
            assert call.read in (None, Result(call.request.params)), "another call's result"
        assert max(began.values(), default=1) == 1, "begun twice (promise P3)"
        assert not ref.mailbox.statistics().waiting, "it would be worked on for nobody"
    return moments


def test_f22_of_calls_that_are_given_up_at_any_moment_each_has_one_outcome_and_none_is_left() -> None:
    moments: Counter[str] = Counter()
    for run in simulate_many(side_by_side(given_up, SIDE_BY_SIDE), seeds(ALONE // SIDE_BY_SIDE)):
        moments += sum(run.value, Counter())
    assert moments.total() == ALONE * CALLS
    assert (
        min(moments[moment] for moment in ("before it started", "running", "between result and write", "after")) > 1000
    )

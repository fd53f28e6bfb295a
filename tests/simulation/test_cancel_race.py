"""F22: a call is cancelled before it starts, while it runs, between its result and the write of it, and after.

Rule: 8,000 calls in CI's two runs by clients that show the wire, through a whole runtime, each cancelled at a moment
that its seed has drawn (`tests/properties/test_kernel.py` has more, of the kernel alone). Every call has at most one
answer, none comes to anybody else, and the books balance.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import trio
from attrs import define, field

from mcpactors import Server, open_runtime
from mcpactors.testing import assert_books_balance, simulate_many
from tests.simulation.peers import Peer, peer
from tests.simulation.seeds import seeds

SEEDS = 40
BATCHES = 20
MOST_AT_ONCE = 4


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

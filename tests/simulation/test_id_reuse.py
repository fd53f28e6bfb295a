"""F13, F14: however many clients use the same ids, and however often one id is used again, no reply goes astray.

Rule: 10^4 schedules of F14, 600 of F13. A schedule is one race, from nothing in flight to nothing in flight: who takes
part, what each does and when, and in which order tasks run is drawn for it alone. Those of F14 run side by side on the
same connections, one for each id, to one and the same backend, which answers out of order. Those of F13 go by lines,
which refuse an id in flight, as HTTP does (tests/transports): the SDK's transport in memory refuses none.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import trio

from mcpactors import create_proxy, open_runtime
from mcpactors.testing import Reply, Script, ScriptedBackend, Step, Wait, assert_books_balance, simulate_many
from tests.simulation.peers import Peer, peer, peer_on_lines
from tests.simulation.seeds import seeds

SEEDS = 50
ROUNDS = 25
IDS: tuple[int | str, ...] = (1, "1", 0, "")
CROSSING = SEEDS * ROUNDS * len(IDS)
"""Schedules of F14, in each era of the backend."""
OFTEN = 6
AGAIN = 50
"""Seeds of F13 in each era of the client, and schedules in each."""
IN_USE = "-32600"
WAITS: dict[str, list[Step]] = {f"t{seconds}": [Wait(seconds), Reply()] for seconds in range(3)}
ANSWERED = 3
"""Seconds after which everything is."""


async def steps(draw: Random, most: int) -> None:
    for _ in range(draw.randint(0, most)):
        await trio.lowlevel.checkpoint()


def one_id_for_all(era):
    async def scenario(draw: Random) -> int:
        backend = ScriptedBackend(Script(on=WAITS, era=era))
        async with open_runtime() as runtime:
            await runtime.mount(create_proxy(backend, sessions="shared"))
            async with peer(runtime) as one, peer(runtime, legacy=True) as two, peer(runtime) as three:
                clients = [one, two, three]

                async def ask(of: int, request: int | str, mine: str) -> None:
                    await steps(draw, 6)
                    await clients[of].call(request, f"t{draw.randint(0, 2)}", mine=mine)

                for number in range(ROUNDS):
                    wanted = {
                        (of, request): f"{of} {request!r} {number}"
                        for request in IDS
                        for of in draw.sample(range(3), 2)
                    }
                    async with trio.open_nursery() as nursery:
                        for (of, request), mine in wanted.items():
                            nursery.start_soon(ask, of, request, mine)
                    await trio.sleep(ANSWERED)
                    for (of, request), mine in wanted.items():
                        [text] = clients[of].texts(request)
                        assert mine in text, f"{text} came to {mine}"
                    for client in clients:
                        client.endings.assert_one_each()
                        client.forget()
                assert_books_balance(runtime.ps())
        ids = [message["id"] for message in backend.said_of("tools/call")]
        assert len(set(ids)) == len(ids) == 2 * ROUNDS * len(IDS)  # at most once (P3), under ids of its own
        return ROUNDS * len(IDS)

    return scenario


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_f14_replies_of_clients_that_use_the_same_ids_never_cross(era: str) -> None:
    assert sum(run.value for run in simulate_many(one_id_for_all(era), seeds(SEEDS))) == CROSSING


def used_again(legacy: bool):
    """A client uses an id again while its call is in flight, or just after: refused, or a call of its own."""

    async def schedule(draw: Random, client: Peer, number: int) -> bool:
        request, other = draw.sample(IDS, 2)

        async def beside() -> None:
            await steps(draw, 60)
            await client.call(other, f"t{draw.randint(0, 2)}", mine=f"beside {number}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside)
            await client.call(request, f"t{draw.choice((0, 0, 1))}", mine=f"first {number}")
            await steps(draw, 60)
            await client.call(request, "t0", mine=f"second {number}")
        await trio.sleep(ANSWERED)
        answers = Counter(client.texts(request))
        again = Counter({f'{{"mine": "first {number}"}}': 1, f'{{"mine": "second {number}"}}': 1})
        refused = Counter({f'{{"mine": "first {number}"}}': 1, IN_USE: 1})
        assert answers in (again, refused)
        assert client.texts(other) == [f'{{"mine": "beside {number}"}}']
        client.forget()
        return answers == refused

    async def scenario(draw: Random) -> int:
        backend, refused = ScriptedBackend(Script(on=WAITS)), 0
        async with open_runtime() as runtime:
            await runtime.mount(create_proxy(backend, sessions="shared"))
            async with peer_on_lines(runtime, legacy=legacy) as client:
                for number in range(AGAIN):
                    refused += await schedule(draw, client, number)
                assert_books_balance(runtime.ps())
        assert len(backend.said_of("tools/call")) == 3 * AGAIN - refused  # what is refused goes nowhere
        return refused

    return scenario


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_f13_a_second_call_under_an_id_in_flight_is_refused_and_does_not_harm_the_first(era: str) -> None:
    refused = sum(run.value for run in simulate_many(used_again(era == "legacy"), seeds(OFTEN)))
    assert AGAIN < refused < (OFTEN - 1) * AGAIN  # the others came when the first call was over

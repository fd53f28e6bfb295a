"""F13, F14: however many clients use the same ids, and however often one id is used again, no reply goes astray.

Rule: 10^4 calls in flight beside calls of other clients under the same id, to one and the same backend, which answers
them out of order. What a client asks says who it is; so must what it gets. That a second call under an id in flight is
refused is shown on each wire (tests/transports).
"""

from __future__ import annotations

from random import Random

import pytest
import trio

from mcpactors import create_proxy, open_runtime
from mcpactors.testing import Expect, Reply, Script, ScriptedBackend, Step, Wait, assert_books_balance, simulate_many
from tests.simulation.peers import Peer, peer
from tests.simulation.seeds import seeds

SEEDS = 21
ROUNDS = 20
CLIENTS = 3
IDS: tuple[int | str, ...] = (1, "1", 0, "")
COLLISIONS = SEEDS * ROUNDS * len(IDS) * CLIENTS
"""Calls in each era of the backend, each beside two of other clients under its id."""


def one_id_for_all(era):
    async def scenario(draw: Random) -> int:
        waits: dict[str, list[Step]] = {f"t{seconds}": [Wait(seconds), Reply()] for seconds in range(3)}
        backend = ScriptedBackend(Script(on=waits, era=era))
        async with open_runtime() as runtime:
            await runtime.mount(create_proxy(backend, sessions="shared"))
            async with peer(runtime) as one, peer(runtime, legacy=True) as two, peer(runtime) as three:
                clients = [one, two, three]
                for number in range(ROUNDS):
                    wanted = {(of, request): f"{of} {request!r} {number}" for of in range(CLIENTS) for request in IDS}

                    async def ask(client: Peer, request: int | str, mine: str) -> None:
                        await client.call(request, f"t{draw.randint(0, 2)}", mine=mine)

                    async with trio.open_nursery() as nursery:
                        for (of, request), mine in wanted.items():
                            nursery.start_soon(ask, clients[of], request, mine)
                    await trio.sleep(3)
                    for (of, request), mine in wanted.items():
                        [text] = clients[of].texts(request)
                        assert mine in text, f"{text} came to {mine}"
                    for client in clients:
                        client.endings.assert_one_each()
                        client.forget()
                assert_books_balance(runtime.ps())
        ids = [message["id"] for message in backend.said_of("tools/call")]
        assert len(set(ids)) == len(ids) == ROUNDS * CLIENTS * len(IDS)  # at most once (P3), under ids of its own
        return len(ids)

    return scenario


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_f14_replies_of_clients_that_use_the_same_ids_never_cross(era: str) -> None:
    assert sum(run.value for run in simulate_many(one_id_for_all(era), seeds(SEEDS))) == COLLISIONS


async def reuse_in_flight(draw: Random) -> None:
    """One client reuses an id while its first call is in flight: the second is refused, or the first answer stands."""
    backend = ScriptedBackend(Script([Expect(), Wait(5), Reply()], tools=["t"]))
    async with open_runtime() as runtime:
        await runtime.mount(create_proxy(backend, sessions="shared"))
        async with peer(runtime) as client:
            await client.call(7, "t", mine="first")
            for _ in range(draw.randint(0, 30)):
                await trio.lowlevel.checkpoint()
            await client.call(7, "t", mine="second")
            await trio.sleep(6)
            texts = client.texts(7)
            assert texts.count('{"mine": "first"}') == 1, texts
            assert len(texts) <= 2
            assert_books_balance(runtime.ps())


def test_f13_a_second_call_under_an_id_in_flight_does_not_harm_the_first() -> None:
    simulate_many(reuse_in_flight, range(50))

"""P1, P3, P6: whatever befalls a connection, each call ends once and in time, and a sibling notices nothing.

Rule: faults and schedule come from one seed. What can cross is recognised: a call says who it is, and its answer too.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
import trio

from mcpactors import CallDeadlines, RuntimeSettings, create_proxy, open_runtime
from mcpactors.testing import (
    ChaosTransport,
    Reply,
    Script,
    ScriptedBackend,
    Wait,
    assert_books_balance,
    faults_of,
    nothing_left_behind,
    simulate_many,
)
from tests.simulation.peers import Peer, peer
from tests.simulation.seeds import seeds

SEEDS = 20
CALLS = 6
HARD = 40.0
"""Seconds after which every call has ended, whatever happens."""
SETTINGS = RuntimeSettings(deadlines=CallDeadlines(idle=30, total=HARD), list_budget=2)


def chaos(era: Any):
    async def scenario(draw: Random) -> Counter[str]:
        backend = ScriptedBackend(Script(on={"t": [Wait(1), Reply()]}, era=era))
        bad = ChaosTransport(backend, faults_of(draw), faults_of(draw))
        ends: Counter[str] = Counter()
        corrupt = any(fault.kind == "corrupt" for fault in (*bad.incoming, *bad.outgoing))

        async def call(client: Peer, number: int) -> None:
            await trio.sleep(draw.choice([0, 0, 1, 2]))
            with trio.fail_after(HARD):
                await client.call(number, "bad_t", mine=number)
                await client.answered(number)
            [text] = client.texts(number)
            failed = text.startswith("-32")
            ends["failed" if failed else "answered"] += 1
            assert failed or corrupt or text == f'{{"mine": {number}}}'

        async def sibling(client: Peer) -> None:
            for number in range(100, 110):
                begun = trio.current_time()
                await client.call(number, "good_t", mine=number)
                await client.answered(number)
                assert client.texts(number) == [f'{{"mine": {number}}}']
                assert trio.current_time() == begun
                await trio.sleep(4)

        with nothing_left_behind():
            async with open_runtime(settings=SETTINGS) as runtime:
                good = ScriptedBackend(Script(tools=["t"]))
                await runtime.mount(create_proxy(good, sessions="shared"), "good")
                async with peer(runtime) as client:
                    await client.call("first", "good_t")
                    await client.answered("first")
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(sibling, client)
                        await runtime.mount(create_proxy(bad, sessions="shared"), "bad")
                        for number in range(CALLS):
                            nursery.start_soon(call, client, number)
                    client.endings.assert_one_each()
                    assert_books_balance(runtime.ps())
        sent = [str(message["params"].get("arguments")) for message in backend.said_of("tools/call")]
        doubled = any(fault.kind == "duplicate" for fault in bad.outgoing)
        assert doubled or corrupt or len(set(sent)) == len(sent), "a call was sent twice (promise P3)"
        return ends

    return scenario


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_p1_p3_p6_p9_on_a_bad_connection_each_call_ends_once_a_sibling_notices_nothing_and_nothing_is_left(
    era: str,
) -> None:
    ends: Counter[str] = Counter()
    for run in simulate_many(chaos(era), seeds(SEEDS)):
        ends += run.value
    assert ends.total() == SEEDS * CALLS
    assert min(ends.values()) > SEEDS

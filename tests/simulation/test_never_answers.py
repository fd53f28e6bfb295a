"""F2: a backend that never answers (a stopped process) costs its own calls their deadline, and nobody else anything."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio

from mcpactors import RuntimeSettings, create_proxy, open_runtime
from mcpactors.testing import Hang, Reply, Script, ScriptedBackend, assert_books_balance, simulate_many
from tests.simulation.peers import Peer, peer

SETTINGS = RuntimeSettings()
SLEEPS = 100.0
"""Seconds that the process is stopped: longer than a call may be silent, shorter than anybody gives it up."""


async def now(client: Peer, number: int, method: str, **params: Any) -> Any:
    """The answer to a request, which comes without any time passing."""
    begun = trio.current_time()
    await client.request(number, method, **params)
    await client.answered(number)
    assert trio.current_time() == begun
    [answer] = client.answers[number]
    return answer


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_f2_a_backend_that_never_answers_costs_its_own_calls_their_deadline_and_nobody_else_anything(era: Any) -> None:
    async def scenario(draw: Random) -> None:
        # it is stopped in the middle of a call, and later goes on as if nothing had been
        sick = ScriptedBackend(Script(on={"stop": [Hang(SLEEPS), Reply()], "t": [Reply()]}, era=era))
        well = ScriptedBackend(Script(tools=["t"], era=era))
        async with open_runtime(settings=SETTINGS) as runtime, peer(runtime) as client:
            for name, backend in (("sick", sick), ("well", well)):
                await runtime.mount(create_proxy(backend, sessions="shared"), name)
            whole = (await now(client, 0, "tools/list")).result["tools"]
            begun = trio.current_time()
            await client.call("stopped", "sick_stop")
            await trio.sleep(draw.random())
            await client.call("behind", "sick_t")
            for number in range(1, 12):
                await now(client, 2 * number, "tools/call", name="well_t", arguments={})
                listed = (await now(client, 2 * number + 1, "tools/list")).result
                assert (listed["tools"], (listed.get("_meta") or {}).get("mcpactors/missing")) == (whole, None)
                await trio.sleep(draw.random())
            await client.answered("stopped")
            assert trio.current_time() - begun == SETTINGS.deadlines.idle
            await client.answered("behind")
            assert client.texts("stopped") == client.texts("behind") == ["-32001"]
            await trio.sleep_until(begun + SLEEPS + 1)
            called = {message["id"] for message in sick.said_of("tools/call")[:2]}
            assert called <= {message["params"]["requestId"] for message in sick.said_of("notifications/cancelled")}
            assert len((await now(client, 99, "tools/call", name="sick_t", arguments={})).result["content"]) == 1
            assert sick.begun == 1
            client.endings.assert_one_each()
            assert_books_balance(runtime.ps())

    for _ in simulate_many(scenario, range(5)):
        pass

"""A call that is made in the moments after a backend's crash: nothing of it was sent, so nobody says "unknown"."""

from __future__ import annotations

from random import Random

import trio
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from mcpactors import create_proxy, open_runtime
from mcpactors.testing import Crash, Expect, Script, ScriptedBackend, simulate_many

SEEDS = range(60)


async def ending(client: Client, number: int) -> str:
    try:
        await client.call_tool("flaky_add", {"a": number})
    except MCPError as error:
        return error.message
    return "answered"


async def call_at_once_again(draw: Random) -> str:
    """How the second call ended."""
    backend = ScriptedBackend(Script([Expect(tool="add"), Crash()]), Script(tools=["add"]))
    async with open_runtime() as runtime:
        await runtime.mount(create_proxy(backend, sessions="shared"), "flaky")
        async with runtime.client() as client:
            assert "outcome is unknown" in await ending(client, 1)
            for _ in range(draw.randint(0, 3)):
                await trio.lowlevel.checkpoint()
            return await ending(client, 2)


def test_p3_a_call_that_came_too_late_for_a_life_is_not_said_to_have_an_unknown_outcome() -> None:
    assert {run.value for run in simulate_many(call_at_once_again, SEEDS)} == {
        "answered",
        "flaky lost its connection before the call was sent: it was not carried out; call again",
    }

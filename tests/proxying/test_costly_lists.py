"""A list that is long and changes without end: read as often as others can bear, and at last as it is. Virtual time."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import trio
from mcp.server.lowlevel import Server as LowLevelServer
from mcp_types import ListToolsResult, Tool
from trio.testing import MockClock

from mcpactors import Server, create_proxy, open_runtime
from mcpactors.testing import Notify, Script, ScriptedBackend, Step, Wait, simulate

MANY = 3_000
MINUTE = 60
CHANGES = 120
FLOOD: list[Step] = [Wait(0.1), Notify("notifications/tools/list_changed")]


def looks(tools: int) -> list[int]:
    """How often, in each ten seconds of a minute, a backend is asked for a list that changes ten times a second."""
    backend = ScriptedBackend(Script(FLOOD * 10 * MINUTE, tools=[f"t{number}" for number in range(tools)]))

    async def scenario(draw: Random) -> list[int]:
        counted = [0]
        async with open_runtime() as runtime:
            await runtime.mount(create_proxy(backend, sessions="shared"))
            for ten in range(10, MINUTE + 1, 10):
                await trio.sleep_until(ten)
                counted.append(len(backend.said_of("tools/list")))
        return [now - before for before, now in pairwise(counted)]

    return simulate(scenario).value


def test_p6_a_long_list_that_changes_all_the_time_is_read_ever_more_seldom() -> None:
    first, *others = looks(MANY)
    assert first <= 10  # some at once, after silence
    assert all(1 <= number <= 3 for number in others), others  # it was 40


def test_f5_a_short_list_that_changes_all_the_time_is_read_anew_after_each_window() -> None:
    assert all(30 <= number <= 40 for number in looks(20))


async def test_p6_what_a_long_list_is_at_last_is_told_and_listed(autojump_clock: MockClock) -> None:
    def tool() -> None: ...

    server, told = Server("far"), list[float]()
    server.add_tool(tool, description="long " * 1_000_000)
    async with open_runtime() as runtime, runtime.client() as client, trio.open_nursery() as nursery:
        await runtime.mount(create_proxy(server))

        async def follow(task_status: trio.TaskStatus[None]) -> None:
            async with client.listen(tools_list_changed=True) as changes:
                task_status.started()
                async for _ in changes:
                    told.append(trio.current_time())

        await nursery.start(follow)
        await trio.sleep(1)
        for number in range(CHANGES):
            server.add_tool(tool, name=f"later{number}")
            await trio.sleep(0.1)
        assert 1 < len(await listed(client)) < 1 + CHANGES  # what was known stands in
        told.clear()
        await trio.sleep(MINUTE)
        assert len(told) == 1
        assert len(await listed(client)) == 1 + CHANGES
        nursery.cancel_scope.cancel()


async def listed(client: Any) -> list[str]:
    return [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]


async def test_p6_a_list_that_cannot_be_read_and_takes_long_is_refused_again_without_asking(
    autojump_clock: MockClock,
) -> None:
    asked = [0]

    async def endless(ctx: Any, params: Any) -> ListToolsResult:
        asked[0] += 1
        return ListToolsResult(tools=[Tool(name="t", input_schema={"type": "object"})], next_cursor=str(asked[0]))

    server: Any = LowLevelServer("endless", on_list_tools=endless)
    async with open_runtime() as runtime, runtime.client() as client:
        await runtime.mount(create_proxy(server))
        for _ in range(10):
            said = await client.list_tools(cache_mode="bypass")
            assert "has more than 1000 pages" in str(said.meta)
            await trio.sleep(1)
    assert asked[0] <= 3_000  # it was 10,000

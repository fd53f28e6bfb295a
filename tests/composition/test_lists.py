"""Lists: concurrent, bounded, in one order, in pages that stay stable (feature B13)."""

from __future__ import annotations

import base64
from itertools import chain
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.server.lowlevel import Server as LowLevelServer

from mcpactors import RuntimeSettings, open_runtime
from tests.composition.helpers import BOTH_ERAS, named, refused, saying, serving, tools_of

PAGES = RuntimeSettings(page_size=3)
WRONG = "this cursor is not one that this list gave; list again without a cursor"
FORGOTTEN = "the list has changed too much since this cursor was given; list again without a cursor"


def answering_after(name: str, seconds: float, gauge: list[int] | None = None) -> LowLevelServer[Any]:
    """A server that takes its time to list."""

    async def listed(ctx: Any, params: Any) -> types.ListToolsResult:
        if gauge is not None:
            gauge.append(gauge[-1] + 1 if gauge else 1)
        await trio.sleep(seconds)
        if gauge is not None:
            gauge.append(gauge[-1] - 1)
        return types.ListToolsResult(tools=[types.Tool(name="x", input_schema={"type": "object"})])

    return LowLevelServer(name, on_list_tools=listed)


async def test_b13_children_are_asked_at_the_same_time(autojump_clock: trio.testing.MockClock) -> None:
    async with serving("main") as (runtime, client):
        for number in range(10):
            await runtime.mount(answering_after(f"s{number}", 1.5), f"n{number}")
        await trio.sleep(30)
        before = trio.current_time()
        assert await tools_of(client) == [f"n{number}_x" for number in range(10)]
        assert trio.current_time() - before == pytest.approx(1.5)


@BOTH_ERAS
async def test_b13_a_list_takes_no_longer_than_its_budget_and_names_who_is_missing(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    async with serving("main", mode, RuntimeSettings(list_budget=2)) as (runtime, client):
        await runtime.mount(named("quick", "x"), "q")
        slow = answering_after("slow", 1000)
        await runtime.mount(slow, "s")
        before = trio.current_time()
        result = await client.list_tools(cache_mode="bypass")
        assert trio.current_time() - before == pytest.approx(2)
        assert [tool.name for tool in result.tools] == ["q_x"]
        assert result.meta is not None
        [missing] = result.meta["mcpactors/missing"]
        assert (missing["actor"], missing["listed"]) == ("s", "no")
        assert "no sign of life for 2 s" in missing["reason"]


async def test_b13_the_last_good_list_stands_in_for_a_child_that_does_not_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    delay = 0.0

    async def listed(ctx: Any, params: Any) -> types.ListToolsResult:
        await trio.sleep(delay)
        return types.ListToolsResult(tools=[types.Tool(name="x", input_schema={"type": "object"})])

    async with serving("main") as (runtime, client):
        await runtime.mount(LowLevelServer("s", on_list_tools=listed), "s")
        assert await tools_of(client) == ["s_x"]
        delay = 1000
        result = await client.list_tools(cache_mode="bypass")
        assert [tool.name for tool in result.tools] == ["s_x"]
        assert result.meta is not None
        assert result.meta["mcpactors/missing"][0]["listed"] == "stale"


async def test_b13_the_order_is_that_of_mounting_whoever_answers_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    main = named("main", "b", "a")
    for number, seconds in enumerate((1.5, 0.1, 1.0, 0.5)):
        main.mount(answering_after(f"s{number}", seconds), f"n{number}")
    async with serving(main) as (_, client):
        for _ in range(3):
            assert await tools_of(client) == ["b", "a", "n0_x", "n1_x", "n2_x", "n3_x"]


async def test_b13_a_server_of_ours_is_not_asked_again_because_something_else_is_mounted() -> None:
    asked: list[str] = []

    async def note(ctx: Any, call_next: Any) -> Any:
        asked.append(ctx.method)
        return await call_next(ctx)

    main = named("main")
    main.mount(named("child", "x", middleware=[note]), "c")
    async with serving(main) as (_, client):
        await trio.testing.wait_all_tasks_blocked()
        assert await tools_of(client) == ["c_x"]
        first = len(asked)
        handle = main.mount(named("other", "x"), "o")
        assert await tools_of(client) == ["c_x", "o_x"]
        await handle.unmount()
        assert await tools_of(client) == ["c_x"]
        assert len(asked) == first


async def test_b13_of_two_lists_at_once_the_one_that_was_asked_for_last_is_believed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    offered, delay = ["old"], 1.0

    async def listed(ctx: Any, params: Any) -> types.ListToolsResult:
        tools = [types.Tool(name=name, input_schema={"type": "object"}) for name in offered]
        await trio.sleep(delay)
        return types.ListToolsResult(tools=tools)

    async def call(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(text=params.name)])

    async with serving("main") as (runtime, client), trio.open_nursery() as nursery:
        handle = await runtime.mount(LowLevelServer("s", on_list_tools=listed, on_call_tool=call), "s")
        await trio.sleep(5)
        nursery.start_soon(tools_of, client)
        await trio.sleep(0.5)
        offered, delay = ["new"], 0.1
        assert await tools_of(client) == ["s_new"]
        await trio.sleep(1)  # the older answer has come by now
        delay = 1000
        result = await client.list_tools(cache_mode="bypass")
        assert [tool.name for tool in result.tools] == ["s_new"]
        assert handle.state == "running"


@BOTH_ERAS
async def test_b13_a_change_while_a_list_is_being_asked_for_is_not_lost(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    async def late(ctx: Any, call_next: Any) -> Any:
        result = await call_next(ctx)
        if ctx.method == "tools/list":
            await trio.sleep(0.1)
        return result

    child = named("child", "first", middleware=[late])
    main = named("main")
    main.mount(child, "c")
    async with serving(main, mode) as (_, client), trio.open_nursery() as nursery:
        assert await tools_of(client) == ["c_first"]
        child.add_tool(saying("x"), name="second")
        nursery.start_soon(tools_of, client)  # is answered, after a moment, by what there is now
        await trio.sleep(0.05)
        child.add_tool(saying("x"), name="third")
        await trio.sleep(5)
        assert await tools_of(client) == ["c_first", "c_second", "c_third"]


# --- Pages ----------------------------------------------------------------------------------------------------------


async def pages_of(client: Client, between: Any = None) -> list[list[str]]:
    """The pages of the tools, with something done between each two."""
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        result = await client.list_tools(cursor=cursor, cache_mode="bypass")
        pages.append([tool.name for tool in result.tools])
        cursor = result.next_cursor
        if cursor is None:
            return pages
        if between is not None:
            await between(len(pages))


@BOTH_ERAS
@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [0]), (1, [1]), (3, [3]), (4, [3, 1]), (6, [3, 3]), (10, [3, 3, 3, 1])]
)
async def test_b13_a_list_comes_in_pages_with_nothing_twice_and_nothing_left_out(
    mode: str, count: int, sizes: list[int]
) -> None:
    names = [f"t{number}" for number in range(count)]
    async with serving(named("main", *names), mode, PAGES) as (_, client):
        pages = await pages_of(client)
        assert [len(page) for page in pages] == sizes
        assert list(chain(*pages)) == names


@BOTH_ERAS
async def test_b13_every_kind_comes_in_pages(mode: str) -> None:
    server = named("main")
    for number in range(4):
        server.resource(f"data://{number}")(saying("x"))
        server.resource(f"data://{number}/{{a}}")(_about)
        server.prompt(f"p{number}")(saying("x"))
    async with serving(server, mode, PAGES) as (_, client):
        for method in (client.list_resources, client.list_resource_templates, client.list_prompts):
            first: Any = await method()
            assert first.next_cursor is not None
            second: Any = await method(cursor=first.next_cursor)
            assert second.next_cursor is None


async def _about(a: str) -> str:
    return a


@BOTH_ERAS
async def test_b13_pages_stay_stable_while_the_catalog_changes_under_them(mode: str) -> None:
    main = named("main", *(f"t{number}" for number in range(9)))
    before = [f"t{number}" for number in range(9)]
    async with serving(main, mode, PAGES) as (runtime, client):

        async def change(page: int) -> None:
            main.remove_tool(f"t{page}")
            main.add_tool(saying("new"), name=f"new{page}")
            await runtime.mount(named(f"child{page}", "x"), f"c{page}")
            await tools_of(client)  # another client's list, which learns of it

        assert list(chain(*await pages_of(client, change))) == before
        after = await pages_of(client)
        assert list(chain(*after)) == [*(f"t{n}" for n in (0, 3, 4, 5, 6, 7, 8)), "new1", "new2", "c1_x", "c2_x"]


async def test_b13_a_cursor_of_a_list_that_is_forgotten_gets_a_clear_error() -> None:
    main = named("main", *"abcdefg")
    async with serving(main, settings=PAGES) as (_, client):
        cursor = (await client.list_tools()).next_cursor
        for number in range(20):
            main.add_tool(saying("x"), name=f"new{number}")
            await tools_of(client)
        with refused(-32602, FORGOTTEN):
            await client.list_tools(cursor=cursor)


@BOTH_ERAS
async def test_b13_a_cursor_of_another_list_is_refused(mode: str) -> None:
    main = named("main", *"abcdefg")
    for name in "abcdefg":
        main.prompt(name)(saying("x"))
    async with serving(main, mode, PAGES) as (_, client):
        tools = (await client.list_tools()).next_cursor
        prompts = (await client.list_prompts()).next_cursor
        assert tools is not None
        assert prompts is not None
        with refused(-32602, WRONG):
            await client.list_prompts(cursor=tools)
        with refused(-32602, WRONG):
            await client.list_tools(cursor=prompts)
        assert len((await client.list_tools(cursor=tools)).tools) == 3


@BOTH_ERAS
async def test_b13_a_cursor_that_was_tampered_with_is_refused(mode: str) -> None:
    async with serving(named("main", *"abcdefg"), mode, PAGES) as (_, client):
        cursor = (await client.list_tools()).next_cursor
        assert cursor is not None
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode(errors="replace")
        forged = base64.urlsafe_b64encode(text.replace(":3", ":4").encode()).decode().rstrip("=")
        assert forged != cursor
        wrong = ["", "x", "====", "\x00", "é", "a" * 10_000, cursor + "A", cursor[:-1], cursor.swapcase(), forged]
        for each in wrong:
            with refused(-32602, WRONG):
                await client.list_tools(cursor=each)
        assert len((await client.list_tools(cursor=cursor)).tools) == 3


async def test_b13_a_cursor_of_another_run_is_refused() -> None:
    main = named("main", *"abcdefg")
    async with serving(main, settings=PAGES) as (_, client):
        cursor = (await client.list_tools()).next_cursor
    for name in "hij":
        main.add_tool(saying("x"), name=name)
    async with serving(main, settings=PAGES) as (_, client):
        await tools_of(client)
        with refused(-32602, "list again without a cursor"):
            await client.list_tools(cursor=cursor)


async def test_b13_a_list_may_be_read_while_it_is_empty_and_while_everything_goes() -> None:
    async with open_runtime("main", settings=PAGES) as runtime:
        async with runtime.client() as client:
            assert await pages_of(client) == [[]]
            handle = await runtime.mount(named("child", *"abcd"), "c")
            first = await client.list_tools(cache_mode="bypass")
            await handle.unmount()
            second = await client.list_tools(cursor=first.next_cursor)
            assert [tool.name for tool in (*first.tools, *second.tools)] == [f"c_{name}" for name in "abcd"]
            assert await pages_of(client) == [[]]

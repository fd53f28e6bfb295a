"""What ends, or is rubbish, costs its own place only and says so (issue 3, "Bad input"; feature C10).

Rule: only names of the public API; the world's faults are made by real servers that crash, not by patching ours.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.shared.exceptions import MCPError

from mcpactors import MCPActorsError, RestartPolicy, RuntimeSettings, Server, create_proxy, open_runtime
from tests.composition.helpers import (
    ABSENT,
    BOTH_ERAS,
    OLD_MEANS,
    living,
    named,
    prompts_of,
    refused,
    resources_of,
    said,
    saying,
    serving,
    text_of,
    tools_of,
)

TEMPORARY = RuntimeSettings(restart=RestartPolicy(restart="temporary"))


def mortal(name: str, death: trio.Event, *, starts: bool = True) -> Server:
    """A server whose lifespan crashes once `death` is set, or at its very start."""

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[None]:
        if not starts:
            raise OSError("no database")
        async with trio.open_nursery() as nursery:

            async def die() -> None:
                await death.wait()
                raise OSError("the database is gone")

            nursery.start_soon(die)
            yield
            nursery.cancel_scope.cancel()

    server = Server(name, lifespan=lifespan)
    server.add_tool(saying(name), name="x")
    return server


# --- A child that is not started again ------------------------------------------------------------------------------


@BOTH_ERAS
async def test_a_temporary_child_that_has_ended_is_told_of_until_it_is_unmounted(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    death = trio.Event()
    main = named("main", "own")
    handle = main.mount(mortal("child", death), "c")
    async with serving(main, mode, TEMPORARY) as (runtime, client):
        assert await said(client, "c_x") == "child"
        death.set()
        await trio.sleep(1)
        rows = {row.name: row for row in runtime.ps().children}
        assert (rows["c"].state, rows["c"].last_exit) == ("stopped", "OSError: the database is gone")
        assert (handle.state, handle.info().last_exit) == ("stopped", "OSError: the database is gone")
        assert await handle.settled() == "stopped"
        result = await client.list_tools(cache_mode="bypass")
        assert result.meta is not None
        [missing] = result.meta["mcpactors/missing"]
        assert (missing["actor"], missing["listed"]) == ("c", "stale")
        with refused(-32003, "c is down for .* the database is gone; its restart policy is 'temporary'"):
            await client.call_tool("c_x", {})
        assert await said(client, "own") == "main.own"
        await handle.unmount()
        assert [row.name for row in runtime.ps().children] == ["main.own"]
        assert await tools_of(client) == ["own"]
        main.mount(mortal("child", trio.Event()), "c")
        assert await said(client, "c_x") == "child"


async def test_a_temporary_child_that_does_not_start_stops_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    main = named("main", "own")
    before = main.mount(mortal("early", trio.Event(), starts=False), "e")
    async with serving(main, settings=TEMPORARY) as (runtime, client):
        late = await runtime.mount(mortal("late", trio.Event(), starts=False), "l")
        for handle in (before, late):
            assert (handle.state, handle.info().last_exit) == ("stopped", "OSError: no database")
        assert [row.state for row in runtime.ps().children] == ["running", "stopped", "stopped"]
        with refused(-32003, "l is down for .* no database"):
            await client.call_tool("l_x", {})
        fresh = await late.replace(named("good", "x"))
        assert fresh.state == "running"
        assert await said(client, "l_x") == "good.x"
        assert await said(client, "own") == "main.own"


async def test_a_root_that_has_ended_is_told_of_too(autojump_clock: trio.testing.MockClock) -> None:
    death = trio.Event()
    main = mortal("main", death)
    main.mount(named("child", "x"), "c")
    async with serving(main, settings=TEMPORARY) as (runtime, client):
        death.set()
        await trio.sleep(1)
        assert [(row.name, row.state) for row in runtime.ps().children] == [("main.own", "stopped"), ("c", "running")]
        assert await said(client, "c_x") == "child.x"
        with refused(-32003, "main.own is down"):
            await client.call_tool("x", {})


async def test_the_place_of_what_has_ended_can_be_taken_while_it_is_unmounted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    main = named("main")
    ended = [main.mount(mortal("ended", trio.Event(), starts=False), f"n{number}") for number in range(10)]

    async def mount(number: int) -> None:
        main.mount(named("fresh", "x"), f"n{number}")

    async with serving(main, settings=TEMPORARY) as (_, client):
        async with trio.open_nursery() as nursery:  # ten times, because trio shuffles who goes first
            for number, handle in enumerate(ended):
                nursery.start_soon(handle.unmount)
                nursery.start_soon(mount, number)
        await trio.sleep(1)
        assert sorted(await tools_of(client)) == [f"n{number}_x" for number in range(10)]
        assert [await said(client, f"n{number}_x") for number in range(10)] == ["fresh.x"] * 10


# --- What is not there ----------------------------------------------------------------------------------------------


async def _list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[types.Tool(name="x", input_schema={"type": "object"})])


async def _call_tool(ctx: Any, params: Any) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text="x")])


async def _list_prompts(ctx: Any, params: Any) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=[types.Prompt(name="p")])


WITHOUT_RESOURCES: dict[str, Callable[[], LowLevelServer[Any]]] = {
    "only tools": lambda: LowLevelServer("t", on_list_tools=_list_tools, on_call_tool=_call_tool),
    "only prompts": lambda: LowLevelServer("p", on_list_prompts=_list_prompts),
    "nothing": lambda: LowLevelServer("n"),
}


@OLD_MEANS
@BOTH_ERAS
@pytest.mark.parametrize("way", ["mounted", "proxied", "imported", "deep"])
@pytest.mark.parametrize("kind", WITHOUT_RESOURCES)
async def test_what_a_server_without_any_such_thing_does_not_have_is_not_found_like_anything_else(
    mode: str, way: str, kind: str
) -> None:
    server, main = WITHOUT_RESOURCES[kind](), named("main", "own")
    if way == "imported":
        await main.import_server(server, "c")
    elif way == "deep":
        middle = named("middle")
        middle.mount(create_proxy(server), "n")
        main.mount(middle, "c")
    else:
        main.mount(create_proxy(server) if way == "proxied" else server, "c")
    namespace, uri = ("c_n", "data://c/n/nope") if way == "deep" else ("c", "data://c/nope")
    async with serving(main, mode) as (_, client):
        for call, words, data in (
            (lambda: client.read_resource(uri), f"Unknown resource: {uri}", {"uri": uri}),
            (lambda: client.call_tool(f"{namespace}_nope", {}), f"Unknown tool: {namespace}_nope", None),
            (lambda: client.get_prompt(f"{namespace}_nope"), f"Unknown prompt: {namespace}_nope", None),
        ):
            with pytest.raises(MCPError) as caught:
                await call()
            assert caught.value.code == (ABSENT[mode] if "resource" in words else -32602)
            assert caught.value.message.startswith(words)
            assert caught.value.data == (data or {"name": f"{namespace}_nope"})
        if mode == "legacy":
            with refused(-32602, f"Unknown resource: {uri}"):
                await client.subscribe_resource(uri)
        assert await said(client, "own") == "main.own"


@OLD_MEANS
async def test_a_refused_subscription_is_not_counted_so_the_next_one_is_asked_for_again() -> None:
    asked: list[str] = []

    async def subscribe(ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        asked.append(str(params.uri))
        if len(asked) == 1:
            raise MCPError(-32000, "not now")
        return types.EmptyResult()

    async def listed(ctx: Any, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=[types.Resource(uri="data://r", name="r")])

    main = named("main")
    main.mount(LowLevelServer("s", on_list_resources=listed, on_subscribe_resource=subscribe), "c")
    async with serving(main, "legacy") as (_, client):
        with refused(-32000, "not now"):
            await client.subscribe_resource("data://c/r")
        await client.subscribe_resource("data://c/r")
    assert asked == ["data://r", "data://r"]


# --- Rubbish --------------------------------------------------------------------------------------------------------


@BOTH_ERAS
async def test_a_component_that_cannot_be_written_as_json_is_left_out_of_the_list_and_takes_nothing_else_from_it(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    child = named("child", "fine", "half \ud800 of a pair")
    child.add_tool(saying("x"), name="described", description="\udfff")
    child.resource("data://\ud800")(saying("x"))
    child.resource("data://fine")(saying("x"))
    child.prompt("p\udfff")(saying("x"))
    main = named("main", "own")
    main.mount(child, "c")
    async with open_runtime(main) as runtime, runtime.serve_http(port=0) as url:
        async with Client(url, mode=mode) as client:
            assert await tools_of(client) == ["own", "c_fine"]
            assert await resources_of(client) == ["data://c/fine"]
            assert await prompts_of(client) == []
            assert await said(client, "c_fine") == "child.fine"
            with refused(-32602, "Unknown tool: c_described"):
                await client.call_tool("c_described", {})
    left_out = [line for line in caplog.messages if "which cannot be written as JSON" in line]
    assert [line.partition(",")[0] for line in left_out[:2]] == [
        "left out of tools/list: 'half \\ud800 of a pair'",
        "left out of tools/list: 'described'",
    ]


class Opaque:
    """What has no place in JSON."""


@BOTH_ERAS
async def test_what_a_handler_returns_that_is_no_result_fails_its_own_call_only(mode: str) -> None:
    child = Server("child")

    async def opaque() -> types.CallToolResult:
        return types.CallToolResult(content=[], _meta={"x": Opaque()})

    async def wrong() -> int:
        return "no number"  # type: ignore[return-value]

    async def leaves() -> str:
        raise SystemExit("and takes the program with it")

    async def raises() -> str:
        raise ExceptionGroup("many", [ValueError("swordfish")])

    for handler in (opaque, wrong, leaves, raises):
        child.add_tool(handler, name=handler.__name__)
    main = named("main", "own")
    main.mount(child, "c")
    async with serving(main, mode) as (runtime, client):
        for name in ("opaque", "leaves"):
            with refused(-32603, r"c failed while answering tools/call \(\w+\); see its log"):
                await client.call_tool(f"c_{name}", {})
        for name in ("wrong", "raises"):
            result = await client.call_tool(f"c_{name}", {})
            assert (result.is_error, text_of(result)) == (True, f"Error executing tool {name}")
        assert await said(client, "own") == "main.own"
        assert {row.state for row in runtime.ps().children} == {"running"}
        assert [row.restarts for row in runtime.ps().children] == [0, 0]


@BOTH_ERAS
async def test_a_server_that_lists_rubbish_is_named_as_missing_and_costs_nobody_else(mode: str) -> None:
    async def no_list(ctx: Any, params: Any) -> Any:
        return 7

    async def bad_rows(ctx: Any, params: Any) -> Any:
        return {"tools": [{"name": "without a schema"}]}

    async def raises(ctx: Any, params: Any) -> Any:
        raise KeyError("x")

    main = named("main", "own")
    for name, handler in {"seven": no_list, "rows": bad_rows, "raises": raises}.items():
        main.mount(LowLevelServer(name, on_list_tools=handler), name)
    async with serving(main, mode) as (_, client):
        result = await client.list_tools(cache_mode="bypass")
        assert [tool.name for tool in result.tools] == ["own"]
        assert result.meta is not None
        assert [row["actor"] for row in result.meta["mcpactors/missing"]] == ["raises", "rows", "seven"]
        with refused(-32003, "no mount that is up has the tool 'seven_x', and seven, which may have it, cannot be"):
            await client.call_tool("seven_x", {})
        assert await said(client, "own") == "main.own"


# --- Nothing is left behind -----------------------------------------------------------------------------------------


async def test_an_import_that_fails_or_is_given_up_leaves_nothing_running(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lives: list[str] = []

    def source(seconds: float) -> Server:
        async def hold(ctx: Any, call_next: Any) -> Any:
            if ctx.method == "prompts/list":
                await trio.sleep(seconds)
                raise MCPError(-32603, "no list today")
            return await call_next(ctx)

        server = living("source", lives)
        server.middleware.append(hold)
        return server

    main = named("main", "own")
    async with serving(main) as (runtime, client):
        await trio.sleep(1)
        before = trio.lowlevel.current_statistics().tasks_living
        for importer in (main, runtime):
            with pytest.raises(MCPActorsError, match="no list today"):
                await importer.import_server(source(0), "i")
            with trio.move_on_after(0.5):
                await importer.import_server(source(1000), "i")
        await trio.sleep(5)  # what a source still answers is waited for
        assert sorted(lives) == ["source began"] * 4 + ["source ended"] * 4
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert await tools_of(client) == ["own"]


@pytest.mark.parametrize("way", ["mount", "handle", "import"])
async def test_what_is_unmounted_is_forgotten_however_often_that_happens(way: str) -> None:
    main, once_mounted = named("main", "own"), list[weakref.ref[Any]]()
    async with serving(main) as (_, client):
        kept = main.mount(named("kept", "x"), "k")

        async def mount_and_unmount() -> None:
            child = named("child", "x")
            child.mount(named("inner", "x"), "i")
            once_mounted.append(weakref.ref(child.mounts))
            if way == "import":
                handle = await main.import_server(child, "c")
            else:
                handle = await kept.mount(child, "c") if way == "handle" else main.mount(child, "c")
            assert len(await tools_of(client)) == 4
            await handle.unmount()
            await trio.testing.wait_all_tasks_blocked()

        for _ in range(10):
            await mount_and_unmount()
        gc.collect()
        assert sum(mounts() is not None for mounts in once_mounted) <= 5  # idle tasks still hold the last they did
        assert await tools_of(client) == ["own", "k_x"]

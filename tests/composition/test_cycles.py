"""One server in several places: cycles, two mounts of one (feature B8), and all ways together (B9, B16)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio
from mcp.server import MCPServer

from mcpactors import Server, create_proxy, open_runtime
from mcpactors.errors import MountCycle
from tests.backends.everything import make
from tests.composition.helpers import (
    BOTH_ERAS,
    living,
    named,
    read,
    refused,
    said,
    saying,
    serving,
    tools_of,
)

# --- B8: cycles, and one server in two places -------------------------------------------------------------------------


def _chain(*names: str) -> list[Server]:
    servers = [named(name, "x") for name in names]
    for parent, child in pairwise(servers):
        parent.mount(child, child.name)
    return servers


@pytest.mark.parametrize("depth", [1, 2, 5, 30])
@pytest.mark.parametrize("started", [False, True])
async def test_b8_a_cycle_of_any_depth_is_refused_with_its_path(depth: int, started: bool) -> None:
    names = [f"s{number}" for number in range(depth)]
    servers = _chain(*names)
    path = " -> ".join([names[-1], *names])

    def close() -> None:
        with pytest.raises(MountCycle, match=f"into itself: {path};"):
            servers[-1].mount(servers[0], "again")

    if not started:
        close()
    async with serving(servers[0]) as (_, client):
        if started:
            close()
        assert len(await tools_of(client)) == depth


@pytest.mark.parametrize("as_proxy", [False, True])
async def test_b8_a_cycle_through_a_proxy_of_a_server_is_refused_too(as_proxy: bool) -> None:
    a, b = named("a", "x"), named("b", "x")
    a.mount(b, "b", as_proxy=True)
    with pytest.raises(MountCycle, match="into itself: b -> a -> b"):
        b.mount(a, "a", as_proxy=as_proxy)
    with pytest.raises(MountCycle, match="into itself: b -> b"):
        b.mount(create_proxy(b))
    async with serving(a) as (_, client):
        assert await tools_of(client) == ["x", "b_x"]


async def test_b8_a_cycle_by_import_is_refused() -> None:
    a, b = named("a", "x"), named("b", "x")
    a.mount(b, "b")
    with pytest.raises(MountCycle, match="into itself: b -> a -> b"):
        await b.import_server(a)


async def test_b8_a_cycle_by_handles_is_refused_before_and_after_the_start() -> None:
    main, a, b = named("main"), named("a"), named("b")
    outer = main.mount(a, "a")
    async with open_runtime(main) as runtime:
        inner = await outer.mount(b, "b")
        for target, path in ((main, "main -> a -> b -> main"), (a, "a -> b -> a"), (b, "b -> b")):
            with pytest.raises(MountCycle, match=f"into itself: .*{path}"):
                await inner.mount(target, "again")
        with pytest.raises(MountCycle):
            await runtime.mount(main)
        with pytest.raises(MountCycle):
            await runtime.mount(runtime.server)
        assert len(runtime.ps().children) == 2


@BOTH_ERAS
async def test_b8_one_server_under_two_namespaces_has_one_lifespan(mode: str) -> None:
    lives: list[str] = []
    main, other, child = named("main"), named("other"), living("child", lives)
    main.mount(child, "a")
    main.mount(child, "b")
    other.mount(child, "deep")
    main.mount(other, "o")
    async with serving(main, mode) as (_, client):
        assert await tools_of(client) == ["a_whose", "b_whose", "o_deep_whose"]
        for name in ("a_whose", "b_whose", "o_deep_whose"):
            assert await said(client, name) == "child"
    assert lives == ["child began", "child ended"]


async def test_b8_one_sdk_server_and_a_wrapper_of_it_are_one_actor() -> None:
    plain: MCPServer[Any] = MCPServer("plain", log_level="CRITICAL")
    plain.add_tool(saying("x"), name="x")

    class Wrapped:
        _mcp_server = plain._lowlevel_server

    async with serving("main") as (runtime, client):
        await runtime.mount(Wrapped(), "a")
        await runtime.mount(Wrapped(), "b")
        assert await tools_of(client) == ["a_x", "b_x"]
        assert len({row.name for row in runtime.ps().children}) == 1


# --- B9, B16: all ways together ---------------------------------------------------------------------------------------


@BOTH_ERAS
async def test_b9_a_parent_mixes_its_own_mounted_imported_and_proxied_components(mode: str) -> None:
    main, mounted, imported = named("main", "own"), named("mounted", "x"), named("imported", "x")
    main.mount(mounted, "m")
    await main.import_server(imported, "i")
    main.mount(create_proxy(make()), "p")
    async with serving(main, mode) as (_, client):
        assert [name for name in await tools_of(client) if not name.startswith("p_")] == ["own", "m_x", "i_x"]
        assert await said(client, "own") == "main.own"
        assert await said(client, "m_x") == "mounted.x"
        assert await said(client, "i_x") == "imported.x"
        assert await said(client, "p_echo", text="hello") == "hello"
        assert await read(client, "doc://p/readme") == "read me"


@BOTH_ERAS
async def test_b16_a_child_has_its_lifespan_and_middleware_mounted_directly_or_as_a_proxy(mode: str) -> None:
    for as_proxy in (False, True):
        lives: list[str] = []
        seen: list[str] = []

        async def note(ctx: Any, call_next: Any, seen: list[str] = seen) -> Any:
            seen.append(ctx.method)
            return await call_next(ctx)

        child = living("child", lives)
        child.middleware.append(note)
        main = named("main")
        handle = main.mount(child, "c", as_proxy=as_proxy)
        async with serving(main, mode) as (_, client):
            assert await said(client, "c_whose") == "child"
            assert handle.info().kind == ("proxy" if as_proxy else "local")
        assert lives == ["child began", "child ended"]
        assert seen.count("tools/call") == 1


@BOTH_ERAS
@pytest.mark.parametrize("way", ["as_proxy", "create_proxy", "Server.as_proxy"])
async def test_b16_a_composed_server_mounted_as_a_proxy_shows_all_that_is_mounted_on_it(
    autojump_clock: trio.testing.MockClock, mode: str, way: str
) -> None:
    main, middle = named("main"), named("middle", "own", "hidden")
    middle.mount(named("inner", "x"), "i")
    middle.disable(names={"hidden"})
    if way == "as_proxy":
        main.mount(middle, "m", as_proxy=True)
    elif way == "create_proxy":
        main.mount(create_proxy(middle), "m")
    else:
        main.mount(Server.as_proxy(middle), "m")
    async with serving(main, mode) as (_, client):
        assert await tools_of(client) == ["m_own", "m_i_x"]
        assert await said(client, "m_i_x") == "inner.x"
        with refused(-32602, "Unknown tool"):
            await client.call_tool("m_hidden", {})
        middle.mount(named("late", "x"), "l")
        await trio.sleep(5)
        assert await tools_of(client) == ["m_own", "m_i_x", "m_l_x"]
        assert await said(client, "m_l_x") == "late.x"

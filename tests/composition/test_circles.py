"""Calls that would go round for ever: gateways below themselves, tools that call their own gateway (promise F40)."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from mcp.client import Client as SDKClient
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent

from mcpactors import Client, MountHandle, Runtime, RuntimeSettings, Server, create_proxy, open_runtime
from mcpactors.errors import INVALID_REQUEST, BackendStartError
from mcpactors.runtime.circles import GATEWAYS, gateways_of, with_gateways
from mcpactors.runtime.hops import HOPS, arrived, hops_of
from mcpactors.runtime.policy import Era

PATIENCE = 60.0


async def called(client: SDKClient, tool: str) -> str:
    """What a call of a tool says, its error included."""
    said = ""
    try:
        async with client:
            [content] = (await client.call_tool(tool, {})).content
            assert isinstance(content, TextContent)
            said = content.text
    except* MCPError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        said = str(error)
    return said


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("limit", [0, 1, 8])
async def test_f40_a_tool_that_calls_its_own_gateway_is_stopped_at_the_hop_limit(limit: int, mode: str) -> None:
    server, depth = MCPServer("round"), 0

    @server.tool()
    async def again() -> str:
        nonlocal depth
        depth += 1
        return await called(runtime.client(mode=mode), "again")

    async with open_runtime("main", settings=RuntimeSettings(hop_limit=limit)) as runtime:
        await runtime.mount(server)
        with trio.fail_after(PATIENCE):
            said = await called(runtime.client(mode=mode), "again")
    assert depth == limit + 1
    assert f"this call has come through {limit + 1} gateways already" in said


async def test_f40_it_is_counted_over_http_by_our_client_too() -> None:
    server, depth = Server("round"), 0

    @server.tool()
    async def again() -> str:
        nonlocal depth
        depth += 1
        return await called(Client(url), "again")

    async with open_runtime(server, settings=RuntimeSettings(hop_limit=3)) as runtime:
        async with runtime.serve_http(port=0) as url:
            with trio.fail_after(PATIENCE):
                said = await called(Client(url), "again")
    assert depth == 4
    assert "this call has come through 4 gateways already" in said


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_f40_each_gateway_on_the_way_counts_one(mode: str) -> None:
    server = MCPServer("last")

    @server.tool()
    async def hops(ctx: Context) -> str:
        meta = ctx.request_context.meta or {}
        return str(dict(meta).get(HOPS))

    async with open_runtime("c") as c, open_runtime("b") as b, open_runtime("a") as a:
        await c.mount(server)
        await b.mount(create_proxy(c))
        await a.mount(create_proxy(b))
        assert await called(a.client(mode=mode), "hops") == "2"
        assert await called(c.client(mode=mode), "hops") == "None"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_f40_what_a_and_b_hand_to_each_other_comes_to_an_end(mode: str) -> None:
    """Without namespaces each believes that the other may have a resource that is not listed."""
    settings = RuntimeSettings(list_budget=0.2)
    async with open_runtime("a", settings=settings) as a, open_runtime("b", settings=settings) as b:
        async with a.serve_http(port=0) as url_a, b.serve_http(port=0) as url_b:
            shown = MCPServer("shown")
            shown.resource("data://there", name="there")(lambda: "here")
            await b.mount(create_proxy(url_a))
            await a.mount(create_proxy(url_b))
            await a.mount(shown)
            with trio.fail_after(PATIENCE):
                for _ in range(3):
                    with pytest.raises(ExceptionGroup):
                        async with b.client(mode=mode) as client:
                            await client.read_resource("data://nowhere")


async def test_f40_a_server_cannot_be_mounted_below_itself() -> None:
    server = Server("self")
    async with open_runtime(server) as runtime:
        with pytest.raises(Exception, match="mount a server into itself"):
            await runtime.mount(server, namespace="again")


@pytest.mark.parametrize("rubbish", [-1, True, "8", 1.5, None, [], {}])
def test_a_hop_count_that_is_none_is_none(rubbish: Any) -> None:
    assert hops_of({"_meta": {HOPS: rubbish}}) == 0
    assert hops_of({"_meta": rubbish}) == 0


def test_eight_gateways_may_be_before_one_and_not_nine() -> None:
    params = {"_meta": {HOPS: 8}}
    assert arrived(params, 8) is params
    with pytest.raises(Exception, match="more than 8") as caught:
        arrived({"_meta": {HOPS: 9}}, 8)
    assert caught.value.code == INVALID_REQUEST  # type: ignore[attr-defined]
    assert RuntimeSettings().hop_limit == 8


# --- Lists carry no hops: a gateway takes no list that has come through itself ---------------------------------------


def offering(name: str) -> Server:
    """A server with one tool."""
    server = Server(name)

    @server.tool(name=name)
    async def say() -> str:
        return name

    return server


async def names_of(runtime: Runtime) -> list[str]:
    async with runtime.client() as client:
        return sorted(tool.name for tool in (await client.list_tools()).tools)


def why_down(handle: MountHandle) -> str:
    return str(handle.info().last_exit)


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_f40_a_gateway_that_has_its_own_url_as_a_backend_refuses_it_and_says_that_it_is_itself(era: Era) -> None:
    async with open_runtime(offering("own")) as runtime, runtime.serve_http(port=0) as url:
        with trio.fail_after(PATIENCE):
            handle = await runtime.mount(create_proxy(url, era=era), namespace="again")
            assert "again is this gateway itself" in why_down(handle)
            for _ in range(3):
                assert await names_of(runtime) == ["own"]


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_f40_of_two_gateways_over_http_the_one_that_would_close_the_circle_refuses_the_other(era: Era) -> None:
    async with open_runtime(offering("of_a")) as a, open_runtime(offering("of_b")) as b:
        async with a.serve_http(port=0) as url_a, b.serve_http(port=0) as url_b:
            with trio.fail_after(PATIENCE):
                down = await a.mount(create_proxy(url_b, era=era), namespace="b")
                assert await names_of(a) == ["b_of_b", "of_a"]
                up = await b.mount(create_proxy(url_a, era=era), namespace="a")
                assert "a has this gateway below itself" in why_down(up)
                for _ in range(3):
                    assert await names_of(a) == ["b_of_b", "of_a"]
                    assert await names_of(b) == ["of_b"]
                assert down.state == "running"
                await down.unmount()
                assert await names_of(a) == ["of_a"]
                await up.unmount()
                assert (await b.mount(create_proxy(url_a, era=era), namespace="a")).state == "running"
                assert await names_of(b) == ["a_of_a", "of_b"]


@pytest.mark.parametrize("gateways", [2, 3, 5])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_f40_a_circle_that_all_of_it_close_at_once_is_seen_by_what_is_listed(
    gateways: int, era: Era, autojump_clock: trio.testing.MockClock
) -> None:
    """When each looks at the next, that has nothing below itself yet: no start is refused."""
    async with AsyncExitStack() as stack:
        circle = [await stack.enter_async_context(open_runtime(offering(f"t{n}"))) for n in range(gateways)]
        handles: dict[int, MountHandle] = {}

        async def close(n: int) -> None:
            behind = circle[(n + 1) % gateways]
            handles[n] = await circle[n].mount(create_proxy(behind, era=era), namespace="next")

        async with trio.open_nursery() as nursery:
            for n in range(gateways):
                nursery.start_soon(close, n)
        for _ in range(100):
            assert max([len(await names_of(runtime)) for runtime in circle]) <= gateways
            await trio.sleep(2)
        [refused] = [handle for handle in handles.values() if handle.state != "running"]  # the rest is a line
        assert "has this gateway below itself" in why_down(refused)
        assert sorted([len(await names_of(runtime)) for runtime in circle]) == list(range(1, gateways + 1))


async def test_f40_a_copy_of_what_has_the_importing_gateway_below_itself_is_refused_too() -> None:
    async with open_runtime(offering("of_a")) as a, open_runtime(offering("of_b")) as b:
        await b.mount(create_proxy(a), namespace="a")
        assert await names_of(b) == ["a_of_a", "of_b"]
        with pytest.raises(BackendStartError, match="has this gateway below itself"):
            await a.import_server(create_proxy(b), namespace="b")
        assert await names_of(a) == ["of_a"]


async def test_f40_what_a_copy_has_come_through_is_known_of_it() -> None:
    async with open_runtime(offering("of_a")) as a, open_runtime(offering("of_b")) as b:
        await a.import_server(create_proxy(b), namespace="b")
        assert await names_of(a) == ["b_of_b", "of_a"]
        assert "has this gateway below itself" in why_down(await b.mount(create_proxy(a), namespace="a"))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_f40_who_does_not_ask_is_not_told_which_gateways_there_are(mode: str) -> None:
    async with open_runtime(offering("own")) as runtime, runtime.client(mode=mode) as client:
        listed = await client.list_tools()
        assert GATEWAYS not in (listed.meta or {})
        said = client.session.discover_result or client.session.initialize_result
        assert said is not None
        assert GATEWAYS not in (said.meta or {})


@pytest.mark.parametrize("rubbish", [None, True, "id", {"id": 1}, [1, None, ["id"], "x" * 65, ""]])
def test_rubbish_in_the_place_of_ids_says_nothing(rubbish: Any) -> None:
    assert gateways_of({"_meta": {GATEWAYS: rubbish}}) == ()
    assert gateways_of({"_meta": rubbish}) == ()


def test_our_own_id_comes_first_and_each_once() -> None:
    result = with_gateways({"tools": [], "_meta": {"kept": 1}}, "own", ["z", "own", "a", "a"])
    assert result == {"tools": [], "_meta": {"kept": 1, GATEWAYS: ["own", "a", "z"]}}
    assert len(gateways_of(with_gateways({}, "own", map(str, range(5000))))) == 1000

"""Calls that would go round for ever: gateways below themselves, tools that call their own gateway (promise F40)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from mcp.client import Client as SDKClient
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent

from mcpactors import Client, RuntimeSettings, Server, create_proxy, open_runtime
from mcpactors.errors import INVALID_REQUEST
from mcpactors.runtime.hops import HOPS, arrived, hops_of

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

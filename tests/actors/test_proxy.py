"""What a proxy does for its backend's catalog, through the public API: backends are SDK servers, the wire is real."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ToolsListChanged

from mcpactors import create_proxy, open_runtime


class Backend:
    """A server that lists its tools in pages, counts what it is asked, and can say that something changed."""

    def __init__(self, *, pages: int = 3, tells: bool = True, circular: bool = False) -> None:
        self.names = [f"tool{number}" for number in range(pages * 2)]
        self.lists = 0
        self.calls: list[str] = []
        self.circular = circular
        self.bus = InMemorySubscriptionBus()
        self.server: Server[Any] = Server(
            "paged",
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_subscriptions_listen=ListenHandler(self.bus) if tells else None,
        )

    async def _list(self, ctx: Any, params: Any) -> types.ListToolsResult:
        start = int(params.cursor) if params is not None and params.cursor else 0
        self.lists += start == 0
        tools = [types.Tool(name=name, input_schema={"type": "object"}) for name in self.names[start : start + 2]]
        more = start + 2 < len(self.names)
        cursor = "2" if self.circular else str(start + 2) if more else None
        return types.ListToolsResult(tools=tools, next_cursor=cursor)

    async def _call(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        self.calls.append(params.name)
        return types.CallToolResult(content=[types.TextContent(type="text", text=params.name)])


async def names(client: Client) -> list[str]:
    return [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]


async def test_a_backends_list_is_read_to_its_last_page() -> None:
    backend = Backend(pages=5)
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(backend.server), namespace="b")
        async with runtime.client() as client:
            assert await names(client) == [f"b_tool{number}" for number in range(10)]


async def test_a_backend_that_pages_in_circles_is_missing_and_says_why() -> None:
    backend = Backend(circular=True)
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(backend.server), namespace="b")
        async with runtime.client() as client:
            result = await client.list_tools()
            assert result.tools == []
            assert result.meta is not None
            [missing] = result.meta["mcpactors/missing"]
            assert missing["reason"] == "tools/list gives the same cursor twice: its list has no end"


async def test_a_catalog_is_fetched_once_however_many_ask_and_kept_until_it_changes() -> None:
    backend = Backend()
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(backend.server), namespace="b")
        async with runtime.client() as client:
            await trio.testing.wait_all_tasks_blocked(0.01)
            before = backend.lists
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(names, client)
            assert backend.lists - before <= 1
            for _ in range(5):
                await client.call_tool("b_tool1", {})
            assert backend.calls == ["tool1"] * 5
            assert backend.lists - before <= 1


async def test_a_change_that_the_backend_tells_is_listed_and_callable() -> None:
    backend = Backend()
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(backend.server), namespace="b")
        async with runtime.client() as client:
            assert "b_new" not in await names(client)
            await trio.testing.wait_all_tasks_blocked(0.01)
            backend.names.append("new")
            await backend.bus.publish(ToolsListChanged())
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert "b_new" in await names(client)
            await client.call_tool("b_new", {})
        assert backend.calls == ["new"]


async def test_a_backend_that_tells_nothing_is_asked_again_when_its_ttl_is_over() -> None:
    backend = Backend(tells=False)
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(backend.server), namespace="b")
        async with runtime.client() as client:
            assert "b_new" not in await names(client)
            backend.names.append("new")
            assert "b_new" in await names(client)


async def test_a_call_to_a_name_that_nobody_lists_does_not_reach_the_backend() -> None:
    backend = Backend()
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(backend.server), namespace="b")
        async with runtime.client() as client:
            with pytest.raises(MCPError, match="Unknown tool: b_other"):
                await client.call_tool("b_other", {})
    assert backend.calls == []

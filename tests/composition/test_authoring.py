"""Authoring with `Server` (features A1 to A3, A8), through a runtime and the SDK's client in both eras.

Routes are in test_routes.py, lifespans and contexts in test_contexts.py, middleware in test_middleware.py.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import mcp_types as types
import pytest
from mcp.server import MCPServer
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.resources import FunctionResource

from mcpactors import Server
from mcpactors.errors import InvalidParams, MountError
from tests.composition.helpers import (
    ABSENT,
    BOTH_ERAS,
    named,
    nothing,
    prompted,
    prompts_of,
    read,
    refused,
    resources_of,
    said,
    serving,
    templates_of,
    tools_of,
)

# --- A1: Server extends the SDK's MCPServer ------------------------------------------------------------------------


def test_a1_a_server_is_the_sdks_and_takes_its_options() -> None:
    server = Server("name", instructions="Use me.", version="1.2", title="Title", website_url="https://example.org")
    assert isinstance(server, MCPServer)
    assert (server.name, server.instructions, server.title, server.website_url) == (
        "name",
        "Use me.",
        "Title",
        "https://example.org",
    )
    assert server._lowlevel_server.version == "1.2"


def test_a1_constructing_a_server_does_not_touch_the_programs_logging() -> None:
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    for handler in kept:
        root.removeHandler(handler)
    try:
        Server("quiet")
        assert root.handlers == []
        assert root.level == level
    finally:
        for handler in kept:
            root.addHandler(handler)


def _complete() -> Server:
    server = Server("all")

    @server.tool
    async def bare(text: str) -> str:
        """Without parentheses."""
        return f"bare {text}"

    @server.tool()
    async def called(text: str) -> str:
        return f"called {text}"

    @server.tool("renamed", description="Said.")
    async def other(text: str) -> str:
        return f"other {text}"

    @server.resource("data://one")
    async def one() -> str:
        return "1"

    @server.resource("data://page/{number}")
    async def page(number: str) -> str:
        return f"page {number}"

    @server.prompt
    async def ask(about: str) -> str:
        return f"ask {about}"

    @server.prompt()
    async def beg(about: str) -> str:
        return f"beg {about}"

    @server.completion
    async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
        return types.Completion(values=[f"{argument.value}!"])

    return server


@BOTH_ERAS
async def test_a1_decorators_work_with_and_without_parentheses(mode: str) -> None:
    async with serving(_complete(), mode) as (_, client):
        listed = (await client.list_tools()).tools
        assert [tool.name for tool in listed] == ["bare", "called", "renamed"]
        assert [tool.description for tool in listed] == ["Without parentheses.", "", "Said."]
        assert [await said(client, tool.name, text="x") for tool in listed] == ["bare x", "called x", "other x"]
        assert await resources_of(client) == ["data://one"]
        assert await templates_of(client) == ["data://page/{number}"]
        assert (await read(client, "data://one"), await read(client, "data://page/7")) == ("1", "page 7")
        assert await prompts_of(client) == ["ask", "beg"]
        assert await prompted(client, "beg", about="x") == "beg x"
        found = await client.complete(types.PromptReference(name="ask"), {"name": "about", "value": "a"})
        assert found.completion.values == ["a!"]


def test_a1_a_decorated_function_stays_a_function() -> None:
    server = Server("x")

    @server.tool
    def tool() -> str:
        return "tool"

    @server.resource("data://x")
    def resource() -> str:
        return "resource"

    @server.prompt
    def prompt() -> str:
        return "prompt"

    assert (tool(), resource(), prompt()) == ("tool", "resource", "prompt")


def test_a1_a_resource_without_its_uri_is_refused_with_an_example() -> None:
    with pytest.raises(TypeError, match=r'@server.resource\("data://name"\)'):
        Server("x").resource(lambda: "x")  # type: ignore[arg-type]


async def test_a1_sync_functions_run_in_threads() -> None:
    server = Server("sync")
    threads: list[threading.Thread] = []

    @server.tool
    def tool() -> str:
        threads.append(threading.current_thread())
        return "tool"

    @server.resource("data://x")
    def resource() -> str:
        threads.append(threading.current_thread())
        return "resource"

    @server.prompt
    def prompt() -> str:
        threads.append(threading.current_thread())
        return "prompt"

    async with serving(server) as (_, client):
        assert await said(client, "tool") == "tool"
        assert await read(client, "data://x") == "resource"
        assert await prompted(client, "prompt") == "prompt"
    assert len(threads) == 3
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_a1_a_name_of_the_wrong_length_is_refused_with_the_reason(name: str) -> None:
    server = Server("x")
    with pytest.raises(InvalidParams, match=f"must have 1 to 128 characters, it has {len(name)}"):
        server.add_tool(lambda: "x", name=name)
    with pytest.raises(InvalidParams, match=f"must have 1 to 128 characters, it has {len(name)}"):
        server.add_prompt(Prompt.from_function(lambda: "x", name="y").model_copy(update={"name": name}))


async def test_a1_a_refused_component_changesnothing() -> None:
    server = named("x", "kept")
    with pytest.raises(InvalidParams):
        server.tool("y" * 200, enabled=False)(lambda: "x")
    with pytest.raises(ValueError, match="nclosed"):
        server.resource("data://{unclosed")(lambda: "x")
    with pytest.raises(ValueError, match="ismatch"):
        server.resource("data://{other}", tags={"a"}, enabled=False)(lambda number: "x")
    assert server.visibility.rules == ()
    async with serving(server) as (_, client):
        assert await tools_of(client) == ["kept"]
        assert await templates_of(client) == []


def test_a1_a_template_that_stands_for_the_same_uris_as_another_is_refused() -> None:
    server = Server("x")

    async def about(a: str) -> str:
        return a

    async def about_b(b: str) -> str:
        return b

    async def by_a(a: str = "") -> str:
        return a

    async def by_b(b: str = "") -> str:
        return b

    server.resource("data://{a}/x")(about)
    server.resource("data://{a}/x")(about)  # the same one anew
    with pytest.raises(InvalidParams, match=r"'data://\{b\}/x' stands for the same URIs as 'data://\{a\}/x'"):
        server.resource("data://{b}/x", enabled=False)
    assert server.visibility.rules == ()
    for other in ("data://{b}/y", "data://{+b}/x", "data://{b}"):
        server.resource(other)(about_b)
    server.resource("data://query{?a}")(by_a)
    server.resource("data://query{?b}")(by_b)
    server.remove_resource("data://{a}/x")
    server.resource("data://{b}/x")(about_b)


# --- A2: tags, enabled, meta ---------------------------------------------------------------------------------------


@BOTH_ERAS
async def test_a2_every_component_takes_tags_and_meta_which_travel_in_its_meta(mode: str) -> None:
    server = Server("tagged")
    server.tool(tags={"b", "a"}, meta={"x": 1})(nothing)
    server.resource("data://r", tags="one", meta={"x": 2})(nothing)
    server.resource("data://t/{a}", tags=["two"], meta={"x": 3})(_about)
    server.prompt(tags=("three",), meta={"x": 4})(nothing)
    async with serving(server, mode) as (_, client):
        listed: list[types.Tool | types.Resource | types.ResourceTemplate | types.Prompt] = [
            *(await client.list_tools()).tools,
            *(await client.list_resources()).resources,
            *(await client.list_resource_templates()).resource_templates,
            *(await client.list_prompts()).prompts,
        ]
        assert [item.meta for item in listed] == [
            {"x": 1, "mcpactors/tags": ["a", "b"]},
            {"x": 2, "mcpactors/tags": ["one"]},
            {"x": 3, "mcpactors/tags": ["two"]},
            {"x": 4, "mcpactors/tags": ["three"]},
        ]


async def _about(a: str) -> str:
    return a


@BOTH_ERAS
async def test_a2_what_is_not_enabled_is_neither_listed_nor_callable_until_it_is(mode: str) -> None:
    server = Server("off")
    server.tool("tool", enabled=False)(nothing)
    server.resource("data://r", enabled=False)(nothing)
    server.resource("data://t/{a}", enabled=False)(_about)
    server.prompt("prompt", enabled=False)(nothing)
    async with serving(server, mode) as (_, client):
        everything = (tools_of, resources_of, templates_of, prompts_of)
        assert [await listed(client) for listed in everything] == [[], [], [], []]
        with refused(-32602, "Unknown tool: tool"):
            await client.call_tool("tool", {})
        for uri in ("data://r", "data://t/x"):
            with refused(ABSENT[mode], f"Unknown resource: {uri}"):
                await client.read_resource(uri)
        with refused(-32602, "Unknown prompt: prompt"):
            await client.get_prompt("prompt")
        server.enable(names={"tool", "data://r", "data://t/{a}", "prompt"})
        assert [await listed(client) for listed in everything] == [
            ["tool"],
            ["data://r"],
            ["data://t/{a}"],
            ["prompt"],
        ]
        assert await said(client, "tool") == "nothing"
        assert await read(client, "data://t/x") == "x"


# --- A3: add and remove (the notices that follow are in test_changes.py) ---------------------------------------------


@BOTH_ERAS
async def test_a3_components_come_and_go_while_the_server_runs(mode: str) -> None:
    server = Server("live")
    async with serving(server, mode) as (_, client):
        server.add_tool(nothing, name="tool")
        server.add_resource(FunctionResource(uri="data://r", name="r", fn=nothing))
        server.resource("data://t/{a}")(_about)
        server.add_prompt(Prompt.from_function(nothing, name="prompt"))
        assert await tools_of(client) == ["tool"]
        assert await resources_of(client) == ["data://r"]
        assert await templates_of(client) == ["data://t/{a}"]
        assert await prompts_of(client) == ["prompt"]
        server.remove_tool("tool")
        server.remove_resource("data://r")
        server.remove_resource("data://t/{a}")
        server.remove_prompt("prompt")
        for listed in (tools_of, resources_of, templates_of, prompts_of):
            assert await listed(client) == []
        with refused(-32602, "Unknown tool: tool"):
            await client.call_tool("tool", {})
        with refused(ABSENT[mode], "Unknown resource: data://t/x"):
            await client.read_resource("data://t/x")


async def test_a3_a_prompt_that_is_added_anew_hasnothing_of_the_one_that_was_removed() -> None:
    server = Server("x")
    server.prompt("ask", tags={"old"}, meta={"x": 1})(nothing)
    server.remove_prompt("ask")
    server.add_prompt(Prompt.from_function(nothing, name="ask"))
    async with serving(server) as (_, client):
        [prompt] = (await client.list_prompts()).prompts
        assert prompt.meta is None


def test_a3_removing_what_is_not_there_says_so() -> None:
    server = Server("x")
    with pytest.raises(InvalidParams, match="no resource or template 'data://x' to remove"):
        server.remove_resource("data://x")


# --- A8: what others have written can be mounted -------------------------------------------------------------------


@BOTH_ERAS
async def test_a8_the_sdks_servers_and_what_wraps_one_are_mounted_unchanged(mode: str) -> None:
    plain: MCPServer[Any] = MCPServer("plain", log_level="CRITICAL")
    plain.add_tool(nothing, name="x")

    async def listed(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="x", input_schema={"type": "object"})])

    async def call(ctx: Any, params: Any) -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(text="low")])

    low = LowLevelServer("low", on_list_tools=listed, on_call_tool=call)

    class Wrapped:
        _mcp_server = low

    async with serving("main", mode) as (runtime, client):
        await runtime.mount(plain, "plain")
        await runtime.mount(low, "low")
        await runtime.mount(Wrapped(), "wrapped")
        assert await tools_of(client) == ["plain_x", "low_x", "wrapped_x"]
        assert [await said(client, tool) for tool in ("plain_x", "low_x", "wrapped_x")] == ["nothing", "low", "low"]


@pytest.mark.parametrize("target", [object(), None, 5, "http://127.0.0.1:1/mcp", print])
def test_a8_what_is_no_server_is_refused_and_the_error_says_what_is_one(target: object) -> None:
    server = Server("main")
    with pytest.raises(MountError, match=r"cannot be mounted: .* use create_proxy"):
        server.mount(target)
    assert len(server.mounts) == 0

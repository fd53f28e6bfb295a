"""Mirrored components and their local copies (features.md C7; seed 002 "Mirrored Components").

Copies call real backends: an SDK server in a process of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.shared.exceptions import MCPError

from mcpactors import MCPActorsError, RuntimeSettings, Server, ToolOverride, create_proxy, open_runtime
from mcpactors.errors import BackendStartError, InvalidParams, MirroredComponent, MountCycle, NameConflict, NotFound
from tests.seeds import seen

EVERYTHING = Path(__file__).parent.parent / "backends" / "everything.py"
PATIENCE = 60.0
"""Seconds for real processes; only a failing test waits so long."""


@asynccontextmanager
async def mirroring(running: bool = True) -> AsyncIterator[Server]:
    """A server that mirrors `everything.py`, run by a runtime or not yet."""
    proxy = Server.as_proxy(EVERYTHING)
    with trio.fail_after(PATIENCE):
        if not running:
            yield proxy
        else:
            async with open_runtime(proxy):
                yield proxy


def small() -> Server:
    """A server with one of each kind, with tags, as a backend in memory."""
    server = Server("Small")
    server.tool("say", title="Say", description="Says it", tags={"b"}, meta={"k": 1})(lambda text: f"said {text}")
    server.prompt("ask", description="Asks")(lambda: "asked")
    server.resource("data://info", name="info", description="Informs")(lambda: "informed")
    server.resource("data://{id}", name="by id")(lambda id: f"item {id}")
    return server


@pytest.mark.parametrize("running", [False, True], ids=["before the start", "while running"])
async def test_a_mirrored_component_is_what_the_backend_says(running: bool) -> None:
    async with mirroring(running) as proxy:
        tool = await proxy.get_tool("echo")
        assert (tool.component, tool.key, tool.name, tool.description) == ("tool", "echo", "echo", "Says the same.")
        assert tool.item["inputSchema"]["required"] == ["text"]
        resource = await proxy.get_resource("doc://readme")
        assert (resource.component, resource.key, resource.name) == ("resource", "doc://readme", "readme")
        template = await proxy.get_resource("doc://page/{number}")
        assert (template.component, template.key) == ("template", "doc://page/{number}")
        prompt = await proxy.get_prompt_component("review")
        assert (prompt.component, prompt.description) == ("prompt", "A prompt with an argument.")


async def test_mirrored_components_cannot_be_modified_directly() -> None:
    """Seed 002: "For example, you can not simply "disable" a mirrored component". The error says what can be done."""
    proxy = Server.as_proxy(small())
    for component, way in (
        (await proxy.get_tool("say"), "add_tool"),
        (await proxy.get_resource("data://info"), "add_resource"),
        (await proxy.get_resource("data://{id}"), "add_resource"),
        (await proxy.get_prompt_component("ask"), "add_prompt"),
    ):
        said = (
            rf"mirrored from .*; change a local copy: copy = {component.component}.copy\(\), then server.{way}\(copy\)"
        )
        for change in (
            component.disable,
            component.enable,
            lambda it=component: setattr(it, "description", "new"),
            lambda it=component: setattr(it, "tags", {"new"}),
            lambda it=component: setattr(it, "enabled", False),
        ):
            with pytest.raises(MirroredComponent, match=said):
                change()


async def test_a_mirrored_components_item_is_no_way_to_the_backends_own() -> None:
    proxy = Server.as_proxy(small())
    async with open_runtime(proxy) as runtime, runtime.client() as client:
        tool = await proxy.get_tool("say")
        tool.item["inputSchema"].clear()
        [listed] = (await client.list_tools()).tools
        assert listed.input_schema["required"] == ["text"]


@pytest.mark.parametrize("running", [False, True], ids=["before the start", "while running"])
async def test_a_copy_can_be_changed_and_added_to_ones_own_server(running: bool) -> None:
    """Seed 002: "you should first create a local copy and add it to your own server". Calls go on to the backend."""
    async with mirroring(running) as proxy:
        copy = (await proxy.get_tool("echo")).copy()
        copy.name, copy.description, copy.tags = "repeat", "Says it again.", {"mine"}
        mine = Server("Mine")
        mine.add_tool(copy)
        async with open_runtime(mine) as runtime, runtime.client() as client:
            [tool] = (await client.list_tools()).tools
            assert (tool.name, tool.description) == ("repeat", "Says it again.")
            assert tool.meta == {"mcpactors/tags": ["mine"]}
            assert await seen.call(client, "repeat", text="hello") == "hello"


async def test_local_components_always_take_precedence_over_mirrored_ones() -> None:
    """Seed 002: "Local components always take precedence", of each kind, whatever is mounted later."""
    backend = small()
    proxy = Server.as_proxy(backend)
    for component, add in (
        (await proxy.get_tool("say"), proxy.add_tool),
        (await proxy.get_resource("data://info"), proxy.add_resource),
        (await proxy.get_resource("data://{id}"), proxy.add_resource),
        (await proxy.get_prompt_component("ask"), proxy.add_prompt),
    ):
        add(component.copy(description="local"))
    for policy in ("newest", "oldest"):
        async with open_runtime(proxy, settings=RuntimeSettings(on_conflict=policy)) as runtime:
            later = await runtime.mount(create_proxy(small()))
            async with runtime.client() as client:
                await descriptions(client, "local", "local", "local", "local")
                assert await seen.call(client, "say", text="x") == "said x"
                assert await seen.prompted(client, "ask") == "asked"
                assert await seen.read(client, "data://info") == "informed"
                assert await seen.read(client, "data://7") == "item 7"
            await later.unmount()


async def descriptions(client: Any, *expected: str | None) -> None:
    [tool] = (await client.list_tools(cache_mode="bypass")).tools
    [prompt] = (await client.list_prompts(cache_mode="bypass")).prompts
    [resource] = (await client.list_resources(cache_mode="bypass")).resources
    [template] = (await client.list_resource_templates(cache_mode="bypass")).resource_templates
    assert tuple(each.description for each in (tool, prompt, resource, template)) == expected


async def test_where_conflicts_are_errors_a_copy_beside_its_mirror_is_one() -> None:
    """As a server's own component would be."""
    proxy = Server.as_proxy(small())
    proxy.add_tool((await proxy.get_tool("say")).copy())
    settings = RuntimeSettings(on_conflict="error")
    with pytest.RaisesGroup(NameConflict):
        async with open_runtime(proxy, settings=settings):
            pass


async def test_a_copy_that_is_disabled_hides_its_mirror_and_comes_back() -> None:
    """Seed 002: "to enable or disable a proxy tool, ... first create a local copy"; connected clients see it."""
    proxy = Server.as_proxy(small())
    tool = (await proxy.get_tool("say")).copy()
    resource = (await proxy.get_resource("data://info")).copy()
    async with open_runtime(proxy) as runtime, runtime.client() as client:
        proxy.add_tool(tool)
        proxy.add_resource(resource)
        for _ in range(2):
            tool.disable()
            resource.disable()
            assert await seen.tools(client) == []
            assert await seen.resources(client) == []
            with pytest.raises(MCPError, match="Unknown tool: say"):
                await client.call_tool("say", {"text": "x"})
            tool.enable()
            resource.enable()
            assert await seen.tools(client) == ["say"]
            assert await seen.call(client, "say", text="x") == "said x"
            assert await seen.read(client, "data://info") == "informed"


async def test_a_change_of_a_copy_is_seen_while_running_and_told_to_clients() -> None:
    proxy = Server.as_proxy(small())
    copy = (await proxy.get_tool("say")).copy()
    proxy.add_tool(copy)
    told = trio.Event()

    async def hear(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            told.set()

    async with open_runtime(proxy) as runtime, runtime.client(mode="legacy", message_handler=hear) as client:
        assert await seen.tools(client) == ["say"]
        copy.name = "tell"
        with trio.fail_after(PATIENCE):
            await told.wait()
        assert await seen.tools(client) == ["say", "tell"]
        copy.title = None
        copy.meta = {}
        copy.tags = "one"
        tool = (await client.list_tools(cache_mode="bypass")).tools[1]
        assert (tool.title, tool.meta) == (None, {"mcpactors/tags": ["one"]})
        assert await seen.call(client, "tell", text="x") == "said x"


async def test_a_removed_copy_shows_its_mirror_again() -> None:
    proxy = Server.as_proxy(small())
    for component, add in (
        (await proxy.get_tool("say"), proxy.add_tool),
        (await proxy.get_prompt_component("ask"), proxy.add_prompt),
        (await proxy.get_resource("data://info"), proxy.add_resource),
        (await proxy.get_resource("data://{id}"), proxy.add_resource),
    ):
        copy = component.copy(description="local", enabled=False)
        add(copy)
    async with open_runtime(proxy) as runtime, runtime.client() as client:
        assert not any((await seen.everything(client)).values())
        proxy.remove_tool("say")
        proxy.remove_prompt("ask")
        proxy.remove_resource("data://info")
        proxy.remove_resource("data://{id}")
        await descriptions(client, "Says it", "Asks", "Informs", "")
        assert len(proxy.mounts) == 1


async def test_a_newer_copy_of_the_same_name_takes_the_place_of_the_older() -> None:
    proxy = Server.as_proxy(small())
    tool = await proxy.get_tool("say")
    first, second = tool.copy(description="first"), tool.copy(description="second")
    for copy in (first, second, second):
        proxy.add_tool(copy)
    first.disable()
    async with open_runtime(proxy) as runtime, runtime.client() as client:
        [listed] = (await client.list_tools()).tools
        assert listed.description == "second"
        assert await seen.call(client, "say", text="x") == "said x"


async def test_what_is_mirrored_is_the_backends_also_where_a_copy_hides_it() -> None:
    proxy = Server.as_proxy(small())
    proxy.add_tool((await proxy.get_tool("say")).copy(description="local"))
    assert (await proxy.get_tool("say")).description == "Says it"


async def test_two_servers_can_have_one_copy() -> None:
    copy = (await Server.as_proxy(small()).get_tool("say")).copy()
    one, two, main = Server("One"), Server("Two"), Server("Main")
    for server in (one, two):
        server.add_tool(copy)
        main.mount(server, namespace=server.name.lower())
    async with open_runtime(main) as runtime, runtime.client() as client:
        copy.description = "changed"
        tools = (await client.list_tools(cache_mode="bypass")).tools
        assert {tool.name: tool.description for tool in tools} == {"one_say": "changed", "two_say": "changed"}
        assert await seen.call(client, "two_say", text="x") == "said x"


async def test_a_copy_of_what_has_a_namespace_and_overrides_keeps_them() -> None:
    """It is the component as this server shows it; a new name may lead out of the namespace."""
    parent = Server("Parent")
    fixed = ToolOverride(name="tell", fixed={"text": "always"})
    parent.mount(create_proxy(small()), namespace="api", tools={"say": fixed})
    with pytest.raises(NotFound, match="'say'"):
        await parent.get_tool("say")
    tool = await parent.get_tool("api_tell")
    assert tool.item["inputSchema"]["properties"] == {}
    copy = tool.copy(description="local")
    parent.add_tool(copy)
    prompt = (await parent.get_prompt_component("api_ask")).copy(description="local")
    parent.add_prompt(prompt)
    resource = (await parent.get_resource("data://api/info")).copy(description="local")
    parent.add_resource(resource)
    async with open_runtime(parent) as runtime, runtime.client() as client:
        for name in ("api_tell", "api_other", "other"):
            copy.name = name
            listed = {tool.name: tool for tool in (await client.list_tools(cache_mode="bypass")).tools}
            assert listed[name].description == "local"
            assert listed[name].input_schema["properties"] == {}
            assert await seen.call(client, name) == "said always"
        assert [each.description for each in (await client.list_prompts()).prompts] == ["local"]
        assert await seen.prompted(client, "api_ask") == "asked"
        assert await seen.read(client, "data://api/info") == "informed"


async def test_a_copys_call_is_forwarded_whole() -> None:
    """Progress, and a question to the caller, of a real backend."""
    reported: list[float] = []

    async def moved(progress: float, total: float | None, message: str | None) -> None:
        reported.append(progress)

    async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async with mirroring() as proxy:
        for name in ("count", "ask"):
            proxy.add_tool((await proxy.get_tool(name)).copy(name=f"my_{name}"))
        async with open_runtime(proxy) as runtime, runtime.client(elicitation_callback=elicit) as client:
            await client.call_tool("my_count", {"to": 3}, progress_callback=moved)
            assert reported == [1, 2, 3]
            assert (await seen.call(client, "my_ask")).startswith("Hello, Ada!")


async def test_a_copy_and_its_mirror_share_the_backends_process() -> None:
    proxy = Server.as_proxy(EVERYTHING)
    with trio.fail_after(PATIENCE):
        async with open_runtime(proxy) as runtime, runtime.client() as client:
            proxy.add_tool((await proxy.get_tool("history")).copy(name="past"))
            begun = trio.Event()

            async def moved(progress: float, total: float | None, message: str | None) -> None:
                begun.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(client.call_tool, "hang", progress_callback=moved))
                await begun.wait()
                nursery.cancel_scope.cancel()
            assert "hang" in await seen.call(client, "past")
            assert "hang" in await seen.call(client, "history")


async def test_what_is_not_mirrored_is_not_found_and_a_dead_backend_is_said_to_be() -> None:
    proxy = Server.as_proxy(small())
    proxy.add_tool(lambda: "own", name="own", description="own")
    for asked in (proxy.get_tool("nothing"), proxy.get_tool("own"), proxy.get_resource("data://x/y")):
        with pytest.raises(NotFound, match="nothing that is mounted here has the"):
            await asked
    proxy.mount(create_proxy({"command": "/no/such/program"}), namespace="dead")
    assert (await proxy.get_tool("say")).name == "say"
    with pytest.raises(BackendStartError, match="no such command"):
        await proxy.get_tool("dead_tool")


async def test_looking_at_a_mirror_leaves_nothing_running() -> None:
    proxy = Server.as_proxy(small())
    async with open_runtime(proxy) as runtime:
        before = runtime.ps()
        await proxy.get_tool("say")
        await trio.testing.wait_all_tasks_blocked()
        assert [row.name for row in runtime.ps().children] == [row.name for row in before.children]
        assert not runtime._forest.sources


async def test_changes_that_a_backend_could_not_follow_are_refused_and_change_nothing() -> None:
    proxy = Server.as_proxy(small())
    prompt = (await proxy.get_prompt_component("ask")).copy()
    tool = (await proxy.get_tool("say")).copy()
    with pytest.raises(InvalidParams, match="the name of a copied prompt cannot be changed"):
        prompt.name = "other"
    with pytest.raises(InvalidParams, match="the component of a copied tool"):
        tool.component = "prompt"
    with pytest.raises(InvalidParams, match="'say' is a tool: add it with add_tool"):
        proxy.add_prompt(tool)
    proxy.add_tool(tool)
    with pytest.raises(MCPActorsError):
        tool.name = ""
    assert tool.name == "say"
    async with open_runtime(proxy) as runtime, runtime.client() as client:
        assert await seen.tools(client) == ["say"]


async def test_a_copy_cannot_make_a_circle() -> None:
    inner = small()
    outer = Server("Outer")
    outer.mount(inner)
    copy = (await outer.get_tool("say")).copy()
    with pytest.raises(MountCycle):
        inner.add_tool(copy)
    assert len(inner.mounts) == 0

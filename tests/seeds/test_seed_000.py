"""Seed 000: "Server Composition and Proxying", a page about a 2.x release; its code blocks did not survive the copying.

Where 001 (3.0) says something else it wins, and the test says so: what is a `prefix` here is a `namespace` there.

section                                     tests below
Overview                                    three mechanisms; prefixing in each of them
Mount System Architecture                   delegation in real time; mount before and after the start
Import System Architecture                  copied once, part of the importing server; mount and import side by side
Proxy System Architecture                   transparent forwarding; the ways to create a proxy
Prefix Application Rules                    by kind of component, in each mechanism
Resource Prefix Utilities                   the table, row by row
Component Request Flow                      own, mounted, proxied: who answers
Advanced Composition Patterns               several levels, by mount and by import; mixed strategies, also with one down
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from mcpactors import (
    ProxyServer,
    Server,
    StdioServer,
    add_resource_prefix,
    create_proxy,
    has_resource_prefix,
    open_runtime,
    remove_resource_prefix,
)
from tests.backends.everything import make
from tests.seeds import seen

EVERYTHING = str(Path(__file__).parent.parent / "backends" / "everything.py")
PATIENCE = 60.0
"""Seconds for real processes and sockets; only a failing test waits so long."""
MECHANISMS = pytest.mark.parametrize("mechanism", ["mount", "import", "proxy"])


async def compose(parent: Server, child: Server, mechanism: str, namespace: str | None) -> None:
    if mechanism == "mount":
        parent.mount(child, namespace=namespace)
    elif mechanism == "import":
        await parent.import_server(child, namespace=namespace)
    else:
        parent.mount(create_proxy(child), namespace=namespace)


# --- Overview -----------------------------------------------------------------------------------------------------


@MECHANISMS
async def test_all_composition_methods_support_automatic_prefixing_of_component_names(mechanism: str) -> None:
    """Seed 000, Overview: "All composition methods support automatic prefixing"; Prefix Application Rules."""
    main = Server("Main")
    await compose(main, seen.one_of_each(), mechanism, "api")
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.AS_API
        await seen.answers_as_api(client)


@MECHANISMS
async def test_without_a_prefix_components_keep_their_names(mechanism: str) -> None:
    """Seed 000, Overview: prefixes are there "to avoid conflicts"; without conflict none is needed."""
    main = Server("Main")
    await compose(main, seen.one_of_each(), mechanism, None)
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.ONE_OF_EACH


# --- Mount System Architecture ------------------------------------------------------------------------------------


async def test_when_a_component_is_requested_the_parent_forwards_the_request_in_real_time() -> None:
    """Seed 000, Mount System Architecture: "forwards the request to the appropriate mounted server in real-time"."""
    now = {"value": "first"}
    child, main = Server("Child"), Server("Main")

    @child.tool
    def tool() -> str:
        return now["value"]

    @child.prompt
    def prompt() -> str:
        return now["value"]

    @child.resource("data://now")
    def resource() -> str:
        return now["value"]

    @child.resource("data://now/{id}")
    def template(id: str) -> str:
        return f"{id} {now['value']}"

    main.mount(seen.one_of_each(), namespace="other")
    main.mount(child, namespace="child")
    async with open_runtime(main) as runtime, runtime.client() as client:
        for value in ("second", "third"):
            now["value"] = value
            assert await seen.call(client, "child_tool") == value
            assert await seen.prompted(client, "child_prompt") == value
            assert await seen.read(client, "data://child/now") == value
            assert await seen.read(client, "data://child/now/7") == f"7 {value}"


async def test_mount_registers_child_servers_for_live_delegation() -> None:
    """Seed 000, Mount Method Implementation: "registers child servers for live delegation".

    Before the start and, at once, after it; the second positional argument is 2.x's prefix, 001's namespace.
    """
    main, before, after = Server("Main"), seen.one_of_each("Before"), seen.one_of_each("After")
    main.mount(before, "before")
    async with open_runtime(main) as runtime, runtime.client() as client:
        main.mount(after, "after")
        assert await seen.tools(client) == ["before_my_tool", "after_my_tool"]
        after.add_tool(lambda: "late", name="late", description="late")
        assert await seen.call(client, "after_late") == "late"


# --- Import System Architecture -----------------------------------------------------------------------------------


async def test_components_are_copied_once_at_import_time_and_become_part_of_the_importing_server() -> None:
    """Seed 000, Import System Architecture: "copied once at import time"; with what is mounted on the source."""
    source, inner, importing, outermost = Server("Source"), seen.one_of_each(), Server("Importing"), Server("Main")
    source.mount(inner)
    await importing.import_server(source, namespace="api")
    inner.remove_tool("my_tool")
    outermost.mount(importing)
    async with open_runtime(outermost) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.AS_API
        assert await seen.prompted(client, "api_my_prompt") == "prompt of Sub"
        assert await seen.read(client, "data://api/info") == "resource of Sub"


async def test_a_mount_sees_later_changes_and_an_import_does_not() -> None:
    """Seed 000, Import vs Mount Comparison (its diagram is lost): "live delegation" and "static copying"."""
    child, main = seen.one_of_each(), Server("Main")
    main.mount(child, namespace="live")
    await main.import_server(child, namespace="copy")
    child.add_tool(lambda: "later", name="later", description="later")
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.tools(client) == ["live_my_tool", "live_later", "copy_my_tool"]
        assert await seen.call(client, "live_later") == "later"
        assert await seen.call(client, "copy_my_tool") == "tool of Sub"
        with pytest.raises(MCPError, match="Unknown tool: copy_later"):
            await client.call_tool("copy_later")


async def test_what_is_imported_while_the_server_runs_is_there_at_once() -> None:
    """Seed 000, Import Method Implementation: `import_server` copies when it is called, not when serving begins."""
    main = Server("Main")
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.tools(client) == []
        await main.import_server(seen.one_of_each(), namespace="api")
        assert await seen.everything(client) == seen.AS_API
        await seen.answers_as_api(client)


# --- Proxy System Architecture ------------------------------------------------------------------------------------


async def plain(client: Client) -> list[Any]:
    """What a server answers, as on the wire, without who says so."""
    answers = [
        await client.list_tools(),
        await client.list_prompts(),
        await client.list_resources(),
        await client.list_resource_templates(),
        await client.call_tool("echo", {"text": "x"}),
        await client.call_tool("links", {}),
        await client.call_tool("fail", {}),
        await client.read_resource("file:///logo.png"),
        await client.read_resource("doc://page/7"),
        await client.get_prompt("review", {"code": "1+1"}),
        await client.complete(types.PromptReference(type="ref/prompt", name="review"), {"name": "code", "value": "a"}),
    ]
    return [
        answer.model_dump(by_alias=True, exclude={"meta", "ttl_ms", "cache_scope"}, exclude_none=True)
        for answer in answers
    ]


async def test_proxies_forward_transparently_to_remote_mcp_compliant_servers() -> None:
    """Seed 000, Proxy System Architecture: "act as transparent proxies to remote MCP-compliant servers".

    The same program, asked directly and through a proxy, gives the same answers. A real process.
    """
    remote = {"mcpServers": {"default": {"command": sys.executable, "args": [EVERYTHING]}}}
    with trio.fail_after(PATIENCE):
        async with Client(make()) as direct:
            expected = await plain(direct)
        async with open_runtime(Server.as_proxy(remote)) as runtime, runtime.client() as client:
            assert await plain(client) == expected


@pytest.mark.parametrize("way", ["as_proxy", "create_proxy", "ProxyServer"])
async def test_there_are_ways_to_create_a_proxy_server_short_and_explicit(way: str) -> None:
    """Seed 000, FastMCPProxy Creation Methods: "two ways": `as_proxy` and the class (here `ProxyServer`).

    001 has `create_proxy` in the place of `as_proxy`, and wins; all three are there. Real processes.
    """
    program = StdioServer(sys.executable, (EVERYTHING,))
    if way == "as_proxy":
        main = Server.as_proxy(program)
    else:
        main = Server("Main")
        main.mount(create_proxy(program) if way == "create_proxy" else ProxyServer(program, "everything"))
    with trio.fail_after(PATIENCE):
        async with open_runtime(main) as runtime, runtime.client() as client:
            assert await seen.call(client, "echo", text="through") == "through"
            assert await seen.read(client, "doc://page/7") == "page 7"


# --- Prefix Handling System ---------------------------------------------------------------------------------------


def test_add_resource_prefix_adds_a_prefix_to_a_resource_uri() -> None:
    """Seed 000, Resource Prefix Utilities: first row."""
    assert add_resource_prefix("data://users", "api") == "data://api/users"


def test_remove_resource_prefix_removes_a_prefix_from_a_uri() -> None:
    """Seed 000, Resource Prefix Utilities: second row."""
    assert remove_resource_prefix("data://api/users", "api") == "data://users"
    assert remove_resource_prefix("data://users", "api") == "data://users"


def test_has_resource_prefix_checks_if_a_uri_has_a_prefix() -> None:
    """Seed 000, Resource Prefix Utilities: third row."""
    assert has_resource_prefix("data://api/users", "api") is True
    assert has_resource_prefix("data://users", "api") is False
    assert has_resource_prefix("data://apis/users", "api") is False


# --- Component Request Flow ---------------------------------------------------------------------------------------


@MECHANISMS
async def test_requests_for_own_components_are_answered_before_those_of_children_are_looked_for(mechanism: str) -> None:
    """Seed 000, Component Request Flow (its diagram is lost): the server's own components, then those of children."""
    main, child = seen.one_of_each("Main"), seen.one_of_each("Child")
    child.add_tool(lambda: "of Child", name="more", description="more")
    await compose(main, child, mechanism, None)
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.tools(client) == ["my_tool", "more"]
        assert await seen.call(client, "my_tool") == "tool of Main"
        assert await seen.prompted(client, "my_prompt") == "prompt of Main"
        assert await seen.read(client, "data://info") == "resource of Main"
        assert await seen.call(client, "more") == "of Child"


# --- Advanced Composition Patterns --------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", ["mount", "import", "proxy"])
@pytest.mark.parametrize("inner", ["mount", "import"])
async def test_servers_can_be_composed_in_multiple_levels_with_prefixes_accumulating(outer: str, inner: str) -> None:
    """Seed 000, Multi-Level Composition: "with prefixes accumulating"; every mechanism within every other."""
    main, middle = Server("Main"), seen.one_of_each("Middle")
    await compose(middle, seen.one_of_each("Inner"), inner, "second")
    await compose(main, middle, outer, "first")
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.everything(client) == {
            "tools": ["first_my_tool", "first_second_my_tool"],
            "prompts": ["first_my_prompt", "first_second_my_prompt"],
            "resources": ["data://first/info", "data://first/second/info"],
            "templates": ["data://first/{id}", "data://first/second/{id}"],
        }
        assert await seen.call(client, "first_second_my_tool") == "tool of Inner"
        assert await seen.prompted(client, "first_second_my_prompt") == "prompt of Inner"
        assert await seen.read(client, "data://first/second/info") == "resource of Inner"
        assert await seen.read(client, "data://first/second/7") == "7 of Inner"
        assert await seen.read(client, "data://first/7") == "7 of Middle"


async def test_a_single_parent_can_use_multiple_composition_strategies_simultaneously() -> None:
    """Seed 000, Mixed Composition Strategies: own, mounted, imported, proxied in memory, over stdio and over HTTP."""
    main = seen.one_of_each("Main")
    main.mount(seen.one_of_each("Mounted"), namespace="mounted")
    await main.import_server(seen.one_of_each("Imported"), namespace="imported")
    main.mount(create_proxy(seen.one_of_each("Proxied")), namespace="proxied")
    main.mount(create_proxy({"command": sys.executable, "args": [EVERYTHING]}), namespace="process")
    with trio.fail_after(PATIENCE):
        async with open_runtime(seen.one_of_each("Remote")) as remote, remote.serve_http(port=0) as url:
            main.mount(create_proxy(url), namespace="remote")
            async with open_runtime(main) as runtime, runtime.client() as client:
                assert await seen.call(client, "my_tool") == "tool of Main"
                assert await seen.call(client, "process_echo", text="hello") == "hello"
                for name in ("Mounted", "Imported", "Proxied", "Remote"):
                    assert await seen.call(client, f"{name.lower()}_my_tool") == f"tool of {name}"
                    assert await seen.prompted(client, f"{name.lower()}_my_prompt") == f"prompt of {name}"
                    assert await seen.read(client, f"data://{name.lower()}/info") == f"resource of {name}"
                    assert await seen.read(client, f"data://{name.lower()}/7") == f"7 of {name}"


async def test_what_a_parent_cannot_reach_takes_nothing_else_from_it() -> None:
    """Seed 000, Mixed Composition Strategies, whose source is 2.x's test of mounts of which some cannot be reached."""
    main = Server("Main")
    main.mount(seen.one_of_each(), namespace="api")
    main.mount(create_proxy("http://127.0.0.1:9/mcp"), namespace="url")
    main.mount(create_proxy({"command": "no-such-program-anywhere"}), namespace="program")
    with trio.fail_after(PATIENCE):
        async with open_runtime(main) as runtime, runtime.client() as client:
            assert await seen.everything(client) == seen.AS_API
            await seen.answers_as_api(client)
            missing = (await client.list_tools(cache_mode="bypass")).meta or {}
            assert [row["actor"] for row in missing["mcpactors/missing"]] == ["program", "url"]

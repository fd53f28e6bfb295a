"""Seed 003: "Server Composition", a page of the 2.x documentation (under the name FlashMCP), cut off near its end.

Where 001 (3.0) says something else it wins, and the test says so: the order of `import_server`'s arguments, the word
`namespace` for `prefix`, the lifespan of mounted servers.

section                                     tests below
Server Composition, Why Compose Servers?    two methods; common utility servers
Importing vs Mounting                       the table, row by row
Proxy Servers                               proxies imported and mounted; from configuration dictionaries
Importing, How Importing Works              all components; names by kind; one-time; its lifespan; the arguments' order
Mounting, How Mounting Works                live link, dynamic updates, prefixed access, delegation; the same names
Direct vs. Proxy Mounting                   lifespan in both; as_proxy
Interaction with Proxy Servers              as_proxy() is always proxy mounting
Resource Prefix Formats                     both, by mount and by import
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError

from mcpactors import (
    RuntimeSettings,
    Server,
    add_resource_prefix,
    create_proxy,
    has_resource_prefix,
    open_runtime,
    parse_config,
    remove_resource_prefix,
)
from mcpactors.errors import MountError
from tests.seeds import seen

EVERYTHING = str(Path(__file__).parent.parent / "backends" / "everything.py")
PATIENCE = 60.0
"""Seconds for real processes and sockets; only a failing test waits so long."""


# --- Server Composition, Importing vs Mounting --------------------------------------------------------------------


async def test_composition_is_supported_through_importing_and_mounting() -> None:
    """Seed 003, first paragraph: "composition through two methods"."""
    main_mcp = Server("Main")
    await main_mcp.import_server(seen.one_of_each("Imported"), "imported")
    main_mcp.mount(seen.one_of_each("Mounted"), "mounted")
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert await seen.call(client, "imported_my_tool") == "tool of Imported"
        assert await seen.call(client, "mounted_my_tool") == "tool of Mounted"


async def test_common_utility_servers_are_reused_wherever_needed() -> None:
    """Seed 003, Why Compose Servers?: "mount them wherever needed"; in two servers that run at the same time."""
    text_processing, first, second = seen.one_of_each("Text"), Server("First"), Server("Second")
    first.mount(text_processing, "text")
    second.mount(text_processing)
    async with open_runtime(first) as one, open_runtime(second) as other:
        async with one.client() as client, other.client() as other_client:
            assert await seen.call(client, "text_my_tool") == "tool of Text"
            assert await seen.call(other_client, "my_tool") == "tool of Text"


@pytest.mark.parametrize("method", ["import_server", "mount"])
async def test_changes_to_the_subserver_are_reflected_when_mounted_and_not_when_imported(method: str) -> None:
    """Seed 003, Importing vs Mounting: rows "Composition Type" and "Updates"."""
    subserver, main_mcp = seen.one_of_each(), Server("Main")
    if method == "mount":
        main_mcp.mount(subserver, "api")
    else:
        await main_mcp.import_server(subserver, "api")
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.AS_API

        @subserver.tool
        def later() -> str:
            return "later"

        assert await seen.tools(client) == ["api_my_tool", *(["api_later"] if method == "mount" else [])]


# --- Proxy Servers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["import_server", "mount"])
async def test_proxies_are_fully_compatible_with_both_importing_and_mounting(method: str) -> None:
    """Seed 003, Proxy Servers: "fully compatible with both importing and mounting". A real process."""
    proxy = create_proxy({"command": sys.executable, "args": [EVERYTHING]})
    main_mcp = Server("Main")
    with trio.fail_after(PATIENCE):
        if method == "mount":
            main_mcp.mount(proxy, "all")
        else:
            await main_mcp.import_server(proxy, "all")
        async with open_runtime(main_mcp) as runtime, runtime.client() as client:
            assert "all_echo" in await seen.tools(client)
            assert await seen.prompts(client) == ["all_review"]
            assert await seen.resources(client) == ["doc://all/readme", "file://all//logo.png"]
            assert await seen.templates(client) == ["doc://all/page/{number}"]
            assert await seen.call(client, "all_echo", text="hello") == "hello"
            assert await seen.prompted(client, "all_review", code="1+1") == "Review: 1+1"
            assert await seen.read(client, "doc://all/readme") == "read me"
            assert await seen.read(client, "doc://all/page/7") == "page 7"


@pytest.mark.parametrize("way", ["create_proxy", "as_proxy"])
async def test_a_proxy_of_a_local_server_mirrors_it(way: str) -> None:
    """Seed 003, Proxy Servers: "mirror a local or remote server"; the remote one: seed 000's test."""
    main_mcp = Server("Main")
    local = seen.one_of_each()
    main_mcp.mount(create_proxy(local) if way == "create_proxy" else Server.as_proxy(local), "api")
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.AS_API
        await seen.answers_as_api(client)


async def test_a_proxy_is_created_from_a_configuration_dictionary_of_one_server() -> None:
    """Seed 003, Proxy Servers: "from configuration dictionaries that follow the MCPConfig schema". Over HTTP."""
    with trio.fail_after(PATIENCE):
        async with open_runtime(seen.one_of_each()) as remote, remote.serve_http(port=0) as url:
            config = {"mcpServers": {"default": {"url": url, "transport": "http"}}}
            async with open_runtime(Server.as_proxy(config)) as runtime, runtime.client() as client:
                assert await seen.everything(client) == seen.ONE_OF_EACH
                assert await seen.call(client, "my_tool") == "tool of Sub"


@pytest.mark.parametrize("way", ["dict", "parsed"])
async def test_a_proxy_is_created_from_a_configuration_of_more_remote_servers(way: str) -> None:
    """Seed 003, Proxy Servers: "one or more remote servers"; names are namespaces (seed 002). A process, HTTP."""
    with trio.fail_after(PATIENCE):
        async with open_runtime(seen.one_of_each()) as remote, remote.serve_http(port=0) as url:
            config: Any = {
                "mcpServers": {
                    "api": {"url": url, "transport": "http"},
                    "local": {"command": sys.executable, "args": [EVERYTHING]},
                    "off": {"command": "no-such-program-anywhere", "disabled": True},
                }
            }
            if way == "parsed":
                config = parse_config(config)
            main_mcp = Server("Main")
            main_mcp.mount(create_proxy(config), "both")
            async with open_runtime(main_mcp) as runtime, runtime.client() as client:
                assert {"both_api_my_tool", "both_local_echo"} <= set(await seen.tools(client))
                assert await seen.call(client, "both_api_my_tool") == "tool of Sub"
                assert await seen.call(client, "both_local_echo", text="hello") == "hello"
                assert await seen.read(client, "doc://both/local/page/7") == "page 7"
            async with open_runtime(Server.as_proxy(config)) as runtime, runtime.client() as client:
                assert await seen.call(client, "api_my_tool") == "tool of Sub"


# --- Importing (Static Composition) -------------------------------------------------------------------------------


async def test_import_server_copies_all_components_with_a_prefix() -> None:
    """Seed 003, Importing: "copies all components (tools, resources, templates, prompts)"."""
    main_mcp, subserver = Server("Main"), seen.one_of_each()
    await main_mcp.import_server(subserver, "api")
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.AS_API
        await seen.answers_as_api(client)


@pytest.mark.parametrize("kind", ["tools", "resources", "templates", "prompts"])
async def test_imported_components_have_the_documented_names(kind: str) -> None:
    """Seed 003, How Importing Works: "{prefix}_my_tool", "data://{prefix}/info"; a bullet a kind."""
    main_mcp = Server("Main")
    await main_mcp.import_server(seen.one_of_each(), "api")
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert (await seen.everything(client))[kind] == seen.AS_API[kind]


async def test_import_server_takes_the_server_first_and_then_the_namespace() -> None:
    """Seed 003, How Importing Works, has `import_server(prefix, subserver)`; 001 has the server first, and wins.

    Who has the old order gets an error that says what is wrong, and nothing has changed.
    """
    main_mcp, subserver = Server("Main"), seen.one_of_each()
    with pytest.raises(MountError, match="str cannot be mounted"):
        await main_mcp.import_server("api", subserver)  # type: ignore[arg-type]
    await main_mcp.import_server(subserver, namespace="api")
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.AS_API


async def test_import_server_performs_a_one_time_copy_of_components() -> None:
    """Seed 003, How Importing Works: "a one-time copy"; what the source has removed is listed still."""
    main_mcp, subserver = Server("Main"), seen.one_of_each()
    await main_mcp.import_server(subserver, "api")
    subserver.remove_prompt("my_prompt")
    subserver.add_tool(lambda: "later", name="later", description="later")
    subserver.resource("late://info", name="late")(lambda: "later")
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.AS_API
        with pytest.raises(MCPError, match="Unknown tool: api_later"):
            await client.call_tool("api_later")
        with pytest.raises(MCPError, match="was not there when this snapshot was taken"):
            await client.read_resource("late://api/info")


def living(lives: list[str]) -> Server:
    """A server that notes its lifespan, and has a tool that needs it."""

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[str]:
        lives.append("begins")
        yield "of the lifespan"
        lives.append("ends")

    server = Server("Living", lifespan=lifespan)

    @server.tool
    def value(ctx: Context) -> str:
        return str(ctx.request_context.lifespan_context)

    return server


async def test_the_main_server_does_not_execute_an_imported_servers_lifespan() -> None:
    """Seed 003, How Importing Works: "not executed by the main server".

    The source is no part of the main server's tree; it runs beside it, so that the copied tool has what it needs.
    """
    lives: list[str] = []
    main_mcp = Server("Main")
    await main_mcp.import_server(living(lives), "api")
    assert lives == ["begins", "ends"]  # it was started to be copied, and is over
    lives.clear()
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:

        def kinds(row: Any) -> set[str]:
            return {row.kind}.union(*map(kinds, row.children))

        assert await seen.tools(client) == ["api_value"]
        assert "snapshot" in kinds(runtime.ps())
        assert [row for row in map(str, names(runtime.ps())) if "Living" in row] == []
        assert await seen.call(client, "api_value") == "of the lifespan"
    assert lives == ["begins", "ends"]


def names(row: Any) -> list[str]:
    """The actors of a tree."""
    return [row.name, *(name for child in row.children for name in names(child))]


# --- Mounting (Live Linking) --------------------------------------------------------------------------------------


async def test_requests_for_components_matching_the_prefix_are_delegated_to_the_subserver_at_runtime() -> None:
    """Seed 003, How Mounting Works: "Live Link", "Prefixed Access", "Delegation"."""
    called: list[str] = []
    main_mcp, subserver, other = Server("Main"), Server("Sub"), Server("Other")
    for server in (subserver, other):

        @server.tool
        def greet(who: str, server: str = server.name) -> str:
            called.append(server)
            return f"{server} greets {who}"

    main_mcp.mount(subserver, "sub")
    main_mcp.mount(other, "other")
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert await seen.call(client, "sub_greet", who="Ada") == "Sub greets Ada"
        assert called == ["Sub"]
        assert await seen.call(client, "other_greet", who="Ada") == "Other greets Ada"
        assert called == ["Sub", "Other"]


async def test_changes_to_the_mounted_server_are_immediately_reflected_through_the_parent() -> None:
    """Seed 003, How Mounting Works: "Dynamic Updates"; of every kind, added and removed."""
    main_mcp, subserver = Server("Main"), Server("Sub")
    main_mcp.mount(subserver, "api")
    nothing: dict[str, list[str]] = {kind: [] for kind in seen.AS_API}
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert await seen.everything(client) == nothing

        @subserver.tool
        def my_tool() -> str:
            return "tool of Sub"

        @subserver.prompt
        def my_prompt() -> str:
            return "prompt of Sub"

        @subserver.resource("data://info")
        def info() -> str:
            return "resource of Sub"

        @subserver.resource("data://{id}")
        def by_id(id: str) -> str:
            return f"{id} of Sub"

        await seen.answers_as_api(client)
        assert await seen.everything(client) == seen.AS_API
        subserver.remove_tool("my_tool")
        subserver.remove_prompt("my_prompt")
        subserver.remove_resource("data://info")
        subserver.remove_resource("data://{id}")
        assert await seen.everything(client) == nothing
        with pytest.raises(MCPError, match="Unknown tool: api_my_tool"):
            await client.call_tool("api_my_tool")


async def test_mounting_names_components_by_the_same_rules_as_importing() -> None:
    """Seed 003, How Mounting Works (cut off): as for `import_server` "for naming tools, resources, templates"."""
    listed = []
    for importing in (False, True):
        main_mcp = Server("Main")
        if importing:
            await main_mcp.import_server(seen.one_of_each(), "api")
        else:
            main_mcp.mount(seen.one_of_each(), "api")
        async with open_runtime(main_mcp) as runtime, runtime.client() as client:
            listed.append(await seen.everything(client))
    assert listed == [seen.AS_API, seen.AS_API]


# --- Direct vs. Proxy Mounting ------------------------------------------------------------------------------------


def kind_of(row: Any, name: str) -> str:
    """What kind the actor of that name is."""
    if row.name == name:
        return str(row.kind)
    return next((kind for child in row.children if (kind := kind_of(child, name))), "")


@pytest.mark.parametrize("as_proxy", [False, True])
async def test_the_as_proxy_parameter_chooses_the_mounting_mode(as_proxy: bool) -> None:
    """Seed 003, Direct vs. Proxy Mounting: `as_proxy`; direct is the default."""
    main_mcp = Server("Main")
    if as_proxy:
        main_mcp.mount(seen.one_of_each(), "api", as_proxy=True)
    else:
        main_mcp.mount(seen.one_of_each(), "api")
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert kind_of(runtime.ps(), "api") == ("proxy" if as_proxy else "local")
        assert await seen.everything(client) == seen.AS_API
        await seen.answers_as_api(client)


@pytest.mark.parametrize("as_proxy", [False, True])
async def test_the_mounted_servers_lifespan_is_executed_in_both_modes(as_proxy: bool) -> None:
    """Seed 003, Direct vs. Proxy Mounting, has it "not executed" when direct; 001 has it "always", and wins."""
    lives: list[str] = []
    main_mcp = Server("Main")
    main_mcp.mount(living(lives), "api", as_proxy=as_proxy)
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert await seen.call(client, "api_value") == "of the lifespan"
        assert lives == ["begins"]
    assert lives == ["begins", "ends"]


async def test_mounting_a_server_made_by_as_proxy_always_uses_proxy_mounting() -> None:
    """Seed 003, Interaction with Proxy Servers: "will always use proxy mounting"."""
    main_mcp = Server("Main")
    main_mcp.mount(Server.as_proxy(seen.one_of_each()), "api")
    async with open_runtime(main_mcp) as runtime, runtime.client() as client:
        assert "proxy" in {kind_of(runtime.ps(), name) for name in names(runtime.ps())}
        assert await seen.everything(client) == seen.AS_API


# --- Resource Prefix Formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["import_server", "mount"])
@pytest.mark.parametrize(
    ("prefix_format", "infos", "templates"),
    [
        ("path", ["data://api/info", "data://api/deep/info"], ["data://api/{id}", "data://api/deep/{id}"]),
        ("protocol", ["api+data://info", "api+deep+data://info"], ["api+data://{id}", "api+deep+data://{id}"]),
    ],
)
async def test_two_different_formats_for_resource_prefixes_are_supported(
    prefix_format: Any, infos: list[str], templates: list[str], method: str
) -> None:
    """Seed 003, Resource Prefix Formats: "two different formats" (the rest is cut off).

    2.4's are "path" and "protocol". 001 knows the path format only, so that is the default. Tools and prompts are
    named alike in both.
    """
    main_mcp, subserver = Server("Main"), seen.one_of_each()
    subserver.mount(seen.one_of_each("Deep"), "deep")
    settings = RuntimeSettings(resource_prefix_format=prefix_format)
    async with open_runtime(main_mcp, settings=settings) as runtime, runtime.client() as client:
        if method == "mount":
            main_mcp.mount(subserver, "api")
        else:
            await main_mcp.import_server(subserver, "api")
        assert await seen.resources(client) == infos
        assert await seen.templates(client) == templates
        assert await seen.tools(client) == ["api_my_tool", "api_deep_my_tool"]
        for template, name in zip(templates, ("Sub", "Deep"), strict=True):
            assert await seen.read(client, template.replace("{id}", "7")) == f"7 of {name}"
        for uri, name in zip(infos, ("Sub", "Deep"), strict=True):
            assert await seen.read(client, uri) == f"resource of {name}"


async def protocol_after_import(subserver: Server) -> None:
    """What is imported before the start is listed and read in the format that the runtime then has."""
    main_mcp = Server("Main")
    await main_mcp.import_server(subserver, "api")
    settings = RuntimeSettings(resource_prefix_format="protocol")
    async with open_runtime(main_mcp, settings=settings) as runtime, runtime.client() as client:
        for uri in await seen.resources(client):
            assert uri.startswith("api+")
            assert (await seen.read(client, uri)).startswith("resource of")


async def test_what_was_imported_before_the_start_has_the_format_of_the_runtime() -> None:
    """Seed 003, Resource Prefix Formats: "When mounting or importing servers"."""
    await protocol_after_import(seen.one_of_each())


async def test_what_was_imported_before_the_start_of_a_composed_server_has_the_format_of_the_runtime() -> None:
    """Seed 003, Resource Prefix Formats: "When mounting or importing servers"; with mounts on the imported server."""
    composed = seen.one_of_each()
    composed.mount(seen.one_of_each("Deep"), "deep")
    await protocol_after_import(composed)


async def test_the_path_format_is_the_default() -> None:
    """Seed 003, Resource Prefix Formats; How Importing Works has "protocol://{prefix}/path", and 001's table, too."""
    assert RuntimeSettings().resource_prefix_format == "path"


def test_the_prefix_functions_know_both_formats() -> None:
    """Seed 003, Resource Prefix Formats, with seed 000's three functions."""
    for prefix_format, prefixed in (("path", "data://api/info"), ("protocol", "api+data://info")):
        assert add_resource_prefix("data://info", "api", prefix_format) == prefixed  # type: ignore[arg-type]
        assert has_resource_prefix(prefixed, "api", prefix_format)  # type: ignore[arg-type]
        assert remove_resource_prefix(prefixed, "api", prefix_format) == "data://info"  # type: ignore[arg-type]

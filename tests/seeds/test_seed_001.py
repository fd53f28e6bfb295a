"""Seed 001: the page "Mounting" of the 3.0 documentation; its examples run as they stand, but for the import.

Of the seeds with the same subject this is the latest: it wins over 000 and 003.

section                                     tests below
Mounting (first paragraph), Why Mount       all components; a utility server wherever needed
Basic Mounting                              the example
Mounting External Servers                   URL, script
Mounting npm/uvx Packages                   config dict (Python stands in for npx and uvx); transport classes
Namespacing, How Namespacing Works          the example; the table, row by row
Mounting vs Importing                       the table, row by row; live and static examples
Direct vs Proxy Mounting                    both modes; lifespan and middleware always
Tag Filtering                               the example; recursive; hidden is refused
Performance Considerations                  lists wait for all mounted servers, not for imported ones
Custom Routes                               the example, over a real socket
Conflict Resolution                         the example; same namespace; every kind
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError

from mcpactors import NpxStdioTransport, RuntimeSettings, Server, UvxStdioTransport, create_proxy, open_runtime
from tests.seeds import seen

EVERYTHING = str(Path(__file__).parent.parent / "backends" / "everything.py")
PATIENCE = 60.0
"""Seconds for real processes and sockets; only a failing test waits so long."""


# --- Mounting, Why Mount Servers, Basic Mounting ------------------------------------------------------------------


async def test_when_you_mount_a_server_all_its_components_become_available_through_the_parent() -> None:
    """Seed 001, first paragraph: "all its components become available"."""
    main = Server("MainApp")
    main.mount(seen.one_of_each())
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.ONE_OF_EACH
        assert await seen.call(client, "my_tool") == "tool of Sub"
        assert await seen.prompted(client, "my_prompt") == "prompt of Sub"
        assert await seen.read(client, "data://info") == "resource of Sub"
        assert await seen.read(client, "data://7") == "7 of Sub"


async def test_a_utility_server_can_be_mounted_wherever_needed() -> None:
    """Seed 001, Why Mount Servers: "Reusability". One server below two parents is still one actor."""
    utility, weather, calendar, main = seen.one_of_each(), Server("Weather"), Server("Calendar"), Server("Main")
    weather.mount(utility, namespace="util")
    calendar.mount(utility, namespace="util")
    main.mount(weather, namespace="weather")
    main.mount(calendar, namespace="calendar")
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.tools(client) == ["weather_util_my_tool", "calendar_util_my_tool"]
        assert await seen.call(client, "weather_util_my_tool") == "tool of Sub"
        assert await seen.call(client, "calendar_util_my_tool") == "tool of Sub"


async def test_mount_adds_another_servers_components_to_your_server() -> None:
    """Seed 001, Basic Mounting: the example."""
    # Create focused subservers
    weather_server = Server("Weather")

    @weather_server.tool
    def get_forecast(city: str) -> str:
        """Get weather forecast for a city."""
        return f"Sunny in {city}"

    @weather_server.resource("data://cities")
    def list_cities() -> list[str]:
        """List supported cities."""
        return ["London", "Paris", "Tokyo"]

    # Create main server and mount the subserver
    main = Server("MainApp")
    main.mount(weather_server)

    # Now main has access to get_forecast and data://cities
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.tools(client) == ["get_forecast"]
        assert await seen.resources(client) == ["data://cities"]
        assert await seen.call(client, "get_forecast", city="Rome") == "Sunny in Rome"
        assert "Tokyo" in await seen.read(client, "data://cities")


# --- Mounting External Servers, npm/uvx packages ------------------------------------------------------------------


async def test_urls_of_remote_http_servers_work_directly() -> None:
    """Seed 001, Mounting External Servers: "URLs work directly". A real socket."""
    with trio.fail_after(PATIENCE):
        async with open_runtime(seen.one_of_each()) as remote, remote.serve_http(port=0) as url:
            mcp = Server("Orchestrator")
            mcp.mount(create_proxy(url), namespace="api")
            async with open_runtime(mcp) as runtime, runtime.client() as client:
                assert await seen.everything(client) == seen.AS_API
                await seen.answers_as_api(client)


async def test_file_paths_of_local_python_scripts_work_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 001, Mounting External Servers: "file paths work directly". A real process."""
    (tmp_path / "my_server.py").write_text(
        "from mcp.server import MCPServer\n"
        "server = MCPServer('mine', log_level='CRITICAL')\n"
        "server.add_tool(lambda: 'from the script', name='hello', description='says where it is from')\n"
        "server.run('stdio')\n"
    )
    monkeypatch.chdir(tmp_path)
    mcp = Server("Orchestrator")
    mcp.mount(create_proxy("./my_server.py"), namespace="local")
    with trio.fail_after(PATIENCE):
        async with open_runtime(mcp) as runtime, runtime.client() as client:
            assert await seen.tools(client) == ["local_hello"]
            assert await seen.call(client, "local_hello") == "from the script"


async def test_npm_packages_and_python_tools_are_mounted_by_the_config_dict_format() -> None:
    """Seed 001, Mounting npm/uvx Packages: "use the config dict format". Real processes; Python for npx and uvx."""
    mcp = Server("Orchestrator")

    # Mount npm package via config
    github_config = {
        "mcpServers": {
            "default": {
                "command": sys.executable,
                "args": ["-u", EVERYTHING],
            }
        }
    }
    mcp.mount(create_proxy(github_config), namespace="github")

    # Mount Python tool via config
    sqlite_config = {
        "mcpServers": {
            "default": {
                "command": sys.executable,
                "args": [EVERYTHING, "--legacy"],
            }
        }
    }
    mcp.mount(create_proxy(sqlite_config), namespace="db")
    with trio.fail_after(PATIENCE):
        async with open_runtime(mcp) as runtime, runtime.client() as client:
            assert {"github_echo", "db_echo"} <= set(await seen.tools(client))
            assert await seen.call(client, "github_echo", text="one") == "one"
            assert await seen.call(client, "db_echo", text="two") == "two"
            assert await seen.read(client, "doc://github/page/7") == "page 7"
            assert await seen.prompted(client, "db_review", code="1+1") == "Review: 1+1"


def test_explicit_transport_classes_describe_npm_packages_and_python_tools() -> None:
    """Seed 001, Mounting npm/uvx Packages: "explicit transport classes"; the example. What they run stands beside.

    That such a transport reaches a real server: tests/composition/test_targets.py.
    """
    mcp = Server("Orchestrator")
    github = NpxStdioTransport(package="@modelcontextprotocol/server-github")
    db = UvxStdioTransport(tool_name="mcp-server-sqlite", tool_args=["--db", "data.db"])
    mcp.mount(create_proxy(github), namespace="github")
    mcp.mount(create_proxy(db), namespace="db")
    assert (github.stdio.command, github.stdio.args) == ("npx", ("-y", "@modelcontextprotocol/server-github"))
    assert (db.stdio.command, db.stdio.args) == ("uvx", ("mcp-server-sqlite", "--db", "data.db"))


# --- Namespacing --------------------------------------------------------------------------------------------------


async def test_namespaces_avoid_naming_conflicts_between_mounted_servers() -> None:
    """Seed 001, Namespacing: the example."""
    weather = Server("Weather")
    calendar = Server("Calendar")

    @weather.tool
    def get_data() -> str:
        return "Weather data"

    @calendar.tool  # type: ignore[no-redef]
    def get_data() -> str:  # noqa: F811
        return "Calendar data"

    main = Server("Main")
    main.mount(weather, namespace="weather")
    main.mount(calendar, namespace="calendar")

    # Tools are now:
    # - weather_get_data
    # - calendar_get_data
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.tools(client) == ["weather_get_data", "calendar_get_data"]
        assert await seen.call(client, "weather_get_data") == "Weather data"
        assert await seen.call(client, "calendar_get_data") == "Calendar data"
        assert runtime.conflicts() == ()


@pytest.mark.parametrize("kind", ["tools", "prompts", "resources", "templates"])
async def test_names_without_and_with_a_namespace_are_those_of_the_table(kind: str) -> None:
    """Seed 001, How Namespacing Works: the table, a row a kind."""
    for namespace, expected in ((None, seen.ONE_OF_EACH), ("api", seen.AS_API)):
        main = Server("Main")
        main.mount(seen.one_of_each(), namespace=namespace)
        async with open_runtime(main) as runtime, runtime.client() as client:
            assert (await seen.everything(client))[kind] == expected[kind]


async def test_what_is_namespaced_answers_by_its_namespaced_name_only() -> None:
    """Seed 001, How Namespacing Works: the names of the table are the names to use."""
    main = Server("Main")
    main.mount(seen.one_of_each(), namespace="api")
    async with open_runtime(main) as runtime, runtime.client() as client:
        await seen.answers_as_api(client)
        for asked in (client.call_tool("my_tool"), client.get_prompt("my_prompt"), client.read_resource("data://info")):
            with pytest.raises(MCPError, match="Unknown"):
                await asked


# --- Mounting vs Importing ----------------------------------------------------------------------------------------


async def test_mount_is_live_and_import_server_is_a_one_time_copy() -> None:
    """Seed 001, Mounting vs Importing: rows "Link Type" and "Updates". Additions and removals, of every kind."""
    source, main = seen.one_of_each(), Server("Main")
    main.mount(source, namespace="live")
    await main.import_server(source, namespace="copy")
    async with open_runtime(main) as runtime, runtime.client() as client:
        before = await seen.everything(client)
        source.remove_tool("my_tool")
        source.remove_prompt("my_prompt")
        source.remove_resource("data://info")
        source.remove_resource("data://{id}")
        source.add_tool(lambda: "new", name="new", description="new")
        after = await seen.everything(client)
    copies = {kind: [name for name in names if "copy" in name] for kind, names in before.items()}
    assert all(copies.values())
    assert after == {**copies, "tools": ["live_new", *copies["tools"]]}


async def test_listing_an_import_asks_nothing_of_its_source() -> None:
    """Seed 001, Mounting vs Importing: row "Performance": "Faster - no delegation".

    Here a list needs none, so a source that hangs changes nothing. A call runs in an actor of the source, in this
    process, which is not mounted: so the copied component keeps the lifespan that it needs.
    """
    hangs, go_on = False, trio.Event()

    async def hang(ctx: Any, call_next: Any) -> Any:
        if hangs and ctx.method == "tools/list":
            await go_on.wait()
        return await call_next(ctx)

    source, main = Server("Static", middleware=[hang]), Server("Main")
    source.add_tool(lambda: "here", name="where", description="says where")
    await main.import_server(source, namespace="static")
    hangs = True
    async with open_runtime(main, settings=RuntimeSettings(list_budget=PATIENCE)) as runtime:
        async with runtime.client() as client:
            with trio.fail_after(PATIENCE / 2):
                assert await seen.tools(client) == ["static_where"]
            go_on.set()
            assert await seen.call(client, "static_where") == "here"


async def test_a_tool_added_after_mounting_is_accessible_through_main() -> None:
    """Seed 001, Live Mounting: the example, with tools added before and after the start."""
    dynamic_server = Server("Dynamic")
    main = Server("Main")
    main.mount(dynamic_server, namespace="dynamic")

    # Add a tool AFTER mounting - it's accessible through main
    @dynamic_server.tool
    def added_later() -> str:
        return "Added after mounting!"

    # This works because mount() creates a live link
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.call(client, "dynamic_added_later") == "Added after mounting!"

        @dynamic_server.tool
        def added_even_later() -> str:
            return "Added after the start!"

        assert await seen.tools(client) == ["dynamic_added_later", "dynamic_added_even_later"]
        assert await seen.call(client, "dynamic_added_even_later") == "Added after the start!"


async def test_changes_to_an_imported_server_are_not_reflected_in_main() -> None:
    """Seed 001, Static Importing: the example."""
    static_server = Server("Static")
    static_server.add_tool(lambda: "first", name="first", description="first")
    main = Server("Main")

    async def setup() -> None:
        await main.import_server(static_server, namespace="static")

    await setup()

    # Changes to static_server after this point are NOT reflected in main
    static_server.add_tool(lambda: "later", name="later", description="later")
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.tools(client) == ["static_first"]
        assert await seen.call(client, "static_first") == "first"
        with pytest.raises(MCPError, match="Unknown tool: static_later"):
            await client.call_tool("static_later")


# --- Direct vs Proxy Mounting -------------------------------------------------------------------------------------


def noting(notes: list[str]) -> Server:
    """A server that notes the beginning and end of its lifespan and each method that its middleware sees."""

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[str]:
        notes.append("lifespan begins")
        yield "of the lifespan"
        notes.append("lifespan ends")

    async def middleware(ctx: Any, call_next: Any) -> Any:
        notes.append(ctx.method)
        return await call_next(ctx)

    server = Server("Sub", lifespan=lifespan, middleware=[middleware])

    @server.tool
    def value(ctx: Context) -> str:
        return str(ctx.request_context.lifespan_context)

    return server


@pytest.mark.parametrize("as_proxy", [False, True])
async def test_mounted_servers_always_have_their_lifespan_and_middleware_invoked(as_proxy: bool) -> None:
    """Seed 001, Proxy Mounting: "always have their lifespan and middleware invoked".

    Its own section "Direct Mounting" still says that the lifespan is not executed, as 003 does: what it calls the
    previous state. The newer sentence wins.
    """
    notes: list[str] = []
    main = Server("Main")
    main.mount(noting(notes), namespace="api", as_proxy=as_proxy)
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.call(client, "api_value") == "of the lifespan"
    assert notes.count("lifespan begins") == notes.count("lifespan ends") == 1
    assert "tools/call" in notes


async def test_direct_mounting_is_the_default_and_needs_no_client() -> None:
    """Seed 001, Direct Mounting: "No client lifecycle events", "direct method calls"."""
    notes: list[str] = []
    main = Server("Main")
    handle = main.mount(noting(notes), namespace="api")
    async with open_runtime(main) as runtime, runtime.client() as client:
        await seen.call(client, "api_value")
        assert handle.info().kind == "local"
    assert not {"initialize", "server/discover"} & set(notes)


@pytest.mark.parametrize("ours", [False, True])
async def test_proxy_mounting_brings_full_client_lifecycle_events_to_the_mounted_server(ours: bool) -> None:
    """Seed 001, Proxy Mounting: "Full client lifecycle events". On an SDK's server, and on ours.

    It says that this is the default by now; features.md B16 keeps the two modes apart: `as_proxy=True` asks for it.
    """
    notes: list[str] = []
    noted = noting(notes)
    server = noted if ours else MCPServer("Sub", middleware=[*noted.own_middleware], log_level="CRITICAL")
    main = Server("Main")
    main.mount(server, namespace="api", as_proxy=True)
    async with open_runtime(main) as runtime, runtime.client() as client:
        await seen.tools(client)
    assert {"initialize", "server/discover"} & set(notes)


async def test_proxy_mounting_communicates_by_a_client_over_memory() -> None:
    """Seed 001, Proxy Mounting: "via in-memory Client transport"."""
    main = Server("Main")
    handle = main.mount(seen.one_of_each(), namespace="api", as_proxy=True)
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert handle.info().kind == "proxy"
        await seen.answers_as_api(client)


async def test_a_proxy_server_is_created_explicitly_with_create_proxy() -> None:
    """Seed 001, Proxy Mounting: "use create_proxy()". It is the same as `as_proxy=True`."""
    main = Server("Main")
    main.mount(create_proxy(seen.one_of_each()), namespace="api")
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.AS_API
        await seen.answers_as_api(client)


@pytest.mark.parametrize("as_proxy", [False, True])
async def test_a_mounted_servers_own_mounts_and_filters_come_with_it_in_both_modes(as_proxy: bool) -> None:
    """Seed 001, Direct vs Proxy Mounting: the modes differ in how the server is spoken to, not in what it has."""
    main, middle, inner = Server("Main"), seen.one_of_each("Middle"), seen.one_of_each("Inner")
    middle.mount(inner, namespace="inner")
    middle.disable(names={"my_tool"})
    main.mount(middle, namespace="api", as_proxy=as_proxy)
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.tools(client) == ["api_inner_my_tool"]
        assert await seen.call(client, "api_inner_my_tool") == "tool of Inner"
        assert await seen.read(client, "data://api/inner/info") == "resource of Inner"


# --- Tag Filtering ------------------------------------------------------------------------------------------------


async def test_parent_tag_filters_apply_to_mounted_servers() -> None:
    """Seed 001, Tag Filtering: the example; what is hidden cannot be called either."""
    api_server = Server("API")

    @api_server.tool(tags={"production"})
    def prod_endpoint() -> str:
        return "Production data"

    @api_server.tool(tags={"development"})
    def dev_endpoint() -> str:
        return "Debug data"

    # Mount with production filter
    prod_app = Server("Production")
    prod_app.mount(api_server, namespace="api")
    prod_app.enable(tags={"production"}, only=True)

    # Only prod_endpoint (namespaced as api_prod_endpoint) is visible
    async with open_runtime(prod_app) as runtime, runtime.client() as client:
        assert await seen.tools(client) == ["api_prod_endpoint"]
        assert await seen.call(client, "api_prod_endpoint") == "Production data"
        with pytest.raises(MCPError, match="Unknown tool: api_dev_endpoint"):
            await client.call_tool("api_dev_endpoint")


@pytest.mark.parametrize("as_proxy", [False, True])
async def test_tag_filters_apply_recursively_and_to_every_kind_of_component(as_proxy: bool) -> None:
    """Seed 001, Tag Filtering: "apply recursively"; through a proxy as well."""
    inner, middle, main = Server("Inner"), Server("Middle"), Server("Main")
    for tag in ("production", "development"):
        inner.tool(tag, tags={tag})(lambda: "tool")
        inner.prompt(tag, tags={tag})(lambda: "prompt")
        inner.resource(f"data://{tag}", name=tag, tags={tag})(lambda: "resource")
        inner.resource(f"{tag}://{{id}}", name=tag, tags={tag})(lambda id: id)
    middle.mount(inner, namespace="inner", as_proxy=as_proxy)
    main.mount(middle, namespace="middle")
    main.enable(tags={"production"}, only=True)
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.everything(client) == {
            "tools": ["middle_inner_production"],
            "prompts": ["middle_inner_production"],
            "resources": ["data://middle/inner/production"],
            "templates": ["production://middle/inner/{id}"],
        }
        for asked in (
            client.call_tool("middle_inner_development"),
            client.get_prompt("middle_inner_development"),
            client.read_resource("data://middle/inner/development"),
            client.read_resource("development://middle/inner/7"),
        ):
            with pytest.raises(MCPError, match="Unknown"):
                await asked


# --- Performance Considerations -----------------------------------------------------------------------------------


async def test_lists_are_affected_by_the_performance_of_all_mounted_servers() -> None:
    """Seed 001, Performance Considerations: "affected by the performance of all mounted servers", up to a budget.

    That importing avoids it: `test_listing_an_import_asks_nothing_of_its_source`.
    """
    asked, go_on = trio.Event(), trio.Event()

    async def wait(ctx: Any, call_next: Any) -> Any:
        if ctx.method == "tools/list":
            asked.set()
            await go_on.wait()
        return await call_next(ctx)

    slow, main = Server("Slow", middleware=[wait]), Server("Main")
    slow.add_tool(lambda: "x", name="x", description="x")
    main.mount(slow, namespace="slow")
    main.mount(seen.one_of_each(), namespace="api")
    async with open_runtime(main, settings=RuntimeSettings(list_budget=PATIENCE)) as runtime:
        async with runtime.client() as client, trio.open_nursery() as nursery:
            listed: list[str] = []

            async def list_them() -> None:
                listed.extend(await seen.tools(client))

            nursery.start_soon(list_them)
            await asked.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert listed == []
            go_on.set()
        assert listed == ["slow_x", "api_my_tool"]


# --- Custom Routes ------------------------------------------------------------------------------------------------


async def test_custom_routes_are_forwarded_when_mounting() -> None:
    """Seed 001, Custom Routes: the example, asked over a real socket by another HTTP client."""
    subserver = Server("Sub")

    @subserver.custom_route("/health", methods=["GET"])
    async def health_check() -> dict[str, str]:
        return {"status": "ok"}

    main = Server("Main")
    main.mount(subserver, namespace="sub")

    # /health is now accessible through main's HTTP app
    with trio.fail_after(PATIENCE):
        async with open_runtime(main) as runtime, runtime.serve_http(port=0) as url, httpx.AsyncClient() as http:
            base = url.removesuffix("/mcp")
            answer = await http.get(f"{base}/health")
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
            assert (await http.post(f"{base}/health")).status_code == 405
            assert (await http.get(f"{base}/other")).status_code == 404


# --- Conflict Resolution ------------------------------------------------------------------------------------------


async def test_the_most_recently_mounted_server_takes_precedence() -> None:
    """Seed 001, Conflict Resolution: the example."""
    server_a = Server("A")
    server_b = Server("B")

    @server_a.tool
    def shared_tool() -> str:
        return "From A"

    @server_b.tool  # type: ignore[no-redef]
    def shared_tool() -> str:  # noqa: F811
        return "From B"

    main = Server("Main")
    main.mount(server_a)
    main.mount(server_b)

    # shared_tool returns "From B" (most recently mounted)
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.tools(client) == ["shared_tool"]
        assert await seen.call(client, "shared_tool") == "From B"


async def test_precedence_holds_for_every_kind_of_component_in_the_same_namespace() -> None:
    """Seed 001, Conflict Resolution: "with the same namespace"; the one mounted while running is the most recent."""
    main = Server("Main")
    main.mount(seen.one_of_each("A"), namespace="api")
    main.mount(seen.one_of_each("B"), namespace="api")
    async with open_runtime(main) as runtime, runtime.client() as client:
        assert await seen.everything(client) == seen.AS_API
        await seen.answers_as_api(client, "B")
        newest = main.mount(seen.one_of_each("C"), namespace="api")
        await newest.settled()
        await seen.everything(client)
        await seen.answers_as_api(client, "C")
        await newest.unmount()
        await seen.answers_as_api(client, "B")

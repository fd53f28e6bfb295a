"""The embedding API: `open_runtime`, `mount`, `client`, `ps`, on real SDK servers and the SDK's client, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from pydantic import FileUrl

from mcpactors import CallDeadlines, MCPActorsError, Runtime, RuntimeSettings, create_proxy, open_runtime
from mcpactors.errors import ConfigError, MountCycle, MountError, NamespaceError
from tests.backends.everything import make

BOTH_ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


def named(name: str, *tools: str) -> MCPServer[Any]:
    """A server whose tools say whose they are; async, for virtual time does not wait for threads."""
    server: MCPServer[Any] = MCPServer(name, log_level="CRITICAL")

    def saying(text: str) -> Any:
        async def say() -> str:
            return text

        return say

    for tool in tools:
        server.add_tool(saying(f"{name}.{tool}"), name=tool, description=tool)
    return server


async def tools_of(client: Client) -> list[str]:
    return [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]


async def said(client: Client, tool: str, arguments: dict[str, Any] | None = None, **options: Any) -> str:
    result = await client.call_tool(tool, arguments or {}, **options)
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))


def outermost(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


@pytest.fixture
def quiet() -> Iterator[None]:
    """The SDK says that elicitation's and logging's old means are deprecated; the old era has no others."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated as of 2026.*")
        yield


# --- Names --------------------------------------------------------------------------------------------------------


@BOTH_ERAS
async def test_a_mounted_server_is_called_by_its_namespace(mode: str) -> None:
    async with open_runtime("main") as runtime:
        await runtime.mount(named("weather", "get_data"), namespace="weather")
        await runtime.mount(named("calendar", "get_data"), namespace="calendar")
        async with runtime.client(mode=mode) as client:
            assert await tools_of(client) == ["weather_get_data", "calendar_get_data"]
            assert await said(client, "calendar_get_data") == "calendar.get_data"


@BOTH_ERAS
async def test_resources_templates_prompts_and_completions_carry_the_namespace(mode: str) -> None:
    async with open_runtime("main") as runtime:
        await runtime.mount(make(), namespace="all")
        async with runtime.client(mode=mode) as client:
            assert [r.uri for r in (await client.list_resources()).resources] == [
                "doc://all/readme",
                "file://all//logo.png",
            ]
            templates = (await client.list_resource_templates()).resource_templates
            assert [t.uri_template for t in templates] == ["doc://all/page/{number}"]
            [page] = (await client.read_resource("doc://all/page/7")).contents
            assert isinstance(page, types.TextResourceContents)
            assert (page.uri, page.text) == ("doc://all/page/7", "page 7")
            assert [p.name for p in (await client.list_prompts()).prompts] == ["all_review"]
            [message] = (await client.get_prompt("all_review", {"code": "1+1"})).messages
            assert isinstance(message.content, types.TextContent)
            assert message.content.text == "Review: 1+1"
            prompt = types.PromptReference(type="ref/prompt", name="all_review")
            template = types.ResourceTemplateReference(type="ref/resource", uri="doc://all/page/{number}")
            for ref in (prompt, template):
                found = await client.complete(ref, {"name": "code", "value": "a"})
                assert found.completion.values == ["a-completed"]


async def test_settings_and_a_port_that_are_none_are_refused_with_what_is_expected() -> None:
    wrong: Any = {"drain": 5}
    with pytest.raises(ConfigError, match=r"settings: expected RuntimeSettings\(\.\.\.\), got dict"):
        async with open_runtime(settings=wrong):
            pass
    wrong = "8000"
    async with open_runtime() as runtime:
        with pytest.raises(ConfigError, match=r"port: expected an integer .*, got '8000'"):
            async with runtime.serve_http(port=wrong):
                pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": -1}, "port: expected an integer from 0"),
        ({"host": 5}, "host: expected a name"),
        ({"allowed_hosts": "mcp.example.org"}, r"allowed_hosts: expected a list, .* \['mcp.example.org'\]"),
        ({"allowed_origins": "https://a.example"}, "allowed_origins: expected a list"),
        ({"ssl_context": "cert.pem"}, "ssl_context: expected an ssl.SSLContext"),
    ],
)
async def test_what_an_endpoint_cannot_be_served_with_is_said(options: dict[str, Any], said: str) -> None:
    async with open_runtime() as runtime:
        with pytest.raises(ConfigError, match=said):
            async with runtime.serve_http(**{"port": 0, **options}):
                pass


async def test_without_a_namespace_names_are_unchanged() -> None:
    async with open_runtime("main") as runtime:
        await runtime.mount(named("only", "x"))
        async with runtime.client() as client:
            assert await tools_of(client) == ["x"]


async def test_nested_mounts_accumulate_namespaces() -> None:
    async with open_runtime("main") as runtime:
        outer = await runtime.mount(named("outer", "x"), namespace="a")
        await outer.mount(named("inner", "x"), namespace="b")
        async with runtime.client() as client:
            assert await tools_of(client) == ["a_x", "a_b_x"]
            assert await said(client, "a_b_x") == "inner.x"


async def test_the_most_recently_mounted_server_wins_and_the_conflict_is_listed() -> None:
    async with open_runtime("main") as runtime:
        await runtime.mount(named("old", "shared"))
        await runtime.mount(named("new", "shared"))
        async with runtime.client() as client:
            assert await tools_of(client) == ["shared"]
            assert await said(client, "shared") == "new.shared"
        [conflict] = runtime.conflicts()
        assert (conflict.name, "new" in conflict.winner, "old" in conflict.shadowed) == ("shared", True, True)


async def test_the_servers_own_components_come_before_those_of_its_mounts() -> None:
    async with open_runtime(named("main", "shared")) as runtime:
        await runtime.mount(named("child", "shared", "more"))
        async with runtime.client() as client:
            assert await tools_of(client) == ["shared", "more"]
            assert await said(client, "shared") == "main.shared"


async def test_what_a_result_hands_out_can_be_read_back() -> None:
    async with open_runtime("main") as runtime:
        outer = await runtime.mount(named("outer"), namespace="a")
        await outer.mount(make(), namespace="b")
        async with runtime.client() as client:
            link, embedded = (await client.call_tool("a_b_links", {})).content
            assert isinstance(link, types.ResourceLink)
            assert isinstance(embedded, types.EmbeddedResource)
            for uri, text in ((link.uri, "read me"), (embedded.resource.uri, "page 7")):
                [contents] = (await client.read_resource(uri)).contents
                assert isinstance(contents, types.TextResourceContents)
                assert contents.text == text


async def test_a_tool_added_after_mounting_is_there_at_once() -> None:
    server = named("live", "first")
    async with open_runtime("main") as runtime:
        await runtime.mount(server, namespace="live")
        async with runtime.client() as client:
            assert await tools_of(client) == ["live_first"]
            server.add_tool(lambda: "later", name="later", description="later")
            assert await said(client, "live_later") == "later"
            assert await tools_of(client) == ["live_first", "live_later"]
            server.remove_tool("first")
            assert await tools_of(client) == ["live_later"]


# --- What travels while a call runs -------------------------------------------------------------------------------


@BOTH_ERAS
@pytest.mark.parametrize("proxied", [False, True])
async def test_progress_arrives_in_order_and_none_after_the_result(mode: str, proxied: bool) -> None:
    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(make()) if proxied else make(), namespace="all")
        async with runtime.client(mode=mode) as client:
            assert await said(client, "all_count", {"to": 20}, progress_callback=on_progress) == "counted to 20"
            arrived = list(steps)
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(arrived) == list(range(1, 21))
    assert steps == arrived
    if mode == "auto":  # over JSON-RPC the SDK's client starts a task a step, in no order
        assert steps == list(range(1, 21))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("mode", "level", "heard"), [("auto", "warning", 1), ("auto", None, 0), ("legacy", None, 3)])
async def test_log_lines_reach_the_caller_at_the_level_it_asked_for(mode: str, level: Any, heard: int) -> None:
    lines: list[Any] = []

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        lines.append(params.data)

    async with open_runtime("main") as runtime:
        await runtime.mount(make(), namespace="all")
        async with runtime.client(mode=mode, logging_callback=on_log, log_level=level) as client:
            await said(client, "all_log", {"lines": 1})
            await trio.testing.wait_all_tasks_blocked()
    assert len(lines) == heard


@pytest.mark.usefixtures("quiet")
async def test_set_level_is_kept_for_an_old_session() -> None:
    lines: list[Any] = []

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        lines.append(params.data)

    async with open_runtime("main") as runtime:
        await runtime.mount(make(), namespace="all")
        async with runtime.client(mode="legacy", logging_callback=on_log) as client:
            await client.set_logging_level("warning")
            await said(client, "all_log", {"lines": 2})
            await trio.testing.wait_all_tasks_blocked()
    assert lines == ["warning 0", "warning 1"]


async def elicit(context: Any, params: Any) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "Ada"})


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    return types.CreateMessageResult(
        role="assistant", model="thinker", content=types.TextContent(type="text", text="thought")
    )


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri=FileUrl("file:///home"))])


@pytest.mark.usefixtures("quiet")
async def test_a_tool_asks_the_client_that_called_it() -> None:
    async with open_runtime("main") as runtime:
        await runtime.mount(make(), namespace="all")
        answers = {"elicitation_callback": elicit, "sampling_callback": sample, "list_roots_callback": roots}
        async with runtime.client(mode="legacy", **answers) as client:
            assert await said(client, "all_greet") == "Hello, Ada!"
            assert await said(client, "all_think", {"about": "x"}) == "thinker: thought"
            assert await said(client, "all_where") == "file:///home"


@pytest.mark.usefixtures("quiet")
async def test_f38_a_client_that_declared_nothing_is_asked_nothing_and_nothing_hangs() -> None:
    async with open_runtime("main") as runtime:
        await runtime.mount(make(), namespace="all")
        async with runtime.client(mode="legacy") as client:
            with pytest.raises(MCPError, match="did not declare elicitation") as caught:
                await client.call_tool("all_greet", {})
            assert caught.value.code == -32021


async def test_a_modern_servers_input_required_is_passed_through_whole() -> None:
    rounds: list[Any] = []

    async def call(ctx: Any, params: types.CallToolRequestParams) -> Any:
        rounds.append((params.request_state, params.input_responses))
        if params.input_responses is None:
            ask = types.ElicitRequest(
                params=types.ElicitRequestFormParams(
                    message="Who?", requested_schema={"type": "object", "properties": {"name": {"type": "string"}}}
                )
            )
            return types.InputRequiredResult(input_requests={"who": ask}, request_state="state-1")
        answer = params.input_responses["who"]
        assert isinstance(answer, types.ElicitResult)
        assert answer.content is not None
        return types.CallToolResult(content=[types.TextContent(type="text", text=f"Hello, {answer.content['name']}")])

    async def listed(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="ask", input_schema={"type": "object"})])

    asking = Server("asking", on_call_tool=call, on_list_tools=listed)
    async with open_runtime("main") as runtime:
        await runtime.mount(asking, namespace="here")
        await runtime.mount(create_proxy(asking), namespace="there")
        async with runtime.client(elicitation_callback=elicit) as client:
            assert await said(client, "here_ask") == "Hello, Ada"
            assert await said(client, "there_ask") == "Hello, Ada"
    assert [state for state, _ in rounds] == [None, "state-1", None, "state-1"]


@BOTH_ERAS
@pytest.mark.parametrize("proxied", [False, True])
async def test_a_cancelled_call_is_cancelled_in_the_server(mode: str, proxied: bool) -> None:
    begun = trio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    server = make()
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(server) if proxied else server, namespace="all")
        async with runtime.client(mode=mode) as client, trio.open_nursery() as nursery:

            async def call() -> None:
                await client.call_tool("all_hang", {}, progress_callback=on_progress)

            nursery.start_soon(call)
            await begun.wait()
            nursery.cancel_scope.cancel()
        async with runtime.client(mode=mode) as client:
            assert await said(client, "all_history") == "hang\nhang ended"


# --- Actors' lives ------------------------------------------------------------------------------------------------


def counting(name: str, lives: list[str]) -> MCPServer[Any]:
    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[dict[str, str]]:
        lives.append(f"{name} started")
        yield {"of": name}
        lives.append(f"{name} ended")

    server: MCPServer[Any] = MCPServer(name, lifespan=lifespan, log_level="CRITICAL")
    server.add_tool(lambda: name, name="who", description="who")
    return server


async def test_a_lifespan_is_entered_once_an_actor_and_ended_by_unmount() -> None:
    lives: list[str] = []
    async with open_runtime("main") as runtime:
        kept = counting("kept", lives)
        await runtime.mount(kept, namespace="a")
        await runtime.mount(kept, namespace="b")
        gone = await runtime.mount(counting("gone", lives), namespace="c")
        async with runtime.client() as client:
            assert await tools_of(client) == ["a_who", "b_who", "c_who"]
            await gone.unmount()
            assert lives == ["kept started", "gone started", "gone ended"]
            assert gone.state == "stopped"
            assert await tools_of(client) == ["a_who", "b_who"]
            with pytest.raises(MCPError, match="Unknown tool: c_who"):
                await client.call_tool("c_who", {})
    assert lives == ["kept started", "gone started", "gone ended", "kept ended"]


async def test_a_child_that_cannot_start_changes_nothing_for_its_siblings(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts: list[float] = []

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[None]:
        attempts.append(trio.current_time())
        if len(attempts) < 3:
            raise RuntimeError("the database is not there yet")
        yield

    flaky: Server[Any] = Server("flaky", lifespan=lifespan, on_list_tools=_no_tools)
    async with open_runtime("main") as runtime:
        broken = await runtime.mount(flaky, namespace="flaky")
        await runtime.mount(named("fine", "x"), namespace="fine")
        assert broken.state == "backoff"
        async with runtime.client() as client:
            result = await client.list_tools()
            assert [tool.name for tool in result.tools] == ["fine_x"]
            assert result.meta is not None
            [missing] = result.meta["mcpactors/missing"]
            assert missing["actor"] == "flaky"
            assert "the database is not there yet" in missing["reason"]
            assert await said(client, "fine_x") == "fine.x"
            with pytest.raises(MCPError, match=r"flaky is down for .* the database is not there yet") as caught:
                await client.call_tool("flaky_anything", {})
            assert caught.value.code == -32003
            await trio.sleep(5)
            assert await broken.settled() == "running"
            assert "mcpactors/missing" not in ((await client.list_tools(cache_mode="bypass")).meta or {})
        assert broken.info().restarts == 2


async def _no_tools(ctx: Any, params: Any) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[])


async def test_a_list_waits_for_a_hanging_child_no_longer_than_the_budget(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def hang(ctx: Any, params: Any) -> types.ListToolsResult:
        await trio.sleep_forever()
        raise AssertionError

    async with open_runtime("main", settings=RuntimeSettings(list_budget=2.0)) as runtime:
        for number in range(5):
            await runtime.mount(Server(f"hanging{number}", on_list_tools=hang), namespace=f"h{number}")
        await runtime.mount(named("fine", "x"), namespace="fine")
        async with runtime.client() as client:
            begun = trio.current_time()
            result = await client.list_tools()
            assert trio.current_time() - begun == pytest.approx(2.0)
            assert [tool.name for tool in result.tools] == ["fine_x"]
            assert result.meta is not None
            assert [row["actor"] for row in result.meta["mcpactors/missing"]] == [f"h{n}" for n in range(5)]


async def test_a_call_without_a_sign_of_life_times_out_and_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = make()
    settings = RuntimeSettings(deadlines=CallDeadlines(idle=30, total=300))
    async with open_runtime("main", settings=settings) as runtime:
        await runtime.mount(server, namespace="all")
        async with runtime.client() as client:
            with pytest.raises(MCPError, match="no sign of life for 30 s") as caught:
                await client.call_tool("all_hang", {})
            assert caught.value.code == -32001
            assert await said(client, "all_history") == "hang\nhang ended"


async def test_an_import_is_a_copy_that_later_changes_do_not_reach() -> None:
    server = named("static", "first")
    async with open_runtime("main") as runtime:
        await runtime.import_server(server, namespace="copy")
        server.add_tool(lambda: "later", name="later", description="later")
        async with runtime.client() as client:
            assert await tools_of(client) == ["copy_first"]
            assert await said(client, "copy_first") == "static.first"
            with pytest.raises(MCPError, match="Unknown tool: copy_later"):
                await client.call_tool("copy_later", {})
        assert [(row.name, row.kind) for row in runtime.ps().children] == [("copy", "snapshot")]


async def test_ps_is_a_frozen_snapshot_of_the_tree() -> None:
    async with open_runtime("main") as runtime:
        outer = await runtime.mount(named("outer", "x"), namespace="outer")
        await outer.mount(create_proxy(named("inner", "y")), namespace="inner")
        async with runtime.client() as client:
            await client.call_tool("outer_x", {})
        root = runtime.ps()
        [row] = root.children
        assert (root.name, root.kind, root.state) == ("main", "router", "running")
        assert (row.name, row.kind, row.state, row.restarts, row.in_flight) == ("outer", "local", "running", 0, 0)
        assert (row.children[0].name, row.children[0].kind) == ("outer/inner", "proxy")
        assert row.last_exit is None
        assert row.mailbox.waiting == 0
        counts = dict(row.accounting)
        assert counts["accepted"] == counts["answered"] > 0
        with pytest.raises(AttributeError):
            row.state = "stopped"  # type: ignore[misc]


# --- Bad input ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(mode: str) -> AsyncIterator[tuple[Runtime, Client]]:
    async with open_runtime("main") as runtime:
        await runtime.mount(make(), namespace="all")
        async with runtime.client(mode=mode) as client:
            yield runtime, client
            assert await said(client, "all_echo", {"text": "nothing else was lost"}) == "nothing else was lost"


@BOTH_ERAS
async def test_an_unknown_tool_prompt_or_resource_is_named_in_the_error(mode: str) -> None:
    async with serving(mode) as (_, client):
        with pytest.raises(MCPError, match="Unknown tool: all_nope") as caught:
            await client.call_tool("all_nope", {})
        assert (caught.value.code, caught.value.data) == (-32602, {"name": "all_nope"})
        with pytest.raises(MCPError, match="Unknown prompt: nope"):
            await client.get_prompt("nope")
        with pytest.raises(MCPError, match="Unknown resource: nowhere://x") as caught:
            await client.read_resource("nowhere://x")
        assert (caught.value.code, caught.value.data) == (-32602 if mode == "auto" else -32002, {"uri": "nowhere://x"})


@BOTH_ERAS
@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("tools/call", {}, "tools/call needs params.name: a string that is not empty, got nothing"),
        ("tools/call", {"name": 5}, "tools/call needs params.name: a string that is not empty, got 5 (int)"),
        (
            "tools/call",
            {"name": "x", "arguments": [1]},
            "tools/call takes params.arguments as an object, got [1] (list)",
        ),
        ("resources/read", {}, "resources/read needs params.uri: a string that is not empty, got nothing"),
        ("tools/list", {"cursor": "x"}, "this cursor is not one that this list gave; list again without a cursor"),
    ],
)
async def test_malformed_params_get_an_error_that_says_what_was_expected(
    mode: str, method: str, params: dict[str, Any], message: str
) -> None:
    async with serving(mode) as (_, client):
        meta = {} if mode == "legacy" else {"_meta": _envelope(client)}
        with pytest.raises(MCPError) as caught:
            await client.session._dispatcher.send_raw_request(method, {**params, **meta})
        assert caught.value.code == -32602
        assert caught.value.message == message


def _envelope(client: Client) -> dict[str, Any]:
    return {
        types.PROTOCOL_VERSION_META_KEY: client.protocol_version,
        types.CLIENT_INFO_META_KEY: {"name": "test", "version": "1"},
        types.CLIENT_CAPABILITIES_META_KEY: {},
    }


@BOTH_ERAS
async def test_an_unknown_method_is_method_not_found(mode: str) -> None:
    async with serving(mode) as (_, client):
        meta = {} if mode == "legacy" else {"_meta": _envelope(client)}
        for method in ("no/such", "resources/subscribe" if mode == "auto" else "subscriptions/listen"):
            with pytest.raises(MCPError) as caught:
                await client.session._dispatcher.send_raw_request(method, {"uri": "doc://all/readme", **meta})
            assert caught.value.code == -32601


@pytest.mark.parametrize("namespace", ["", "_x", "a b", "a/b", "ä", "a" * 65, "-"])
async def test_a_namespace_with_illegal_characters_is_refused(namespace: str) -> None:
    async with serving("auto") as (runtime, _):
        with pytest.raises(NamespaceError, match="cannot be used: it must start with a letter or digit") as caught:
            await runtime.mount(named("x"), namespace=namespace)
        assert caught.value.code == -32602
        assert len(runtime.ps().children) == 1


async def test_mounting_a_server_into_itself_is_refused_with_the_path() -> None:
    main, a, b = named("main"), named("a"), named("b")
    async with open_runtime(main) as runtime:
        outer = await runtime.mount(a, namespace="a")
        inner = await outer.mount(b, namespace="b")
        for target in (main, a, b, runtime.server):
            with pytest.raises(MountCycle, match=r"into itself: .* -> ") as caught:
                await inner.mount(target, namespace="again")
            assert caught.value.code == -32602
        with pytest.raises(MountCycle):
            await runtime.mount(main)


async def test_what_is_no_server_cannot_be_mounted_and_the_error_says_what_can() -> None:
    async with serving("auto") as (runtime, _):
        for target in (object(), 5, "http://127.0.0.1:1/mcp"):
            with pytest.raises(MountError, match=r"use create_proxy\(\.\.\.\)"):
                await runtime.mount(target)


@pytest.mark.parametrize(
    "target", ["no-url", "missing.py", {"url": 5}, {"mcpServers": {}}, {"command": "x", "url": "y"}]
)
async def test_create_proxy_says_what_is_wrong_with_its_target(target: Any) -> None:
    with pytest.raises(MCPActorsError):
        create_proxy(target)

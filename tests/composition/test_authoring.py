"""Authoring with `Server` (features A1 to A8), through a runtime and the SDK's client in both eras."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import mcp_types as types
import pytest
from mcp.server import MCPServer
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.resources import FunctionResource
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, FileUrl

from mcpactors import MCPActorsError, Runtime, Server, open_runtime, session_state
from mcpactors.errors import InvalidParams, MountError
from tests.composition.helpers import (
    ABSENT,
    BOTH_ERAS,
    OLD_MEANS,
    living,
    named,
    prompted,
    prompts_of,
    read,
    refused,
    resources_of,
    said,
    saying,
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


async def test_a1_a_refused_component_changes_nothing() -> None:
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
    server.tool(tags={"b", "a"}, meta={"x": 1})(_nothing)
    server.resource("data://r", tags="one", meta={"x": 2})(_nothing)
    server.resource("data://t/{a}", tags=["two"], meta={"x": 3})(_about)
    server.prompt(tags=("three",), meta={"x": 4})(_nothing)
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


async def _nothing() -> str:
    return "nothing"


async def _about(a: str) -> str:
    return a


@BOTH_ERAS
async def test_a2_what_is_not_enabled_is_neither_listed_nor_callable_until_it_is(mode: str) -> None:
    server = Server("off")
    server.tool("tool", enabled=False)(_nothing)
    server.resource("data://r", enabled=False)(_nothing)
    server.resource("data://t/{a}", enabled=False)(_about)
    server.prompt("prompt", enabled=False)(_nothing)
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
        server.add_tool(_nothing, name="tool")
        server.add_resource(FunctionResource(uri="data://r", name="r", fn=_nothing))
        server.resource("data://t/{a}")(_about)
        server.add_prompt(Prompt.from_function(_nothing, name="prompt"))
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


async def test_a3_a_prompt_that_is_added_anew_has_nothing_of_the_one_that_was_removed() -> None:
    server = Server("x")
    server.prompt("ask", tags={"old"}, meta={"x": 1})(_nothing)
    server.remove_prompt("ask")
    server.add_prompt(Prompt.from_function(_nothing, name="ask"))
    async with serving(server) as (_, client):
        [prompt] = (await client.list_prompts()).prompts
        assert prompt.meta is None


def test_a3_removing_what_is_not_there_says_so() -> None:
    server = Server("x")
    with pytest.raises(InvalidParams, match="no resource or template 'data://x' to remove"):
        server.remove_resource("data://x")


# --- A4: custom routes (how they compose is in test_face.py) -------------------------------------------------------


async def test_a4_a_route_takes_a_request_or_nothing_and_returns_a_response_or_json() -> None:
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response

    server = Server("web")

    @server.custom_route("/plain")
    async def plain() -> dict[str, str]:
        return {"status": "ok"}

    @server.custom_route("/echo/{word}", methods=["POST"])
    async def echo(request: Request) -> Response:
        return PlainTextResponse(request.path_params["word"] + (await request.body()).decode(), 201)

    @server.custom_route("/sync")
    def sync(request: Request) -> list[str]:
        return [request.query_params["a"]]

    async with _http(server) as (_, client):
        assert (await client.get("/plain")).json() == {"status": "ok"}
        answer = await client.post("/echo/hello", content="!")
        assert (answer.status_code, answer.text) == (201, "hello!")
        assert (await client.get("/sync?a=1")).json() == ["1"]
        assert (await client.get("/echo/hello")).status_code == 405
        assert (await client.get("/nowhere")).status_code == 404


@pytest.mark.parametrize("rubbish", [object(), {1, 2}, float("nan")])
async def test_a4_a_route_that_returns_rubbish_is_answered_500_and_the_next_request_works(
    rubbish: object, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server("web")
    server.custom_route("/rubbish")(lambda: rubbish)
    server.custom_route("/fine")(lambda: "fine")
    async with _http(server) as (_, client):
        answer = await client.get("/rubbish")
        assert answer.status_code == 500
        assert (await client.get("/fine")).json() == "fine"
    assert "/rubbish" in caplog.text


async def test_a4_a_route_that_raises_is_answered_500_without_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    server = Server("web")

    @server.custom_route("/broken")
    async def broken() -> None:
        raise RuntimeError("the password is swordfish")

    async with _http(server) as (_, client):
        answer = await client.get("/broken")
        assert answer.status_code == 500
        assert "swordfish" not in answer.text
    assert "swordfish" in caplog.text


def test_a4_a_path_that_does_not_start_with_a_slash_is_refused() -> None:
    with pytest.raises(MCPActorsError, match="must start with '/'"):
        Server("x").custom_route("health")(lambda: "x")


@asynccontextmanager
async def _http(main: object) -> AsyncIterator[tuple[Runtime, httpx.AsyncClient]]:
    async with open_runtime(main) as runtime:
        async with runtime.serve_http(port=0) as url:
            async with httpx.AsyncClient(base_url=url.removesuffix("/mcp")) as client:
                yield runtime, client


# --- A5: lifespan --------------------------------------------------------------------------------------------------


@BOTH_ERAS
async def test_a5_a_lifespan_is_entered_once_and_a_childs_is_its_own(mode: str) -> None:
    lives: list[str] = []
    parent, child = living("parent", lives), living("child", lives)
    parent.mount(child, "child")
    async with serving(parent, mode) as (runtime, client):
        for _ in range(3):
            assert await said(client, "whose") == "parent"
            assert await said(client, "child_whose") == "child"
        async with runtime.client(mode=mode) as another:
            assert await said(another, "child_whose") == "child"
        assert sorted(lives) == ["child began", "parent began"]
    assert sorted(lives[2:]) == ["child ended", "parent ended"]


async def test_a5_a_lifespan_that_fails_is_tried_again_and_the_error_says_why(autojump_clock: Any) -> None:
    attempts: list[int] = []

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[int]:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise OSError("no database")
        yield len(attempts)

    server = Server("flaky", lifespan=lifespan)
    server.tool("x")(_nothing)
    async with serving(named("main", "fine")) as (runtime, client):
        handle = await runtime.mount(server, "flaky")
        with refused(-32003, "flaky is down for .* no database"):
            await client.call_tool("flaky_x", {})
        assert await said(client, "fine") == "main.fine"
        import trio

        await trio.sleep(5)
        assert handle.state == "running"
        assert await said(client, "flaky_x") == "nothing"


# --- A6: Context ---------------------------------------------------------------------------------------------------


class Name(BaseModel):
    name: str


def _contextual() -> Server:
    server = Server("context")

    @server.tool
    async def work(ctx: Context) -> str:
        await ctx.report_progress(1, 2, "half")
        await ctx.warning("careful")
        [contents] = await ctx.read_resource("data://x")
        return str(contents.content)

    @server.tool
    async def greet(ctx: Context) -> str:
        answer = await ctx.elicit("Who?", Name)
        return answer.data.name if answer.action == "accept" else answer.action

    @server.tool
    async def think(ctx: Context) -> str:
        message = types.SamplingMessage(role="user", content=types.TextContent(text="x"))
        result = await ctx.session.create_message([message], max_tokens=9, related_request_id=ctx.request_id)
        assert isinstance(result.content, types.TextContent)
        return result.content.text

    @server.tool
    async def where(ctx: Context) -> list[str]:
        return [str(root.uri) for root in (await ctx.session.list_roots()).roots]

    server.resource("data://x")(_nothing)
    return server


@OLD_MEANS
@BOTH_ERAS
async def test_a6_a_tool_reports_progress_logs_and_reads_a_resource(mode: str) -> None:
    steps: list[Any] = []
    lines: list[Any] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total, message))

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        lines.append((params.level, params.data))

    main = named("main")
    main.mount(_contextual(), "c")
    async with serving(main, mode, logging_callback=on_log, log_level="info") as (_, client):
        result = await client.call_tool("c_work", {}, progress_callback=on_progress)
        assert isinstance(result.content[0], types.TextContent)
        assert result.content[0].text == "nothing"
        import trio.testing

        await trio.testing.wait_all_tasks_blocked()
    assert steps == [(1, 2, "half")]
    assert lines == [("warning", "careful")]


@OLD_MEANS
@BOTH_ERAS
async def test_a6_a_tool_asks_elicits_and_lists_roots_through_two_levels(mode: str) -> None:
    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def sample(context: Any, params: Any) -> types.CreateMessageResult:
        return types.CreateMessageResult(role="assistant", model="m", content=types.TextContent(text="thought"))

    async def roots(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri=FileUrl("file:///home"))])

    main, middle = named("main"), named("middle")
    main.mount(middle, "a")
    middle.mount(_contextual(), "b")
    answers: Any = {"elicitation_callback": elicit, "sampling_callback": sample, "list_roots_callback": roots}
    async with serving(main, mode, **answers) as (_, client):
        assert await said(client, "a_b_greet") == "Ada"
        assert await said(client, "a_b_think") == "thought"
        assert await said(client, "a_b_where") == "file:///home"


@BOTH_ERAS
async def test_a6_a_session_keeps_its_state_and_no_other_sees_it(mode: str) -> None:
    main, child = named("main", middleware=[noting([], "main")]), Server("child")

    @child.tool
    async def count(ctx: Context) -> str:
        state = session_state(ctx)
        state["count"] = state.get("count", 0) + 1
        return str(state["count"])

    main.mount(child, "c")
    async with serving(main, mode) as (runtime, client):
        counts = [await said(client, "c_count") for _ in range(3)]
        assert counts == (["1", "2", "3"] if mode == "legacy" else ["1", "1", "1"])
        async with runtime.client(mode=mode) as another:
            assert await said(another, "c_count") == "1"


# --- A7: middleware ------------------------------------------------------------------------------------------------


def noting(notes: list[str], name: str) -> Any:
    async def middleware(ctx: Any, call_next: Any) -> Any:
        if ctx.method.endswith("/list") or ctx.method in ("initialize", "server/discover"):
            return await call_next(ctx)
        params = ctx.params or {}
        notes.append(f"{name} > {ctx.method} {params.get('name') or params.get('uri')}")
        try:
            return await call_next(ctx)
        finally:
            notes.append(f"{name} <")

    return middleware


@BOTH_ERAS
async def test_a7_middleware_is_a_chain_around_every_request_of_a_server(mode: str) -> None:
    notes: list[str] = []
    server = named("main", "x", middleware=[noting(notes, "outer"), noting(notes, "inner")])
    server.resource("data://x")(_nothing)
    server.prompt("ask")(_nothing)
    async with serving(server, mode) as (_, client):
        assert await said(client, "x") == "main.x"
        assert notes == ["outer > tools/call x", "inner > tools/call x", "inner <", "outer <"]
        notes.clear()
        await read(client, "data://x")
        await prompted(client, "ask")
        assert notes[0] == "outer > resources/read data://x"
        assert notes[4] == "outer > prompts/get ask"


@BOTH_ERAS
async def test_a7_the_middleware_of_the_root_sees_how_clients_introduce_themselves_and_may_refuse(mode: str) -> None:
    seen: list[Any] = []

    async def gate(ctx: Any, call_next: Any) -> Any:
        if ctx.method in ("initialize", "server/discover"):
            seen.append((ctx.method, ctx.lifespan_context["of"]))
            if len(seen) > 1:
                raise MCPError(-32001, "one client is enough")
        return await call_next(ctx)

    main = living("main", [])
    main.middleware.append(gate)
    async with open_runtime(main) as runtime:
        async with runtime.client(mode=mode) as client:
            assert client.server_info is not None
            assert client.server_info.name == "main"
            assert await said(client, "whose") == "main"
        assert seen == [("initialize" if mode == "legacy" else "server/discover", "main")]
        with pytest.RaisesGroup(pytest.RaisesExc(MCPError, match="one client is enough"), flatten_subgroups=True):
            async with runtime.client(mode=mode):
                raise AssertionError("it was let in")


@BOTH_ERAS
async def test_a7_for_a_call_through_parents_theirs_runs_first_outermost_first(mode: str) -> None:
    notes: list[str] = []
    main = named("main", middleware=[noting(notes, "main")])
    middle = named("middle", middleware=[noting(notes, "middle")])
    inner = named("inner", "x", middleware=[noting(notes, "inner")])
    inner.resource("data://x")(_nothing)
    inner.prompt("ask")(_nothing)
    middle.mount(inner, "b")
    main.mount(middle, "a")
    async with serving(main, mode) as (_, client):
        assert await said(client, "a_b_x") == "inner.x"
        assert notes == [
            "main > tools/call a_b_x",
            "middle > tools/call b_x",
            "inner > tools/call x",
            "inner <",
            "middle <",
            "main <",
        ]
        notes.clear()
        assert await read(client, "data://a/b/x") == "nothing"
        assert notes[:3] == [
            "main > resources/read data://a/b/x",
            "middle > resources/read data://b/x",
            "inner > resources/read data://x",
        ]
        notes.clear()
        await prompted(client, "a_b_ask")
        assert notes[:3] == ["main > prompts/get a_b_ask", "middle > prompts/get b_ask", "inner > prompts/get ask"]


@BOTH_ERAS
async def test_a7_several_of_a_parent_run_in_the_order_in_which_they_were_given(mode: str) -> None:
    notes: list[str] = []
    main = named("main", "own", middleware=[noting(notes, "first"), noting(notes, "second")])
    main.middleware.append(noting(notes, "third"))
    main.mount(named("child", "x", middleware=[noting(notes, "child")]), "c")
    async with serving(main, mode) as (_, client):
        for tool, whose in (("own", []), ("c_x", ["child"])):
            notes.clear()
            await client.call_tool(tool, {})
            order = ["first", "second", "third", *whose]
            assert [note.split()[0] for note in notes if ">" in note] == order
            assert [note.split()[0] for note in notes if "<" in note] == order[::-1]


async def test_a7_a_parents_middleware_sees_a_renamed_tool_by_its_new_name() -> None:
    notes: list[str] = []
    main = named("main", middleware=[noting(notes, "main")])
    middle = named("middle", middleware=[noting(notes, "middle")])
    middle.mount(named("child", "old"), "b", tool_names={"old": "new"})
    main.mount(middle, "a", tool_names={"b_new": "newest"})
    async with serving(main) as (_, client):
        assert await said(client, "a_newest") == "child.old"
    assert notes[:2] == ["main > tools/call a_newest", "middle > tools/call b_new"]


@BOTH_ERAS
async def test_a7_a_parents_middleware_may_answer_by_itself_change_the_answer_or_refuse(mode: str) -> None:
    async def gate(ctx: Any, call_next: Any) -> Any:
        name = (ctx.params or {}).get("name")
        if name == "c_refused":
            raise MCPError(-32001, "not for you")
        if name == "c_short":
            return {"content": [{"type": "text", "text": "from the gate"}], "resultType": "complete"}
        result = await call_next(ctx)
        if name == "c_changed":
            return {**result, "content": [{"type": "text", "text": "changed"}]}
        return result

    main = named("main", middleware=[gate])
    child = Server("child")
    for name in ("refused", "short", "changed", "plain"):
        child.add_tool(saying(name), name=name, structured_output=False)
    main.mount(child, "c")
    async with serving(main, mode) as (_, client):
        with refused(-32001, "not for you"):
            await client.call_tool("c_refused", {})
        assert await said(client, "c_short") == "from the gate"
        assert await said(client, "c_changed") == "changed"
        assert await said(client, "c_plain") == "plain"


@OLD_MEANS
@BOTH_ERAS
async def test_a7_progress_and_questions_pass_a_parents_middleware(mode: str) -> None:
    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    main = named("main", middleware=[noting([], "main")])
    main.mount(_contextual(), "c")
    async with serving(main, mode, elicitation_callback=elicit) as (_, client):
        await client.call_tool("c_work", {}, progress_callback=on_progress)
        assert await said(client, "c_greet") == "Ada"
    assert steps == [1]


# --- A8: what others have written can be mounted -------------------------------------------------------------------


@BOTH_ERAS
async def test_a8_the_sdks_servers_and_what_wraps_one_are_mounted_unchanged(mode: str) -> None:
    plain: MCPServer[Any] = MCPServer("plain", log_level="CRITICAL")
    plain.add_tool(_nothing, name="x")

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

"""Middleware of a `Server` (feature A7): around its own requests, and around those of all below it."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from mcpactors import Server, open_runtime
from tests.composition.helpers import (
    BOTH_ERAS,
    OLD_MEANS,
    contextual,
    living,
    named,
    nothing,
    noting,
    prompted,
    read,
    refused,
    said,
    saying,
    serving,
)


@BOTH_ERAS
async def test_a7_middleware_is_a_chain_around_every_request_of_a_server(mode: str) -> None:
    notes: list[str] = []
    server = named("main", "x", middleware=[noting(notes, "outer"), noting(notes, "inner")])
    server.resource("data://x")(nothing)
    server.prompt("ask")(nothing)
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
    inner.resource("data://x")(nothing)
    inner.prompt("ask")(nothing)
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
    main.mount(contextual(), "c")
    async with serving(main, mode, elicitation_callback=elicit) as (_, client):
        await client.call_tool("c_work", {}, progress_callback=on_progress)
        assert await said(client, "c_greet") == "Ada"
    assert steps == [1]

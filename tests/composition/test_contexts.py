"""What a `Server`'s functions work with: its lifespan (feature A5) and `Context` (A6), through mounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import trio
import trio.testing
from mcp.server.mcpserver import Context
from pydantic import FileUrl

from mcpactors import Server, session_state
from tests.composition.helpers import (
    BOTH_ERAS,
    OLD_MEANS,
    contextual,
    living,
    named,
    nothing,
    noting,
    refused,
    said,
    serving,
)

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
    server.tool("x")(nothing)
    async with serving(named("main", "fine")) as (runtime, client):
        handle = await runtime.mount(server, "flaky")
        with refused(-32003, "flaky is down for .* no database"):
            await client.call_tool("flaky_x", {})
        assert await said(client, "fine") == "main.fine"
        await trio.sleep(5)
        assert handle.state == "running"
        assert await said(client, "flaky_x") == "nothing"


# --- A6: Context ---------------------------------------------------------------------------------------------------


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
    main.mount(contextual(), "c")
    async with serving(main, mode, logging_callback=on_log, log_level="info") as (_, client):
        result = await client.call_tool("c_work", {}, progress_callback=on_progress)
        assert isinstance(result.content[0], types.TextContent)
        assert result.content[0].text == "nothing"
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
    middle.mount(contextual(), "b")
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

"""How clients share a backend: what is one client's never reaches another, and no call waits for a process to start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from mcpactors import RuntimeSettings, create_proxy, open_runtime
from mcpactors.runtime.policy import PoolLimits
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.transports.memory import memory_client
from tests.backends.remembering import Remembering, connect, make
from tests.processes import PATIENCE
from tests.proxying.helpers import ROUTES, Answer, Wire, in_memory, legacy, modern, proxy

EVERY_ROUTE = pytest.mark.parametrize("route", ROUTES)
ASKS = {"roots": {"listChanged": True}, "elicitation": {"form": {}}}


def called(name: str, roots: list[str] | None = None) -> Answer:
    """The answers of somebody with this name, whose roots are in a folder of that name."""
    own = roots if roots is not None else [f"file:///{name}"]

    async def answer(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        if method == "roots/list":
            return {"roots": [{"uri": uri} for uri in own]}
        assert method == "elicitation/create"
        return {"action": "accept", "content": {"name": name}}

    return answer


def counted(
    opened: list[int],
    closed: list[int],
    *,
    modern_from: int | None = None,
    seen: list[Any] | None = None,
    lives: list[trio.CancelScope] | None = None,
    **policy: Any,
) -> tuple[Any, Remembering]:
    """A proxy whose connections are numbered as they are opened and closed; from one on the backend is a modern one.

    `seen` gets the `_meta` of calls to the modern one, `lives` what ends a connection.
    """
    old, remembering = make()
    new = modern_server([] if seen is None else seen)

    @asynccontextmanager
    async def transport() -> AsyncIterator[Any]:
        number = len(opened) + 1
        opened.append(number)
        is_modern = modern_from is not None and number >= modern_from
        try:
            async with memory_client(new) if is_modern else connect(old) as streams, trio.open_nursery() as nursery:
                if lives is not None:
                    lives.append(nursery.cancel_scope)
                yield streams
        finally:
            closed.append(number)

    return create_proxy(transport, name="b", **policy), remembering


def modern_server(seen: list[Any]) -> Server[Any]:
    async def list_tools(ctx: Any, params: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="tool", input_schema={"type": "object"})])

    async def call_tool(ctx: Any, params: object) -> types.CallToolResult:
        seen.append(ctx.meta)
        return types.CallToolResult(content=[types.TextContent(type="text", text="modern")])

    return Server("new", on_list_tools=list_tools, on_call_tool=call_tool)


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked(0.005)


async def hang(client: Wire, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    """A call that hangs at the backend, from `started` until the scope is cancelled."""
    before = len(client.said("progress"))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "hang", "hanging")
            await client.until(lambda: len(client.said("progress")) > before)
            task_status.started(scope)


async def completed(client: Wire, tool: str, root: str) -> dict[str, Any]:
    """What a tool says to a modern client that has one root, and is asked for it as often as anybody likes."""
    params = {"name": tool, "arguments": {}, "_meta": dict(client.stamp)}
    result = await client.send("tools/call", params)
    while result["resultType"] == "input_required":
        answers = {key: {"roots": [{"uri": root}]} for key in result["inputRequests"]}
        more = {"requestState": result["requestState"], "inputResponses": answers}
        result = await client.send("tools/call", {**params, **more})
    content: dict[str, Any] = result["structuredContent"]
    return content


# --- per_client: clients that have sessions -----------------------------------------------------------------------


@EVERY_ROUTE
async def test_two_clients_at_once_have_nothing_of_each_other(route: str) -> None:
    async with proxy(route, sessions="per_client") as target, open_runtime("main") as runtime:
        await runtime.mount(target)
        with trio.fail_after(PATIENCE):
            async with (
                legacy(runtime, called("ada"), ASKS, "ada") as ada,
                legacy(runtime, called("eve"), {"elicitation": {"url": {}, "form": {}}}, "eve") as eve,
                trio.open_nursery() as nursery,
            ):
                await eve.send("logging/setLevel", {"level": "error"})
                hangs = await nursery.start(hang, eve)
                for _ in range(2):
                    assert await ada.tool("greet") == {"action": "accept", "content": {"name": "ada"}}
                assert await eve.tool("greet") == {"action": "accept", "content": {"name": "eve"}}
                assert await ada.tool("where") == {"roots": [{"uri": "file:///ada"}]}
                await ada.call("count", "hers", to=3)
                hers, other = await ada.tool("who"), await eve.tool("who")
                hangs.cancel()
    assert (hers["name"], hers["capabilities"], hers["levels"]) == ("ada", ASKS, [])
    assert (other["name"], other["capabilities"]) == ("eve", {"elicitation": {"url": {}, "form": {}}})
    assert other["levels"] == ["error"]
    assert (hers["calls"], other["calls"]) == (5, 3)
    assert hers["session"] != other["session"] or hers["pid"] != other["pid"]
    assert [(step["progressToken"], step["progress"]) for step in ada.said("progress")] == [
        ("hers", n) for n in range(3)
    ]
    assert [step["progressToken"] for step in eve.said("progress")] == ["hanging"]
    assert set(ada.asked) == {"elicitation/create", "roots/list"}
    assert eve.asked == ["elicitation/create"]


@pytest.mark.parametrize("route", ["memory", "stdio"])
async def test_a_backend_that_asks_as_soon_as_it_may_reaches_the_client_for_whom_it_was_opened(route: str) -> None:
    async with proxy(route, sessions="per_client") as target, open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime, called("ada"), ASKS) as ada:
            while not (known := await ada.tool("who"))["roots"]:
                await quiet()
    assert known["roots"] == [["file:///ada"]]


@pytest.mark.parametrize("route", ["memory", "stdio"])
async def test_roots_that_have_changed_are_asked_for_anew_while_no_call_runs(route: str) -> None:
    roots = ["file:///first"]
    async with proxy(route, sessions="per_client") as target, open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime, called("ada", roots), ASKS) as ada, legacy(runtime, called("eve"), ASKS) as eve:
            for client in (ada, eve):
                while not (await client.tool("who"))["roots"]:
                    await quiet()
            roots[:], before = ["file:///second"], len(ada.asked)
            await ada.notify("notifications/roots/list_changed", None)
            await ada.until(lambda: len(ada.asked) > before)
            while len((known := await ada.tool("who"))["roots"]) < 2:
                await quiet()
            assert known["roots"] == [["file:///first"], ["file:///second"]]
            assert (await eve.tool("who"))["roots"] == [["file:///eve"]]


async def test_a_session_is_kept_from_call_to_call_and_closed_when_its_client_leaves() -> None:
    opened: list[int] = []
    closed: list[int] = []
    target, remembering = counted(opened, closed, sessions="per_client")
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime) as ada, legacy(runtime) as eve:
            for _ in range(5):
                await ada.tool("who")
                await eve.tool("who")
            assert opened == [1, 2, 3]  # one for the catalog, one for each
        await quiet()
        assert sorted(closed) == [2, 3]
    assert [session.calls for session in remembering.sessions] == [0, 5, 5]


async def test_a_session_that_nobody_uses_is_closed_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    opened: list[int] = []
    closed: list[int] = []
    target, _ = counted(opened, closed, sessions="per_client", pool=PoolLimits(idle=300))
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime) as ada:
            await ada.tool("who")
            await trio.sleep(299)
            await ada.tool("who")
            await trio.sleep(299)
            assert closed == []
            await trio.sleep(2)
            assert closed == [2]
            assert (await ada.tool("who"))["calls"] == 1
    assert opened == [1, 2, 3]


async def test_a_client_too_many_takes_the_place_of_the_one_that_is_idle_longest() -> None:
    opened: list[int] = []
    closed: list[int] = []
    target, _ = counted(opened, closed, sessions="per_client", pool=PoolLimits(clients=2))
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime) as ada, legacy(runtime) as eve, legacy(runtime) as joe:
            await ada.tool("who")
            await eve.tool("who")
            await ada.tool("who")
            await joe.tool("who")
            await quiet()
            assert closed == [3]
            assert (await ada.tool("who"))["calls"] == 3


async def test_a_client_too_many_is_told_which_setting_says_so_when_all_are_working() -> None:
    target, _ = in_memory(sessions="per_client", pool=PoolLimits(clients=1))
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime) as ada, legacy(runtime) as eve, trio.open_nursery() as nursery:
            hangs = await nursery.start(hang, ada)
            with pytest.raises(
                MCPError, match=r"1 client sessions open and all of them are working.*pool\.clients"
            ) as e:
                await eve.tool("who")
            assert e.value.error.data["retryAfter"] == 1.0
            hangs.cancel()
            await quiet()
            assert (await eve.tool("who"))["calls"] == 1


async def test_the_loss_of_one_session_fails_its_own_calls_only() -> None:
    async with proxy("stdio", sessions="per_client") as target, open_runtime("main") as runtime:
        handle = await runtime.mount(target)
        async with legacy(runtime) as ada, legacy(runtime) as eve:
            hers = await eve.tool("who")
            with pytest.raises(MCPError, match="lost its connection while it held the call"):
                await ada.tool("die")
            assert (await eve.tool("who"))["pid"] == hers["pid"]
            assert (await ada.tool("who"))["calls"] == 1
        assert (handle.state, handle.info().restarts) == ("running", 0)


async def test_a_session_that_does_not_open_fails_the_call_that_wanted_it_and_says_why() -> None:
    server, _ = make()
    number = 0

    def transport() -> Any:
        nonlocal number
        number += 1
        if number == 2:
            raise OSError("no more of these")
        return connect(server)

    async with open_runtime("main") as runtime:
        handle = await runtime.mount(create_proxy(transport, name="b", sessions="per_client"))
        async with legacy(runtime) as ada:
            with pytest.raises(MCPError, match="did not open a session: OSError: no more of these"):
                await ada.tool("who")
            assert (await ada.tool("who"))["calls"] == 1
        assert handle.info().restarts == 0


# --- per_client: clients that have none ---------------------------------------------------------------------------


async def test_modern_clients_borrow_sessions_that_introduced_themselves_as_they_do() -> None:
    target, remembering = in_memory(sessions="per_client")
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with modern(runtime, {"elicitation": {"form": {}}}, "ada") as ada, modern(runtime, {}, "eve") as eve:
            for _ in range(3):
                hers, other = await ada.tool("who"), await eve.tool("who")
    assert (hers["name"], hers["capabilities"]) == ("ada", {"elicitation": {"form": {}}})
    assert (other["name"], other["capabilities"]) == ("eve", {})
    assert [session.calls for session in remembering.sessions] == [0, 3, 3]


async def test_two_calls_at_once_never_borrow_one_session() -> None:
    target, _ = in_memory(sessions="per_client")
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with modern(runtime, {}) as ada, trio.open_nursery() as nursery:
            hangs = await nursery.start(hang, ada)
            assert (await ada.tool("who"))["hanging"] == 1
            assert (await ada.tool("who"))["session"] == 3
            hangs.cancel()


async def test_who_finds_no_session_to_borrow_waits_for_one_and_gets_it_after_a_cancellation() -> None:
    opened: list[int] = []
    target, _ = counted(opened, [], sessions="per_client", pool=PoolLimits(borrowed=1))
    got: list[int] = []
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with modern(runtime, {}) as ada, trio.open_nursery() as nursery:
            hangs = await nursery.start(hang, ada)

            async def wait() -> None:
                got.append((await ada.tool("who"))["session"])

            nursery.start_soon(wait)
            await quiet()
            assert got == []
            hangs.cancel()
        assert (got, opened) == ([2], [1, 2])  # the very same session: the backend was told to cancel


async def test_a_borrowed_session_that_is_lost_is_replaced() -> None:
    async with proxy("stdio", sessions="per_client", pool=PoolLimits(borrowed=1)) as target, open_runtime() as runtime:
        await runtime.mount(target)
        async with modern(runtime, {}) as ada:
            first = (await ada.tool("who"))["pid"]
            for _ in range(2):
                with pytest.raises(MCPError, match="lost its connection"):
                    await ada.tool("die")
            assert (await ada.tool("who"))["pid"] != first


async def test_an_idle_session_makes_room_for_a_client_of_another_kind() -> None:
    opened: list[int] = []
    closed: list[int] = []
    target, _ = counted(opened, closed, sessions="per_client", pool=PoolLimits(borrowed=1))
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with modern(runtime, {}, "ada") as ada, modern(runtime, {}, "eve") as eve:
            await ada.tool("who")
            await eve.tool("who")
            await quiet()
            assert (opened, closed) == ([1, 2, 3], [2])


async def test_a_session_on_which_roots_were_asked_for_is_not_lent_again() -> None:
    target, remembering = in_memory(sessions="per_client")
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with modern(runtime, {"roots": {}}) as ada:
            assert await completed(ada, "where", "file:///ada") == {"roots": [{"uri": "file:///ada"}]}
        async with modern(runtime, {"roots": {}}) as eve:
            known = await completed(eve, "who", "file:///eve")
    assert (known["session"], known["calls"]) == (3, 1)
    assert remembering.sessions[1].roots == [["file:///ada"]]


# --- per_call -----------------------------------------------------------------------------------------------------


@EVERY_ROUTE
async def test_each_call_has_a_session_of_its_own(route: str) -> None:
    async with proxy(route, sessions="per_call") as target, open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime, called("ada"), ASKS) as ada, modern(runtime) as eve:
            seen = [await ada.tool("who"), await ada.tool("who"), await eve.tool("who")]
            assert await ada.tool("greet") == {"action": "accept", "content": {"name": "ada"}}
    assert [who["calls"] for who in seen] == [1, 1, 1]
    assert len({(who["session"], who["pid"]) for who in seen}) == 3


async def test_the_session_of_a_call_was_opened_before_it() -> None:
    opened: list[int] = []
    target, remembering = counted(opened, [], sessions="per_call", pool=PoolLimits(spares=2))
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime) as ada:
            for done in range(3):
                await quiet()
                assert len(remembering.sessions) == 3 + done  # the catalog's, two spares, and those that were used
                assert 1 < (await ada.tool("who"))["session"] <= 3 + done


async def test_a_modern_backend_gets_a_connection_for_each_call_too() -> None:
    opened: list[int] = []
    target, _ = counted(opened, [], modern_from=1, sessions="per_call")
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with modern(runtime) as ada:
            for _ in range(2):
                await ada.call("tool")
        await quiet()
    assert len(opened) == 4  # the catalog's, two that were used, and the spare


async def test_calls_wait_for_their_turn_when_as_many_fresh_sessions_as_may_are_in_use() -> None:
    opened: list[int] = []
    target, _ = counted(opened, [], sessions="per_call", pool=PoolLimits(borrowed=2, spares=1))
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime) as ada, trio.open_nursery() as nursery:
            scopes = [await nursery.start(hang, ada) for _ in range(2)]
            nursery.start_soon(ada.tool, "who")
            await quiet()
            assert len(opened) == 4
            for scope in scopes:
                scope.cancel()
        await quiet()
        assert len(opened) == 5


# --- shared -------------------------------------------------------------------------------------------------------


async def test_on_a_shared_session_of_the_old_era_an_ambiguous_question_is_refused() -> None:
    async with proxy("stdio", sessions="shared") as target, open_runtime("main") as runtime:
        await runtime.mount(target)
        async with (
            legacy(runtime, called("ada"), ASKS) as ada,
            legacy(runtime, called("eve"), ASKS) as eve,
            trio.open_nursery() as nursery,
        ):
            hangs = await nursery.start(hang, eve)
            assert 'sessions="per_client"' in (await ada.tool("greet"))["error"]
            assert (await eve.tool("greet"))["content"] == {"name": "eve"}  # all that runs is hers
            hangs.cancel()
            await quiet()
            assert (await ada.tool("greet"))["content"] == {"name": "ada"}


async def test_a_modern_backend_is_shared_by_all_and_told_by_each_call_who_calls() -> None:
    opened: list[int] = []
    seen: list[Any] = []
    target, _ = counted(opened, [], modern_from=1, seen=seen, sessions="per_client")
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with (
            legacy(runtime, capabilities={"sampling": {}}, name="ada") as ada,
            modern(runtime, ASKS, "eve") as eve,
        ):
            await ada.call("tool")
            await eve.call("tool")
    assert opened == [1]
    assert [(meta["io.modelcontextprotocol/clientInfo"]["name"]) for meta in seen] == ["ada", "eve"]
    assert [meta["io.modelcontextprotocol/clientCapabilities"] for meta in seen] == [{"sampling": {}}, ASKS]


# --- Log levels ---------------------------------------------------------------------------------------------------


async def test_a_clients_level_is_told_to_its_own_session_when_it_is_another() -> None:
    target, remembering = in_memory(sessions="per_client")
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime) as ada, modern(runtime, {}, level="warning") as eve, modern(runtime, {}) as joe:
            await ada.tool("who")
            for level in ("debug", "debug", "error"):
                await ada.send("logging/setLevel", {"level": level})
                await ada.tool("who")
            await eve.tool("who")
            await eve.tool("who")
            await joe.tool("who")
    assert [session.levels for session in remembering.sessions] == [[], ["debug", "error"], ["warning"]]


async def test_a_shared_session_is_asked_for_all_and_each_client_hears_what_it_asked_for() -> None:
    target, remembering = in_memory(sessions="shared")
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime) as ada, legacy(runtime) as eve:
            await ada.send("logging/setLevel", {"level": "error"})
            for client in (ada, eve):
                for level in ("info", "error"):
                    await client.tool("log", level=level, data=level)
            await quiet()
    assert [line["data"] for line in ada.said("message")] == ["error"]
    assert [line["data"] for line in eve.said("message")] == ["info", "error"]
    assert [session.levels for session in remembering.sessions] == [["debug"]]


# --- The era ------------------------------------------------------------------------------------------------------


async def test_a_backend_that_comes_back_in_the_other_era_is_asked_anew() -> None:
    opened: list[int] = []
    lives: list[trio.CancelScope] = []
    target, _ = counted(opened, [], modern_from=2, lives=lives, sessions="shared")
    settings = RuntimeSettings(restart=RestartPolicy(backoff_initial=0))
    async with open_runtime("main", settings=settings) as runtime:
        handle = await runtime.mount(target)
        async with legacy(runtime) as ada:
            assert (await ada.tool("who"))["calls"] == 1
            lives[0].cancel()
            while handle.info().restarts == 0 or handle.state != "running":
                await quiet()
            assert (await ada.call("tool"))["content"][0]["text"] == "modern"


async def test_an_old_backend_does_not_lower_the_era_of_another() -> None:
    old, _ = in_memory()
    seen: list[Any] = []
    new, _ = counted([], [], modern_from=1, seen=seen)
    async with open_runtime("main") as runtime:
        await runtime.mount(old, "old")
        await runtime.mount(new, "new")
        for connected in (legacy(runtime), modern(runtime)):
            async with connected as client:
                await client.tool("old_who")
                await client.call("new_tool")
    assert [meta["io.modelcontextprotocol/protocolVersion"] for meta in seen] == ["2026-07-28"] * 2

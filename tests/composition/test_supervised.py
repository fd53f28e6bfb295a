"""What clients see of supervision, on virtual time: starts that hang, overload, and user code that raises anything.

Promises P5, P11, F3, F25, F31, F59.
"""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.server import MCPServer
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.shared.exceptions import MCPError
from trio.testing import MockClock, wait_all_tasks_blocked

import mcpactors
from mcpactors import Server, open_runtime
from mcpactors.settings import RuntimeSettings
from mcpactors.testing.invariants import unbalanced


def fine() -> MCPServer:
    server = MCPServer("fine")

    @server.tool()
    async def echo(text: str) -> str:
        return text

    return server


@asynccontextmanager
async def never(server: Any) -> AsyncIterator[None]:
    await trio.sleep_forever()
    yield


async def test_f3_a_backend_that_hangs_at_start_holds_nobody_up_and_counts_as_a_failed_start(
    autojump_clock: MockClock,
) -> None:
    main = Server("main")
    async with open_runtime(main) as runtime:
        began = trio.current_time()
        handle = main.mount(LowLevelServer("hanging", lifespan=never), namespace="hanging")
        main.mount(fine(), namespace="fine")
        async with runtime.client() as client:
            assert trio.current_time() == began
            listed = await client.list_tools()
            assert [tool.name for tool in listed.tools] == ["fine_echo"]
            assert trio.current_time() - began == runtime.settings.list_budget
            result = await client.call_tool("fine_echo", {"text": "here"})
            assert result.content[0].text == "here"  # type: ignore[union-attr]
            assert trio.current_time() - began == runtime.settings.list_budget
            assert listed.meta is not None
            [missing] = listed.meta["mcpactors/missing"]
            assert (missing["actor"], missing["reason"]) == ("hanging", "it is still starting")
            assert handle.state == "starting"
            await trio.sleep_until(began + 15)
            await wait_all_tasks_blocked()
            assert handle.info().state == "backoff"
            assert handle.info().last_exit == "not started within 15 s"
            with pytest.raises(MCPError, match=r"hanging is down for .* not started within 15 s"):
                await client.call_tool("hanging_anything", {})


async def test_f25_more_calls_than_may_wait_get_an_overload_error_and_cancel_still_works(
    autojump_clock: MockClock,
) -> None:
    server, ended = MCPServer("busy"), 0

    @server.tool()
    async def hang() -> str:
        nonlocal ended
        try:
            await trio.sleep_forever()
        finally:
            ended += 1
        return ""

    async with open_runtime("main", settings=RuntimeSettings(mailbox=2)) as runtime:
        await runtime.mount(server)
        async with runtime.client() as client:
            await client.list_tools()
            async with trio.open_nursery() as nursery:
                for number in range(1024 + 2):
                    nursery.start_soon(client.call_tool, "hang", {})
                    if number % 2:  # who calls faster than the actor takes calls is refused before
                        await wait_all_tasks_blocked()
                with pytest.raises(MCPError, match="busy is overloaded: 2 calls are waiting already") as caught:
                    await client.call_tool("hang", {})
                assert caught.value.code == -32004
                assert caught.value.data == {"actor": "busy", "retryAfter": 1.0}
                assert not unbalanced(runtime.ps())
                nursery.cancel_scope.cancel()
            await wait_all_tasks_blocked()
            assert ended == 1024
            [busy] = runtime.ps().children
            assert (busy.in_flight, busy.mailbox.waiting, busy.mailbox.refused) == (0, 0, 1)
            assert not unbalanced(runtime.ps())


def forged() -> BaseException:
    kept: list[BaseException] = []

    async def cancelled() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                kept.append(error)
                raise

    trio.run(cancelled)
    return kept[0]


FORGED = forged()
BLOWS = {
    "ExceptionGroup": ExceptionGroup("both", [ValueError("a"), KeyError("b")]),
    "SystemExit": SystemExit(3),
    "Cancelled": FORGED,
    "group of SystemExit": BaseExceptionGroup("one", [SystemExit(3)]),
    "GeneratorExit": GeneratorExit(),
}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("blow", BLOWS.values(), ids=BLOWS)
async def test_f59_whatever_a_tool_raises_its_own_call_alone_suffers(
    blow: BaseException, mode: Any, autojump_clock: MockClock
) -> None:
    server = fine()

    @server.tool()
    async def blow_up() -> str:
        raise blow

    async with open_runtime("main") as runtime:
        handle = await runtime.mount(server, namespace="child")
        await runtime.mount(fine(), namespace="sibling")
        async with runtime.client(mode=mode) as client:
            try:
                failed = (await client.call_tool("child_blow_up", {})).is_error
            except MCPError:
                failed = True
            assert failed
            for name in ("child", "sibling"):
                result = await client.call_tool(f"{name}_echo", {"text": "here"})
                assert result.content[0].text == "here"  # type: ignore[union-attr]
            assert (handle.state, handle.info().restarts) == ("running", 0)


WALL_CLOCK = {
    "exchange.py": "the Date of a response",
    "faults.py": "a backend's Retry-After, where a date",
    "bearer.py": "a token's expiry, which is a date: read once, when the token comes",
}


def test_f31_no_deadline_of_ours_is_on_the_wall_clock() -> None:
    """Who asks for the time of day has a reason that stands here; all else is on trio's clock, which never jumps."""
    found = set()
    for path in Path(mcpactors.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom | ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module == "time" and {"time", "time_ns"} & set(names):
                found.add(path.name)
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("time", "time_ns", "localtime", "now", "utcnow", "today")
                and ast.unparse(node.value).rpartition(".")[2] in ("time", "datetime", "date")
            ):
                found.add(path.name)
    assert found == set(WALL_CLOCK)

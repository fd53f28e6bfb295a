"""Sync handlers that block: in threads, under a limit of their own actor (promise F58). Real threads, real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import anyio.from_thread
import anyio.to_thread
import pytest
import trio
import trio.testing
from attrs import define, field
from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent

from mcpactors import CallDeadlines, RuntimeSettings, Server, create_proxy, open_runtime

PATIENCE = 30.0
"""Seconds for what must happen soon; only a failing test waits so long."""

COMMON = 40
"""Threads that trio has for a whole program; `anyio.to_thread` takes them, too."""

KINDS = {
    "tool": lambda client: client.call_tool("wait", {}),
    "prompt": lambda client: client.get_prompt("wait"),
    "resource": lambda client: client.read_resource("wait://here"),
    "template": lambda client: client.read_resource("wait://here/now"),
}


@define(eq=False)
class Door:
    """What blocks: whoever comes in stays until it is opened."""

    inside: int = 0
    most: int = 0
    opened: threading.Event = field(factory=threading.Event)
    _lock: threading.Lock = field(factory=threading.Lock)
    _came: trio.Event = field(factory=trio.Event)

    def wait(self) -> str:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        trio.from_thread.run_sync(self._tell)
        self.opened.wait(PATIENCE)
        with self._lock:
            self.inside -= 1
        return "through"

    def _tell(self) -> None:
        self._came.set()
        self._came = trio.Event()

    async def has_inside(self, number: int) -> None:
        """Wait until so many are in there."""
        with trio.fail_after(PATIENCE):
            while self.inside < number:
                await self._came.wait()


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.opened.set()


def blocking(kind: type[MCPServer], door: Door) -> MCPServer:
    """A server of which everything blocks."""
    server = kind("blocking")
    server.tool(name="wait")(door.wait)
    server.prompt(name="wait")(door.wait)
    server.resource("wait://here")(door.wait)

    @server.resource("wait://here/{when}")
    def template(when: str) -> str:
        return door.wait()

    return server


def said(result: object) -> str:
    """The text that a tool has returned."""
    assert isinstance(result, CallToolResult)
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text


async def call(client: Client, kind: str) -> None:
    await KINDS[kind](client)


@pytest.mark.parametrize("server", [Server, MCPServer])
@pytest.mark.parametrize("kind", list(KINDS))
async def test_f58_sync_handlers_that_block_take_no_thread_from_other_actors(
    kind: str, server: type[MCPServer], door: Door
) -> None:
    quick = MCPServer("quick")
    quick.tool(name="answer")(lambda: "at once")
    settings = RuntimeSettings(threads=3)
    with trio.fail_after(PATIENCE):
        async with open_runtime(settings=settings) as runtime, runtime.client() as client, trio.open_nursery() as calls:
            await runtime.mount(blocking(server, door))
            await runtime.mount(quick)
            for _ in range(45):  # more than trio lets a whole program have
                calls.start_soon(call, client, kind)
            await door.has_inside(3)
            result = await client.call_tool("answer", {})
            assert said(result) == "at once"
            assert [row.threads for row in runtime.ps().children] == [3, 0]
            door.opened.set()
    assert door.most == 3


async def test_f58_a_blocked_call_ends_at_its_deadline_and_its_thread_keeps_its_place(door: Door) -> None:
    settings = RuntimeSettings(threads=1, deadlines=CallDeadlines(idle=0.05, total=0.05))
    async with open_runtime(settings=settings) as runtime, runtime.client() as client:
        handle = await runtime.mount(blocking(Server, door))
        for _ in range(3):
            with trio.fail_after(PATIENCE), pytest.raises(MCPError, match="timed out"):
                await client.call_tool("wait", {})
        await trio.testing.wait_all_tasks_blocked()
        info = handle.info()
        assert (info.in_flight, info.accounting["cancelled"], info.threads) == (0, 3, 1)
        assert door.most == 1  # the calls after the first found no thread, and ended in time all the same


async def test_f58_a_thread_that_was_left_behind_serves_again_once_it_returns(door: Door) -> None:
    settings = RuntimeSettings(threads=1)
    async with open_runtime(settings=settings) as runtime, runtime.client() as client:
        await runtime.mount(blocking(Server, door))
        async with trio.open_nursery() as calls:
            calls.start_soon(call, client, "tool")
            await door.has_inside(1)
            calls.cancel_scope.cancel()
        door.opened.set()
        with trio.fail_after(PATIENCE):
            assert said(await client.call_tool("wait", {})) == "through"
    assert door.most == 1


async def test_f58_a_sync_handler_can_ask_whether_its_call_is_over() -> None:
    over, begun = threading.Event(), trio.Event()
    server = Server("asks")

    @server.tool
    def loop() -> str:
        trio.from_thread.run_sync(begun.set)
        try:
            while True:
                anyio.from_thread.check_cancelled()
                time.sleep(0.001)
        finally:
            over.set()

    async with open_runtime(server) as runtime, runtime.client() as client, trio.open_nursery() as calls:
        calls.start_soon(client.call_tool, "loop", {})
        await begun.wait()
        calls.cancel_scope.cancel()
    assert over.wait(PATIENCE)


async def test_f58_a_runtime_closes_without_waiting_for_a_thread_that_blocks(door: Door) -> None:
    async with trio.open_nursery() as calls:
        async with open_runtime() as runtime:
            await runtime.mount(blocking(Server, door))
            calls.start_soon(fails, runtime.client())
            await door.has_inside(1)
    assert door.inside == 1


async def fails(client: Client) -> None:
    async with client:
        with pytest.raises(MCPError):
            await client.call_tool("wait", {})


async def test_p6_f58_who_has_used_up_the_common_threads_keeps_nobody_from_a_backend_that_has_a_name(
    door: Door,
) -> None:
    greedy, backend = Server("greedy"), Server("backend")
    backend.tool(name="answer")(lambda: "reached")

    @greedy.tool(name="wait")
    async def wait_in_a_common_thread() -> str:
        return await anyio.to_thread.run_sync(door.wait, abandon_on_cancel=True)

    async with open_runtime(backend) as far, far.serve_http(port=0) as url:
        async with open_runtime() as runtime, runtime.client() as client, trio.open_nursery() as calls:
            await runtime.mount(greedy)
            for _ in range(COMMON):
                calls.start_soon(call, client, "tool")
            await door.has_inside(COMMON)
            handle = await runtime.mount(create_proxy(url.replace("127.0.0.1", "localhost")), namespace="far")
            assert handle.state == "running", handle.info().last_exit
            assert said(await client.call_tool("far_answer", {})) == "reached"
            door.opened.set()


async def test_what_is_added_while_it_is_mounted_runs_under_the_limit_too(door: Door) -> None:
    server = MCPServer("grows")
    async with open_runtime(settings=RuntimeSettings(threads=2)) as runtime, runtime.client() as client:
        await runtime.mount(server)
        server.tool(name="wait")(door.wait)
        async with trio.open_nursery() as calls:
            for _ in range(5):
                calls.start_soon(call, client, "tool")
            await door.has_inside(2)
            await trio.testing.wait_all_tasks_blocked()
            door.opened.set()
    assert door.most == 2


async def test_what_a_sync_tool_adds_and_mounts_from_its_thread_is_there() -> None:
    server, other = Server("grows"), Server("other")
    other.tool(name="answer")(lambda: "mounted")

    @server.tool
    def grow() -> str:
        server.add_tool(lambda: "added", "added")
        server.mount(other, namespace="other")
        return "grown"

    with trio.fail_after(PATIENCE):
        async with open_runtime(server) as runtime, runtime.client() as client:
            await client.list_tools()
            await client.call_tool("grow", {})
            assert said(await client.call_tool("added", {})) == "added"
            assert said(await client.call_tool("other_answer", {})) == "mounted"
            while len((await client.list_tools(cache_mode="bypass")).tools) < 3:  # noqa: ASYNC110 - it is told in time
                await trio.sleep(0.02)


async def test_a_sync_tool_still_reaches_its_caller_from_its_thread() -> None:
    server = Server("talks")

    @server.tool
    def talk(ctx: Context) -> str:
        anyio.from_thread.run(ctx.report_progress, 1, 2, "half")
        return "done"

    seen: list[tuple[float, float | None, str | None]] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with open_runtime(server) as runtime, runtime.client() as client:
        result = await client.call_tool("talk", {}, progress_callback=heard)
    assert said(result) == "done"
    assert seen == [(1, 2, "half")]


async def test_a_server_outside_of_any_runtime_is_what_it_was() -> None:
    server = Server("was mounted")
    server.tool(name="answer")(lambda: "here")
    async with open_runtime(server):
        pass
    result = await server.call_tool("answer", {})
    assert said(result) == "here"

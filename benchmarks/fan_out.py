"""What a list and a burst of calls cost over 1, 10, 50 and 200 mounts, beside the slowest single mount asked alone.

Rule: "alone" is the same server as the only mount of a runtime of its own, asked through the same kind of client, in
the same run. All mounts are in this process and share its one processor with the client, so over servers that answer
at once the ratio grows with their number: that is work, not waiting. Waiting must not add up, and the series with an
artificial latency show whether it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio
from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.lowlevel import Server
from mcp_types import ListToolsResult, Tool

from benchmarks.measure import Case, Report, interleaved, options
from mcpactors import open_runtime

MOUNTS = (1, 10, 50, 200)
TURN = 0.005
LATENCY = 0.1
"""Seconds that a slow mount takes to list its tools."""

LIST_ALONE = "  slowest mount alone"
LIST_EACH = "  each mount alone, one by one"
CALL_ALONE = "  call to the slowest mount alone"
CALL_EACH = "  call to each alone, one by one"

AnyServer = MCPServer[Any] | Server[Any]


def quick_server(number: int) -> MCPServer[Any]:
    """A plain SDK server with one tool."""
    server: MCPServer[Any] = MCPServer(f"server{number}", log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    return server


def slow_server(number: int) -> Server[Any]:
    """A server that takes its time to list its tools."""

    async def list_tools(ctx: object, params: object) -> ListToolsResult:
        await trio.sleep(LATENCY)
        return _tools(1)

    return Server(f"server{number}", on_list_tools=list_tools)


def many_tools(count: int) -> Server[Any]:
    """One server with as many tools as the mounts have together."""
    result = _tools(count)

    async def list_tools(ctx: object, params: object) -> ListToolsResult:
        return result

    return Server("many", on_list_tools=list_tools)


def _tools(count: int) -> ListToolsResult:
    schema = {
        "type": "object",
        "properties": {name: {"type": "integer", "title": name.upper()} for name in "ab"},
        "required": ["a", "b"],
    }
    return ListToolsResult(
        tools=[
            Tool(name=f"add{number}", description="Add two numbers.", input_schema=schema) for number in range(count)
        ]
    )


async def mounted(
    servers: Sequence[AnyServer], known: bool, task_status: trio.TaskStatus[Client] = trio.TASK_STATUS_IGNORED
) -> None:
    """Hold a runtime that mounts the servers, each under `m{index}`, and a client of it. `known`: import them."""
    async with open_runtime("main") as runtime:
        for index, server in enumerate(servers):
            await (runtime.import_server if known else runtime.mount)(server, f"m{index}")
        async with runtime.client(cache=None) as client:
            task_status.started(client)
            await trio.sleep_forever()


async def direct(server: AnyServer, task_status: trio.TaskStatus[Client] = trio.TASK_STATUS_IGNORED) -> None:
    """Hold an SDK client of a server, with nothing of ours between."""
    async with Client(server, cache=None) as client:
        task_status.started(client)
        await trio.sleep_forever()


def listing(client: Client, count: int) -> Case:
    """A `tools/list` that must be complete."""

    async def ask() -> None:
        found = await client.list_tools()
        assert len(found.tools) == count, f"{len(found.tools)} tools of {count}: {found.meta}"

    return ask


def burst(client: Client, names: Sequence[str]) -> Case:
    """A call of each tool, all at once."""

    async def call(name: str) -> None:
        result = await client.call_tool(name, {"a": 1, "b": 2})
        assert not result.is_error

    async def ask() -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(call, name)

    return ask


def _one_by_one(cases: Sequence[Case]) -> Case:
    async def ask() -> None:
        for case in cases:
            await case()

    return ask


async def _slowest(cases: Sequence[Case]) -> int:
    """Which of some cases has the highest median of a few rounds."""
    measured = await interleaved({str(index): case for index, case in enumerate(cases)}, 0, turn=0)
    return max(range(len(cases)), key=lambda index: measured[str(index)].p50)


async def quick_mounts(report: Report, count: int, seconds: float) -> None:
    """A list and a burst over servers that answer at once, and the list when everything is known."""
    servers = [quick_server(number) for number in range(count)]
    async with trio.open_nursery() as nursery:
        together: Client = await nursery.start(mounted, servers, False)
        known: Client = await nursery.start(mounted, servers, True)
        alone: list[Client] = [await nursery.start(mounted, [server], False) for server in servers]
        for client in (together, known, *alone):
            await client.list_tools()  # so that a call finds its name in the table
        sdk_many: Client = await nursery.start(direct, many_tools(count))
        lists = [listing(client, 1) for client in alone]
        calls = [burst(client, ["m0_add"]) for client in alone]
        slow_list, slow_call = await _slowest(lists), await _slowest(calls)
        sdk: Client = await nursery.start(direct, servers[slow_call])
        cases = {
            "list": listing(together, count),
            LIST_ALONE: lists[slow_list],
            LIST_EACH: _one_by_one(lists),
            "list, all known": listing(known, count),
            "  SDK: one server, all tools": listing(sdk_many, count),
            "burst of calls": burst(together, [f"m{index}_add" for index in range(count)]),
            CALL_ALONE: calls[slow_call],
            CALL_EACH: _one_by_one(calls),
            "  SDK: that server, no runtime": burst(sdk, ["add"]),
        }
        measured = await interleaved(cases, seconds, TURN)
        nursery.cancel_scope.cancel()
    beside = {name: CALL_ALONE if "call" in name or "no runtime" in name else LIST_ALONE for name in cases}
    report.table(f"over {count}", measured, beside)
    for name, other in (("list", LIST_EACH), ("burst of calls", CALL_EACH)):
        ratio = measured[name].p50 / measured[other].p50
        report.claim(f"{name} over {count}, beside each alone, one by one, p50", ratio, 1.25)
    ratio = measured["list, all known"].p50 / measured["  SDK: one server, all tools"].p50
    report.claim(f"list over {count}, all known, beside an SDK server with all tools, p50", ratio, 1.5)
    print()


async def slow_mounts(report: Report, count: int, seconds: float) -> None:
    """A list where one mount takes its time, and where all of them do.

    One processor does the work of all mounts, before and after the waiting: so the measure is the slowest mount alone
    and, added, a list over as many quick ones.
    """
    one = [slow_server(0), *(quick_server(number) for number in range(1, count))]
    every = [slow_server(number) for number in range(count)]
    async with trio.open_nursery() as nursery:
        among: Client = await nursery.start(mounted, one, False)
        all_slow: Client = await nursery.start(mounted, every, False)
        quick: Client = await nursery.start(mounted, [quick_server(number) for number in range(count)], False)
        alone: Client = await nursery.start(mounted, [slow_server(0)], False)
        cases = {
            "list, one mount slow": listing(among, count),
            "list, all mounts slow": listing(all_slow, count),
            "list, no mount slow": listing(quick, count),
            LIST_ALONE: listing(alone, 1),
        }
        measured = await interleaved(cases, seconds, TURN)
        nursery.cancel_scope.cancel()
    report.table(f"over {count}, slow: {LATENCY * 1000:g} ms", measured, dict.fromkeys(cases, LIST_ALONE))
    floor = measured[LIST_ALONE].p50 + measured["list, no mount slow"].p50
    for name in ("list, one mount slow", "list, all mounts slow"):
        report.claim(f"{name}, over {count}, beside the slowest + the quick list, p50", measured[name].p50 / floor, 1.2)
    print()


async def main() -> None:
    """Measure, print, exit 0."""
    chosen = options(__doc__ or "")
    report = Report()
    sizes = MOUNTS[:-1] if chosen.quick else MOUNTS
    for count in sizes:
        await quick_mounts(report, count, chosen.seconds(3 + count / 30))
    for count in sizes:
        await slow_mounts(report, count, chosen.seconds(3.5))
    report.write(chosen.json)


if __name__ == "__main__":
    trio.run(main)

"""Whose turn it is among the requests of one connection, by where they go (P6), on virtual time."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
import trio
import trio.testing
from mcp.client import Client

from mcpactors import ClientLimits, RuntimeSettings, Server, create_proxy, open_runtime
from mcpactors.transports.lines.front import serve_duplex
from mcpactors.transports.lines.streams import StdioLimits
from mcpactors.transports.turns import OWN
from tests.backends.peer import Peer
from tests.composition.test_limits import MODES, Callers, Gates, over_streams
from tests.processes import PATIENCE


class Calls(Callers):
    """Calls to one mount; `ended` has what they were answered."""

    def __init__(self, client: Client, nursery: trio.Nursery, mount: str) -> None:
        super().__init__(client, nursery)
        self.tool = f"{mount}_wait"


def keys(number: int, name: str = "") -> list[str]:
    return [f"{name}{key}" for key in range(number)]


def two() -> tuple[Server, Gates, Gates]:
    """A root on which one mount hangs and the other is well."""
    main, sick, well = Server("main"), Gates(), Gates()
    main.mount(sick.server, "sick")
    main.mount(well.server, "well")
    return main, sick, well


@pytest.mark.parametrize("mode", MODES)
async def test_p6_a_mount_that_has_all_turns_of_a_connection_does_not_keep_its_calls_to_another_waiting(
    mode: str, autojump_clock: Any
) -> None:
    main, sick, well = two()
    async with over_streams(main, mode, RuntimeSettings()) as (_, client), trio.open_nursery() as nursery:
        await client.list_tools()
        to_sick, to_well = Calls(client, nursery, "sick"), Calls(client, nursery, "well")
        begun = trio.current_time()
        for key in keys(70):
            nursery.start_soon(to_sick._call, key)
        await trio.testing.wait_all_tasks_blocked()
        assert len(sick.begun) == 64  # alone, it has what the setting says and no more
        well.gate("w").set()
        await to_well.call("w")
        assert trio.current_time() == begun
        assert [block.text for block in to_well.ended.values()] == ["w"]
        nursery.cancel_scope.cancel()


async def test_each_mount_has_turns_of_its_own_and_who_waits_for_one_keeps_nobody_else_waiting(
    autojump_clock: Any,
) -> None:
    main, sick, well = two()
    settings = RuntimeSettings(clients=ClientLimits(in_flight=20))
    async with over_streams(main, "auto", settings) as (_, client), trio.open_nursery() as nursery:
        await client.list_tools()
        to_sick, to_well = Calls(client, nursery, "sick"), Calls(client, nursery, "well")
        await to_sick.call(*keys(22))
        await to_well.call(*keys(OWN + 2, "w"))
        assert (len(sick.begun), len(well.begun)) == (20, OWN)
        well.gate("w0").set()  # the turn is this mount's own: those who wait for the other come first, and may not
        await trio.testing.wait_all_tasks_blocked()
        assert (len(sick.begun), well.begun) == (20, keys(OWN + 1, "w"))
        for key in keys(OWN):
            sick.gate(key).set()  # so many are over the twenty
        await trio.testing.wait_all_tasks_blocked()
        assert (len(sick.begun), len(well.begun)) == (20, OWN + 1)
        sick.gate("8").set()
        await trio.testing.wait_all_tasks_blocked()
        assert (len(sick.begun), len(well.begun)) == (21, OWN + 1)  # who waits longest is next
        nursery.cancel_scope.cancel()


async def test_p6_reads_by_template_have_turns_of_the_mount_that_has_it() -> None:  # real time: they use threads
    main, sick, well = Server("main"), Server("sick"), Server("well")
    begun, asked = trio.Event(), []

    @sick.resource("data://{key}")
    async def hangs(key: str) -> str:
        asked.append(key)
        if len(asked) == 2:
            begun.set()
        await trio.sleep_forever()
        return key

    @well.resource("data://{key}")
    async def answers(key: str) -> str:
        return key

    main.mount(sick, "sick")
    main.mount(well, "well")
    settings = RuntimeSettings(clients=ClientLimits(in_flight=2))
    async with over_streams(main, "legacy", settings) as (_, client), trio.open_nursery() as nursery:
        await client.list_resource_templates()
        for key in "abc":
            nursery.start_soon(client.read_resource, f"data://sick/{key}")
        await begun.wait()
        with trio.fail_after(PATIENCE):
            await client.read_resource("data://well/w")
        nursery.cancel_scope.cancel()


# --- Lists ------------------------------------------------------------------------------------------------------------


def asked(method: str, numbers: range) -> bytes:
    """The requests of an old client as they are said, after those that introduce it."""
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "0"}}
    said = [{"id": 0, "method": "initialize", "params": info}, *({"id": n, "method": method} for n in numbers)]
    return b"".join(json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in said)


async def test_f21_who_reads_none_of_a_thousand_lists_of_2000_tools_costs_96_mib_and_others_go_on() -> None:
    main = Server("main")

    async def work() -> None:
        """Nothing."""

    for number in range(2000):
        said = "What it does, said at some length. " * 16
        main.add_tool(work, name=f"tool_{number}", description=said, structured_output=False)
    _, outgoing = trio.testing.lockstep_stream_pair()
    asking, incoming = trio.testing.memory_stream_pair()
    async with over_streams(main, "legacy", RuntimeSettings()) as (runtime, other), trio.open_nursery() as nursery:
        listed = (await other.list_tools()).tools
        assert len(listed) == 2000
        nursery.start_soon(serve_duplex, runtime.server, incoming, outgoing, StdioLimits())
        tracemalloc.start()
        try:
            await asking.send_all(asked("tools/list", range(1, 1001)))
            await trio.testing.wait_all_tasks_blocked()
            assert tracemalloc.get_traced_memory()[1] < 96 << 20
        finally:
            tracemalloc.stop()
        assert (await other.list_tools()).tools == listed
        assert not (await other.call_tool("tool_7", {})).is_error
        nursery.cancel_scope.cancel()


async def test_f21_lists_that_waited_for_their_turn_are_answered_once_the_client_reads(autojump_clock: Any) -> None:
    main, well = Server("main"), Gates()
    main.add_tool(well.wait, description="x" * StdioLimits().outgoing)
    unread, outgoing = trio.testing.lockstep_stream_pair()
    asking, incoming = trio.testing.memory_stream_pair()
    settings = RuntimeSettings(clients=ClientLimits(in_flight=2))
    async with open_runtime(main, settings=settings) as runtime, trio.open_nursery() as nursery:
        nursery.start_soon(serve_duplex, runtime.server, incoming, outgoing, StdioLimits())
        await asking.send_all(asked("tools/list", range(1, 21)))
        await trio.testing.wait_all_tasks_blocked()
        [router] = [row for row in [runtime.ps()] if row.kind == "router"]
        assert router.accounting["answered"] <= 5  # two wait for room, one is being written and one is behind it
        answered = 0
        while answered < 21:
            answered += (await unread.receive_some(1 << 20)).count(b"\n")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", MODES)
async def test_p6_lists_that_a_child_holds_up_hold_up_no_calls_nor_calls_lists(mode: str, autojump_clock: Any) -> None:
    main, sick, well = two()
    main.mount(create_proxy(Peer(mute=("tools/list",)).connect), "mute")
    async with over_streams(main, mode, RuntimeSettings()) as (_, client), trio.open_nursery() as nursery:
        await client.list_tools()
        to_sick, to_well, begun = Calls(client, nursery, "sick"), Calls(client, nursery, "well"), trio.current_time()
        ended: list[float] = []

        async def list_all() -> None:
            await client.list_tools(cache_mode="bypass")
            ended.append(trio.current_time() - begun)

        for _ in range(70):
            nursery.start_soon(list_all)
        await trio.testing.wait_all_tasks_blocked()
        well.gate("w").set()
        await to_well.call("w")
        assert (list(to_well.ended), trio.current_time(), ended) == (["w"], begun, [])
        for key in keys(70):
            nursery.start_soon(to_sick._call, key)
        await trio.sleep(4.5)
        assert ended == [2.0] * 64 + [4.0] * 6  # the budget, once for each turn
        assert len(sick.begun) == 64
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", MODES)
async def test_p6_names_that_nobody_is_known_to_have_hold_up_no_lists(mode: str, autojump_clock: Any) -> None:
    main = Server("main")
    main.mount(create_proxy(Peer(mute=("tools/list",)).connect), "mute")
    settings = RuntimeSettings(clients=ClientLimits(in_flight=1))
    async with over_streams(main, mode, settings) as (_, client), trio.open_nursery() as nursery:
        await client.list_prompts()
        begun = trio.current_time()
        nursery.start_soon(client.call_tool, "mute_or_not", {})
        await trio.testing.wait_all_tasks_blocked()
        await client.list_prompts(cache_mode="bypass")
        assert trio.current_time() == begun
        nursery.cancel_scope.cancel()

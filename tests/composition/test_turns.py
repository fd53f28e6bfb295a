"""Whose turn it is among the requests of one connection, by where they go (P6), on virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from mcp.client import Client

from mcpactors import ClientLimits, RuntimeSettings, Server
from mcpactors.transports.turns import OWN
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

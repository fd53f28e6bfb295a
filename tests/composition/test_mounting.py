"""Mounting, live (features B1, B2): names are in test_names.py, cycles in test_cycles.py."""

from __future__ import annotations

import pytest
import trio
from mcp.server.mcpserver import Context

from mcpactors import MountHandle, RuntimeSettings, open_runtime
from mcpactors.errors import MountCycle, MountError
from tests.composition.helpers import (
    BOTH_ERAS,
    living,
    named,
    refused,
    said,
    saying,
    serving,
    tools_of,
)


class Slow:
    """A server with a tool that is held until it is let go."""

    def __init__(self, lives: list[str]) -> None:
        self.begun = trio.Event()
        self.go = trio.Event()
        self.server = living("slow", lives)
        lives_of = lives

        @self.server.tool
        async def hold(ctx: Context) -> str:
            self.begun.set()
            await self.go.wait()
            lives_of.append("held call ended")
            return "let go"


# --- B1, B2: mount, unmount, replace --------------------------------------------------------------------------------


@BOTH_ERAS
@pytest.mark.parametrize("late", [False, True])
async def test_b1_a_mount_means_the_same_before_and_after_the_start(mode: str, late: bool) -> None:
    main, child = named("main", "own"), named("child", "x")
    if not late:
        main.mount(child, "c")
    async with serving(main, mode) as (_, client):
        if late:
            main.mount(child, "c")
        assert await said(client, "c_x") == "child.x"
        assert await tools_of(client) == ["own", "c_x"]
        child.add_tool(saying("later"), name="later")
        assert await said(client, "c_later") == "later"
        assert await tools_of(client) == ["own", "c_x", "c_later"]


async def test_b1_a_handle_tells_the_state_of_its_mount() -> None:
    main = named("main")
    handle = main.mount(named("child", "x"), "c")
    states = [handle.state]
    assert handle.stderr() == []
    with pytest.raises(MountError, match="no runtime runs this mount"):
        handle.info()
    async with open_runtime(main):
        states.append(handle.state)
        assert (handle.info().name, handle.info().kind) == ("c", "local")
        assert await handle.offers() == {"tools": 1, "prompts": 0, "resources": 0, "templates": 0}
    assert [*states, handle.state] == ["stopped", "running", "stopped"]


async def test_b1_a_handle_that_is_done_says_so() -> None:
    main = named("main")
    async with open_runtime(main) as runtime:
        for handle in (main.mount(named("a", "x"), "a"), await runtime.mount(named("b", "x"), "b")):
            assert await handle.settled() == "running"
            await handle.unmount()
            await handle.unmount()
            assert handle.state == "stopped"
            for ask in (handle.settled, handle.offers, handle.refresh):
                with pytest.raises(MountError, match="no runtime runs this mount"):
                    await ask()
            with pytest.raises(MountError, match="no runtime runs this mount"):
                handle.info()
            with pytest.raises(MountError, match="not mounted"):
                await handle.replace(named("c"))
            with pytest.raises(MountError, match="not mounted"):
                await handle.mount(named("c"))


async def test_b1_a_description_outlives_its_runtime_and_can_be_run_again() -> None:
    main = named("main", "own")
    main.mount(named("child", "x"), "c")
    for _ in range(2):
        async with serving(main) as (_, client):
            assert await tools_of(client) == ["own", "c_x"]
    main.mount(named("more", "x"), "m")
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["own", "c_x", "m_x"]


async def test_b1_what_a_runtime_mounts_is_not_part_of_the_servers_description() -> None:
    main = named("main", "own")
    async with serving(main) as (runtime, client):
        await runtime.mount(named("child", "x"), "c")
        assert await tools_of(client) == ["own", "c_x"]
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["own"]


@BOTH_ERAS
async def test_b2_a_late_mount_starts_the_childs_lifespan_and_unmount_ends_it(mode: str) -> None:
    lives: list[str] = []
    main = named("main")
    async with serving(main, mode) as (_, client):
        assert await tools_of(client) == []
        handle = main.mount(living("child", lives), "c")
        assert await handle.settled() == "running"
        assert lives == ["child began"]
        assert await said(client, "c_whose") == "child"
        await handle.unmount()
        assert lives == ["child began", "child ended"]
        assert await tools_of(client) == []
        with refused(-32602, "Unknown tool: c_whose"):
            await client.call_tool("c_whose", {})


@BOTH_ERAS
async def test_b2_unmount_lets_calls_in_flight_end_and_takes_no_new_ones(mode: str) -> None:
    lives: list[str] = []
    slow = Slow(lives)
    main = named("main", "own")
    handle = main.mount(slow.server, "s")
    async with serving(main, mode) as (_, client), trio.open_nursery() as nursery:

        async def call() -> None:
            assert await said(client, "s_hold") == "let go"

        async def unmount() -> None:
            await handle.unmount()
            lives.append("unmounted")

        nursery.start_soon(call)
        await slow.begun.wait()
        nursery.start_soon(unmount)
        await trio.testing.wait_all_tasks_blocked()
        assert lives == ["slow began"]
        assert await tools_of(client) == ["own"]
        with refused(-32602, "Unknown tool: s_hold"):
            await client.call_tool("s_hold", {})
        slow.go.set()
    assert lives == ["slow began", "held call ended", "slow ended", "unmounted"]


async def test_b2_a_call_that_outlasts_the_drain_time_is_failed_and_its_outcome_is_unknown(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lives: list[str] = []
    slow = Slow(lives)
    main = named("main")
    handle = main.mount(slow.server, "s")
    async with serving(main, settings=RuntimeSettings(drain=7)) as (_, client), trio.open_nursery() as nursery:

        async def call() -> None:
            with refused(-32000, "slow|went down while it held the call: the outcome is unknown"):
                await client.call_tool("s_hold", {})

        nursery.start_soon(call)
        await slow.begun.wait()
        before = trio.current_time()
        await handle.unmount()
        assert trio.current_time() - before == pytest.approx(7)
    assert lives == ["slow began", "slow ended"]


async def test_b2_a_server_that_is_mounted_again_while_it_still_ends_has_one_lifespan_at_a_time() -> None:
    lives: list[str] = []
    slow = Slow(lives)
    main = named("main")
    handle = main.mount(slow.server, "s")
    async with serving(main) as (_, client), trio.open_nursery() as nursery:
        nursery.start_soon(said, client, "s_hold")
        await slow.begun.wait()
        nursery.start_soon(handle.unmount)
        await trio.testing.wait_all_tasks_blocked()
        again = main.mount(slow.server, "again")
        await trio.testing.wait_all_tasks_blocked()
        assert (again.state, lives) == ("starting", ["slow began"])
        slow.go.set()
        assert await again.settled() == "running"
        assert lives == ["slow began", "held call ended", "slow ended", "slow began"]
        assert await said(client, "again_whose") == "slow"


async def test_b2_unmounting_one_of_two_mounts_of_a_server_ends_nothing() -> None:
    lives: list[str] = []
    main, child = named("main"), living("child", lives)
    first, second = main.mount(child, "a"), main.mount(child, "b")
    async with serving(main) as (_, client):
        await first.unmount()
        assert lives == ["child began"]
        assert await said(client, "b_whose") == "child"
        with refused(-32602, "Unknown tool: a_whose"):
            await client.call_tool("a_whose", {})
        await second.unmount()
        assert lives == ["child began", "child ended"]


async def test_b2_unmount_takes_out_all_below_it() -> None:
    lives: list[str] = []
    main, middle, inner = named("main"), living("middle", lives), living("inner", lives)
    middle.mount(inner, "i")
    handle = main.mount(middle, "m")
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["m_whose", "m_i_whose"]
        await handle.unmount()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(lives) == ["inner began", "inner ended", "middle began", "middle ended"]
        assert await tools_of(client) == []
    assert [row.target for row in middle.mounts] == [inner]


@BOTH_ERAS
async def test_b1_replace_puts_another_server_in_the_same_place(mode: str) -> None:
    lives: list[str] = []
    main = named("main")
    async with serving(main, mode) as (_, client):
        old = main.mount(living("old", lives), "c", tool_names={"whose": "who"})
        newer = main.mount(named("newer", "x"), "n")
        assert await said(client, "c_who") == "old"
        fresh = await old.replace(living("new", lives))
        assert await said(client, "c_who") == "new"
        assert await tools_of(client) == ["c_who", "n_x"]
        assert lives == ["old began", "new began", "old ended"]
        assert (old.state, fresh.state, newer.state) == ("stopped", "running", "running")
        await fresh.unmount()
        assert await tools_of(client) == ["n_x"]


@BOTH_ERAS
async def test_b1_calls_wait_for_a_replacement_that_starts_and_those_in_flight_end_at_the_old_one(mode: str) -> None:
    lives: list[str] = []
    main, slow, may_start, texts = named("main"), Slow(lives), trio.Event(), list[str]()
    old = main.mount(slow.server, "c")
    async with serving(main, mode) as (_, client), trio.open_nursery() as nursery:

        async def call(tool: str) -> None:
            texts.append(await said(client, tool))

        async def replace() -> None:
            fresh = await old.replace(living("new", lives, may_start))
            assert fresh.state == "running"
            texts.append("replaced")

        nursery.start_soon(call, "c_hold")
        await slow.begun.wait()
        nursery.start_soon(replace)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call, "c_whose")
        await trio.testing.wait_all_tasks_blocked()
        assert texts == []
        may_start.set()
        await trio.testing.wait_all_tasks_blocked()
        assert texts == ["new"]
        slow.go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(texts) == ["let go", "new", "replaced"]
    assert lives == ["slow began", "new began", "held call ended", "slow ended", "new ended"]


async def test_b1_replace_returns_once_the_new_one_has_started() -> None:
    may_start, main = trio.Event(), named("main")
    old = main.mount(named("old", "x"), "c")
    async with serving(main):

        async def replace() -> None:
            fresh = await old.replace(living("new", [], may_start))
            assert (fresh.state, may_start.is_set()) == ("running", True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(replace)
            await trio.testing.wait_all_tasks_blocked()
            may_start.set()


async def test_b1_replace_keeps_precedence_and_refuses_what_cannot_be_mounted() -> None:
    main = named("main")
    async with serving(main) as (_, client):
        old = main.mount(named("old", "x"))
        main.mount(named("newest", "x"))
        fresh = await old.replace(named("fresh", "x", "y"))
        assert await said(client, "x") == "newest.x"
        assert await said(client, "y") == "fresh.y"
        with pytest.raises(MountError, match="cannot be mounted"):
            await fresh.replace(object())
        with pytest.raises(MountCycle, match="into itself: main -> main"):
            await fresh.replace(main)
        assert await said(client, "y") == "fresh.y"
    with pytest.raises(MountError, match="cannot be mounted"):
        await fresh.replace(object())
    with pytest.raises(MountCycle, match="into itself: main -> main"):
        await fresh.replace(main)


async def test_b1_replace_before_the_start_is_part_of_the_description() -> None:
    main = named("main")
    old = main.mount(named("old", "x"), "c")
    await old.replace(named("new", "x"))
    async with serving(main) as (_, client):
        assert await said(client, "c_x") == "new.x"


async def test_b1_two_mounts_and_unmounts_at_once_leave_what_they_should() -> None:
    main = named("main")
    async with serving(main) as (_, client):
        handles: list[MountHandle] = [main.mount(named(f"s{n}", "x"), f"n{n}") for n in range(20)]
        async with trio.open_nursery() as nursery:
            for handle in handles[::2]:
                nursery.start_soon(handle.unmount)
            for handle in handles[::2]:
                nursery.start_soon(handle.unmount)
        assert await tools_of(client) == [f"n{n}_x" for n in range(1, 20, 2)]

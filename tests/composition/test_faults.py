"""What ends, or is rubbish, costs its own place only and says so (issue 3, "Bad input"; feature C10).

Rule: only names of the public API; the world's faults are made by real servers that crash, not by patching ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from mcpactors import RestartPolicy, RuntimeSettings, Server
from tests.composition.helpers import BOTH_ERAS, named, refused, said, saying, serving, tools_of

TEMPORARY = RuntimeSettings(restart=RestartPolicy(restart="temporary"))


def mortal(name: str, death: trio.Event, *, starts: bool = True) -> Server:
    """A server whose lifespan crashes once `death` is set, or at its very start."""

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[None]:
        if not starts:
            raise OSError("no database")
        async with trio.open_nursery() as nursery:

            async def die() -> None:
                await death.wait()
                raise OSError("the database is gone")

            nursery.start_soon(die)
            yield
            nursery.cancel_scope.cancel()

    server = Server(name, lifespan=lifespan)
    server.add_tool(saying(name), name="x")
    return server


# --- A child that is not started again ------------------------------------------------------------------------------


@BOTH_ERAS
async def test_a_temporary_child_that_has_ended_is_told_of_until_it_is_unmounted(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    death = trio.Event()
    main = named("main", "own")
    handle = main.mount(mortal("child", death), "c")
    async with serving(main, mode, TEMPORARY) as (runtime, client):
        assert await said(client, "c_x") == "child"
        death.set()
        await trio.sleep(1)
        rows = {row.name: row for row in runtime.ps().children}
        assert (rows["c"].state, rows["c"].last_exit) == ("stopped", "OSError: the database is gone")
        assert (handle.state, handle.info().last_exit) == ("stopped", "OSError: the database is gone")
        assert await handle.settled() == "stopped"
        result = await client.list_tools(cache_mode="bypass")
        assert result.meta is not None
        [missing] = result.meta["mcpactors/missing"]
        assert (missing["actor"], missing["listed"]) == ("c", "stale")
        with refused(-32003, "c is down since .* the database is gone; its restart policy is 'temporary'"):
            await client.call_tool("c_x", {})
        assert await said(client, "own") == "main.own"
        await handle.unmount()
        assert [row.name for row in runtime.ps().children] == ["main.own"]
        assert await tools_of(client) == ["own"]
        main.mount(mortal("child", trio.Event()), "c")
        assert await said(client, "c_x") == "child"


async def test_a_temporary_child_that_does_not_start_stops_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    main = named("main", "own")
    before = main.mount(mortal("early", trio.Event(), starts=False), "e")
    async with serving(main, settings=TEMPORARY) as (runtime, client):
        late = await runtime.mount(mortal("late", trio.Event(), starts=False), "l")
        for handle in (before, late):
            assert (handle.state, handle.info().last_exit) == ("stopped", "OSError: no database")
        assert [row.state for row in runtime.ps().children] == ["running", "stopped", "stopped"]
        with refused(-32003, "l is down since .* no database"):
            await client.call_tool("l_x", {})
        fresh = await late.replace(named("good", "x"))
        assert fresh.state == "running"
        assert await said(client, "l_x") == "good.x"
        assert await said(client, "own") == "main.own"


async def test_a_root_that_has_ended_is_told_of_too(autojump_clock: trio.testing.MockClock) -> None:
    death = trio.Event()
    main = mortal("main", death)
    main.mount(named("child", "x"), "c")
    async with serving(main, settings=TEMPORARY) as (runtime, client):
        death.set()
        await trio.sleep(1)
        assert [(row.name, row.state) for row in runtime.ps().children] == [("main.own", "stopped"), ("c", "running")]
        assert await said(client, "c_x") == "child.x"
        with refused(-32003, "main.own is down"):
            await client.call_tool("x", {})


async def test_the_place_of_what_has_ended_can_be_taken_while_it_is_unmounted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    main = named("main")
    ended = [main.mount(mortal("ended", trio.Event(), starts=False), f"n{number}") for number in range(10)]

    async def mount(number: int) -> None:
        main.mount(named("fresh", "x"), f"n{number}")

    async with serving(main, settings=TEMPORARY) as (_, client):
        async with trio.open_nursery() as nursery:  # ten times, because trio shuffles who goes first
            for number, handle in enumerate(ended):
                nursery.start_soon(handle.unmount)
                nursery.start_soon(mount, number)
        await trio.sleep(1)
        assert sorted(await tools_of(client)) == [f"n{number}_x" for number in range(10)]
        assert [await said(client, f"n{number}_x") for number in range(10)] == ["fresh.x"] * 10

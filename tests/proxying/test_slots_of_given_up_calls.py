"""F24: a caller that gives up is free at once; what it gave up keeps its slot at the mount until the backend's reply
comes, its session ends, or the call would have ended at the latest; and no more than half of the slots are kept so.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from mcp.client import Client
from mcp.client._memory import InMemoryTransport
from mcp.shared.exceptions import MCPError

from mcpactors import CallDeadlines, MountHandle, Runtime, RuntimeSettings, Server, create_proxy, open_runtime
from mcpactors.testing import assert_books_balance, simulate_many
from tests.backends.peer import Peer
from tests.proxying.helpers import Wire, legacy, modern

CALL: dict[str, Any] = {"name": "tool", "arguments": {}}
RESULT: dict[str, Any] = {"content": []}


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked()


class Calls:
    """Calls of one client to a backend that answers none by itself."""

    def __init__(self, peer: Peer, mount: MountHandle, client: Wire, nursery: trio.Nursery) -> None:
        self.peer, self.mount, self.client, self.nursery = peer, mount, client, nursery
        self.scopes: list[trio.CancelScope] = []
        self.ended: list[int] = []
        self.failed: list[str] = []

    @property
    def sent(self) -> list[Any]:
        """The ids under which they have come to the backend."""
        return [message["id"] for message in self.peer.came if message.get("method") == "tools/call"]

    @property
    def tokens(self) -> list[Any]:
        return [params["_meta"]["progressToken"] for params in self.peer.said("tools/call")]

    @property
    def slots(self) -> tuple[int, int, int]:
        """How many run, are kept by what was given up, and wait in the mailbox."""
        info = self.mount.info()
        return info.in_flight, info.given_up, info.mailbox.waiting

    async def begin(self, number: int = 1) -> None:
        for _ in range(number):
            scope = trio.CancelScope()
            self.nursery.start_soon(self._call, len(self.scopes), scope)
            self.scopes.append(scope)
            await quiet()

    async def _call(self, number: int, scope: trio.CancelScope) -> None:
        with scope:
            try:
                await self.client.send("tools/call", {**CALL, "_meta": dict(self.client.stamp)})
            except MCPError as error:
                self.failed.append(error.message)
        self.ended.append(number)

    async def give_up(self, *numbers: int) -> None:
        for number in numbers:
            self.scopes[number].cancel()
            await quiet()

    async def reply(self, number: int) -> None:
        await self.peer.send(id=self.sent[number], result=RESULT)
        await quiet()


@asynccontextmanager
async def calls(
    settings: RuntimeSettings, connect: Any = legacy, **policy: Any
) -> AsyncIterator[tuple[Runtime, Calls]]:
    peer = Peer(mute=("tools/call", "ping"))
    async with open_runtime("main", settings=settings) as runtime, connect(runtime) as client:
        mount = await runtime.mount(create_proxy(peer.connect, **policy))
        await trio.sleep(1)  # it is asked what it has, and that takes slots
        async with trio.open_nursery() as nursery:
            yield runtime, Calls(peer, mount, client, nursery)
            nursery.cancel_scope.cancel()
        await quiet()
        assert_books_balance(runtime.ps())


@pytest.mark.parametrize(("connect", "sessions"), [(legacy, "shared"), (modern, "shared"), (legacy, "per_client")])
async def test_f24_backend_ignores_cancel_caller_free_at_once_its_slot_stays_taken_until_reply(
    connect: Any, sessions: str, autojump_clock: Any
) -> None:
    async with calls(RuntimeSettings(in_flight=2), connect, sessions=sessions) as (_, made):
        begun = trio.current_time()
        await made.begin(3)
        assert made.slots == (2, 0, 1)
        await made.give_up(0)
        assert (made.ended, trio.current_time() - begun < 1) == ([0], True)
        assert made.slots == (1, 1, 1)  # the backend was told, and says nothing: the third does not begin
        assert made.mount.info().accounting["cancelled"] == 1
        await made.reply(0)
        assert made.slots == (2, 0, 0)
        await made.reply(1)
        await made.reply(2)
        assert (sorted(made.ended), made.failed) == ([0, 1, 2], [])


async def test_f24_its_slot_is_free_when_the_call_would_have_ended(autojump_clock: Any) -> None:
    settings = RuntimeSettings(in_flight=4, deadlines=CallDeadlines(idle=30, total=40))
    async with calls(settings) as (_, made):
        await made.begin(2)
        begun = trio.current_time()
        await trio.sleep(15)
        await made.peer.send(method="notifications/progress", params={"progressToken": made.tokens[1], "progress": 1})
        await trio.sleep(5)
        await made.give_up(1, 0)
        assert made.slots == (0, 2, 0)
        await trio.sleep_until(begun + 29)
        assert made.slots == (0, 2, 0)
        await trio.sleep_until(begun + 31)
        assert made.slots == (0, 1, 0)  # no sign of life of the first
        await trio.sleep_until(begun + 41)
        assert made.slots == (0, 0, 0)  # forty seconds in all, for the second


async def test_f24_a_call_that_its_deadline_has_ended_keeps_no_slot(autojump_clock: Any) -> None:
    settings = RuntimeSettings(in_flight=4, deadlines=CallDeadlines(idle=5))
    async with calls(settings) as (_, made):
        await made.begin()
        await trio.sleep(6)
        assert (made.failed, made.slots) == (["call timed out: no sign of life for 5 s; it was cancelled"], (0, 0, 0))


@pytest.mark.parametrize("in_flight", [1, 2, 5])
async def test_f24_half_of_the_slots_are_kept_at_most_and_the_oldest_goes(in_flight: int, autojump_clock: Any) -> None:
    half = in_flight // 2
    async with calls(RuntimeSettings(in_flight=in_flight, mailbox=1)) as (_, made):
        for number in range(2 * in_flight):
            await made.begin()
            assert len(made.sent) == number + 1  # one who never answers what was cancelled refuses nothing by that
            await made.give_up(number)
            assert made.slots == (0, min(number + 1, half), 0)
        if half:
            await made.reply(0)  # let go long ago
            assert made.slots == (0, half, 0)
            await made.reply(2 * in_flight - 1)
            assert made.slots == (0, half - 1, 0)


async def test_f24_slots_are_free_when_the_session_ends(autojump_clock: Any) -> None:
    settings = RuntimeSettings(in_flight=8)
    async with calls(settings) as (_, made):
        await made.begin(3)
        await made.give_up(0, 1, 2)
        assert made.slots == (0, 3, 0)
        await made.peer._out.aclose()  # a crash: the next life has all its slots
        await trio.sleep(1)
        assert (made.mount.state, made.slots) == ("running", (0, 0, 0))


async def test_f24_the_life_after_a_crash_keeps_slots_and_their_time_anew(autojump_clock: Any) -> None:
    async with calls(RuntimeSettings(in_flight=8), sessions="shared") as (_, made):
        for life in range(2):
            await made.begin()
            await made.give_up(life)
            assert (made.mount.info().restarts, made.slots) == (life, (0, 1, 0))
            if not life:
                await made.peer._out.aclose()
                await trio.sleep(1)
                assert (made.mount.state, made.slots) == ("running", (0, 0, 0))
        await trio.sleep(31)
        assert made.slots == (0, 0, 0)


async def test_f24_slots_of_one_clients_session_are_free_when_that_ends(autojump_clock: Any) -> None:
    async with calls(RuntimeSettings(in_flight=8), sessions="per_client") as (runtime, made):
        async with legacy(runtime) as other, trio.open_nursery() as nursery:
            of_other = Calls(made.peer, made.mount, other, nursery)
            await of_other.begin(2)
            await of_other.give_up(0, 1)
            assert made.slots == (0, 2, 0)
        await quiet()
        assert made.slots == (0, 0, 0)


async def test_f24_a_call_through_middleware_keeps_its_slot_no_longer_than_its_caller_would_have_waited(
    autojump_clock: Any,
) -> None:
    async def passing(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    peer, main = Peer(mute=("tools/call",)), Server("main", middleware=[passing])
    main.mount(create_proxy(peer.connect), "peer")
    async with open_runtime(main) as runtime, legacy(runtime) as client:
        await client.send("tools/list", {})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "peer_tool")
            await quiet()
            nursery.cancel_scope.cancel()
        await quiet()
        [row] = [row for row in runtime.ps().children if row.kind == "proxy"]
        assert (row.in_flight, row.given_up) == (0, 1)
        await trio.sleep(31)
        assert not sum(row.given_up for row in runtime.ps().children)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_f24_where_nothing_tells_of_late_replies_the_slot_is_free_in_time(mode: str, autojump_clock: Any) -> None:
    behind = Server("behind")

    @behind.tool()
    async def hang() -> None:
        await trio.sleep_forever()

    async with open_runtime(behind) as far, Client(InMemoryTransport(far.server), mode=mode) as connected:
        async with open_runtime("main") as runtime, legacy(runtime) as client:
            mount = await runtime.mount(create_proxy(connected))
            await client.send("tools/list", {})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call, "hang")
                await quiet()
                nursery.cancel_scope.cancel()
            await quiet()
            assert (mount.info().in_flight, mount.info().given_up) == (0, 1)
            await trio.sleep(31)
            assert mount.info().given_up == 0


# --- Over stdio: there the late reply is dropped before anybody sees it ----------------------------------------------

LATE = """
import json, sys
def out(**said): print(json.dumps({"jsonrpc": "2.0", **said}), flush=True)
for line in sys.stdin:
    said = json.loads(line)
    method, number = said.get("method"), said.get("id")
    if method == "initialize":
        out(id=number, result={"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
            "serverInfo": {"name": "late", "version": "1"}})
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("begin", "answer")]
        out(id=number, result={"tools": tools})
    elif method == "tools/call" and said["params"]["name"] == "begin":
        begun = number
        out(method="notifications/progress", params={"progressToken": said["params"]["_meta"]["progressToken"],
            "progress": 1})
    elif method == "tools/call":
        out(id=begun, result={"content": []})
        out(id=number, result={"content": []})
    elif method in ("server/discover", "ping"):
        out(id=number, error={"code": -32601, "message": "no"})
"""
"""Replies to the call that was cancelled when the next one comes."""


async def test_f24_over_stdio_a_late_reply_frees_the_slot() -> None:
    target = create_proxy({"command": sys.executable, "args": ["-c", LATE]})
    async with open_runtime("main") as runtime, legacy(runtime) as client:
        mount = await runtime.mount(target)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "begin", "token")
            await client.until(lambda: bool(client.said("progress")))
            nursery.cancel_scope.cancel()
        while mount.info().in_flight:
            await trio.lowlevel.checkpoint()
        assert mount.info().given_up == 1
        await client.call("answer")
        assert (mount.info().given_up, mount.info().dropped["late_reply"]) == (0, 1)


# --- Whatever comes in whatever order -------------------------------------------------------------------------------

SLOTS = 4


async def at_random(draw: Random) -> None:
    """Calls begin, are given up and replied to; at every moment of rest the slots are as the rule has it."""
    async with calls(RuntimeSettings(in_flight=SLOTS, mailbox=100)) as (runtime, made):
        for _ in range(30):
            what = draw.choice(["begin", "begin", "give up", "reply", "wait"])
            number = draw.randrange(max(1, len(made.scopes)))
            if what == "begin":
                await made.begin()
            elif what == "give up" and made.scopes:
                await made.give_up(number)
            elif what == "reply" and number < len(made.sent):
                await made.reply(number)  # in time, too late, or again
            elif what == "wait":
                await trio.sleep(draw.choice([0.1, 3]))
            running, kept, waiting = made.slots
            assert kept <= SLOTS // 2
            assert running + kept <= SLOTS
            assert not waiting or running + kept == SLOTS
            assert_books_balance(runtime.ps())
        await trio.sleep(31)
        assert made.mount.info().given_up == 0


def test_f24_random_cancels_keep_half_of_the_slots_at_most_and_the_books_balance() -> None:
    simulate_many(at_random, range(60))

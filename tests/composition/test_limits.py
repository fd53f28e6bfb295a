"""What may run, wait and be said at one time, each at the edge of its setting, on virtual time (P5, F25)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from mcp import types
from mcp.client import Client
from mcp.client._memory import InMemoryTransport
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from mcpactors import (
    CallDeadlines,
    CallLimits,
    ClientLimits,
    Runtime,
    RuntimeSettings,
    Server,
    create_proxy,
    open_runtime,
)
from mcpactors.actors.backend import SessionEnded
from mcpactors.actors.rounds import answer_rounds
from mcpactors.config import StdioServer
from mcpactors.errors import OVERLOADED, BackendMisbehaved, MailboxFull
from mcpactors.meaning import transport_of
from mcpactors.runtime.hops import HOPS
from mcpactors.runtime.policy import BackendLimits
from mcpactors.runtime.reply import Outcome, Replies, Result
from mcpactors.transports.http_client.event_stream import EventReader, EventTooLong
from mcpactors.transports.http_client.faults import Unreadable, read_message
from mcpactors.transports.lines.front import serve_duplex
from mcpactors.transports.stdio.child import StdioLimits
from mcpactors.transports.turns import CLIENTS
from mcpactors.transports.values import StdioTransport, limited
from tests.composition.helpers import serving
from tests.transports.test_stdio_reading import read_all

MODES = ("auto", "legacy")


@asynccontextmanager
async def over_streams(
    main: object, mode: str, settings: RuntimeSettings, **options: Any
) -> AsyncIterator[tuple[Runtime, Client]]:
    """A runtime and a client whose requests come on one stream, as over stdio."""
    async with open_runtime(main, settings=settings) as runtime, another(runtime, mode, **options) as client:
        yield runtime, client


def another(runtime: Runtime, mode: str, **options: Any) -> Client:
    return Client(InMemoryTransport(runtime.server), mode=mode, **options)


class Gates:
    """Tools that wait until they are let go, and who has begun, in order."""

    def __init__(self) -> None:
        self.server = Server("gates")
        self.begun: list[str] = []
        self.open: dict[str, trio.Event] = {}
        self.server.add_tool(self.wait)

    async def wait(self, key: str, ctx: Context[Any, Any]) -> str:
        self.begun.append(key)
        while not self.gate(key).is_set():
            with trio.move_on_after(1):
                await self.gate(key).wait()
            await ctx.report_progress(len(self.begun))  # a sign of life
        return key

    def gate(self, key: str) -> trio.Event:
        return self.open.setdefault(key, trio.Event())


class Callers:
    """Calls of one client, each in a task of its own, and what became of them."""

    def __init__(self, client: Client, nursery: trio.Nursery, meta: Any = None) -> None:
        self.client, self.nursery, self.meta = client, nursery, meta
        self.tool = "wait"
        self.ended: dict[str, Any] = {}

    async def call(self, *keys: str) -> None:
        for key in keys:
            self.nursery.start_soon(self._call, key)
            await trio.testing.wait_all_tasks_blocked()

    async def _call(self, key: str) -> None:
        try:
            self.ended[key] = (await self.client.call_tool(self.tool, {"key": key}, meta=self.meta)).content[0]
        except MCPError as error:
            self.ended[key] = error


# --- Of one connection ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_so_many_calls_of_one_connection_run_and_the_next_come_in_their_turn(mode: str, autojump_clock) -> None:
    gates = Gates()
    settings = RuntimeSettings(clients=ClientLimits(in_flight=2))
    async with over_streams(gates.server, mode, settings) as (runtime, client), trio.open_nursery() as nursery:
        callers = Callers(client, nursery)
        await callers.call("a", "b", "c", "d")
        assert gates.begun == ["a", "b"]
        assert [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools] == ["wait"]
        async with another(runtime, mode) as other, trio.open_nursery() as theirs:  # another has turns of its own
            await Callers(other, theirs).call("other")
            assert gates.begun == ["a", "b", "other"]
            gates.gate("other").set()
        for ends, begins in ("b", "c"), ("a", "d"):
            gates.gate(ends).set()
            await trio.testing.wait_all_tasks_blocked()
            assert gates.begun[-1] == begins
        gates.gate("c").set()
        gates.gate("d").set()
    assert sorted(callers.ended) == ["a", "b", "c", "d"]
    assert not [ended for ended in callers.ended.values() if isinstance(ended, MCPError)]


@pytest.mark.parametrize("mode", MODES)
async def test_p6_clients_of_a_gateway_before_this_one_do_not_wait_for_each_others_turns(
    mode: str, autojump_clock
) -> None:
    gates = Gates()
    settings = RuntimeSettings(clients=ClientLimits(in_flight=2))
    async with over_streams(gates.server, mode, settings) as (_, gateway), trio.open_nursery() as nursery:
        before = RuntimeSettings(clients=ClientLimits(in_flight=2))
        async with over_streams(create_proxy(gateway), mode, before) as (runtime, client):
            await client.list_tools()  # where a name leads that nobody has listed yet is not known
            callers = Callers(client, nursery)
            await callers.call("a", "b", "c")
            assert gates.begun == ["a", "b"]
            async with another(runtime, mode) as other, trio.open_nursery() as theirs:
                await Callers(other, theirs).call("other")
                assert gates.begun == ["a", "b", "other"]
                gates.gate("other").set()
            for key in "abc":
                gates.gate(key).set()
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(callers.ended) == ["a", "b", "c"]


async def test_f21_who_does_not_read_its_answers_has_so_many_made_and_no_more(autojump_clock) -> None:
    main, made = Server("main"), []

    @main.tool()
    async def large(number: int) -> str:
        made.append(number)
        return "x" * StdioLimits().outgoing

    unread, outgoing = trio.testing.lockstep_stream_pair()
    asking, incoming = trio.testing.memory_stream_pair()
    settings = RuntimeSettings(clients=ClientLimits(in_flight=4), deadlines=CallDeadlines(idle=10))
    async with open_runtime(main, settings=settings) as runtime, trio.open_nursery() as nursery:
        async with another(runtime, "auto") as client:
            await client.list_tools()  # where a name leads that nobody has listed yet is not known
        nursery.start_soon(serve_duplex, runtime.server, incoming, outgoing, StdioLimits())
        info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "0"}}
        said = [{"id": 0, "method": "initialize", "params": info}]
        for number in range(1, 21):
            params = {"name": "large", "arguments": {"number": number}}
            said.append({"id": number, "method": "tools/call", "params": params})
        await asking.send_all(b"".join(json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in said))
        await trio.testing.wait_all_tasks_blocked()
        assert len(made) <= 6  # four wait for room, one is being written and one is behind it
        answered = 0
        while answered < 21:
            answered += (await unread.receive_some(1 << 20)).count(b"\n")
        assert sorted(made) == list(range(1, 21))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", MODES)
async def test_who_says_that_it_is_a_gateway_has_the_turns_of_eight_clients_and_no_more(
    mode: str, autojump_clock
) -> None:
    gates, keys = Gates(), [str(number) for number in range(CLIENTS + 1)]
    settings = RuntimeSettings(clients=ClientLimits(in_flight=1))
    async with over_streams(gates.server, mode, settings) as (_, client), trio.open_nursery() as nursery:
        callers = Callers(client, nursery, {HOPS: 1})
        await callers.call(*keys)
        assert gates.begun == keys[:CLIENTS]
        gates.gate("0").set()
        await trio.testing.wait_all_tasks_blocked()
        assert gates.begun == keys
        for key in keys:
            gates.gate(key).set()


async def test_a_call_whose_turn_does_not_come_is_refused_and_told_to_come_again(autojump_clock) -> None:
    gates = Gates()
    settings = RuntimeSettings(clients=ClientLimits(in_flight=1), deadlines=CallDeadlines(idle=10))
    async with over_streams(gates.server, "auto", settings) as (_, client), trio.open_nursery() as nursery:
        callers = Callers(client, nursery)
        await callers.call("a", "b")
        await trio.sleep(9)
        assert "b" not in callers.ended
        await trio.sleep(2)
        refused = callers.ended["b"]
        assert (refused.code, refused.error.data) == (OVERLOADED, {"retryAfter": 1.0})
        said = (
            "1 calls of this connection are running, 1 of them where this one goes, and its turn has not come for 10 s"
        )
        assert said in refused.message
        gates.gate("a").set()
    assert gates.begun == ["a"]


async def test_who_is_cancelled_while_it_waits_for_its_turn_takes_none(autojump_clock) -> None:
    gates = Gates()
    settings = RuntimeSettings(clients=ClientLimits(in_flight=1))
    async with over_streams(gates.server, "auto", settings) as (_, client), trio.open_nursery() as nursery:
        async with trio.open_nursery() as given_up:
            await Callers(client, nursery).call("a")
            await Callers(client, given_up).call("b")
            given_up.cancel_scope.cancel()
        callers = Callers(client, nursery)
        await callers.call("c")
        gates.gate("a").set()
        gates.gate("c").set()
    assert gates.begun == ["a", "c"]


class Confirmation(BaseModel):
    sure: bool


async def test_a_call_that_waits_for_its_clients_answer_has_lent_its_turn(autojump_clock) -> None:
    main = Server("main")

    @main.tool()
    async def delete(ctx: Context[Any, Any]) -> str:
        answer = await ctx.elicit("Really?", Confirmation)
        return answer.action

    @main.tool()
    async def size() -> str:
        return "large"

    async def look_first(ctx: Any, params: Any) -> types.ElicitResult:
        await client.call_tool("size", {})
        return types.ElicitResult(action="accept", content={"sure": True})

    settings = RuntimeSettings(clients=ClientLimits(in_flight=1))
    async with over_streams(main, "legacy", settings, elicitation_callback=look_first) as (_, client):
        for _ in range(3):
            [said] = (await client.call_tool("delete", {})).content
            assert isinstance(said, types.TextContent)
            assert said.text == "accept"


# --- Of one mount ---------------------------------------------------------------------------------------------------


async def test_f25_so_many_requests_run_at_a_mount_so_many_wait_and_the_next_is_refused(autojump_clock) -> None:
    gates = Gates()
    settings = RuntimeSettings(in_flight=2, mailbox=1)
    async with serving(gates.server, "auto", settings) as (_, client), trio.open_nursery() as nursery:
        await client.list_tools(cache_mode="bypass")
        callers = Callers(client, nursery)
        await callers.call("a", "b", "c")
        assert gates.begun == ["a", "b"]
        assert not callers.ended
        await callers.call("d")
        refused = callers.ended["d"]
        assert (refused.code, refused.error.data) == (OVERLOADED, {"actor": "gates.own", "retryAfter": 1.0})
        for key in "abc":
            gates.gate(key).set()
    assert gates.begun == ["a", "b", "c"]


async def test_f25_so_many_control_messages_wait_for_a_mount(autojump_clock) -> None:
    async with open_runtime(Server("main"), settings=RuntimeSettings(control=3)) as runtime:
        [running] = runtime._forest.running.values()
        for number in range(3):
            running.ref.mailbox.cast(SessionEnded(str(number)))
        with pytest.raises(MailboxFull, match="has 3 control messages waiting already"):
            running.ref.mailbox.cast(SessionEnded("4"))
        running.ref.mailbox._control.clear()  # a server of this process takes none


# --- Of one call ----------------------------------------------------------------------------------------------------


def test_p5_a_caller_that_does_not_read_has_so_many_notices_and_loses_the_oldest() -> None:
    async def run() -> tuple[list[Any], int]:
        with Replies(CallDeadlines(), CallLimits(notices=3)) as replies:
            for number in range(4):
                replies.channel.notice("notifications/message", {"n": number})
            replies.channel.finish(Result({}))
            return [event.params async for event in replies], replies.channel.dropped

    assert trio.run(run) == ([{"n": 1}, {"n": 2}, {"n": 3}], 1)


async def test_p5_progress_comes_so_often_a_second_and_the_last_always(autojump_clock) -> None:
    main = Server("main")

    @main.tool()
    async def work(ctx: Context[Any, Any]) -> None:
        for step in range(100):
            await ctx.report_progress(step)
            await trio.sleep(0.01)

    heard: list[tuple[float, float]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((trio.current_time() - began, progress))

    settings = RuntimeSettings(calls=CallLimits(progress=2))
    async with serving(main, "auto", settings) as (_, client):
        began = trio.current_time()
        await client.call_tool("work", {}, progress_callback=hear)
    assert [progress for at, progress in heard if at < 0.5] == [0, 1]
    assert heard[-1][1] == 99
    assert len(heard) <= 4


# --- Of one backend -------------------------------------------------------------------------------------------------


def reply(identity: int | str = 1, depth: int = 0, size: int = 0) -> bytes:
    """A response of so many bytes, in which JSON nests so deep."""
    inside = b'{"x":' * (depth - 2) + b"1" + b"}" * (depth - 2) if depth else b"1"
    said = b'{"jsonrpc":"2.0","id":' + (f'"{identity}"' if isinstance(identity, str) else str(identity)).encode()
    said += b',"result":{"x":' + inside + b',"y":"%s"}}'
    return said % (b"." * max(0, size - len(said) + 2))


def asks(identity: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":"%s","method":"ping"}' % identity.encode()


TAKEN = BackendLimits(message=2000, depth=10, id=40)
EDGES: list[tuple[bytes, bytes]] = [
    (reply(size=2000), reply(size=2001)),
    (reply(depth=10), reply(depth=11)),
    (asks("x" * 40), asks("x" * 41)),
]


@pytest.mark.parametrize(("good", "bad"), EDGES, ids=["message", "depth", "id"])
async def test_what_a_backend_says_is_taken_at_its_limits_and_not_beyond(good: bytes, bad: bytes) -> None:
    limits = StdioLimits.of(TAKEN)
    taken, reader = await read_all(good + b"\n", limits)
    assert [message.id for message in taken] in ([1], ["x" * 40])
    assert not reader.skipped
    [*failed], reader = await read_all(bad + b"\n", limits)
    assert reader.skipped.total() == 1
    assert all(isinstance(message, types.JSONRPCError) for message in failed)
    assert over_http(good) is None
    assert over_http(bad) is not None


def over_http(said: bytes) -> str | None:
    """Why a backend over HTTP may not say this; None: it may."""
    try:
        [event] = EventReader(TAKEN.message + 1).feed(b"data: " + said + b"\n\n")  # the end of the line counts
        read_message(event.data, TAKEN)
    except (EventTooLong, Unreadable) as error:
        return str(error)
    return None


def test_the_limits_of_a_backend_are_its_transports_or_the_mounts_or_the_runtimes() -> None:
    program = transport_of(StdioServer("x"))
    assert isinstance(found := limited(program, TAKEN), StdioTransport)
    assert found.limits == TAKEN
    own = StdioTransport("x", limits=BackendLimits(message=5000))
    assert limited(own, TAKEN) == own
    assert (StdioLimits.of(TAKEN).exit_grace, StdioLimits.of(TAKEN).term_grace) == (1.0, 2.0)


class Willing:
    """Answers every question."""

    async def question(self, method: str, params: Mapping[str, Any] | None) -> Outcome:
        return Result({"action": "accept"})


@pytest.mark.parametrize(("rounds", "state", "ends"), [(3, 20, True), (4, 20, False), (3, 21, False)])
async def test_a_backend_may_ask_in_so_many_rounds_with_a_state_so_long(rounds: int, state: int, ends: bool) -> None:
    left = rounds

    def said() -> dict[str, Any]:
        questions = {"q": {"method": "elicitation/create", "params": {}}}
        return {"resultType": "input_required", "inputRequests": questions, "requestState": "s" * state}

    async def again(more: dict[str, Any]) -> Mapping[str, Any]:
        nonlocal left
        left -= 1
        return said() if left else {"resultType": "complete"}

    limits = BackendLimits(rounds=3, state=20)
    if ends:
        assert await answer_rounds("api", said(), again, Willing(), limits) == Result({"resultType": "complete"})
    else:
        with pytest.raises(BackendMisbehaved, match="after 3 rounds" if rounds == 4 else "21 characters; 20 are taken"):
            await answer_rounds("api", said(), again, Willing(), limits)


# --- Of one list ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "pages"), [(2, [2]), (3, [2, 1])])
async def test_a_list_has_so_many_items_in_a_page(number: int, pages: list[int]) -> None:
    main = Server("main")
    for n in range(number):
        main.add_tool(lambda: None, name=f"t{n}")
    async with serving(main, "auto", RuntimeSettings(page_size=2)) as (_, client):
        listed = await client.list_tools(cache_mode="bypass")
        found = [len(listed.tools)]
        while listed.next_cursor is not None:
            listed = await client.list_tools(cursor=listed.next_cursor, cache_mode="bypass")
            found.append(len(listed.tools))
    assert found == pages

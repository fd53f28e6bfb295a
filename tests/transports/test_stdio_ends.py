"""The end of what a client says on stdin: what it has asked before is answered, if that is soon (virtual time)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.server.mcpserver import Context
from pydantic import BaseModel

from mcpactors import Server, open_runtime
from mcpactors.transports.lines.front import serve_duplex
from mcpactors.transports.lines.serving import LAST_ANSWERS
from mcpactors.transports.lines.streams import StdioLimits
from tests.transports.test_duplex_stopping import HELLO, line

READY = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode() + b"\n"
MODERN = {
    types.PROTOCOL_VERSION_META_KEY: "2026-07-28",
    types.CLIENT_INFO_META_KEY: {"name": "raw", "version": "0"},
    types.CLIENT_CAPABILITIES_META_KEY: {},
}


class Well(BaseModel):
    well: bool


def slow(begun: trio.Event) -> Server:
    server = Server("front")

    @server.tool()
    async def after(seconds: float) -> str:
        begun.set()
        await trio.sleep(seconds)
        return "done"

    @server.tool()
    async def asks(ctx: Context[Any, Any]) -> str:
        begun.set()
        await ctx.elicit("well?", Well)
        return "never"

    return server


def call(identity: int, name: str, **arguments: Any) -> bytes:
    return line(identity, "tools/call", name=name, arguments=arguments)


@asynccontextmanager
async def asked(said: bytes, **options: Any) -> AsyncIterator[tuple[dict[int, Any], list[float]]]:
    """All of that is said at once, and nothing more; once the block has ended, what each was answered, and when it was
    over, in seconds after the end."""
    heard, outgoing = trio.testing.memory_stream_pair()
    saying, incoming = trio.testing.memory_stream_pair()
    answers: dict[int, Any] = {}
    times: list[float] = []
    async with open_runtime(slow(trio.Event())) as runtime:
        async with trio.open_nursery() as nursery:
            await saying.send_all(said)
            await saying.send_eof()
            began = trio.current_time()

            async def serve() -> None:
                await serve_duplex(runtime.server, incoming, outgoing, StdioLimits(), **options)
                times.append(trio.current_time() - began)

            nursery.start_soon(serve)
            yield answers, times
        data = b""
        while more := await heard.receive_some(65536):
            data += more
    said_back = [json.loads(row) for row in data.splitlines()]
    answers |= {row["id"]: row.get("error", {}).get("message") or row["result"] for row in said_back if "id" in row}


async def test_f20_what_is_piped_in_is_answered_and_then_it_is_over_at_once(autojump_clock) -> None:
    said = [HELLO, READY, line(1, "ping"), line(2, "tools/list"), call(3, "after", seconds=0.5)]
    async with asked(b"".join(said)) as (answers, times):
        pass
    assert times == [pytest.approx(0.5)]
    assert answers[1] == {}
    assert [tool["name"] for tool in answers[2]["tools"]] == ["after", "asks"]
    assert answers[3]["content"][0]["text"] == "done"


@pytest.mark.parametrize("said", [b"", HELLO + READY, line(1, "ping")])
async def test_f20_who_leaves_with_nothing_in_flight_is_not_waited_for(said: bytes, autojump_clock) -> None:
    async with asked(said) as (answers, times):
        pass
    assert times == [0]
    assert len(answers) == said.count(b'"id"')


async def test_f20_what_takes_long_is_cancelled_soon_after_the_end(autojump_clock) -> None:
    async with asked(HELLO + READY + call(1, "after", seconds=LAST_ANSWERS + 1)) as (answers, times):
        pass
    assert answers[1] == "Connection closed"
    assert times == [pytest.approx(LAST_ANSWERS)]


async def test_f20_what_was_asked_while_servers_start_is_answered_once_they_have(autojump_clock) -> None:
    async def started() -> None:
        await trio.sleep(5)

    async with asked(HELLO + READY + call(1, "after", seconds=5.5), started=started) as (answers, times):
        pass
    assert answers[1]["content"][0]["text"] == "done"
    assert times == [pytest.approx(5.5)]


async def test_p10_a_stop_after_the_end_waits_for_nothing(autojump_clock) -> None:
    stopping = trio.Event()
    async with asked(HELLO + READY + call(1, "after", seconds=60), stopping=stopping, drain=30) as (answers, times):
        await trio.sleep(0.25)
        stopping.set()
    assert answers[1] == "Connection closed"
    assert times == [pytest.approx(0.25)]


async def test_f20_a_stream_of_changes_is_not_waited_for(autojump_clock) -> None:
    listen = line(1, "subscriptions/listen", notifications={"toolsListChanged": True}, _meta=MODERN)
    async with asked(listen) as (_, times):
        pass
    assert times == [0]


async def test_f20_who_asks_a_client_that_says_nothing_more_is_told_so(autojump_clock) -> None:
    capable = HELLO.replace(b'"capabilities": {}', b'"capabilities": {"elicitation": {}}')
    async with asked(capable + READY + call(1, "asks")) as (answers, times):
        pass
    assert answers[1] == "Connection closed"
    assert times == [0]

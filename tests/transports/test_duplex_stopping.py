"""A stop, for a client at the other end of two streams of lines that takes nothing (P10, F21; virtual time)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from mcpactors import Server, open_runtime
from mcpactors.transports.lines.front import serve_duplex
from mcpactors.transports.lines.streams import StdioLimits

server = Server("front")


@server.tool()
async def large() -> str:
    return "x" * 2_000_000


def line(identity: int, method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identity, "method": method, "params": params}).encode() + b"\n"


HELLO = line(0, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "raw", "version": "0"})
CALLS = b"".join(line(number, "tools/call", name="large", arguments={}) for number in (1, 2))


@pytest.mark.parametrize("late", [line(3, "tools/call", name="large", arguments={}), line(4, "initialize")])
async def test_p10_a_client_that_reads_nothing_and_asks_on_holds_up_no_stop(late: bytes, autojump_clock) -> None:
    unread, outgoing = trio.testing.lockstep_stream_pair()
    asking, incoming = trio.testing.memory_stream_pair()
    stopping = trio.Event()
    async with open_runtime(server) as runtime:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_duplex, runtime.server, incoming, outgoing, StdioLimits(), stopping, 2)
            await asking.send_all(HELLO)
            assert b"protocolVersion" in await unread.receive_some(65536)
            await asking.send_all(CALLS)
            await trio.testing.wait_all_tasks_blocked()
            stopping.set()
            await trio.testing.wait_all_tasks_blocked()
            await asking.send_all(late)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            nursery.cancel_scope.deadline = began + 10
        assert trio.current_time() - began <= 2 + 2 * StdioLimits().exit_grace

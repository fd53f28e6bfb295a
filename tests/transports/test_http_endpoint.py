"""The MCP endpoint on our host: what its streams say while nothing happens, how they end when it stops.

Rule: bytes written and read as the spec has them, no client of anybody's.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import MockClock

from mcpactors import Runtime, Server, open_runtime
from tests.transports.http_raw import HANG, RawClient, connected

NEW = "2026-07-28"
OLD = "2025-11-25"
META = {
    "io.modelcontextprotocol/protocolVersion": NEW,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
END = b"\r\n0\r\n\r\n"
"""Of a body in chunks: it is whole."""
WANTED = {"toolsListChanged": True}


def request(verb: str, message: dict[str, Any] | None = None, **fields: str) -> bytes:
    body = b"" if message is None else json.dumps({"jsonrpc": "2.0", **message}).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    head = [f"{verb} /mcp HTTP/1.1", "Host: localhost", "Accept: application/json, text/event-stream"]
    head += ["Content-Type: application/json", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def modern(method: str, **params: Any) -> bytes:
    fields = {"mcp_name": params["name"]} if "name" in params else {}
    message = {"id": 1, "method": method, "params": {"_meta": META, **params}}
    return request("POST", message, mcp_protocol_version=NEW, mcp_method=method, **fields)


async def old_stream(client: RawClient) -> None:
    """Open a session of the old era, and its stream."""
    hello = {"protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    await client.write(request("POST", {"id": 1, "method": "initialize", "params": hello}))
    session = (await client.reply()).fields["mcp-session-id"]
    await client.write(request("GET", mcp_session_id=session, mcp_protocol_version=OLD))
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def serve_until(stop: trio.Event, runtime: Runtime, *, task_status: trio.TaskStatus[int]) -> None:
    async with runtime.serve_http(port=0) as url:
        task_status.started(urlsplit(url).port or 0)
        await stop.wait()


@asynccontextmanager
async def front(main: Server, stop: trio.Event) -> AsyncIterator[tuple[Runtime, int, trio.Nursery]]:
    """A front that stops when told to, at the latest with the block; with its port."""
    with trio.fail_after(HANG):
        async with open_runtime(main) as runtime, trio.open_nursery() as nursery:
            yield runtime, await nursery.start(serve_until, stop, runtime), nursery
            stop.set()


async def test_p10_a_front_that_stops_ends_its_streams_in_good_order_and_lets_calls_end() -> None:
    began, go, stop = trio.Event(), trio.Event(), trio.Event()
    main = Server("main")

    @main.tool
    async def hold() -> str:
        began.set()
        await go.wait()
        return "let through"

    async with front(main, stop) as (_, port, _nursery):
        async with connected(port) as caller, connected(port) as new, connected(port) as old:
            await caller.write(modern("tools/call", name="hold", arguments={}))
            await began.wait()
            await old_stream(old)
            await new.write(modern("subscriptions/listen", notifications=WANTED))
            await new.until(b"notifications/subscriptions/acknowledged")
            stop.set()
            said = await new.to_the_end()
            assert b'"resultType":"complete"' in said
            assert said.endswith(END)
            assert (await old.to_the_end()).endswith(END.lstrip())
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", port)
            go.set()
            reply = await caller.reply()
            assert (reply.fields["connection"], b"let through" in reply.body) == ("close", True)


async def test_a_front_that_stops_leaves_the_streams_of_other_fronts() -> None:
    main, stop = Server("main"), trio.Event()
    async with front(main, trio.Event()) as (runtime, port, nursery):
        other = await nursery.start(serve_until, stop, runtime)
        async with connected(port) as staying, connected(other) as ending:
            for client in (staying, ending):
                await client.write(modern("subscriptions/listen", notifications=WANTED))
                await client.until(b"notifications/subscriptions/acknowledged")
            stop.set()
            assert b'"result"' in await ending.to_the_end()
            main.add_tool(lambda: "x", name="x")
            await staying.until(b"notifications/tools/list_changed")


async def test_a_stream_on_which_nothing_happens_has_a_comment_every_15_s(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02  # sockets: what is written is there at once, but not in the same instant
    main = Server("main")

    @main.tool
    async def think() -> str:
        await trio.sleep(20)
        return "thought"

    async with front(main, trio.Event()) as (_, port, _nursery):
        async with connected(port) as caller, connected(port) as new, connected(port) as old:
            await old_stream(old)
            await new.write(modern("subscriptions/listen", notifications=WANTED))
            await new.until(b"acknowledged")
            await caller.write(modern("tools/call", name="think", arguments={}))
            for client in (old, new, caller):
                await client.until(b"\r\n: ping")
            assert round(trio.current_time()) == 15
            await caller.until(b"thought")

"""Clients that leave their answers lying have so much of a server together, and who takes what it gets keeps all."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mcpactors import ClientLimits, RuntimeSettings, Server, open_runtime
from mcpactors.transports.asgi import HostLimits, Receive, Scope, Send, Unread
from mcpactors.transports.asgi.serving import LOOK
from mcpactors.transports.asgi.unread import to_drop
from tests.transports.http_raw import RawClient, answer, connected, get, hosted, post
from tests.transports.ws_raw import call, handshake, text

MUCH = 16 * 1024**2
"""Bytes of an answer: more than the machine keeps for a client that does not read."""
PIECE = MUCH // 4
"""What a slow one takes between two looks: much of what the machine keeps, so that it takes more."""


async def look(clock: MockClock, times: int = 1) -> None:
    """Let the host look at all clients, when everything that can be sent has been."""
    for _ in range(times):
        await wait_all_tasks_blocked(0.02)
        clock.jump(LOOK)
    await wait_all_tasks_blocked(0.02)


def of(*waiting: int) -> list[Unread]:
    everyone = [Unread(size) for size in waiting]
    assert not to_drop(everyone, 0)  # nobody has been idle between two looks
    return everyone


def test_f21_who_waits_longest_for_its_client_goes_first_and_no_more_go_than_must() -> None:
    longest, long, newcomer = [*of(10, 10), Unread(10)]
    assert to_drop([longest, long, newcomer], 30) == set()
    long.taken += 1
    assert to_drop([longest, long, newcomer], 25) == {longest}
    assert to_drop([long, newcomer], 0) == {long, newcomer}


def test_f21_who_has_taken_anything_since_the_last_look_stays_whatever_waits() -> None:
    reads, unread = of(1000, 1)
    reads.taken += 1
    assert to_drop([reads, unread], 0) == {unread}


def test_f21_what_has_waited_before_and_was_taken_counts_no_more() -> None:
    [once] = of(10)
    once.waiting -= 10
    assert to_drop([once], 0) == set()
    once.waiting += 10
    assert to_drop([once], 0) == set()


async def test_f21_of_clients_that_read_nothing_so_much_waits_and_the_first_is_dropped(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await answer(send, b"x" * (MUCH if scope["path"] != "/well" else 10))
        finally:
            ended.append(scope["path"])

    limits = HostLimits(unread=MUCH * 5 // 2)
    async with hosted(app, limits) as served, served.client() as a, served.client() as b, served.client() as c:
        for client, path in ((a, "/a"), (b, "/b"), (c, "/c")):
            assert ended == []
            await client.write(get(path))
            await look(mock_clock, 3 if client is not c else 1)
        assert ended == ["/a"]
        await look(mock_clock, 3)
        assert (await served.ask(get("/well"))).body == b"x" * 10
        assert ended == ["/a", "/well"]
        assert len((await b.reply()).body) == len((await c.reply()).body) == MUCH
    [said] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith(f"more than {limits.unread} bytes wait for clients; 1 connection")


async def test_f21_a_client_that_reads_slowly_is_not_dropped_whatever_waits(mock_clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * MUCH)

    async with hosted(app, HostLimits(unread=1)) as served, served.client() as slow:
        await slow.write(get())
        taken = 0
        while taken < MUCH:
            await look(mock_clock)
            due = min(taken + PIECE, MUCH)  # nothing comes after it, and no time passes
            while taken < due and (data := await slow.stream.receive_some()):
                taken += len(data)
            assert taken >= due


# --- On each way that answers go -------------------------------------------------------------------------------------

Ask = Callable[[RawClient, RawClient], Awaitable[None]]
"""Ask for the large answer, on the first connection, and leave it there; the other is for what else is said."""

INFO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}


def old(number: int, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def posted(message: Any, path: str = "/mcp", *lines: str) -> bytes:
    accept = "Accept: application/json, text/event-stream"
    sent = post(json.dumps(message).encode(), path, "Content-Type: application/json", accept, *lines)
    return sent.replace(b"Host: a\r\n", b"Host: localhost\r\n")


async def by_a_modern_post(unread: RawClient, other: RawClient) -> None:
    fields = ("MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: large")
    await unread.write(posted(call(1, "large"), "/mcp", *fields))


async def by_an_old_post(unread: RawClient, other: RawClient) -> None:
    await other.write(posted(old(0, "initialize", **INFO)))
    session = "mcp-session-id: " + (await other.reply()).fields["mcp-session-id"]
    await unread.write(posted(old(1, "tools/call", name="large", arguments={}), "/mcp", session))


async def by_sse(unread: RawClient, other: RawClient) -> None:
    await unread.write(get("/sse").replace(b"Host: a\r\n", b"Host: localhost\r\n"))
    await unread.until(b"data: ")
    place = (await unread.until(b"\r\n")).decode().strip()
    for message in (old(0, "initialize", **INFO), old(1, "tools/call", name="large", arguments={})):
        await other.write(posted(message, place))
        assert (await other.reply()).status == 202
    await unread.until(b"serverInfo")


async def by_websocket(unread: RawClient, other: RawClient) -> None:
    await unread.write(handshake())
    await unread.until(b"\r\n\r\n")
    await unread.write(text(call(1, "large")))


@pytest.mark.parametrize("ask", [by_a_modern_post, by_an_old_post, by_sse, by_websocket])
@pytest.mark.parametrize(("limit", "reads"), [(1024, False), (1024**3, False), (1024, True)])
async def test_f21_who_reads_nothing_is_dropped_on_each_way_and_who_reads_is_not(
    ask: Ask, limit: int, reads: bool, mock_clock: MockClock
) -> None:
    main, taken = Server("main"), 0

    @main.tool()
    async def large() -> str:
        return "x" * MUCH

    settings = RuntimeSettings(clients=ClientLimits(unread=limit))
    async with open_runtime(main, settings=settings) as runtime, runtime.serve_http(port=0, websocket=True) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        async with connected(port) as unread, connected(port) as other:
            await ask(unread, other)
            if not reads:
                await look(mock_clock, 4)
            with suppress(trio.BrokenResourceError):
                while taken < MUCH and (data := await unread.stream.receive_some()):
                    taken += len(data)
                    if reads and taken // PIECE != (taken - len(data)) // PIECE:
                        await look(mock_clock)
    assert (taken >= MUCH) is (reads or limit > MUCH)

"""Calls of one session of the old era beside each other, and what a session costs that has none."""

from __future__ import annotations

import gc
import json
import tracemalloc
from contextlib import AsyncExitStack
from typing import Any

import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.server.mcpserver import Context
from mcp_types.version import LATEST_MODERN_VERSION as NEW

from mcpactors import ClientLimits, RuntimeSettings, Server
from mcpactors.transports.http_server.events import EventLimits
from mcpactors.transports.http_server.sessions import REPLAYS, SessionLimits, Sessions
from tests.transports.http_old import OldSession, call, endpoint, open_session, request
from tests.transports.http_raw import HANG, RawClient, hosted
from tests.transports.test_http_sessions import Holding, data

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
MIB = 1024 * 1024
FEW, MANY = 50, 300
META = {
    "io.modelcontextprotocol/protocolVersion": NEW,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


async def rest_of(client: RawClient) -> list[dict[str, Any]]:
    """What still comes on a stream that was begun, up to its end."""
    said = await client.until(b"\r\n0\r\n\r\n")
    return [json.loads(line[6:]) for line in said.split(b"\r\n") if line.startswith(b"data: {")]


async def test_f21_a_stream_that_nobody_reads_holds_up_no_other_call_of_its_session() -> None:
    main, told = Server("main"), trio.Event()

    @main.tool
    async def flood(ctx: Context) -> str:
        for _ in range(30):
            await ctx.session.send_log_message("info", "x" * MIB, related_request_id=ctx.request_id)
        told.set()
        return "flooded"

    @main.tool
    def echo() -> str:
        return "heard"

    with trio.fail_after(HANG):
        async with endpoint(main) as host:
            session = await open_session(host)
            async with host.client() as client:
                await session.begin(client, call(1, "flood"))
                await told.wait()
                for identity in range(2, 22):
                    assert b"heard" in (await session.post(call(identity, "echo"))).body


async def test_f21_who_comes_back_for_a_stream_many_times_and_reads_none_is_sent_it_so_often_and_no_more() -> None:
    main, size = Server("main"), 8 * MIB  # more than a machine takes for a client that does not read

    @main.tool
    def large() -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(type="text", text="x" * (size - 1000))])

    events = EventLimits(session_bytes=size)
    with trio.fail_after(HANG):
        async with endpoint(main, SessionLimits(events=events)) as host, AsyncExitStack() as unread:
            session = await open_session(host)
            async with host.client() as client:
                place = await session.begin(client, call(1, "large"))
                await rest_of(client)
            for _ in range(REPLAYS + 1):
                client = await unread.enter_async_context(host.client())
                await client.write(session.stream(place))
                assert b" 200 " in await client.until(b"\r\n")
            refused = await host.ask(session.stream(place))
            assert (refused.status, refused.fields["retry-after"]) == (503, "1")
            await unread.aclose()
            async with host.client() as client:
                reply = refused
                while reply.status == 503:  # until the host has seen that they left
                    await client.write(session.stream(place))
                    reply = await client.reply()
            assert reply.status == 200


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_f21_of_what_one_call_says_and_nobody_reads_so_much_waits_and_no_more(era: str) -> None:
    main, told = Server("main"), trio.Event()

    @main.tool
    async def flood(ctx: Context) -> str:
        for _ in range(400):
            await ctx.session.send_log_message("info", "x" * (MIB // 4), related_request_id=ctx.request_id)
            await trio.testing.wait_all_tasks_blocked()  # whoever would take it has taken it
        told.set()
        return "flooded"

    with trio.fail_after(HANG):
        async with endpoint(main) as host, host.client() as client:
            session = await open_session(host)
            if era == "legacy":
                await session.begin(client, call(1, "flood"))
            else:
                asked = call(1, "flood")
                asked["params"]["_meta"] = META | {"io.modelcontextprotocol/logLevel": "info"}
                fields = {"Mcp-Protocol-Version": NEW, "Mcp-Method": "tools/call", "Mcp-Name": "flood"}
                await client.write(request("POST", asked, fields))
            tracemalloc.start()
            try:
                await told.wait()  # the tool itself is not held up: the oldest of what it says is dropped
                assert tracemalloc.get_traced_memory()[1] < 40 * MIB
            finally:
                tracemalloc.stop()


async def test_f21_of_answers_that_nobody_reads_one_session_has_as_many_as_it_has_turns() -> None:
    main, made = Server("main"), list[int]()
    settings = RuntimeSettings(clients=ClientLimits(in_flight=2))

    @main.tool(structured_output=False)
    async def big(number: int) -> str:
        made.append(number)
        return "x" * 12 * MIB

    with trio.fail_after(HANG):
        async with endpoint(main, settings=settings) as host, AsyncExitStack() as stack:
            session = await open_session(host)
            await session.post({"id": "known", "method": "tools/list", "params": {}})
            clients = [await stack.enter_async_context(host.client()) for _ in range(4)]
            for number, client in enumerate(clients):
                await session.begin(client, call(number, "big", number=number))
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert len(made) == 2
            await rest_of(clients[made[0]])
            await rest_of(clients[made[1]])
            assert [len(await rest_of(clients[number])) for number in range(4) if number not in made[:2]] == [1, 1]
            assert sorted(made) == [0, 1, 2, 3]


async def test_f22_a_call_that_its_client_cancels_ends_its_stream_with_that_error() -> None:
    main = Holding()
    with trio.fail_after(HANG):
        async with endpoint(main) as host:
            session = await open_session(host)
            async with host.client() as client:
                await session.begin(client, call(1, "hold"))
                await main.began.wait()
                given_up = {"method": "notifications/cancelled", "params": {"requestId": 1}}
                assert (await session.post(given_up)).status == 202
                [said] = await rest_of(client)
                assert (said["id"], said["error"]["code"]) == (1, -32800)
            assert (await session.post(call(1, "big"))).status == 200


async def test_f59_a_call_that_fails_while_it_is_cancelled_harms_no_other_session() -> None:
    began = trio.Event()

    async def fail_when_cancelled() -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the middle of it")

    async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            await trio.sleep_forever()
        raise AssertionError

    sessions = Sessions(LowLevelServer("raw", on_call_tool=call_tool))
    with trio.fail_after(HANG):
        async with sessions.run(), hosted(sessions.handle_request) as host:
            session, other = await open_session(host), await open_session(host)
            async with host.client() as client:
                await session.begin(client, call(1, "fails"))
                await began.wait()
                await session.post({"method": "notifications/cancelled", "params": {"requestId": 1}})
                [said] = await rest_of(client)
                assert said["error"]["code"] == -32800
            assert (await other.post({"id": 1, "method": "ping"})).status == 200


async def test_a_session_that_its_client_ends_takes_its_calls_and_its_questions_with_it() -> None:
    main, gone = Server("main"), trio.Event()

    @main.tool
    async def ask(ctx: Context) -> str:
        try:
            await ctx.session.list_roots()
        finally:
            gone.set()
        return "answered"

    with trio.fail_after(HANG):
        async with endpoint(main) as host:
            session = await open_session(host, capabilities={"roots": {}})
            async with host.client() as client, host.client() as listening:
                await listening.write(session.stream())
                await listening.until(b"\r\n\r\n")
                await session.begin(client, call(1, "ask"))
                await client.until(b"roots/list")
                assert (await host.ask(request("DELETE", fields=session.fields))).status == 200
                await gone.wait()
                [ended] = await rest_of(client)
                assert (ended["id"], "has ended" in ended["error"]["message"]) == (1, True)
                assert await listening.until(b"0\r\n\r\n") == b"0\r\n\r\n"
            assert (await session.post(call(2, "ask"))).status == 404


@pytest.mark.parametrize("era", ["old", "new"])
async def test_f12_a_result_that_has_no_json_is_an_error_and_the_next_call_is_answered(era: str) -> None:
    main = Server("main")

    @main.tool
    def half() -> str:
        return "\ud800"

    @main.tool
    def whole() -> str:
        return "\U0001f600\u2028"

    async def said(session: OldSession, identity: int, tool: str) -> Any:
        asked = call(identity, tool)
        if era == "old":
            return data(await session.post(asked))[-1]
        asked["params"]["_meta"] = META
        fields = {"Mcp-Protocol-Version": NEW, "Mcp-Method": "tools/call", "Mcp-Name": tool}
        return json.loads((await session.host.ask(request("POST", asked, fields))).body)

    async with endpoint(main) as host:
        session = await open_session(host)
        failed = await said(session, 1, "half")
        assert (failed["id"], failed["error"]["code"]) == (1, -32603)
        assert (await said(session, 2, "whole"))["result"]["content"][0]["text"] == "\U0001f600\u2028"


async def test_f43_a_session_that_nothing_runs_on_has_no_task_and_takes_less_than_24_kib() -> None:
    async with endpoint(Holding()) as host, host.client() as client:

        async def open_many(count: int) -> None:
            for _ in range(count):
                hello = {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {},
                    "clientInfo": {"name": "a", "version": "1"},
                }
                await client.write(request("POST", {"id": 0, "method": "initialize", "params": hello}))
                identity = (await client.reply()).fields["mcp-session-id"]
                fields = {"Mcp-Session-Id": identity, "Mcp-Protocol-Version": "2025-11-25"}
                await client.write(request("POST", {"method": "notifications/initialized"}, fields))
                assert (await client.reply()).status == 202

        tracemalloc.start()
        try:
            await open_many(FEW)
            gc.collect()
            tasks, before = trio.lowlevel.current_statistics().tasks_living, tracemalloc.get_traced_memory()[0]
            await open_many(MANY)
            gc.collect()
            each = (tracemalloc.get_traced_memory()[0] - before) / MANY
        finally:
            tracemalloc.stop()
        assert each < 24 * 1024
        assert trio.lowlevel.current_statistics().tasks_living <= tasks + 1

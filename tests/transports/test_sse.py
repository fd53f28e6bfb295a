"""The HTTP+SSE transport of 2024-11-05: the wire of the serving end, and the client end against scripted servers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing
from attrs import define
from mcp.client.sse import sse_client as sdk_sse_client
from mcp.shared.message import SessionMessage

from mcpactors import Client, Runtime, Server, create_proxy, open_runtime
from mcpactors.errors import BackendStartError
from mcpactors.runtime.policy import DEFAULT_BACKEND, ClientLimits
from mcpactors.transports.asgi import ASGIApp
from mcpactors.transports.http_client.sse import Arrivals, sse_client
from mcpactors.transports.http_server.outlet import COMMENT
from mcpactors.transports.http_server.sse import SSEFront
from mcpactors.transports.lines.streams import StdioReader
from mcpactors.transports.values import SSETransport
from tests.transports.http_old import HELLO, call, request
from tests.transports.http_raw import HANG, Hosted, RawClient, Reply, connected, hosted
from tests.transports.http_scripted import ACCEPTED, Asked, Peer, chunk, error, reply, result, scripted, stream_head
from tests.transports.test_http_sessions import Holding, as_user


@asynccontextmanager
async def front(main: Server) -> AsyncIterator[tuple[Runtime, int]]:
    with trio.fail_after(HANG):
        async with open_runtime(main) as runtime, runtime.serve_http(port=0) as url:
            yield runtime, urlsplit(url).port or 0


@asynccontextmanager
async def alone(sse: SSEFront, behind: Callable[[ASGIApp], ASGIApp] = lambda app: app) -> AsyncIterator[Hosted]:
    """Nothing but this on a host."""
    async with sse.run(), hosted(behind(sse)) as host:
        yield host


async def stream(client: RawClient) -> str:
    """Open a stream; where to post."""
    await client.write(request("GET", path="/sse"))
    assert b"\r\ncontent-type: text/event-stream\r\n" in await client.until(b"\r\n\r\n")
    event = await client.until(b"\r\n\r\n")
    assert event.split(b"\r\n", 1)[1].startswith(b"event: endpoint\r\ndata: /messages/?session_id=")
    return event.split(b"data: ")[1].strip().decode()


async def ask(port: int, *parts: bytes) -> Reply:
    async with connected(port) as client:
        await client.write(*parts)
        return await client.reply()


async def next_message(client: RawClient) -> Any:
    await client.until(b"event: message\r\ndata: ")
    return json.loads(await client.until(b"\r\n"))


async def test_d1_an_old_client_gets_its_stream_and_its_answers_on_it() -> None:
    async with front(Holding()) as (_, port), connected(port) as client:
        where = await stream(client)
        for message, answer in (
            ({"id": 1, "method": "initialize", "params": HELLO | {"protocolVersion": "2024-11-05"}}, "protocolVersion"),
            ({"method": "notifications/initialized"}, None),
            (call("a", "big"), "content"),
            (call("1", "big"), "content"),
        ):
            accepted = await ask(port, request("POST", message, path=where))
            assert (accepted.status, accepted.body) == (202, b"Accepted")
            if answer is not None:
                said = await next_message(client)
                assert said["id"] == message["id"]
                assert answer in said["result"]
        pretty = json.dumps({"jsonrpc": "2.0", **call(2, "big")}, indent=1).encode()
        assert (await ask(port, request("POST", pretty, path=where))).status == 202
        assert (await next_message(client))["id"] == 2


async def test_f35_who_posts_to_the_stream_of_another_principal_finds_none() -> None:
    anna, ping = {"X-User": "anna"}, {"id": 1, "method": "ping"}
    with trio.fail_after(HANG):
        async with open_runtime(Holding()) as runtime, alone(SSEFront(runtime.server), as_user) as host:
            async with host.client() as client:
                await client.write(request("GET", fields=anna, path="/sse"))
                await client.until(b"data: ")
                where = (await client.until(b"\r\n")).decode().strip()
                for user in ({"X-User": "bert"}, {}):
                    foreign, none = [await host.ask(request("POST", ping, user, to)) for to in (where, where[:-32])]
                    assert (foreign.status, foreign.body) == (none.status, none.body)
                    assert foreign.status == 404
                assert (await host.ask(request("POST", ping, anna, where))).status == 202


async def test_f43_there_are_so_many_streams_and_no_more_until_one_ends() -> None:
    clients = ClientLimits(sessions=1)
    with trio.fail_after(HANG):
        async with open_runtime(Holding()) as runtime, alone(SSEFront(runtime.server, clients=clients)) as host:
            async with host.client() as client:
                await stream(client)
                refused = await host.ask(request("GET", path="/sse"))
                assert (refused.status, refused.fields["retry-after"]) == (503, "1")
            head = b""
            while b" 200 " not in head:  # it is seen a few milliseconds later that the client has left
                async with host.client() as client:
                    await client.write(request("GET", path="/sse"))
                    head = await client.until(b"\r\n\r\n")


async def test_a_stream_on_which_nothing_happens_has_a_comment_now_and_then() -> None:
    clients = ClientLimits(comment=0.01)
    with trio.fail_after(HANG):
        async with open_runtime(Holding()) as runtime, alone(SSEFront(runtime.server, clients=clients)) as host:
            async with host.client() as client:
                async with host.client() as other:
                    await stream(other)
                await stream(client)
                for _ in range(2):  # the first may have been on its way when the other left
                    await client.until(COMMENT)


async def test_what_cannot_be_posted_is_refused_and_the_session_lives() -> None:
    async with front(Holding()) as (_, port):
        async with connected(port) as client:
            where = await stream(client)
            await ask(port, request("POST", {"id": 0, "method": "initialize", "params": HELLO}, path=where))
            await next_message(client)
            other = where[:-1] + ("0" if where[-1] != "0" else "1")
            for wrong, status in (
                (request("GET", path=where), 405),
                (request("POST", {}, path="/sse"), 405),
                (request("POST", {"method": "x"}, path=other), 404),
                (request("POST", {"method": "x"}, path="/messages/"), 404),
                (request("POST", {"method": "x"}, path=where).replace(b"application/json\r", b"text/plain\r"), 415),
                (request("POST", {"method": "x"}, {"Content-Encoding": "gzip"}, path=where), 415),
                (request("POST", b"rubbish", path=where), 400),
                (request("POST", b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"ping"}', path=where), 400),
                (request("POST", b" " * (4 * 1024 * 1024 + 1), path=where), 413),
                (request("POST", {"method": "x"}, {"Origin": "http://evil.example"}, path=where), 403),
                (request("GET", path="/sse").replace(b"localhost", b"evil.example"), 421),
            ):
                assert (await ask(port, wrong)).status == status, wrong[:80]
            await ask(port, request("POST", {"id": 3, "method": "ping"}, path=where))
            assert (await next_message(client))["id"] == 3
        for _ in range(100):  # until the server has seen it
            if (await ask(port, request("POST", {"method": "x"}, path=where))).status == 404:
                break


async def test_f20_who_leaves_its_stream_cancels_what_it_asked_for() -> None:
    main, ended = Server("main"), trio.Event()
    began = trio.Event()

    @main.tool
    async def hold() -> str:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        return ""

    async with front(main) as (_, port):
        async with connected(port) as client:
            where = await stream(client)
            for message in (
                {"id": 0, "method": "initialize", "params": HELLO},
                {"method": "notifications/initialized"},
            ):
                await ask(port, request("POST", message, path=where))
            await ask(port, request("POST", call(1, "hold"), path=where))
            await began.wait()
        await ended.wait()


async def test_f20_who_leaves_its_stream_ends_what_is_being_read_of_its_posts() -> None:
    began = trio.Event()

    async def hangs(ctx: Any, call_next: Any) -> Any:
        began.set()
        await trio.sleep_forever()

    async with front(Server("main", middleware=[hangs])) as (_, port), connected(port) as poster:
        async with connected(port) as client:
            where = await stream(client)
            await poster.write(request("POST", {"id": 0, "method": "initialize", "params": HELLO}, path=where))
            await began.wait()
        assert (await poster.reply()).status == 404


async def test_a_route_of_the_programs_own_goes_before_ours() -> None:
    main = Server("main")
    main.custom_route("/sse")(lambda: {"is": "mine"})
    async with front(main) as (_, port):
        assert json.loads((await ask(port, request("GET", path="/sse"))).body) == {"is": "mine"}


async def test_the_sdks_client_of_that_transport_is_served() -> None:
    async with front(Holding()) as (_, port):
        async with Client(lambda: sdk_sse_client(f"http://127.0.0.1:{port}/sse"), mode="legacy") as client:
            assert (await client.call_tool("big", {})).structured_content == {"result": "x" * 9000}


# --- The client end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", [{"url": "{}/sse"}, {"url": "{}/sse", "type": "sse"}, {"url": "{}/sse", "type": "http"}]
)
async def test_d1_a_url_that_is_either_is_told_apart(target: dict[str, str]) -> None:
    async with front(Holding()) as (_, port):
        target = target | {"url": f"http://127.0.0.1:{port}/sse"}
        async with open_runtime("outer") as runtime:
            await runtime.mount(create_proxy(target), "b")
            async with runtime.client() as client:
                assert (await client.call_tool("b_big", {})).structured_content == {"result": "x" * 9000}


class OldServer:
    """Scripted: has a stream; answers by `said`."""

    def __init__(self, *events: bytes) -> None:
        self.events = events or (b"event: endpoint\ndata: /post?s=1\n\n",)
        self.to_post = ACCEPTED

    async def __call__(self, asked: Asked, peer: Peer) -> None:
        if asked.method == "POST" and asked.target == "/mcp":
            await peer.say(reply(b"no", "405 Method Not Allowed", kind="text/plain"))
        elif asked.method == "GET":
            self.stream = peer
            await peer.say(stream_head(), *(chunk(event) for event in self.events))
        elif asked.what == "POST initialize":
            await peer.say(ACCEPTED)
            hello = {
                "protocolVersion": "2024-11-05",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "o", "version": "1"},
            }
            await self.stream.say(chunk(b"data: " + result(asked, **hello) + b"\n\n"))
        elif asked.what == "POST tools/list":
            await peer.say(ACCEPTED)
            tool = {"name": "t", "inputSchema": {"type": "object"}}
            await self.stream.say(chunk(b"data: " + result(asked, tools=[tool]) + b"\n\n"))
        elif asked.what == "POST server/discover":
            await peer.say(ACCEPTED)
            said = error(asked.said["id"], -32601, "no such method")
            await self.stream.say(chunk(b"data: " + said + b"\n\n"))
        elif asked.what == "POST tools/call":
            await peer.say(self.to_post)
        else:
            await peer.say(ACCEPTED)


@pytest.mark.parametrize("kind", ["sse", "http"])
async def test_a_post_that_is_refused_costs_its_call_only(kind: str) -> None:
    server = OldServer()
    server.to_post = reply(b"<html>", "500 Internal Server Error", kind="text/html")
    with trio.fail_after(HANG):
        async with scripted(server) as script, open_runtime("outer") as runtime:
            await runtime.mount(create_proxy({"url": script.url, "type": kind}))
            async with runtime.client() as client:
                for _ in range(2):
                    with pytest.raises(Exception, match="HTTP 500"):
                        await client.call_tool("t", {})
            assert next(a.target for a in script.asked if a.method == "POST" and a.target != "/mcp") == "/post?s=1"


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ((b"event: endpoint\ndata: http://evil.example/post\n\n",), "another origin"),
        ((b"event: endpoint\ndata: //evil.example/post\n\n",), "another origin"),
        ((b"event: endpoint\ndata: https://127.0.0.1/post\n\n",), "another origin"),
        ((b"event: message\ndata: {}\n\n",), "did not begin"),
        ((b"",), "did not begin"),
    ],
)
async def test_a_stream_that_does_not_say_where_to_post_is_none(events: tuple[bytes, ...], why: str) -> None:
    with trio.fail_after(HANG):
        async with scripted(OldServer(*events)) as script:
            with pytest.raises(BackendStartError, match=why):
                async with sse_client(script.url):
                    pass
            assert all(asked.method == "GET" for asked in script.asked)


async def test_f4_events_that_come_at_once_are_read_at_once() -> None:
    """So that of a flood it is seen what need not be parsed."""
    server = OldServer()
    with trio.fail_after(HANG):
        async with (
            scripted(server) as script,
            sse_client(script.url) as (reader, _),
            trio.open_nursery() as nursery,
        ):
            assert isinstance(reader, StdioReader)
            told = [{"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1}}] * 10_000
            last = {"jsonrpc": "2.0", "method": "last"}
            said = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in (*told, last))
            nursery.start_soon(server.stream.say, chunk(said))
            while not (isinstance(item := await reader.receive(), SessionMessage) and "last" in repr(item.message)):
                pass
            assert reader.statistics().coalesced > 9_000


@define(eq=False)
class Comments:
    """The body of an event stream that has nothing else."""

    size: int = 0
    status: int = 200
    fields: Mapping[str, str] = MappingProxyType({})
    pieces: int = 1

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        self.size += 65536
        return b":\n" * 32768 if self.size < 200 * 65536 else b""

    async def aclose(self, *, done: bool) -> None:
        await trio.lowlevel.checkpoint()


async def test_p6_an_event_stream_of_comments_is_read_at_a_pace(autojump_clock: trio.testing.MockClock) -> None:
    body = Comments()
    with trio.move_on_after(60):
        await Arrivals("old", DEFAULT_BACKEND).run(body)
    assert 10 <= body.size / 65536 <= 100


async def test_what_is_no_event_stream_is_named() -> None:
    async def page(asked: Asked, peer: Peer) -> None:
        await peer.say(reply(b"{}") if asked.target == "/mcp" else reply(b"", "401 Unauthorized"))

    with trio.fail_after(HANG):
        async with scripted(page) as script:
            for url, why in (
                (script.url, "no event stream"),
                (script.url + "x", "credentials"),
                ("http://127.0.0.1:9/mcp", "cannot be reached"),
            ):
                with pytest.raises(BackendStartError, match=why):
                    async with SSETransport(url).connect():
                        pass

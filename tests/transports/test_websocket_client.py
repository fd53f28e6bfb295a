"""Backends over WebSocket: how they are reached, and what becomes of those that cannot be. Real sockets."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest
import trio
import trio_websocket
from attrs import define, field
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult
from mcp_types.jsonrpc import jsonrpc_message_adapter

from mcpactors import Client, ProxyServer, Server, WSTransport, create_proxy, infer_transport, open_runtime
from mcpactors.errors import BackendStartError, ConfigError
from mcpactors.transports.websocket.client import websocket_client
from tests.transports.ws_raw import call

REFUSED = {
    b"401 Unauthorized": "answered HTTP 401 to the handshake: it wants credentials, or others than it was given",
    b"403 Forbidden": "answered HTTP 403 to the handshake: it does not allow this",
    b"404 Not Found": "answered HTTP 404 to the handshake: nothing is served there; check its URL",
    b"302 Found": r"redirects \(HTTP 302\), which is not followed; give the address that it leads to",
    b"200 OK": "answered HTTP 200 to the handshake: no WebSocket is served there",
    b"500 Oops": "answered HTTP 500 to the handshake: it is not well",
}
Handle = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def answering(handle: Handle) -> AsyncIterator[str]:
    """A server that does as it likes with each connection; yields its ws:// URL."""
    async with trio.open_nursery() as nursery:
        serving = partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serving)
        yield f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/mcp"
        nursery.cancel_scope.cancel()


async def head_of(stream: trio.SocketStream) -> str:
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some()
        assert data
        head += data
    return head.decode()


async def failure(url: str, connect_timeout: float = 10.0) -> str:
    """Why a connection cannot be made."""
    with pytest.raises(BackendStartError) as caught:
        async with websocket_client(url, connect_timeout=connect_timeout):
            pass
    return caught.value.message


def text_of(result: CallToolResult) -> str:
    return "".join(getattr(block, "text", "") for block in result.content)


# --- The handshake --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", REFUSED)
async def test_a_backend_that_takes_no_websocket_is_named_with_what_to_do(answer: bytes) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await head_of(stream)
        await stream.send_all(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % answer)

    async with answering(refuse) as url:
        said = await failure(url.replace("//", "//user:secret@") + "?token=secret")
        assert re.match(re.escape(url) + " " + REFUSED[answer], said), said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "does not answer in HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not answer in HTTP"),
        (b"what\r\n\r\n", "does not accept a WebSocket"),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "Bad accept token"),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "does not accept a WebSocket"),
    ],
)
async def test_what_answers_no_handshake_is_no_backend(answer: bytes, said: str) -> None:
    async def respond(stream: trio.SocketStream) -> None:
        await head_of(stream)
        await stream.send_all(answer)

    async with answering(respond) as url:
        assert said in await failure(url)


async def test_a_backend_that_never_ends_its_answer_is_given_up() -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await head_of(stream)
        with suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"X-Y: z\r\n" * 1000)

    async with answering(talk) as url:
        assert "does not answer in HTTP" in await failure(url)


async def test_a_backend_that_never_answers_the_handshake_is_given_up_in_time() -> None:
    async def wait(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with answering(wait) as url:
        assert await failure(url, 0.05) == f"{url}: no WebSocket within 0.05 s; check its URL"


async def test_a_backend_that_is_not_there_is_said_to_be_not_there() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    assert "cannot be reached" in await failure(f"ws://127.0.0.1:{port}/mcp")


@pytest.mark.parametrize("url", ["http://localhost/mcp", "ws:///mcp", "ws://localhost:port/"])
async def test_what_is_no_url_of_a_websocket_is_refused(url: str) -> None:
    assert "URL" in await failure(url)
    with pytest.raises((BackendStartError, ConfigError)):
        async with WSTransport(url).connect():
            pass


async def test_a_handshake_has_the_headers_that_were_given_and_none_that_are_ours_to_say() -> None:
    heads: list[str] = []

    async def refuse(stream: trio.SocketStream) -> None:
        heads.append(await head_of(stream))
        await stream.send_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    given = {
        "Authorization": "Bearer t",
        "X-Y": "1",
        "Upgrade": "h2c",
        "Sec-WebSocket-Protocol": "chat",
        "Host": "evil",
    }
    async with answering(refuse) as url:
        with pytest.raises(BackendStartError):
            async with WSTransport(f"{url}?a=b", given).connect():
                pass
        authority = url.removeprefix("ws://").removesuffix("/mcp")
        [head] = heads
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        fields = [line.split(": ", 1) for line in lines]
        said = {name.lower(): value for name, value in fields if not name.lower().startswith("sec-websocket-key")}
        assert (first, len(said)) == ("GET /mcp?a=b HTTP/1.1", len(fields) - 1)
        assert said == {
            "host": authority,
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-version": "13",
            "sec-websocket-protocol": "mcp",
            "user-agent": "mcpactors",
            "authorization": "Bearer t",
            "x-y": "1",
        }
    assert "secret" not in repr(WSTransport(url, {"Authorization": "secret"}))


# --- Another implementation at the other end --------------------------------------------------------------------------


async def feed(server: LowLevelServer[Any], socket: trio_websocket.WebSocketConnection) -> None:
    """Serve one client on a connection of trio-websocket's, as its documentation would have it."""
    into, read = anyio.create_memory_object_stream[SessionMessage | Exception](100)
    write, out = anyio.create_memory_object_stream[SessionMessage](100)

    async def hear() -> None:
        async with into:
            with suppress(trio_websocket.ConnectionClosed):
                while True:
                    said = await socket.get_message()
                    await into.send(SessionMessage(jsonrpc_message_adapter.validate_json(said)))

    async def speak() -> None:
        async with out:
            async for item in out:
                await socket.send_message(item.message.model_dump_json(by_alias=True, exclude_unset=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        nursery.start_soon(speak)
        await server.run(read, write, server.create_initialization_options())
        nursery.cancel_scope.cancel()


def asking() -> Server:
    server = Server("asking")

    @server.tool()
    async def ask(ctx: Context) -> str:
        await ctx.report_progress(1, 2, "about to ask")
        answer = await ctx.session.elicit_form(
            "a name?", {"type": "object", "properties": {"name": {"type": "string"}}}
        )
        return str((answer.content or {})["name"])

    return server


@define(eq=False)
class Theirs:
    """A server on trio-websocket."""

    server: LowLevelServer[Any]
    sockets: list[trio_websocket.WebSocketConnection] = field(factory=list)
    heads: list[dict[bytes, bytes]] = field(factory=list)

    async def handle(self, request: trio_websocket.WebSocketRequest) -> None:
        assert "mcp" in request.proposed_subprotocols
        self.heads.append(dict(request.headers))
        socket = await request.accept(subprotocol="mcp")
        self.sockets.append(socket)
        try:
            await feed(self.server, socket)
        except* trio_websocket.ConnectionClosed:
            pass

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        async with trio.open_nursery() as nursery:
            serve = partial(trio_websocket.serve_websocket, self.handle, "127.0.0.1", port, None)
            served: trio_websocket.WebSocketServer = await nursery.start(serve)
            assert isinstance(served.port, int)
            yield f"ws://127.0.0.1:{served.port}/mcp"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_d1_a_server_on_trio_websocket_is_a_backend_with_progress_and_questions(mode: str) -> None:
    steps: list[float] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async def answer(context: object, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with open_runtime(asking()) as behind, open_runtime("front") as runtime:
        async with Theirs(behind.server).serving() as url:
            await runtime.mount(create_proxy({"url": url, "headers": {"X-Who": "us"}}), "b")
            async with runtime.serve_http(port=0, websocket=True) as front:
                ours = front.replace("http", "ws", 1)
                async with Client(ours, mode=mode, elicitation_callback=answer) as client:
                    result = await client.call_tool("b_ask", progress_callback=report)
                    assert text_of(result) == "Ada"
                    assert steps == [1]


async def test_d1_a_client_on_trio_websocket_is_served() -> None:
    async with open_runtime("main") as runtime, runtime.serve_http(port=0, websocket=True) as url:
        async with trio_websocket.open_websocket_url(url.replace("http", "ws", 1), subprotocols=["mcp"]) as socket:
            assert socket.subprotocol == "mcp"
            await socket.send_message(json.dumps(call(1, "none")))
            assert json.loads(await socket.get_message())["error"]["code"] == -32602
            await socket.ping()
            await socket.aclose(1001, "bye")
            assert socket.closed is not None
            assert (socket.closed.code, socket.closed.reason) == (1001, "bye")


# --- A connection that ends -------------------------------------------------------------------------------------------


async def test_f57_a_backend_that_closes_costs_its_calls_says_why_and_is_connected_to_again() -> None:
    held = Server("held")
    began = trio.Event()

    @held.tool()
    async def hold() -> str:
        began.set()
        await trio.sleep_forever()
        return ""

    @held.tool()
    async def fine() -> str:
        return "fine"

    async with open_runtime(held) as behind, open_runtime("front") as runtime, Client(runtime) as client:
        theirs = Theirs(behind.server)
        async with theirs.serving() as url:
            handle = await runtime.mount(create_proxy(url, sessions="shared"), "b")
            assert await handle.settled() == "running"

            async def lose() -> None:
                await began.wait()
                await theirs.sockets[0].aclose(1008, "not you")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(lose)
                with pytest.raises(MCPError, match=r"outcome is unknown|crashed"):
                    await client.call_tool("b_hold")
            assert text_of(await client.call_tool("b_fine")) == "fine"
            assert len(theirs.sockets) == 2
            assert "it closed the connection: 1008 (not you)" in str(handle.info().last_exit)


def test_a_url_of_a_websocket_is_a_target_everywhere() -> None:
    targets: list[object] = ["ws://localhost:1/mcp", {"url": "wss://localhost/mcp"}, {"type": "ws", "url": "ws://x/"}]
    for target in targets:
        assert isinstance(infer_transport(target), WSTransport)
    assert create_proxy(WSTransport("wss://host.example/mcp")).name == "host.example"
    for target in ("ws://localhost:1/mcp", WSTransport("ws://localhost:1/mcp")):
        proxy = create_proxy(target)
        assert isinstance(proxy, ProxyServer)
        assert proxy.strategy == "per_client"

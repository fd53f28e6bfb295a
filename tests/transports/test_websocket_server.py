"""The WebSocket end of the HTTP endpoint, over real sockets and frame by frame: promises F33 and F57, RFC 6455."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, field

from mcpactors import Server, open_runtime
from mcpactors.transports.asgi import HostLimits
from mcpactors.transports.http_server.serving import serve_http
from tests.transports.http_raw import connected
from tests.transports.ws_raw import (
    ACCEPT,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Closed,
    answer_to,
    call,
    closing,
    frame,
    handshake,
    request,
    speaking,
    text,
)

MIB = 1024 * 1024


@define(eq=False)
class Held:
    """The calls of the tool `hold`: it waits until it is let go."""

    began: dict[str, trio.Event] = field(factory=dict)
    go: dict[str, trio.Event] = field(factory=dict)
    cancelled: dict[str, trio.Event] = field(factory=dict)

    def add(self, key: str) -> None:
        self.began[key], self.go[key], self.cancelled[key] = trio.Event(), trio.Event(), trio.Event()

    async def hold(self, key: str) -> str:
        self.began[key].set()
        try:
            await self.go[key].wait()
        except trio.Cancelled:
            self.cancelled[key].set()
            raise
        return key


@asynccontextmanager
async def served(held: Held | None = None, drain: float = 5) -> AsyncIterator[str]:
    main = Server("main")

    @main.tool()
    async def add(a: int, b: int) -> int:
        return a + b

    if held is not None:
        main.tool(name="hold")(held.hold)
    async with open_runtime(main) as runtime:
        limits = HostLimits(drain=drain, linger=5)
        async with serve_http(runtime.server, port=0, limits=limits, websocket=True) as url:
            yield url


def sum_of(answer: Any) -> int:
    found: int = answer["result"]["structuredContent"]["result"]
    return found


# --- The opening handshake ------------------------------------------------------------------------------------------


async def test_a_handshake_is_answered_as_the_rfc_says_and_what_came_with_it_is_not_lost() -> None:
    async with served() as url:
        reply = await answer_to(url, handshake())
        assert reply.status == 101
        said = {name: reply.fields[name] for name in ("upgrade", "connection", "sec-websocket-accept")}
        assert said == {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-accept": ACCEPT}
        assert reply.fields["sec-websocket-protocol"] == "mcp"
        async with speaking(url, text(call(1, "add", a=1, b=2))) as socket:
            assert sum_of(await socket.message()) == 3


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example:80"}, 421),
        ({"host": "[::1]:8000"}, 101),
        ({"host": "LOCALHOST.:1"}, 101),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:6274"}, 101),
        ({"origin": "https://[::1]"}, 101),
    ],
)
async def test_f33_host_and_origin_are_judged_before_a_handshake_is_accepted(
    changed: dict[str, str], status: int
) -> None:
    async with served() as url:
        reply = await answer_to(url, handshake(**changed))
        assert reply.status == status
        assert ("sec-websocket-accept" in reply.fields) == (status == 101)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (handshake(connection="keep-alive, upgrade"), 101),
        (handshake(upgrade="WebSocket"), 101),
        (handshake(sec_websocket_protocol="chat, mcp"), 101),
        (handshake(path="/mcp/"), 101),
        (handshake(path="/elsewhere"), 404),
        (handshake(sec_websocket_protocol=None), 400),
        (handshake(sec_websocket_protocol="graphql-ws"), 400),
        (handshake(sec_websocket_key=None), 400),
        (handshake(sec_websocket_key="c2hvcnQ="), 400),
        (handshake(sec_websocket_key="not base64!"), 400),
        (handshake(connection="keep-alive"), 400),
        (handshake(version="1.0"), 400),
        (handshake(method="POST", content_length="2") + b"{}", 400),
        (handshake(content_length="2") + b"{}", 400),
        (handshake(sec_websocket_version="8"), 426),
        (handshake(sec_websocket_version=None), 426),
    ],
)
async def test_what_is_no_handshake_is_refused_and_says_why(asked: bytes, status: int) -> None:
    async with served() as url:
        reply = await answer_to(url, asked)
        assert reply.status == status, reply
        if status == 426:
            assert reply.fields["sec-websocket-version"] == "13"


async def test_without_the_switch_an_endpoint_speaks_no_websocket() -> None:
    async with open_runtime("main") as runtime, runtime.serve_http(port=0) as url:
        assert 400 <= (await answer_to(url, handshake())).status < 500


# --- Frames ---------------------------------------------------------------------------------------------------------


WRONG: dict[str, tuple[bytes, int, str]] = {
    "64 MiB": (frame(TEXT, length=64 * MIB), 1009, f"longer than {4 * MIB}"),
    "4 MiB and a byte": (
        frame(TEXT, b"{", fin=False) + frame(CONTINUATION, length=4 * MIB),
        1009,
        f"longer than {4 * MIB}",
    ),
    "empty fragments": (frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 16384, 1008, "16384 fragments"),
    "binary": (frame(BINARY, b"{}"), 1003, "text"),
    "no UTF-8": (frame(TEXT, b"\xff"), 1007, ""),
    "a surrogate": (frame(TEXT, b'"\xed\xa0\x80"'), 1007, ""),
    "no mask": (frame(TEXT, b"{}", masked=False), 1002, ""),
    "reserved bits": (frame(TEXT, b"{}", bits=4), 1002, ""),
    "unknown": (frame(3), 1002, ""),
    "continues nothing": (frame(CONTINUATION, b"{}"), 1002, ""),
    "begins amid another": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002, ""),
    "ping in fragments": (frame(PING, fin=False), 1002, ""),
    "long ping": (frame(PING, bytes(126)), 1002, ""),
    "half a code": (frame(CLOSE, b"\x03"), 1002, ""),
    "code of no frame": (closing(1005), 1002, ""),
}


@pytest.mark.parametrize("kind", WRONG)
async def test_f57_a_frame_that_must_not_be_closes_with_the_code_for_it_and_nobody_else_notices(
    kind: str,
) -> None:
    frames, code, reason = WRONG[kind]
    async with served() as url, speaking(url) as other:
        async with speaking(url) as socket:
            await socket.send(frames)
            closed = await socket.closed()
            assert closed.code == code
            assert reason in closed.reason
            await socket.send(closing(code))
            assert await socket.ended() == b""
        assert sum_of(await other.ask(call(1, "add", a=1, b=2))) == 3


async def test_f57_fragments_make_one_message_with_pings_answered_between_them() -> None:
    message = json.dumps(call(1, "add", a=20, b=3)).encode()
    async with served() as url, speaking(url) as socket:
        await socket.send(frame(TEXT, message[:1], fin=False))
        for index in range(1, len(message)):
            await socket.send(frame(CONTINUATION, message[index : index + 1], fin=False))
        await socket.send(frame(PING, b"still there?"))
        assert await socket.frame() == (PONG, b"still there?")
        await socket.send(frame(CONTINUATION))
        assert sum_of(await socket.message()) == 23


async def test_f57_a_connection_that_is_closed_amid_a_message_ends_in_good_order() -> None:
    async with served() as url:
        async with speaking(url) as socket:
            await socket.send(frame(TEXT, b'{"jsonrpc"', fin=False), closing(1001, "bye"))
            assert await socket.closed() == Closed(1001, "bye")
            assert await socket.ended() == b""
        async with speaking(url) as socket:
            await socket.send(frame(TEXT, b'{"jsonrpc"', length=1000))
        async with speaking(url) as socket:
            assert sum_of(await socket.ask(call(1, "add", a=1, b=2))) == 3


# --- Messages -------------------------------------------------------------------------------------------------------


async def test_what_is_no_message_is_answered_and_the_connection_stays() -> None:
    async with served() as url, speaking(url) as socket:
        for wrong, code in ((b"{", -32700), (b"[]", -32600), (b'{"jsonrpc": "2.0", "id": 1, "id": 2}', -32600)):
            await socket.send(frame(TEXT, wrong))
            said = await socket.message()
            assert (said["id"], said["error"]["code"]) == (None, code)
            assert "stdout" not in said["error"]["message"]  # which is where a backend's rubbish comes from
        assert sum_of(await socket.ask(call(1, "add", a=1, b=2))) == 3


async def test_a_line_end_is_space_between_tokens_and_an_error_in_a_string() -> None:
    async with served() as url, speaking(url) as socket:
        await socket.send(frame(TEXT, json.dumps(call(1, "add", a=1, b=2), indent=2).encode() + b"\n"))
        assert sum_of(await socket.message()) == 3
        await socket.send(frame(TEXT, b'{"jsonrpc": "2.0", "id": 2, "method": "pi\nng"}'))
        assert (await socket.message())["error"]["code"] == -32700


async def test_many_calls_run_at_once_and_a_cancelled_one_is_not_answered() -> None:
    held = Held()
    for key in ("one", "two"):
        held.add(key)
    async with served(held) as url, speaking(url) as socket:
        await socket.send(text(call(1, "hold", key="one")), text(call("1", "hold", key="two")))
        for key in ("one", "two"):
            await held.began[key].wait()
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        await socket.send(text(cancel))
        await held.cancelled["one"].wait()
        held.go["two"].set()
        assert (await socket.message())["id"] == "1"


@pytest.mark.parametrize("goodbye", [closing(1000), b""], ids=["closing", "hanging up"])
async def test_f20_a_client_that_leaves_cancels_its_calls(goodbye: bytes) -> None:
    held = Held()
    held.add("it")
    async with served(held) as url:
        async with speaking(url) as socket:
            await socket.send(text(call(1, "hold", key="it")))
            await held.began["it"].wait()
            await socket.send(goodbye)
        with trio.fail_after(30):
            await held.cancelled["it"].wait()


async def test_of_the_old_era_a_connection_is_the_session() -> None:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    async with served() as url, speaking(url) as socket:
        said = await socket.ask({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello})
        assert said["result"]["protocolVersion"] == "2025-11-25"
        await socket.send(text({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        asked = {"name": "add", "arguments": {"a": 1, "b": 2}}
        said = await socket.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": asked})
        assert sum_of(said) == 3


# --- The end --------------------------------------------------------------------------------------------------------


async def test_p10_stopping_answers_what_runs_begins_nothing_new_ends_streams_and_says_goodbye() -> None:
    held = Held()
    held.add("it")
    finish = trio.Event()
    where: list[str] = []
    ready = trio.Event()

    async def serve() -> None:
        async with served(held, drain=30) as url:
            where.append(url)
            ready.set()
            await finish.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await ready.wait()
        async with speaking(where[0]) as socket, speaking(where[0]) as idle:
            listened = await socket.ask(request("l", "subscriptions/listen", notifications={"toolsListChanged": True}))
            assert listened["method"] == "notifications/subscriptions/acknowledged"
            await socket.send(text(call(1, "hold", key="it")))
            await held.began["it"].wait()
            finish.set()
            assert await idle.closed() == Closed(1001, "the server is stopping")
            assert (await socket.message())["id"] == "l"
            refused = await socket.ask(call(2, "add", a=1, b=2))
            assert (refused["id"], refused["error"]["code"]) == (2, -32003)
            held.go["it"].set()
            assert (await socket.message())["id"] == 1
            assert await socket.closed() == Closed(1001, "the server is stopping")


async def test_a_client_is_not_served_on_a_connection_without_a_handshake() -> None:
    async with served() as url:
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        async with connected(port) as raw:
            await raw.write(text(call(1, "add", a=1, b=2)))
            assert (await raw.reply()).status == 400

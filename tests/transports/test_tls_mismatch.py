"""An address that says https:// where there is no TLS, or http:// where there is: what it is told by. Real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from mcp.shared.exceptions import MCPError

from mcpactors import Client, Server, SSETransport, StreamableHttpTransport, WSTransport, open_runtime
from mcpactors.errors import BackendStartError
from mcpactors.transports.asgi import tls_context
from tests.transports.http_raw import HANG
from tests.transports.http_scripted import MODERN, PATIENCE, Asked, Hangup, Peer, reply, result, scripted, wire_to

trustme: Any = pytest.importorskip("trustme", reason="the test extra has trustme, which makes certificates")

TRANSPORTS: dict[str, Callable[[str], Any]] = {
    "http": StreamableHttpTransport,
    "a client of one's own": lambda url: StreamableHttpTransport(url, client=httpx.AsyncClient(trust_env=False)),
    "sse": lambda url: SSETransport(url.replace("/mcp", "/sse")),
    "websocket": lambda url: WSTransport(url.replace("http", "ws", 1)),
}
ALERT = b"\x15\x03\x03\x00\x02\x02\x46"  # fatal, protocol_version


async def failure(transport: Any) -> str:
    with pytest.raises(BackendStartError) as caught, trio.fail_after(HANG):
        async with Client(transport):
            raise AssertionError("it is connected")
    return caught.value.message


@asynccontextmanager
async def answering(said: bytes) -> AsyncIterator[str]:
    """A server that says this to whatever comes, and hangs up; yields its authority."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if said:
            await stream.send_all(said)
        await stream.send_eof()
        while await stream.receive_some():
            pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_f54_of_a_server_without_tls_it_is_said_that_it_has_none(kind: str) -> None:
    async with open_runtime(Server("main")) as runtime, runtime.serve_http(port=0, websocket=True) as url:
        said = await failure(TRANSPORTS[kind](url.replace("http", "https", 1)))
    assert said.endswith(f"it does not speak TLS; try {'ws' if kind == 'websocket' else 'http'}://")


@pytest.mark.parametrize("kind", ["http", "sse", "websocket"])
async def test_f54_where_a_server_of_tls_hangs_up_it_is_said_that_it_may_be_one(kind: str, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(chain)
    async with open_runtime(Server("main")) as runtime:
        async with runtime.serve_http(port=0, websocket=True, ssl_context=tls_context(chain)) as url:
            said = await failure(TRANSPORTS[kind](url.replace("https", "http", 1)))
    assert f"if it speaks TLS, try {'wss' if kind == 'websocket' else 'https'}://" in said


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("http", "speaks TLS; try https://: the outcome is unknown"),
        ("sse", "speaks TLS; try https://"),
        ("websocket", "no WebSocket is served there; it speaks TLS; try wss://"),
    ],
)
async def test_f54_where_an_alert_of_tls_comes_it_is_said_what_speaks_there(kind: str, why: str) -> None:
    async with answering(ALERT) as authority:
        assert why in await failure(TRANSPORTS[kind](f"http://{authority}/mcp"))


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_f54_who_hangs_up_before_tls_began_may_have_none(kind: str) -> None:
    async with answering(b"") as authority:
        said = await failure(TRANSPORTS[kind](f"https://{authority}/mcp"))
    assert "it hung up before TLS began; if it does not speak it, try " in said


@pytest.mark.parametrize("last", [b"", ALERT])
async def test_f54_of_a_server_that_has_answered_before_it_is_not_said(last: bytes) -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        if len(backend.asked) == 1:
            return await peer.say(reply(result(asked)))
        await peer.say(last)
        raise Hangup

    async with scripted(handler) as backend, wire_to(backend.url) as wire:
        with trio.fail_after(PATIENCE):
            await wire.send_raw_request("tools/call", {"name": "a"}, MODERN)
            with pytest.raises(MCPError, match=r"closed the connection before|does not speak HTTP/1.1") as caught:
                await wire.send_raw_request("tools/call", {"name": "a"}, MODERN)
    assert "TLS" not in caught.value.error.message

"""Connections to an HTTP backend: which are used again, for how long, and what may be sent twice. Real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
from mcp.shared.exceptions import MCPError

from mcpactors.transports.http_client.pool import NotReached, Pool
from tests.transports.http_scripted import (
    LAST,
    MODERN,
    PATIENCE,
    Asked,
    Hangup,
    Peer,
    chunk,
    event,
    reply,
    result,
    scripted,
    stream_head,
    wire_to,
)

CALL = {"name": "t"}


@asynccontextmanager
async def pool_to(url: str) -> AsyncIterator[Pool]:
    host, port = url.split("/")[2].split(":")
    pool = Pool(host, int(port), None, {"host": host})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        with trio.fail_after(PATIENCE):
            yield pool
        await pool.aclose()
        nursery.cancel_scope.cancel()


async def get(pool: Pool) -> bytes:
    answer = await pool.send("GET", "/", {}, b"")
    body = b""
    while data := await answer.receive():
        body += data
    await answer.aclose(done=True)
    return body


async def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(reply(b"x"))

    async with scripted(handler) as server, pool_to(server.url) as pool:
        for _ in range(5):
            assert await get(pool) == b"x"
    assert server.connections == 1


@pytest.mark.parametrize(
    "said",
    [
        reply(b"x", "200 OK", "Connection: close"),
        reply(b"x") + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        reply(b"x", "200 OK", "Keep-Alive: timeout=1"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
    ],
    ids=["the server closes it", "more came than was asked for", "the server keeps it too short", "HTTP/1.0"],
)
async def test_a_connection_is_not_used_again_where_it_may_not_be(said: bytes) -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(said)

    async with scripted(handler) as server, pool_to(server.url) as pool:
        for _ in range(3):
            assert await get(pool) == b"x"
    assert server.connections == 3


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\nhalf", b"and half")
        await peer.stream.send_eof()
        await peer.until_closed()
        raise Hangup

    async with scripted(handler) as server, pool_to(server.url) as pool:
        assert await get(pool) == b"halfand half"
        assert await get(pool) == b"halfand half"
    assert server.connections == 2


async def test_interim_answers_and_trailers_are_passed_over() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 9\r\n\r\n")
        await peer.say(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: 1\r\nA: 2\r\n\r\n1\r\nx\r\n0\r\nB: 3\r\n\r\n"
        )

    async with scripted(handler) as server, pool_to(server.url) as pool:
        answer = await pool.send("GET", "/", {}, b"")
        assert (answer.status, dict(answer.fields)) == (200, {"transfer-encoding": "chunked", "a": "1, 2"})
        assert await answer.receive() == b"x"
        assert await answer.receive() == b""
        await answer.aclose(done=True)
        assert (await get(pool), server.connections) == (b"x", 1)


async def test_idle_connections_are_closed_before_servers_close_them() -> None:
    closed = trio.Event()

    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(reply(b"x", "200 OK", "Keep-Alive: timeout=2, max=100"))
        await peer.until_closed()
        closed.set()
        raise Hangup

    async with scripted(handler) as server, pool_to(server.url) as pool:
        await get(pool)
        await closed.wait()


async def test_a_connection_that_was_closed_while_idle_is_not_used() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(reply(result(asked)))
        raise Hangup

    async with scripted(handler) as server, wire_to(server.url) as wire:
        for _ in range(10):
            await wire.send_raw_request("tools/call", CALL, MODERN)
            await trio.testing.wait_all_tasks_blocked(0.005)
    assert (server.connections, len(server.asked)) == (10, 10)


@pytest.mark.parametrize(("method", "again"), [("tools/list", True), ("tools/call", False)])
async def test_only_what_changes_nothing_is_sent_again_when_an_idle_connection_turns_out_closed(
    method: str, again: bool
) -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        if len(server.asked) == 2:  # it has come, and nobody says whether it was carried out
            raise Hangup
        await peer.say(reply(result(asked)))

    async with scripted(handler) as server, wire_to(server.url) as wire:
        await wire.send_raw_request("ping", {}, MODERN)
        if again:
            assert await wire.send_raw_request(method, CALL, MODERN) == {}
        else:
            with pytest.raises(MCPError, match="closed the connection before it replied: the outcome is unknown"):
                await wire.send_raw_request(method, CALL, MODERN)
    assert server.story == ["POST ping", *[f"POST {method}"] * (2 if again else 1)]


async def test_what_fails_on_a_new_connection_is_not_sent_again() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        raise Hangup

    async with scripted(handler) as server, wire_to(server.url) as wire:
        with pytest.raises(MCPError, match="the outcome is unknown"):
            await wire.send_raw_request("tools/list", {}, MODERN)
    assert len(server.asked) == 1


@pytest.mark.parametrize("tail", ["with the result", "after it", "never", "other bytes", "more of it"])
async def test_a_reply_does_not_wait_for_the_end_of_its_stream_and_the_connection_is_kept_if_that_comes(
    tail: str,
) -> None:
    go_on = [trio.Event() for _ in range(3)]

    async def handler(asked: Asked, peer: Peer) -> None:
        number = len(server.asked) - 1
        said = stream_head() + event(result(asked))
        await peer.say(said + LAST if tail == "with the result" else said)
        await go_on[number].wait()
        if tail != "with the result" and tail != "never":
            await peer.say({"after it": LAST, "other bytes": b"zz\r\n", "more of it": chunk(b": x\n\n")}[tail])

    async with scripted(handler) as server, wire_to(server.url) as wire:
        for event_ in go_on:
            assert await wire.send_raw_request("tools/call", CALL, MODERN) == {}
            event_.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.connections == (1 if tail in ("with the result", "after it") else 3)


async def test_a_request_that_is_cancelled_takes_its_connection_with_it() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        if len(server.asked) == 1:
            await peer.until_closed()
        await peer.say(reply(b"x"))

    async with scripted(handler) as server, pool_to(server.url) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, pool)
            await server.until(lambda: len(server.asked) == 1)
            nursery.cancel_scope.cancel()
        assert await get(pool) == b"x"
        assert server.connections == 2


async def test_a_reply_that_comes_before_all_was_read_is_heard() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(reply(b"", "413 Content Too Large", "Connection: close", kind=None))
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        async with pool_to(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/") as pool:
            answer = await pool.send("POST", "/", {}, b"x" * 20_000_000)
            assert answer.status == 413
            await answer.aclose(done=False)
        nursery.cancel_scope.cancel()


async def test_a_name_that_nobody_has_and_a_port_where_nobody_listens_are_told() -> None:
    async def never(asked: Asked, peer: Peer) -> None:
        raise AssertionError(asked)

    async with scripted(never) as server:
        pass
    for url, why in ((server.url, "^Connection refused$"), ("http://nobody.invalid:1/", ".")):
        async with pool_to(url) as pool:
            with pytest.raises(NotReached, match=why):
                await pool.send("GET", "/", {}, b"")

"""The HTTP host when a client leaves, when it is cancelled, and when it stops: real sockets, real time.

Rule: no client of anybody's; what is written and read here is what the RFC says. `HANG` ends only what hangs.
"""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing

from mcpactors.transports.asgi import ASGIApp, HostLimits, Message, Receive, Scope, Send
from mcpactors.transports.asgi.wire import FIRST_LOOK
from tests.transports.http_raw import (
    HANG,
    RawClient,
    answer,
    body_of,
    connected,
    get,
    hosted,
    part,
    post,
    start,
)

MIB = 1024 * 1024


def reset(client: RawClient) -> None:
    """Leave without a word of good-bye."""
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.stream.socket.close()


# --- Clients that leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_application_that_listens_is_told_when_the_client_leaves(streaming: bool, how: str) -> None:
    told: list[list[Message]] = []
    listening, done = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        if streaming:
            await send(start())
            await send(part(b"data"))
        listening.set()
        told.append([await receive(), await receive()])
        done.set()

    async with hosted(app) as served, served.client() as client:
        await client.write(post(b"hi"))
        with trio.fail_after(HANG):
            if streaming:
                await client.until(b"data\r\n")
            await listening.wait()
            if how == "reset":
                reset(client)
            else:
                await client.aclose()
            await done.wait()
    assert told == [[{"type": "http.disconnect"}] * 2]


async def say_no_more(client: RawClient) -> None:
    """Close only our own end, as `nc -N` does."""
    assert isinstance(client.stream, trio.SocketStream)
    await client.stream.send_eof()


async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers once it has listened for its client for a while, and not at all when that has left."""
    await body_of(receive)
    streaming = scope["path"] == "/events"
    if streaming:
        await send(start(200, (b"content-type", b"text/event-stream")))
    with trio.move_on_after({"/soon": FIRST_LOOK, "/late": HANG}.get(scope["path"], 0.3)) as waiting:
        assert await receive() == {"type": "http.disconnect"}
    if waiting.cancelled_caught:
        await (send(part(b"data: x\n\n", False)) if streaming else answer(send, b"answer"))


@pytest.mark.parametrize("path", ["/", "/events"])
async def test_who_says_no_more_and_listens_is_answered_and_so_is_what_it_asked_before(path: str) -> None:
    async with hosted(slowly) as served, served.client() as client:
        await client.write(get(path), get(path))
        await say_no_more(client)
        said = await client.to_the_end()
    assert said.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert said.count(b"answer" if path == "/" else b"data: x\n\n") == 2
    for meant in (b"HTTP/1.1 100 Continue\r\n\r\n", b"3\r\n:\n\n\r\n"):
        said = said.replace(meant, b"")
    assert b"100" not in said
    assert b":\n" not in said.replace(b"data: x\n", b"")


async def test_a_client_of_http_1_0_that_says_no_more_is_taken_for_gone_when_it_is_not_answered_soon() -> None:
    async with hosted(slowly) as served, served.client() as client:
        await client.write(b"GET /late HTTP/1.0\r\nHost: a\r\n\r\n")
        await say_no_more(client)
        assert await client.to_the_end() == b""


async def test_a_client_of_http_1_0_that_says_no_more_has_an_answer_that_comes_soon() -> None:
    async with hosted(slowly) as served, served.client() as client:
        await client.write(b"GET /soon HTTP/1.0\r\nHost: a\r\n\r\n")
        await say_no_more(client)
        assert (await client.to_the_end()).endswith(b"\r\n\r\nanswer")


async def test_a_client_of_http_1_0_that_says_no_more_hears_its_events() -> None:
    async with hosted(slowly) as served, served.client() as client:
        await client.write(b"GET /events HTTP/1.0\r\nHost: a\r\n\r\n")
        await say_no_more(client)
        head, _, body = (await client.to_the_end()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b":\n\ndata: x\n\n"


@pytest.mark.parametrize("verb", ["HEAD", "GET"])
async def test_a_response_that_has_no_room_for_a_comment_has_none_when_its_client_says_no_more(verb: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await send(start(200, (b"content-type", b"text/event-stream"), (b"content-length", b"9")))
        with trio.move_on_after(0.05):
            await receive()
        await send(part(b"data: x\n\n", False))

    async with hosted(app) as served, served.client() as client:
        await client.write(get("/events").replace(b"GET", verb.encode()))
        await say_no_more(client)
        _, _, body = (await client.to_the_end()).partition(b"\r\n\r\n")
    assert body == (b"" if verb == "HEAD" else b"data: x\n\n")


async def test_a_client_that_leaves_amid_its_body_is_seen_by_who_reads_it() -> None:
    told: list[Message] = []
    done = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        told.extend([await receive(), await receive()])
        done.set()

    async with hosted(app) as served, served.client() as client:
        await client.write(post(b"whole")[:-1])
        await client.aclose()
        with trio.fail_after(HANG):
            await done.wait()
    assert told == [{"type": "http.request", "body": b"whol", "more_body": True}, {"type": "http.disconnect"}]


async def test_sending_to_nobody_raises_an_oserror(caplog: pytest.LogCaptureFixture) -> None:
    raised: list[OSError] = []
    done = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        try:
            while True:
                await send(part(b"x" * 1000))
                await trio.lowlevel.checkpoint()
        except OSError as error:
            raised.append(error)
            raise
        finally:
            done.set()

    async with hosted(app) as served, served.client() as client:
        await client.write(get())
        await client.until(b"x\r\n")
        reset(client)
        with trio.fail_after(HANG):
            await done.wait()
    assert len(raised) == 1
    assert not caplog.records  # a client may leave: nothing failed


async def test_a_client_that_leaves_amid_the_last_of_its_answer_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        async with trio.open_nursery() as nursery:  # what it raises comes in a group
            nursery.start_soon(send, part(b"x" * 16 * MIB, more=False))

    async with hosted(app) as served, served.client() as client:
        await client.write(get())
        await client.until(b"x")
        reset(client)
    assert not caplog.records


async def test_the_answer_is_sent_before_a_listener_learns_that_it_is_over() -> None:
    """As the SDK does it: who listens cancels everything once told, the sending too."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                assert await receive() == {"type": "http.disconnect"}
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await answer(send, b"x" * 8 * MIB)

    async with hosted(app) as served, served.client() as client:
        for _ in range(2):
            await client.write(post(b"hi"))
            assert len((await client.reply()).body) == 8 * MIB


async def test_two_tasks_may_listen_at_once() -> None:
    told: list[Message] = []
    ready, done = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            told.append(await receive())

        await body_of(receive)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(listen)
            ready.set()
        done.set()

    async with hosted(app) as served, served.client() as client:
        await client.write(get())
        with trio.fail_after(HANG):
            await ready.wait()
            await client.aclose()
            await done.wait()
    assert told == [{"type": "http.disconnect"}] * 2


async def test_what_a_client_sends_ahead_while_it_is_listened_to_is_not_lost() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await body_of(receive)
        if scope["path"] == "/slow":
            async with trio.open_nursery() as nursery:  # listens for a while, as one does, and then answers
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
        await answer(send, body)

    async with hosted(app) as served, served.client() as client:
        ahead = [b"%d" % number * 1000 for number in range(200)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.write, post(b"first", "/slow"), *map(post, ahead))
            assert [(await client.reply()).body for _ in range(201)] == [b"first", *ahead]


async def test_f21_cancellation_ends_at_once_while_a_client_does_not_read() -> None:
    """hypercorn on trio shields its sending: one such client kept it alive."""
    began = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        began.set()
        while True:
            await send(part(b"x" * 64 * 1024))

    with trio.fail_after(HANG), trio.CancelScope() as block:
        async with hosted(app, HostLimits(drain=HANG * 10)) as served, served.client() as client:
            await client.write(get())
            await began.wait()
            await trio.testing.wait_all_tasks_blocked(0.1)  # the kernel's buffers are full, and ours
            block.cancel()
            await trio.sleep_forever()
    assert block.cancelled_caught


# --- Stopping ---------------------------------------------------------------------------------------------------------


async def serve_until(stop: trio.Event, app: ASGIApp, task_status: trio.TaskStatus[int]) -> None:
    limits = HostLimits(drain=HANG * 10, linger=0)
    async with hosted(app, limits, lambda scope: scope["path"] == "/lasting") as served:
        task_status.started(served.port)
        await stop.wait()


async def test_a_stop_lets_what_is_in_flight_end_and_closes_the_rest_at_once() -> None:
    stop, running, go = trio.Event(), trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            running.set()
            await go.wait()
        await answer(send, b"done")

    with trio.fail_after(HANG):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_until, stop, app)
            async with connected(port) as idle, connected(port) as busy:
                await idle.write(get())
                await idle.reply()
                await busy.write(get("/slow") + get("/never"))
                await running.wait()
                stop.set()
                assert await idle.to_the_end() == b""
                with pytest.raises(OSError, match="connect"):
                    await trio.open_tcp_stream("127.0.0.1", port)
                go.set()
                reply = await busy.reply()
                assert (reply.body, reply.fields["connection"]) == (b"done", "close")
                assert await busy.to_the_end() == b""


async def test_a_stop_ends_what_would_last_and_ends_it_well() -> None:
    stop = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await send(start(200, (b"content-type", b"text/event-stream")))
        await send(part(b"data: 1\n\n"))
        assert await receive() == {"type": "http.disconnect"}

    with trio.fail_after(HANG):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_until, stop, app)
            async with connected(port) as client:
                await client.write(get("/lasting"))
                await client.until(b"\r\n\r\n")
                chunks = client.chunks()
                assert await anext(chunks) == b"data: 1\n\n"
                stop.set()
                assert [chunk async for chunk in chunks] == []

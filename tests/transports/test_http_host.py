"""The HTTP host over real sockets of the loopback, in real time: bytes in, bytes out.

Rule: no client of anybody's; what is written and read here is what the RFC says. `HANG` ends only what hangs.
What has to do with time is in test_http_deadlines.py.
"""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from mcpactors.transports.asgi import UNREAD, HostLimits, Message, ParseLimits, Receive, Scope, Send
from tests.transports.http_raw import (
    HANG,
    answer,
    body_of,
    chunked,
    echo,
    get,
    hosted,
    part,
    post,
    start,
)

MIB = 1024 * 1024


# --- Requests and responses -------------------------------------------------------------------------------------------


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with hosted(echo) as served, served.client() as client:
        for body in (b"one", b"", b"two" * 100_000):
            await client.write(post(body, "/a"))
            reply = await client.reply()
            assert (reply.status, reply.body) == (200, b"POST /a " + body)
            assert "connection" not in reply.fields
        assert served.host.statistics().requests == 3


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with hosted(echo) as served, served.client() as client:
        await client.write(
            get("/1") + chunked(b"x", b"yz", path="/2") + post(b"abc", "/3") + b"\r\n" + get("/4", "Connection: close")
        )
        assert [(await client.reply()).body for _ in range(4)] == [
            b"GET /1 ",
            b"POST /2 xyz",
            b"POST /3 abc",
            b"GET /4 ",
        ]
        assert await client.to_the_end() == b""


async def test_trailers_of_a_chunked_body_do_not_become_header_fields() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["headers"])
        await answer(send, await body_of(receive))
        seen.append(scope["headers"])

    async with hosted(app) as served, served.client() as client:
        await client.write(chunked(b"x", trailers=b"Host: b\r\nAuthorization: me\r\n"), get())
        assert (await client.reply()).body == b"x"
        await client.reply()
    assert seen[0] == seen[1] == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]
    assert seen[2] == [(b"host", b"a")]


async def test_the_scope_is_what_asgi_says() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await answer(send, b"")

    async with hosted(app) as served, served.client() as client:
        await client.write(get("/caf%C3%A9/%2F?q=%20&x", "X-Y: \t1, 2 \t", "x-y: 3", "X-Empty:"))
        await client.reply()
        assert isinstance(client.stream, trio.SocketStream)
        port = client.stream.socket.getsockname()[1]
    assert scopes == [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/café//",
            "raw_path": b"/caf%C3%A9/%2F",
            "query_string": b"q=%20&x",
            "root_path": "",
            "headers": [(b"host", b"a"), (b"x-y", b"1, 2"), (b"x-y", b"3"), (b"x-empty", b"")],
            "client": ("127.0.0.1", port),
            "server": ("127.0.0.1", served.port),
            "extensions": {UNREAD: scopes[0]["extensions"][UNREAD]},
        }
    ]


async def test_a_streamed_response_comes_in_chunks_as_it_is_sent() -> None:
    go = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-type", b"text/event-stream"), (b"connection", b"keep-alive")))
        await send(part(b"data: 1\n\n"))
        await go.wait()
        await send(part(b""))
        await send(part(b"data: 2\n\n", more=False))

    async with hosted(app) as served, served.client() as client:
        await client.write(get())
        head = await client.until(b"\r\n\r\n")
        assert b"transfer-encoding: chunked\r\n" in head
        assert b"connection" not in head
        chunks = client.chunks()
        assert await anext(chunks) == b"data: 1\n\n"
        go.set()
        assert await anext(chunks) == b"data: 2\n\n"
        assert [chunk async for chunk in chunks] == []
        await client.write(get())
        assert (await client.reply()).body == b"data: 1\n\ndata: 2\n\n"


async def test_the_head_of_an_event_stream_does_not_wait_for_an_event() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, (b"Content-Type", b"text/event-stream; charset=utf-8")))
        await receive()
        await receive()

    async with hosted(app) as served, served.client() as client:
        await client.write(get())
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_to_http_1_0_a_stream_is_ended_by_the_close_and_has_no_chunks() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(part(b"one "))
        await send(part(b"two", more=False))

    async with hosted(app) as served, served.client() as client:
        await client.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        reply = await client.reply()
        assert "transfer-encoding" not in reply.fields
        assert (reply.fields["connection"], reply.body) == ("close", b"one two")


@pytest.mark.parametrize("request_", [get("/", "Connection: keep-alive, Close"), get(version="1.0")])
async def test_who_asks_for_the_close_gets_it(request_: bytes) -> None:
    async with hosted(echo) as served, served.client() as client:
        await client.write(request_)
        assert (await client.reply()).fields["connection"] == "close"
        assert await client.to_the_end() == b""


async def test_an_application_may_close() -> None:
    async with hosted(partial(_answer_with, 200, b"x", (b"connection", b"close"))) as served:
        async with served.client() as client:
            await client.write(get())
            assert (await client.reply()).fields["connection"] == "close"
            assert await client.to_the_end() == b""


async def _answer_with(
    status: int, body: bytes, field: tuple[bytes, bytes], scope: Scope, receive: Receive, send: Send
) -> None:
    await answer(send, body, status, field)


async def test_head_has_the_fields_of_get_and_no_body() -> None:
    async with hosted(echo) as served, served.client() as client:
        await client.write(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n" + get("/a"))
        reply = await client.reply(bodiless=True)
        assert reply.fields["content-length"] == str(len(b"HEAD /a "))
        assert (await client.reply()).body == b"GET /a "


@pytest.mark.parametrize("status", [204, 304])
async def test_some_statuses_have_no_body(status: int) -> None:
    async with hosted(partial(_answer_with, status, b"never", (b"x-a", b"b"))) as served, served.client() as client:
        await client.write(get() + get())
        for _ in range(2):
            reply = await client.reply()
            assert (reply.status, reply.fields["x-a"]) == (status, "b")
            assert not {"content-length", "transfer-encoding"} & set(reply.fields)


async def test_an_upgrade_that_nobody_here_knows_is_ignored() -> None:
    wish = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    async with hosted(echo) as served, served.client() as client:
        wishing = "\r\n".join(["Host: a", *wish]).encode()
        in_chunks = chunked(b"ab", b"c", path="/3").replace(b"Host: a", wishing)
        await client.write(post(b"hi", "/", *wish) + get("/2", *wish) + in_chunks + get("/4"))
        assert [(await client.reply()).body for _ in range(4)] == [b"POST / hi", b"GET /2 ", b"POST /3 abc", b"GET /4 "]


async def test_continue_is_said_when_the_application_wants_the_body_and_not_before() -> None:
    asked = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/no":
            await answer(send, b"no", 403)
            return
        await asked.wait()
        await echo(scope, receive, send)

    async with hosted(app) as served:
        async with served.client() as client:
            await client.write(b"POST /yes HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n")
            asked.set()
            assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.write(b"hi")
            assert (await client.reply()).body == b"POST /yes hi"
            await client.write(post(b"hi", "/yes", "Expect: 100-continue"))  # which does not wait for it
            assert (await client.reply()).status == 200
        async with served.client() as client:
            await client.write(b"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            reply = await client.reply()
            assert (reply.status, reply.fields["connection"]) == (403, "close")


# --- Limits -----------------------------------------------------------------------------------------------------------


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("an application was asked")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/" + "a" * 8192), 414),
        (get("/", "A: " + "b" * 65536), 431),
        (get("/", *["A: b"] * 100), 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4194305\r\n\r\n", 413),
        (post(b"", "/", "Expect: a cake"), 417),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
    ],
)
async def test_what_is_too_much_is_refused_before_the_application_sees_it(request_: bytes, status: int) -> None:
    async with hosted(never) as served, served.client() as client:
        await client.write(request_ + get("/next"))
        reply = await client.reply()
        assert (reply.status, reply.fields["connection"]) == (status, "close")
        assert await client.to_the_end() == b""


async def test_just_within_the_limits_is_served() -> None:
    async with hosted(echo) as served, served.client() as client:
        await client.write(get("/" + "a" * (8192 - len("GET / HTTP/1.1\r\n")), *["A: b"] * 99))
        assert (await client.reply()).status == 200
        await client.write(post(b"x" * 4 * MIB))
        assert len((await client.reply()).body) == len("POST / ") + 4 * MIB


async def test_a_chunked_body_that_grows_too_large_ends_as_413() -> None:
    told: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            assert message["more_body"]
        told.append(message)
        with pytest.raises(OSError, match="gone"):
            await answer(send, b"too late")

    async with hosted(app, HostLimits(parse=ParseLimits(body=1000), linger=5)) as served:
        assert (await served.ask(chunked(b"x" * 600, b"y" * 600))).status == 413
    assert told == [{"type": "http.disconnect"}]


async def test_framing_that_outweighs_the_body_ends_as_413() -> None:
    async with hosted(echo) as served:
        assert (await served.ask(chunked(b"x", trailers=b"A: " + b"b" * 100_000 + b"\r\n"))).status == 413
        assert (await served.ask(chunked(*[b"x"] * 30_000))).status == 413
        assert (await served.ask(chunked(*[b"x"] * 3_000))).status == 200


async def test_above_the_cap_of_connections_a_client_is_told_to_come_again() -> None:
    async with hosted(echo, HostLimits(connections=2, linger=5)) as served:
        async with served.client() as one, served.client() as two:
            for client in (one, two):
                await client.write(get())
                await client.reply()
            reply = await served.ask(get())
            assert (reply.status, reply.fields["retry-after"]) == (503, "1")
            await one.aclose()
            with trio.fail_after(HANG):
                while served.host.statistics().connections == 2:
                    await trio.lowlevel.checkpoint()
            assert (await served.ask(get())).status == 200
        assert served.host.statistics().turned_away == 1


@pytest.mark.parametrize(("says", "after"), [((b"x-a", b"b"), "1"), ((b"Retry-After", b"60"), "60")])
async def test_every_503_says_when_to_come_again(says: tuple[bytes, bytes], after: str) -> None:
    async with hosted(partial(_answer_with, 503, b"full", says)) as served:
        assert (await served.ask(get())).fields[says[0].decode() if after == "60" else "retry-after"] == after


# --- Applications that do not behave ----------------------------------------------------------------------------------


async def test_an_exception_is_500_and_stays_in_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/group":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise KeyError("group")
        if scope["path"] == "/bad":
            raise ValueError("a secret")
        await answer(send, b"fine")

    async with hosted(app) as served, served.client() as other:
        await other.write(get())
        await other.reply()
        for path in ("/bad", "/group"):
            reply = await served.ask(get(path))
            assert (reply.status, reply.fields["connection"]) == (500, "close")
            assert b"secret" not in reply.body
        await other.write(get())
        assert (await other.reply()).body == b"fine"
    assert [record.getMessage() for record in caplog.records] == ["GET /bad failed", "GET /group failed"]


async def test_half_a_response_is_left_half_so_that_the_client_sees_it(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(part(b"half"))
        if scope["path"] == "/raise":
            raise ValueError

    async with hosted(app) as served:
        for path in ("/raise", "/return"):
            async with served.client() as client:
                await client.write(get(path))
                assert (await client.to_the_end()).endswith(b"\r\n4\r\nhalf\r\n")


async def test_an_application_that_says_nothing_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/start":
            await send(start())

    async with hosted(app) as served:
        assert (await served.ask(get())).status == 500
        assert (await served.ask(get("/start"))).status == 500


@pytest.mark.parametrize(
    ("name", "value"), [(b"x-a", b"b\r\nset-cookie: c"), (b"x-a\r\nb", b"c"), (b"x-a", b"b\n"), (b"x-a", b"\0")]
)
async def test_a_field_cannot_split_the_response(name: bytes, value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with hosted(partial(_answer_with, 200, b"", (name, value))) as served:
        reply = await served.ask(get())
        assert (reply.status, "set-cookie" in reply.fields) == (500, False)


@pytest.mark.parametrize("declared", [b"3", b"7"])
async def test_a_body_of_another_length_than_was_said_ends_the_connection(
    declared: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosted(partial(_answer_with, 200, b"hello", (b"content-length", declared))) as served:
        async with served.client() as client:
            await client.write(get() + get())
            said = await client.to_the_end()
            assert said.count(b"HTTP/1.1") == 1
            assert b" 500 " in said if declared == b"3" else said.endswith(b"\r\nhello")


@pytest.mark.parametrize(
    "messages",
    [
        [part(b"no start")],
        [start(), start()],
        [start(), part(b"", more=False), part(b"again")],
        [start(101)],
        [{"type": "http.response.push", "path": "/"}],
    ],
)
async def test_messages_out_of_order_are_errors_of_the_application(messages: list[Message]) -> None:
    failed: list[Exception] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            for message in messages:
                await send(message)
        except (RuntimeError, ValueError) as error:
            failed.append(error)
        await answer(send, b"")

    async with hosted(app) as served:
        await served.ask(get())
    assert len(failed) == 1


async def test_a_body_that_nobody_reads_does_not_keep_the_answer_from_its_client() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"not for you", 403)

    async with hosted(app) as served, served.client() as client:
        await client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        await client.write(b"x" * 3_000_000)
        reply = await client.reply()
        assert (reply.status, reply.fields["connection"], reply.body) == (403, "close", b"not for you")
        assert await client.to_the_end() == b""


async def test_a_send_that_the_application_cuts_short_ends_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.CancelScope() as scope_:
            scope_.cancel()
            await answer(send, b"x" * MIB)

    async with hosted(app) as served, served.client() as client:
        await client.write(get() + get())
        assert (await client.to_the_end()).count(b"HTTP/1.1") <= 1

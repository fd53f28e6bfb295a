"""The HTTP host's patience, and how it writes: memory streams and virtual time. Promises F19, F21; issue 6.

Rule: never a socket here. Times asserted are the virtual clock's; the host looks at who is late once a second.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from attrs import define, field
from trio.testing import MockClock

from mcpactors.transports.asgi import ASGIApp, Receive, Scope, Send
from mcpactors.transports.asgi.serving import LOOK, HostLimits, serve
from mcpactors.transports.asgi.wire import GATHERED, LAST_LOOK, ClientGone
from tests.transports.http_raw import RawClient, answer, body_of, echo, get, part, post, start

LIMITS = HostLimits(linger=0)


@define(eq=False)
class Recorded(trio.abc.HalfCloseableStream):
    """A stream that keeps each write apart, so that they can be counted."""

    inner: trio.abc.HalfCloseableStream
    writes: list[bytes] = field(factory=list)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()


@define(eq=False)
class MemoryListener(trio.abc.Listener[Recorded]):
    """Accepts whoever connects in this program."""

    ends: tuple[trio.MemorySendChannel[Recorded], trio.MemoryReceiveChannel[Recorded]] = field(
        factory=lambda: trio.open_memory_channel[Recorded](10)
    )

    short_of_files: int = 0
    """How often accepting fails for it, instead of taking the next client."""

    def connect(self, lockstep: bool = False) -> tuple[RawClient, Recorded]:
        """A client and the host's end; in `lockstep`, what is written to it waits until it is read."""
        ours, theirs = trio.testing.lockstep_stream_pair() if lockstep else trio.testing.memory_stream_pair()
        end = Recorded(theirs)
        self.ends[0].send_nowait(end)
        return RawClient(ours, patience=10_000), end

    async def accept(self) -> Recorded:
        client = await self.ends[1].receive()
        if self.short_of_files:
            self.short_of_files -= 1
            self.ends[0].send_nowait(client)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return client

    async def aclose(self) -> None:
        self.ends[1].close()


@asynccontextmanager
async def hosting(app: ASGIApp, limits: HostLimits = LIMITS) -> AsyncIterator[MemoryListener]:
    listener = MemoryListener()
    async with serve(app, [listener], limits):
        yield listener


async def end_of(client: RawClient) -> tuple[bytes, float]:
    """What comes until the close, and after how many seconds of the clock that is, to a tenth."""
    began = trio.current_time()
    received = b""
    while data := await client.stream.receive_some():
        received += data
    return received, round(trio.current_time() - began, 1)


async def drip(client: RawClient, data: bytes, every: float, count: int) -> None:
    try:
        for _ in range(count):
            await client.stream.send_all(data)
            await trio.sleep(every)
    except trio.BrokenResourceError:
        pass


# --- Clients that leave, or say no more ------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
async def test_f20_that_a_client_has_left_is_seen_within_a_tenth_of_a_second(
    streaming: bool, autojump_clock: MockClock
) -> None:
    told: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        if streaming:
            await send(start(200, (b"content-type", b"text/event-stream")))
        await receive()
        told.append(trio.current_time())

    async with hosting(app) as listener:
        client, _ = listener.connect()
        await client.write(get())
        await trio.sleep(1)
        await client.aclose()
        left = trio.current_time()
        await trio.sleep(1)
    assert [when - left <= 0.1 for when in told] == [True]


async def test_f20_who_closes_its_own_end_is_asked_every_few_seconds_whether_it_still_listens(
    autojump_clock: MockClock,
) -> None:
    told: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await receive()
        told.append(trio.current_time())

    async with hosting(app) as listener:
        client, _ = listener.connect()
        await client.write(get())
        assert isinstance(client.stream, trio.abc.HalfCloseableStream)
        await client.stream.send_eof()
        await trio.sleep(60)
        assert told == []
        assert 6 <= (await client.until(b"\r\n\r\n") + client.rest).count(b"HTTP/1.1 100 Continue") <= 13
        left = trio.current_time()
        await client.aclose()
        await trio.sleep(LAST_LOOK * 2)
        assert [when - left < LAST_LOOK * 2 for when in told] == [True]


class Steps(trio.abc.Instrument):
    """How often the tasks of connections have run."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += "_Connection.run" in task.name


async def test_f20_who_closes_its_own_end_for_long_costs_little_more_than_who_does_not(
    autojump_clock: MockClock,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await receive()

    async with hosting(app) as listener:
        client, _ = listener.connect()
        await client.write(get())
        assert isinstance(client.stream, trio.abc.HalfCloseableStream)
        await client.stream.send_eof()
        await trio.sleep(2 * LAST_LOOK)
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await trio.sleep(100 * LAST_LOOK)
        trio.lowlevel.remove_instrument(steps)
        assert 90 <= steps.count <= 110
        await client.aclose()


# --- Clients that are slow to send ------------------------------------------------------------------------------------


async def test_f19_a_head_that_drips_is_given_up_in_time_however_busily_it_drips(autojump_clock: MockClock) -> None:
    async with hosting(echo) as listener, trio.open_nursery() as nursery:
        client, _ = listener.connect()
        await client.write(b"GET / HTTP/1.1\r\n")
        nursery.start_soon(drip, client, b"A: b\r\n", 1, 50)
        said, after = await end_of(client)
        assert said.startswith(b"HTTP/1.1 408 ")
        assert LIMITS.head_timeout <= after <= LIMITS.head_timeout + LOOK
        nursery.cancel_scope.cancel()


async def test_f19_a_body_that_drips_is_given_up_in_time(autojump_clock: MockClock) -> None:
    async with hosting(echo) as listener, trio.open_nursery() as nursery:
        client, _ = listener.connect()
        await client.write(post(b"x" * 1000).removesuffix(b"x" * 1000))
        nursery.start_soon(drip, client, b"x", 1, 50)
        said, after = await end_of(client)
        assert said.startswith(b"HTTP/1.1 408 ")
        assert LIMITS.body_timeout <= after <= LIMITS.body_timeout + LOOK
        nursery.cancel_scope.cancel()


async def test_a_large_body_over_a_slow_line_is_given_the_time_that_it_takes(autojump_clock: MockClock) -> None:
    body = b"x" * 1024 * 1024
    async with hosting(echo) as listener, trio.open_nursery() as nursery:
        client, _ = listener.connect()
        await client.write(post(body).removesuffix(body))
        nursery.start_soon(drip, client, b"x" * 10 * 1024, 1, 103)  # 10 KiB a second, to the whole body and more
        assert (await client.reply()).body == b"POST / " + body
        assert trio.current_time() > 90
        nursery.cancel_scope.cancel()


async def test_the_time_that_the_application_takes_is_not_the_client_s(autojump_clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(100)
        body = await body_of(receive)
        await trio.sleep(100)
        await answer(send, body)

    async with hosting(app) as listener:
        client, _ = listener.connect()
        await client.write(post(b"whole")[:-1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip_after, client, b"e", 105)
            assert (await client.reply()).body == b"whole"


async def drip_after(client: RawClient, data: bytes, seconds: float) -> None:
    await trio.sleep(seconds)
    await client.write(data)


async def test_after_half_an_answer_a_late_body_gets_no_second_one(autojump_clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(part(b"half"))
        await body_of(receive)

    async with hosting(app) as listener:
        client, _ = listener.connect()
        await client.write(post(b"whole")[:-1])
        said, _ = await end_of(client)
        assert said.endswith(b"\r\n4\r\nhalf\r\n")
        assert said.count(b"HTTP/1.1") == 1


async def test_a_connection_without_a_request_is_closed_without_a_word(autojump_clock: MockClock) -> None:
    async with hosting(echo) as listener:
        client, _ = listener.connect()
        said, after = await end_of(client)
        assert said == b""
        assert LIMITS.head_timeout <= after <= LIMITS.head_timeout + LOOK


async def test_a_kept_connection_waits_longer_for_the_next_request(autojump_clock: MockClock) -> None:
    async with hosting(echo) as listener:
        client, _ = listener.connect()
        for _ in range(3):
            await client.write(get())
            assert (await client.reply()).status == 200
            await trio.sleep(LIMITS.idle_timeout - LOOK)
        await client.write(get()[:5])
        said, _ = await end_of(client)
        assert said.startswith(b"HTTP/1.1 408 "), said
        client, _ = listener.connect()
        await client.write(get())
        await client.reply()
        said, after = await end_of(client)
        assert said == b""
        assert LIMITS.idle_timeout <= after <= LIMITS.idle_timeout + LOOK


async def test_without_file_descriptors_nobody_new_is_accepted_and_who_is_there_is_served(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    listener = MemoryListener()
    async with serve(echo, [listener], LIMITS):
        before, _ = listener.connect()
        await before.write(get())
        await before.reply()
        listener.short_of_files = 3
        late, _ = listener.connect()
        await before.write(get())
        assert (await before.reply()).status == 200
        await late.write(get())
        assert (await late.reply()).status == 200
    assert [record.message for record in caplog.records] == ["no connection can be accepted: Too many open files"] * 3


# --- Clients that are slow to read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
async def test_f21_who_reads_nothing_is_dropped_and_nobody_else_waits(
    streaming: bool, autojump_clock: MockClock
) -> None:
    ended: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(start())
            while streaming and scope["path"] == "/much":
                await send(part(b"x" * 10_000))
            await send(part(b"x", more=False))
        finally:
            ended.append(trio.current_time())

    async with hosting(app) as listener:
        unread, _ = listener.connect(lockstep=True)
        sibling, _ = listener.connect()
        await unread.write(get("/much"))
        for _ in range(10):
            await sibling.write(get())
            assert (await sibling.reply()).body == b"x"
        assert trio.current_time() == 0
        ended.clear()
        await trio.sleep(LIMITS.send_timeout + LOOK)
        assert LIMITS.send_timeout <= ended[0] <= LIMITS.send_timeout + LOOK


@pytest.mark.parametrize("ends", ["it is dropped", "its answer has ended"])
async def test_f21_who_waits_in_another_task_to_send_to_it_is_told_when_the_connection_is_over(
    ends: str, autojump_clock: MockClock
) -> None:
    told: list[str] = []

    async def say(send: Send) -> None:
        try:
            for _ in range(2):  # one has gathered, one waits
                await send(part(b"x" * GATHERED))
            told.append("said")
        except ClientGone:
            told.append("gone")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        others.start_soon(say, send)
        if ends == "it is dropped":
            await trio.sleep_forever()
        await body_of(receive)
        await receive()

    async with trio.open_nursery() as others:
        async with hosting(app) as listener:
            for _ in range(20):  # the order of tasks is random
                client, _ = listener.connect(lockstep=True)
                await client.write(get())
                await trio.testing.wait_all_tasks_blocked()
                if ends == "its answer has ended":
                    assert isinstance(client.stream, trio.abc.HalfCloseableStream)
                    await client.stream.send_eof()
                    await trio.sleep(1)  # by then it counts as gone, and the answer as all that there will be
                    await client.to_the_end()
            await trio.sleep(2 * LIMITS.send_timeout)
        assert len(told) == 20
        assert ends == "its answer has ended" or set(told) == {"gone"}
        others.cancel_scope.cancel()


async def test_who_reads_slowly_is_not_dropped(autojump_clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * 20 * GATHERED)

    async with hosting(app) as listener:
        client, _ = listener.connect(lockstep=True)
        await client.write(get())
        received = 0
        while received < 20 * GATHERED:
            received += len(await client.stream.receive_some(GATHERED))
            await trio.sleep(LIMITS.send_timeout - LOOK)
        assert trio.current_time() >= 20 * (LIMITS.send_timeout - LOOK)


async def test_an_application_waits_while_its_client_does_not_read(autojump_clock: MockClock) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start())
        while True:
            await send(part(b"x" * 1000))
            sent += 1000

    async with hosting(app) as listener:
        client, _ = listener.connect(lockstep=True)
        await client.write(get())
        await trio.sleep(10)
        assert sent <= 2 * (GATHERED + 1000)  # what is being written, and what waits


# --- How it writes ----------------------------------------------------------------------------------------------------


async def test_a_whole_answer_is_one_write(autojump_clock: MockClock) -> None:
    async with hosting(echo) as listener:
        client, end = listener.connect()
        await client.write(post(b"hi"))
        await client.reply()
        assert len(end.writes) == 1


async def test_events_that_are_sent_one_after_the_other_go_out_together(autojump_clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for number in range(100):
            await send(part(b"data: %d\n\n" % number))
        await trio.sleep(1)
        for number in range(100):
            await send(part(b"data: %d\n\n" % number))
            await trio.lowlevel.checkpoint()  # as when each comes from another task
        await send(part(b"", more=False))

    async with hosting(app) as listener:
        client, end = listener.connect()
        await client.write(get())
        assert (await client.reply()).body == b"".join(b"data: %d\n\n" % number for number in range(100)) * 2
        assert len(end.writes) <= 4


async def test_an_event_goes_out_although_none_follows(autojump_clock: MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(part(b"data: 1\n\n"))
        await trio.sleep_forever()

    async with hosting(app, HostLimits(linger=0, drain=0)) as listener:
        client, _ = listener.connect()
        await client.write(get())
        await client.until(b"data: 1\n\n")
        assert trio.current_time() == 0


# --- Stopping ---------------------------------------------------------------------------------------------------------


async def test_what_has_not_ended_after_the_drain_time_is_cut_off(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep(20 if scope["path"] == "/soon" else 10_000)
            await answer(send, b"done")
        finally:
            ended.append(scope["path"])

    async with hosting(app) as listener:
        soon, never = listener.connect()[0], listener.connect()[0]
        await soon.write(get("/soon"))
        await never.write(get("/never"))
        await trio.sleep(1)
    assert trio.current_time() == 1 + LIMITS.drain
    assert ended == ["/soon", "/never"]
    assert (await soon.reply()).fields["connection"] == "close"
    assert await never.to_the_end() == b""


async def test_a_stop_without_anything_in_flight_takes_no_time(autojump_clock: MockClock) -> None:
    async with hosting(echo) as listener:
        client, _ = listener.connect()
        await client.write(get())
        await client.reply()
        half, _ = listener.connect()
        del half  # accepted, and nothing said
        await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == 0


async def test_a_request_that_has_begun_to_come_is_waited_for_at_a_stop(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with hosting(echo) as listener:
            client, _ = listener.connect()
            await client.write(get()[:10])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(drip_after, client, get()[10:], 5)
        reply = await client.reply()
        assert (reply.status, reply.fields["connection"]) == (200, "close")
        assert trio.current_time() == 5

"""What an HTTP backend says is read as fast as it comes; what nobody waits for, at the pace of a flood."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, field

from mcpactors.runtime.policy import DEFAULT_BACKEND
from mcpactors.runtime.reply import CallDeadlines
from mcpactors.transports.http_client.either import EitherDispatcher
from mcpactors.transports.http_client.event_stream import EventReader, EventTooLong
from mcpactors.transports.http_client.faults import Unreadable, read_message
from mcpactors.transports.http_client.pace import Pace
from mcpactors.transports.lines.flood import BURST, FEW, HASTE, STEP
from mcpactors.transports.values import StreamableHttpTransport
from tests.transports.http_scripted import (
    LAST,
    MODERN,
    Asked,
    Heard,
    Peer,
    chunk,
    event,
    message,
    reply,
    result,
    scripted,
    stream_head,
    wire_to,
)

READS = 65536
PROGRESS, LOG = "notifications/progress", "notifications/message"


def lines(*said: bytes) -> bytes:
    return b"".join(b"data: " + each + b"\n\n" for each in said)


@define(eq=False)
class Backend:
    """What comes of one: as many streams as there are, each with a reader, and the pace of all."""

    calls: int = 1
    pace: Pace = field(init=False)
    taken: list[Any] = field(factory=list)
    size: int = 0

    def __attrs_post_init__(self) -> None:
        self.pace = Pace(DEFAULT_BACKEND, lambda: self.calls)

    async def say(self, reader: EventReader, data: bytes, pieces: int = 1) -> None:
        """As the dispatcher does."""
        for start in range(0, len(data), READS):
            part = data[start : start + READS]
            messages, wrong = await self.pace.read(reader, part, pieces)
            assert wrong is None
            self.size += len(part)
            for each in messages:
                try:
                    said = read_message(each)
                except Unreadable:
                    self.pace.skipped(each)
                    continue
                self.taken.append(said)
                if "method" in said:
                    self.pace.heard(each, said)

    async def flood(self, data: bytes, pieces: int, times: int) -> None:
        reader = EventReader(1 << 30)
        for _ in range(times):
            await self.say(reader, data, pieces)


PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
LARGE = json.dumps({"jsonrpc": "2.0", "method": LOG, "params": {"data": [[]] * 120_000}}).encode()
FLOODS = {
    "progress": (lines(message(PROGRESS, progressToken=7, progress=1)) * 700, 1, 64 << 10),
    "logs": (lines(message(LOG, level="info", data="x")) * 700, 1, 64 << 10),
    "requests": (lines(PING) * 100, 1, 64 << 10),
    "one message of many parts": (lines(LARGE), 1, 512 << 10),
    "comments": (b":\n" * (READS // 2), 1, 64 << 10),
    "one comment, in chunks of a byte": (b":" * 10_000, 10_000, 10_000),
    "the data of one event, in chunks of a byte": (b"data: " + b"x" * 10_000, 10_000, 10_000),
    "comments, one at a time": (b":\n\n", 1, 300),
    "ids": ((b"id: " + b"x" * 900 + b"\nretry: 0\n\n") * 70, 1, 128 << 10),
    "events without data": (b"data:\n\n" * (READS // 7), 1, 64 << 10),
    "events of another type": (b"event: other\ndata: 1\n\n" * (READS // 22), 1, 64 << 10),
    "messages of empty lines of data": (b"data:\n" * 90_000 + b"\n", 1, 512 << 10),
    "only line breaks": (b"\n" * READS, 1, 2 << 20),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_p6_a_flood_of_any_kind_on_many_streams_is_read_at_a_pace(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    said, pieces, most = FLOODS[kind]
    backend = Backend(calls=4)
    with trio.move_on_after(2 * BURST / HASTE + 40):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(backend.flood, said, pieces, 5_000)
            await trio.sleep(2 * BURST / HASTE)
            before = backend.size
    assert 0 < (backend.size - before) / 40 < most * 4  # bytes a second; it was all of them before any time had passed


@pytest.mark.parametrize("kind", ["progress", "logs", "comments"])
async def test_f4_a_reply_behind_a_hundred_thousand_comes_before_its_call_is_given_up(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    said = {"progress": lines(message(PROGRESS, progressToken=7, progress=1)), "comments": b":\n"}
    flood = said.get(kind, lines(message(LOG, level="info", data="x"))) * 100_000
    backend = Backend()
    await backend.say(EventReader(1 << 20), flood + lines(b'{"jsonrpc":"2.0","id":1,"result":{}}'))
    assert backend.taken[-1] == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert trio.current_time() < CallDeadlines().idle / 10


async def test_p6_a_backend_that_is_well_and_busy_waits_for_nothing(autojump_clock: trio.testing.MockClock) -> None:
    calls, seconds = 64, 20
    backend = Backend(calls)
    answer = lines(b'{"jsonrpc":"2.0","id":1,"result":{"text":"%b"}}' % (b"x" * 200_000))
    begins = b"id: 1\nretry: 500\ndata: \n\n"

    async def call(token: int) -> None:
        reader = EventReader(1 << 20)
        await backend.say(reader, begins)
        for number in range(int(seconds / STEP)):
            await trio.sleep(STEP)
            if number % 100 == 0:
                await backend.say(reader, b": ping - 2026-01-01 00:00:00+00:00\r\n\r\n")
            step = message(PROGRESS, progressToken=token, progress=number)
            await backend.say(reader, b"event: message\r\nid: %d\r\ndata: %b\r\n\r\n" % (number, step))
        for start in range(0, len(answer), 100):
            await backend.say(reader, answer[start : start + 100])
        for _ in range(50):  # and short ones
            await backend.say(EventReader(1 << 20), begins)

    async with trio.open_nursery() as nursery:
        for token in range(calls):
            nursery.start_soon(call, token)
    assert len(backend.taken) == calls * (seconds / STEP + 1)
    assert trio.current_time() == pytest.approx(seconds, abs=0.01)


async def test_f4_few_messages_are_all_heard_and_of_a_flood_the_last() -> None:
    backend, reader = Backend(), EventReader(1 << 20)
    await backend.say(reader, lines(*(message(PROGRESS, progressToken=7, progress=n) for n in range(FEW))))
    assert [said["params"]["progress"] for said in backend.taken] == list(range(FEW))
    backend.taken.clear()
    await backend.say(reader, lines(*(message(PROGRESS, progressToken=7, progress=n) for n in range(FEW + 1))))
    assert [said["params"]["progress"] for said in backend.taken] == [FEW]


async def test_what_came_before_an_event_that_is_too_long_is_taken() -> None:
    messages, wrong = await Backend().pace.read(EventReader(100), lines(*[PING] * 50, b"x" * 200), 1)
    assert (messages[0], type(wrong)) == (PING, EventTooLong)


async def test_p6_while_a_flood_waits_calls_are_answered_and_its_own_comes_behind_it(
    mock_clock: trio.testing.MockClock,
) -> None:
    written, ended = 0, False
    flood = chunk(lines(message(LOG, level="info", data="x")) * 500)

    async def handler(asked: Asked, peer: Peer) -> None:
        nonlocal written, ended
        if asked.said["params"]["name"] == "well":
            await peer.say(reply(result(asked)))
            return
        peer.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 65536)
        await peer.say(stream_head())
        while written < 8 << 20:
            await peer.say(flood)
            written += len(flood)
        ended = True
        await peer.say(event(result(asked, last=True)), LAST)

    replies: list[Any] = []
    async with scripted(handler) as backend, wire_to(backend.url, Heard()) as wire, trio.open_nursery() as nursery:

        async def call() -> None:
            replies.append(await wire.send_raw_request("tools/call", {"name": "floods"}, MODERN))

        nursery.start_soon(call)
        same = seen = 0  # time stands still, so what is not read at once is not read
        while same < 100 and not ended:
            assert await wire.send_raw_request("tools/call", {"name": "well"}, MODERN) == {}
            same, seen = (same + 1, seen) if seen == written else (0, written)
        assert not ended
        while not replies:
            mock_clock.jump(0.01)
            assert await wire.send_raw_request("tools/call", {"name": "well"}, MODERN) == {}
    assert replies == [{"last": True}]


async def test_p6_a_flood_in_one_session_is_waited_for_in_the_others(mock_clock: trio.testing.MockClock) -> None:
    flood = chunk(lines(message(LOG, level="info", data="x")) * 500)

    async def handler(asked: Asked, peer: Peer) -> None:
        if (what := asked.said["params"]["name"]) == "json":
            await peer.say(reply(result(asked)))
            return
        await peer.say(stream_head())
        while what == "floods":
            await peer.say(flood)
        await peer.say(event(result(asked)), LAST)

    replies: list[Any] = []
    async with scripted(handler) as backend, trio.open_nursery() as nursery:
        connect = StreamableHttpTransport(backend.url).dispatchers()
        async with connect() as one, connect() as other:
            for wire in (one, other):
                await nursery.start(wire.run, Heard().request, Heard().notice)

            async def call(wire: EitherDispatcher, name: str) -> None:
                replies.append(await wire.send_raw_request("tools/call", {"name": name}, MODERN))

            async def pass_turns() -> None:
                for _ in range(100):
                    await other.send_raw_request("tools/call", {"name": "json"}, MODERN)

            nursery.start_soon(call, one, "floods")
            await pass_turns()
            nursery.start_soon(call, other, "stream")
            await pass_turns()  # time stands still
            assert replies == []
            while not replies:
                mock_clock.jump(0.01)
                await pass_turns()
            nursery.cancel_scope.cancel()
    assert replies == [{}]

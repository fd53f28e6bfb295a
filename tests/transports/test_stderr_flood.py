"""What a child writes on stderr is always read: at a pace that leaves its siblings their time, and its last words at
once."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from attrs import define

from mcpactors.transports.lines.flood import BURST, HASTE
from mcpactors.transports.lines.stderr import StderrTail
from mcpactors.transports.stdio.child import listen_to_stderr

PIPE = 65536


@define(eq=False)
class Endless(trio.abc.ReceiveStream):
    """Says one thing over and over, as fast as it is read; `most` times at most."""

    said: bytes
    most: int = 5_000
    reads: int = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        return self.said if self.reads <= self.most else b""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "said", [b"x" * PIPE, b"\n" * PIPE, b"a line of a log that is as long as most lines are\n" * 1310]
)
async def test_p6_stderr_that_floods_is_read_at_the_pace_of_a_flood(
    said: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    flood, ends = Endless(said), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen_to_stderr, flood, "flooding", StderrTail(), trio.Event(), ends)
        await trio.sleep(BURST / HASTE + 10)
        before = flood.reads
        await trio.sleep(100)
        reads = flood.reads - before
        flood.most = 0
        ends.set()
    assert 100 <= reads < 1_000  # of 64 KiB, one a second at least; it was as many as there were, at once


async def test_stderr_of_a_child_that_says_some_megabytes_and_no_more_is_read_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    heard, tail = trio.Event(), StderrTail()
    await listen_to_stderr(Endless(b"x" * 99 + b"\n", 40_000), "chatty", tail, heard, trio.Event())
    assert heard.is_set()
    assert trio.current_time() < BURST / HASTE


async def test_the_last_words_of_a_child_that_floods_stderr_are_heard_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    flood, heard, ends, tail = Endless(b"\n" * PIPE), trio.Event(), trio.Event(), StderrTail()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen_to_stderr, flood, "dying", tail, heard, ends)
        await trio.sleep(100.1)
        flood.said, flood.most = b"why it ended\n", flood.reads + 1
        ends.set()
        with trio.move_on_after(0.1):
            await heard.wait()
        assert heard.is_set()
    assert tail.tail()[-1] == "why it ended"

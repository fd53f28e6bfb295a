"""Bad connections: what crosses them comes late, in slices, cut, changed, twice, or not at all.

Rule: what happens to a line is decided by a pure function of the line, its number and the faults; the streams only
carry it out. Faults are values: Hypothesis draws and shrinks them, or a seed makes them.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, final, get_args

import anyio
import trio
from attrs import define, field, frozen
from hypothesis import strategies as st
from trio.testing import lockstep_stream_pair

from mcpactors.testing.framed import framed
from mcpactors.transports.lines.stderr import StderrTail
from mcpactors.transports.streams import ReadStream, Streams, WriteStream
from mcpactors.transports.values import ClientTransport

__all__ = ["ChaosStream", "ChaosTransport", "Fault", "disturbed", "faults", "faults_of"]

FaultKind = Literal["latency", "stall", "slice", "truncate", "corrupt", "duplicate", "reset"]


@frozen
class Fault:
    """What befalls one line, or each (`line=None`); lines are numbered from 0 in either direction.

    latency, stall: it waits, and all behind it, for `amount` seconds (`math.inf`: for ever). slice: it comes in pieces
    of `amount` bytes. truncate: only `amount` bytes of it come, and its newline. corrupt: its byte number `amount` is
    another one. duplicate: it comes `amount` times more. reset: the connection breaks after `amount` bytes of it.
    """

    kind: FaultKind
    line: int | None = None
    amount: float = 1


_AMOUNTS: Final[dict[FaultKind, tuple[float, ...]]] = {
    "latency": (0.001, 0.1, 1),
    "stall": (5, 40, 400),
    "slice": (1, 2, 7, 100),
    "truncate": (0, 1, 20, 60),
    "corrupt": (0, 1, 16, 30, 60),
    "duplicate": (1, 2),
    "reset": (0, 1, 40),
}


def faults(kinds: Sequence[FaultKind] = get_args(FaultKind), *, lines: int = 12) -> st.SearchStrategy[list[Fault]]:
    """A strategy: up to five faults among the first `lines` lines of one direction."""
    one = st.sampled_from(kinds).flatmap(
        lambda kind: st.builds(Fault, st.just(kind), st.integers(0, lines - 1), st.sampled_from(_AMOUNTS[kind]))
    )
    return st.lists(one, max_size=5)


def faults_of(draw: random.Random, kinds: Sequence[FaultKind] = get_args(FaultKind), *, lines: int = 12) -> list[Fault]:
    """The same by a seed: `faults_of(Random(7))`, or with what `simulate` gives its scenario."""
    drawn = [(draw.choice(kinds), draw.randrange(lines)) for _ in range(draw.randint(0, 5))]
    return [Fault(kind, line, draw.choice(_AMOUNTS[kind])) for kind, line in drawn]


@frozen
class Pause:
    """Nothing comes for so many seconds."""

    seconds: float


@frozen
class Break:
    """The connection is lost."""


def disturbed(line: bytes, number: int, what: Iterable[Fault]) -> Iterator[bytes | Pause | Break]:
    """What becomes of a line, which ends in a newline, on its way."""
    size = len(line)
    reset: int | None = None
    times = 1
    for fault in what:
        if fault.line not in (None, number):
            continue
        if fault.kind in ("latency", "stall"):
            yield Pause(fault.amount)
            continue
        amount = int(fault.amount)
        if fault.kind == "slice":
            size = max(1, amount)
        elif fault.kind == "truncate":
            line = line[:-1][:amount] + b"\n"
        elif fault.kind == "corrupt" and len(line) > 1:
            place = amount % (len(line) - 1)
            line = line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]
        elif fault.kind == "duplicate":
            times += amount
        elif fault.kind == "reset":
            reset = amount
    whole = line * times
    for start in range(0, len(whole) if reset is None else min(reset, len(whole)), size):
        yield whole[start : start + size if reset is None else min(start + size, reset)]
    if reset is not None:
        yield Break()


@define(eq=False)
class _Direction:
    """Bytes in, what becomes of them out."""

    faults: Sequence[Fault]
    partial: bytes = b""
    _number: int = 0
    due: deque[bytes | Pause | Break] = field(factory=deque)

    def feed(self, data: bytes) -> None:
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            self.due += disturbed(line + b"\n", self._number, self.faults)
            self._number += 1

    def end(self) -> None:
        self.due.append(self.partial)
        self.partial = b""


@final
class ChaosStream(trio.abc.HalfCloseableStream):
    """A stream of lines, as stdio's are: faults befall what is received (`incoming`) and what is sent (`outgoing`)."""

    def __init__(
        self, inner: trio.abc.HalfCloseableStream, incoming: Sequence[Fault] = (), outgoing: Sequence[Fault] = ()
    ) -> None:
        self._inner = inner
        self._in = _Direction(incoming)
        self._out = _Direction(outgoing)
        self._closed = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As of the inner stream. Raises `trio.BrokenResourceError` where a fault resets the connection."""
        await trio.lowlevel.checkpoint()
        while True:
            while self._in.due:
                match self._in.due[0]:
                    case Pause(seconds):
                        await self._pause(seconds)
                        self._in.due.popleft()
                    case Break():
                        await self._break()
                    case bytes() as data:
                        self._in.due.popleft()
                        if max_bytes is not None and len(data) > max_bytes:
                            self._in.due.appendleft(data[max_bytes:])
                        if data:
                            return data[:max_bytes]
            data = bytes(await self._inner.receive_some(max_bytes))
            if data:
                self._in.feed(data)
            elif self._in.partial:
                self._in.end()
            else:
                return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As of the inner stream; what has no newline yet is kept until it has. Raises `trio.BrokenResourceError`."""
        self._out.feed(bytes(data))
        while self._out.due:
            match self._out.due.popleft():
                case Pause(seconds):
                    await self._pause(seconds)
                case Break():
                    await self._break()
                case bytes() as piece:
                    await self._inner.send_all(piece)

    async def _pause(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._closed.wait()
            raise trio.ClosedResourceError

    async def _break(self) -> None:
        await self.aclose()
        raise trio.BrokenResourceError("the connection was reset")

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        self._closed.set()
        await self._inner.aclose()


@final
@define(eq=False)
class ChaosTransport:
    """Another transport, over a bad connection: `create_proxy(ChaosTransport(backend, incoming=faults_of(draw)))`.

    Its messages cross as lines of bytes and are read by the real framer. `incoming` befalls what the backend says,
    `outgoing` what it is told; each connection begins at line 0.
    """

    inner: ClientTransport
    incoming: Sequence[Fault] = ()
    outgoing: Sequence[Fault] = ()

    @asynccontextmanager
    async def connect(self, stderr: StderrTail | None = None) -> AsyncIterator[Streams]:
        """Connect to what is inside."""
        ours, theirs = lockstep_stream_pair()
        bad = ChaosStream(ours, self.incoming, self.outgoing)
        async with self.inner.connect(stderr) as (read, write), trio.open_nursery() as nursery:
            async with framed("client", theirs, theirs) as far, framed("backend", bad, bad) as near:
                nursery.start_soon(_carry, read, far[1])
                nursery.start_soon(_carry, far[0], write)
                yield near
            nursery.cancel_scope.cancel()


async def _carry(read: ReadStream[Any], write: WriteStream[Any]) -> None:
    """Every message from one to the other; when one side ends, so does the other."""
    try:
        async for item in read:
            if not isinstance(item, Exception):
                await write.send(item)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    finally:
        with trio.move_on_after(1, shield=True):
            await write.aclose()

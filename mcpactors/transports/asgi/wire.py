"""One client's connection as the HTTP host uses it: reads and writes that cannot last, and a small write buffer.

Rule: the only file of the host that awaits the stream. Every wait on the client has a time by which it must end; the
host looks at these times every second and cancels the connection of whoever is late, as a scope's own deadline costs
more than parsing a request. What is written piece by piece gathers while something else runs and goes out in one
piece, so that several events cost one system call. Promises F19, F21.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from attrs import define, field
from trio.abc import HalfCloseableStream, Stream

from mcpactors.transports.asgi.parse import RequestReader
from mcpactors.transports.asgi.unread import Unread

__all__ = ["ClientGone", "Wire"]

READ_SIZE: Final = 32 * 1024
AHEAD: Final = 64 * 1024
"""Bytes that are read ahead of their turn while an answer is made: then the client is not looked at until it is."""
GATHERED: Final = 64 * 1024
"""Bytes that wait to be written before who sends has to wait too; also what has to go out within one send timeout."""
QUIET: Final = 2
"""Passes of the scheduler. Two, as within one the order of tasks is random: who sends in each is seen in every two."""
LINGER_SIZE: Final = 4 * 1024 * 1024
FIRST_LOOK: Final = 0.005
LAST_LOOK: Final = 5.0
"""Seconds between two looks for a client that may have gone; doubled from the first to the last."""
ONLY_LOOK: Final = 0.05
"""The last one where nothing can be sent meanwhile, so that a call of who has left is cancelled within 0.1 s."""


class ClientGone(OSError):
    """What an application's `send` raises once nobody can read it."""


@define(eq=False)
class Wire:
    """A stream, what has come on it (`reader`), and what is to go. Times are trio's clock's, in seconds."""

    stream: Stream
    reader: RequestReader
    nursery: trio.Nursery
    send_timeout: float
    unread: Unread = field(factory=Unread)
    read_by: float = field(default=math.inf, init=False)
    write_by: float = field(default=math.inf, init=False)
    gone: bool = field(default=False, init=False)
    """The client has closed its end, or the connection broke; what is still written may arrive, or may not."""
    broken: bool = field(default=False, init=False)
    over: bool = field(default=False, init=False)
    """Nothing more is served on it: who sends from a task that is not the connection's own is told so."""
    _waiting: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)
    _writing: bool = field(default=False, init=False)
    _written: trio.Event | None = field(default=None, init=False)  # set each time that the buffer has been emptied

    async def read(self, by: float = math.inf) -> bool:
        """Feed the reader with what comes next; False when nothing will. Not in time: the connection is cancelled."""
        self.read_by = by
        try:
            data = await self.stream.receive_some(READ_SIZE)
        except trio.BrokenResourceError:
            data = b""
        finally:
            self.read_by = math.inf
        if not data:
            self.gone = True
            return False
        self.reader.feed(bytes(data))
        return True

    async def until_gone(self, nothing: Callable[[], bytes | None]) -> None:
        """Wait until who has closed its end listens no more, either.

        Of a client that is gone no more is seen than of one that has said all it wants to (`nc -N`); but the machine of
        the first answers a reset to what is sent there. So something is sent that means nothing, which `nothing` gives:
        None where there is no such thing, and empty where just now there is none. Without, a client that has closed its
        end counts as gone as soon as it could have had a quick answer; over TLS, at once.
        """
        first = FIRST_LOOK
        try:
            while not isinstance(self.stream, trio.SSLStream):
                said = nothing()
                self.gone = False
                if said and self._size < GATHERED and (self._writing or self.write_by == math.inf):
                    await self.gather(said)
                looks = (FIRST_LOOK, ONLY_LOOK) if said is None else (first, LAST_LOOK)
                if await self._hears_of_a_reset(*looks) or said is None:
                    break
                first = LAST_LOOK  # who has waited so long may wait for longer, and there may be thousands
        except ClientGone:
            pass
        self.gone = True

    async def _hears_of_a_reset(self, pause: float, last: float) -> bool:
        while pause <= last:
            await trio.sleep(pause)
            if self.broken or _is_reset(self.stream):
                return True
            pause *= 2
        return False

    async def write(self, data: bytes) -> None:
        """Send it now, after what waits. Raises ClientGone."""
        if self._writing:
            await self.gather(data)
            await self.flush()
        else:
            await self._send(data)
        if self.broken:
            raise ClientGone("the client has gone")

    async def gather(self, data: bytes) -> None:
        """Send it soon, with whatever else comes meanwhile. Waits while too much is waiting. Raises ClientGone."""
        while self._size >= GATHERED and not self.broken:
            await self._emptied()
        if self.broken or self.over:
            raise ClientGone("the client has gone")
        self._waiting.append(data)
        self._size += len(data)
        self.unread.waiting += len(data)
        if not self._writing:
            self._writing = True
            self.nursery.start_soon(self._write_gathered)

    async def flush(self) -> None:
        """Wait until everything gathered is on its way, or the connection broke."""
        while self._writing:
            await self._emptied()

    async def linger(self, seconds: float) -> None:
        """Say that nothing more comes and read what the client is still sending: else a reset may eat the answer."""
        stream, size = self.stream, 0
        with trio.move_on_after(seconds):
            try:
                if isinstance(stream, trio.SSLStream):
                    with suppress(trio.BrokenResourceError):  # it was still sending when we said that this is the end
                        await stream.unwrap()
                    stream = stream.transport_stream
                if not isinstance(stream, HalfCloseableStream):
                    return
                await stream.send_eof()
                while size < LINGER_SIZE and (data := await stream.receive_some(READ_SIZE)):
                    size += len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _emptied(self) -> None:
        if self._written is None:
            self._written = trio.Event()
        await self._written.wait()

    async def _write_gathered(self) -> None:
        """Write until nothing waits. Begins when two passes of the scheduler have brought nothing more."""
        try:
            while self._waiting:
                size = quiet = 0
                while quiet < QUIET and self._size < GATHERED:
                    quiet, size = (quiet + 1 if size == self._size else 0), self._size
                    await trio.lowlevel.checkpoint()
                data = b"".join(self._waiting)
                self._waiting.clear()
                self.unread.waiting -= self._size  # from here on it is `_send`'s
                self._size = 0
                await self._send(data)
                if self._waiting:
                    self._tell_written()
        except BaseException:
            self.broken = True  # who waits for room may do so in a task that nobody has cancelled
            raise
        finally:
            self._writing = False
            self._tell_written()

    def _tell_written(self) -> None:
        if self._written is not None:
            self._written.set()
            self._written = None

    async def _send(self, data: bytes) -> None:
        """Slice by slice, so that a slow client is not taken for one that does not read."""
        if self.broken:
            return
        view, unread = memoryview(data), self.unread
        unread.waiting += len(data)  # all of it, until the last slice has gone
        try:
            for start in range(0, len(data), GATHERED):
                self.write_by = trio.current_time() + self.send_timeout
                await self.stream.send_all(view[start : start + GATHERED])
                unread.taken += min(GATHERED, len(data) - start)
        except trio.BrokenResourceError:
            self.gone = self.broken = True
        except trio.Cancelled:
            self.broken = True  # how much of it went nobody knows
            raise
        finally:
            self.write_by = math.inf
            unread.waiting -= len(data)


def _is_reset(stream: Stream) -> bool:
    """Whether the other machine has said that nobody is there: reading, of a closed end, does not tell."""
    if not isinstance(stream, trio.SocketStream) or stream.socket.fileno() < 0:
        return False
    return stream.socket.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_ERROR) != 0

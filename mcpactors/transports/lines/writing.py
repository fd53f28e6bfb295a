"""The stream of messages to a peer at the end of a pipe or a connection.

Rule: there is one task that writes what has gathered; what is held is bounded whether or not the peer reads. Towards a
backend that task is there for good (`run`): a message takes 20 us less. Towards clients, of whom thousands may be idle,
it is there while something waits to be written (`run_in`), and who is idle holds none. Promises F21, F43.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
import trio
from anyio.abc import ObjectSendStream
from attrs import define, field
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import JSONRPCMessage

from mcpactors.transports.lines.limits import StdioLimits
from mcpactors.transports.owed import Owed

__all__ = ["StdioWriter"]

logger = logging.getLogger("mcpactors.stdio")


@define(eq=False)
class StdioWriter(ObjectSendStream[SessionMessage]):
    """Messages to the peer: the SDK's `WriteStream`. What gathers while one write is under way goes in the next.

    `limit` is in bytes; one message more may be held than it allows. `owed` knows what is in flight.
    """

    limit: int
    owed: Owed = field(factory=lambda: Owed(StdioLimits().requests, StdioLimits().request_bytes))
    hold: Callable[[int], None] = lambda size: None
    """Told how many bytes more are held here, or less; also of those that wait for room."""
    broken: bool = field(default=False, init=False)
    """Whether the child no longer reads."""
    lost: bool = field(default=False, init=False)
    """Whether the child has hung up, and not we."""
    _closed: bool = field(default=False, init=False)
    _breaks: trio.Event | None = field(default=None, init=False)
    _lines: list[bytes] = field(factory=list, init=False)
    _held: int = field(default=0, init=False)
    _outgoing: trio.abc.SendStream = field(init=False)  # of `run_in`, with the next two
    _nursery: trio.Nursery | None = field(default=None, init=False)
    _gone: Callable[[], None] = field(default=lambda: None, init=False)
    _writing: bool = field(default=False, init=False)  # a task of `run_in` is there, or none will be any more
    _over: bool = field(default=False, init=False)  # what was accepted is written, or never will be
    _work: trio.Event | None = field(default=None, init=False)
    _end: trio.Event | None = field(default=None, init=False)
    _room: trio.lowlevel.ParkingLot | None = field(default=None, init=False)

    async def wait_broken(self) -> None:
        """Wait until it is."""
        if not self.broken:
            if self._breaks is None:
                self._breaks = trio.Event()
            await self._breaks.wait()

    async def send(self, item: SessionMessage, /) -> None:
        """Waits for room; who waits is served in the order of asking. What returned is accepted, not delivered.

        Raises anyio.BrokenResourceError when the child no longer reads, anyio.ClosedResourceError after `aclose`.
        """
        await trio.lowlevel.checkpoint()  # first, so that a cancelled send has sent nothing
        self._check()
        line = _line(item.message)
        if self._held >= self.limit:
            if self._room is None:
                self._room = trio.lowlevel.ParkingLot()
            self.hold(len(line))
            try:
                await self._room.park()
            finally:
                self.hold(-len(line))
            self._check()
        self.owed.sent(item.message)
        self._accept(line)
        self._make_room()

    def offer(self, message: JSONRPCMessage) -> None:
        """Sends what may be lost: it is dropped when there is no room, or nobody to write to."""
        if self._held < self.limit and not self._closed and not self.broken:
            self._accept(_line(message))

    def _accept(self, line: bytes) -> None:
        self._lines.append(line)
        self._keep(len(line))
        self._stir()

    def _keep(self, size: int) -> None:
        self._held += size
        self.hold(size)

    async def aclose(self) -> None:
        """No more is accepted; what was accepted is still written, then the child's stdin is closed."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """`aclose`, without waiting for anything."""
        self._closed = True
        self._wake_all()

    def hang_up(self) -> None:
        """The child is dead to us: what was not written yet is dropped."""
        self.lost |= not self._closed
        self.broken = True
        if self._breaks is not None:
            self._breaks.set()
        self._keep(-sum(map(len, self._lines)))
        self._lines.clear()
        self._wake_all()

    async def run(self, stdin: trio.abc.SendStream, farewell: Callable[[], Awaitable[object]] | None = None) -> None:
        """Writes until closed or broken. Shielded: what was accepted before a cancellation is written; `stdin`'s
        closing, at the latest at the end of the ladder, ends it. `farewell` is awaited before `stdin` is closed."""
        with trio.CancelScope(shield=True):
            async with stdin:
                while await self._gathered():
                    await self._write(stdin)
                if farewell is not None:
                    await farewell()
        self._finish()

    def run_in(self, nursery: trio.Nursery, outgoing: trio.abc.SendStream, gone: Callable[[], None]) -> None:
        """As `run`, by tasks that last only while something is to be written; `gone` is called once that is broken.

        They are tasks of `nursery`, which has to be there until all is `written`.
        """
        self._outgoing, self._nursery, self._gone = outgoing, nursery, gone

    async def written(self) -> None:
        """Wait until, after closing, everything that was accepted is written, or cannot be."""
        if not self._over:
            if self._end is None:
                self._end = trio.Event()
            await self._end.wait()

    async def _write_on(self) -> None:
        with trio.CancelScope(shield=True):
            try:
                while self._lines:
                    await self._write(self._outgoing)
                if not self._closed and not self.broken:
                    self._writing = False
                    return
                if self.broken:
                    self._gone()
                await self._outgoing.aclose()
            except Exception as error:  # of a stream that fails as none should: others write in this nursery, too
                logger.error("what was to be written was not", exc_info=error)
                self.hang_up()
                self._gone()
        self._finish()

    async def _write(self, stdin: trio.abc.SendStream) -> None:
        data = b"".join(self._lines)
        self._lines.clear()
        try:
            await stdin.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.hang_up()
        self._keep(-len(data))
        self._make_room()

    async def _gathered(self) -> bool:
        while not self._lines and not self._closed and not self.broken:
            self._work = trio.Event()
            await self._work.wait()
        return bool(self._lines)

    def _finish(self) -> None:
        self._over = True
        if self._end is not None:
            self._end.set()

    def _check(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self.broken:
            raise anyio.BrokenResourceError

    def _make_room(self) -> None:
        if self._room is not None and self._held < self.limit:
            self._room.unpark()  # one; it passes on what room it leaves

    def _stir(self) -> None:
        """There is something to write, or nothing more will be."""
        if self._nursery is None:
            if self._work is not None:
                self._work.set()
        elif not self._writing:
            self._writing = True
            self._nursery.start_soon(self._write_on)

    def _wake_all(self) -> None:
        self._stir()
        if self._room is not None:
            self._room.unpark_all()


def _line(message: JSONRPCMessage) -> bytes:
    return message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"

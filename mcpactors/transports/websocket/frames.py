"""One WebSocket, of either end: messages in frames. As two streams of lines: streams.py.

Rule: frames are wsproto's, but for usual ones (cutting.py); here is when to read, when to write and when to give up. A
frame is judged by its header, before anything of its payload is held; every wait on the peer ends; whatever goes wrong
ends in a close frame that says what it was. RFC 6455. Promise F57.

Not trio-websocket: it counts characters instead of bytes and empty fragments not at all, answers a broken frame without
a close frame, and while a peer takes no pong it reads no more. The tests have it as their counterpart.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Final

import trio
from attrs import define, field, frozen
from trio.abc import HalfCloseableStream, Stream
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from mcpactors.runtime.policy import DEFAULT_CLIENTS
from mcpactors.transports.asgi import Unread
from mcpactors.transports.lines.flood import Allowance
from mcpactors.transports.websocket.cutting import FrameCutter
from mcpactors.transports.websocket.judge import Judge

__all__ = ["MCP", "Ending", "WebSocket", "WebSocketLimits", "tend"]

logger = logging.getLogger("mcpactors.websocket")

MCP: Final = "mcp"
"""The subprotocol: one JSON-RPC message a text message."""
_KIB: Final = 1024
READ_SIZE: Final = 64 * _KIB
_LEAST: Final = 4 * _KIB
"""Bytes that are read at once of a peer whose frames bring nothing."""
LOOK: Final = 1.0
"""Seconds between two looks at who is silent or late."""
AT_ONCE: Final = 256
"""Connections that are looked at before others have their turn."""
TOGETHER: Final = 256
"""Frames that wsproto takes at once: two milliseconds of others' time; `_USUAL` messages cost as much as one."""
_USUAL: Final = 16
_FRAME: Final = 8e-6
"""Seconds for a frame that ends no message, or for what has come of one; of `_CRUMB` bytes and more it is worth it."""
_CRUMB: Final = _KIB
SLICE: Final = 64 * _KIB
"""Bytes that have to go out within one send timeout, so that a slow peer is not taken for one that does not read."""
MESSAGE_RATE: Final = 8 * _KIB
"""Bytes a second that a message has to come at, once its timeout is spent."""
_GOOD: Final = frozenset((1000, 1001, 1005))
_TAKES: Final = {
    False: (ConnectionState.OPEN,),
    True: (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING),
}
"""States in which a frame, if it is a close frame, may be sent."""


@frozen
class WebSocketLimits:
    """Sizes in bytes, times in seconds. What the peer is late with is found within a second (`LOOK`) of these."""

    message: int = DEFAULT_CLIENTS.body
    """Of what comes in: 1009 above, as soon as the header of a frame says so."""
    fragments: int = 16 * _KIB
    """That a message may be in: 1008 above."""
    message_timeout: float = 10.0
    """From the first byte of a message to its last, and a second more for each 8 KiB that came: 1008."""
    ping: float = 15.0
    """Without a byte of the peer before it is sent a ping."""
    pong: float = 20.0
    """Without a byte of the peer after that ping: 1011."""
    send_timeout: float = 30.0
    """Without the peer's taking anything of what it is sent."""
    close: float = 1.0
    """That the closing handshake may take."""


@frozen
class Ending:
    """Why there will be nothing more: the code of a close frame (1006: none came), and a sentence or half of one."""

    code: int
    reason: str
    ours: bool = False
    """We have found something wrong; else it is what the peer said."""

    @property
    def good(self) -> bool:
        """Whether the peer just left."""
        return not self.ours and self.code in _GOOD

    def __str__(self) -> str:
        if self.code == CloseReason.ABNORMAL_CLOSURE:
            return self.reason
        said = f"the connection was closed with {self.code}" if self.ours else f"it closed the connection: {self.code}"
        return f"{said} ({self.reason})" if self.reason else said


@define(eq=False)
class WebSocket:
    """A connection after its opening handshake, on a stream that is its own.

    `ahead` is what came of the peer behind the handshake. One task reads, one writes; `tend` has to be run for it, and
    `nursery` has a task while a ping or an answer to one is on its way.
    """

    stream: Stream
    kind: ConnectionType
    """Which end we are."""
    limits: WebSocketLimits
    nursery: trio.Nursery
    ahead: bytes = b""
    parting: Callable[[], tuple[int, str]] = lambda: (1000, "")
    """What is said when we close and nothing was wrong."""
    unread: Unread = field(factory=Unread)
    """What is on its way is counted here."""
    _allowance: Allowance = field(factory=Allowance)
    _size: int = field(default=READ_SIZE, init=False)  # of the next read
    ended: Ending | None = field(default=None, init=False)
    _judge: Judge = field(init=False)
    _came: FrameCutter = field(init=False)
    _frames: Connection = field(init=False)
    _partial: bytearray = field(factory=bytearray, init=False)  # of a message whose end has not come
    _begun: float = field(default=math.inf, init=False)  # when that began
    _aside: Event | None = field(default=None, init=False)  # a ping, or the answer to the last one, on its way
    _heard: float = field(default=math.inf, init=False)  # when bytes came, or reading began: what silence counts from
    _pinged: bool = field(default=False, init=False)  # in this silence
    _writing: trio.Lock = field(factory=trio.Lock, init=False)
    _wait: trio.CancelScope | None = field(default=None, init=False)
    _deaf: bool = field(default=False, init=False)  # nobody is to read any more
    _broken: bool = field(default=False, init=False)  # half a frame may be on its way: no other can follow
    _closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._judge = Judge(self.limits.message, self.limits.fragments)
        self._frames = Connection(self.kind, [self._judge])
        self._came = FrameCutter(self.limits.message, usual=self.kind is ConnectionType.CLIENT)  # to servers all mask
        self._came.feed(self.ahead)
        self.ahead = b""

    # --- Reading ------------------------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """The next messages, of what was read at once, as lines with their ends; b"" when there will be none: `ended`
        says why, if we know. Together, so that of a flood it is seen what need not be parsed (`lines/flood.py`)."""
        try:
            with trio.CancelScope() as self._wait:
                while not self._deaf and self.ended is None:
                    lines, more = self._take()
                    if lines:
                        return lines
                    if more:
                        await trio.lowlevel.checkpoint()
                    elif self.ended is None:
                        await self._read()
        finally:
            self._wait = None
        return b""

    def deafen(self) -> None:
        """Nothing more is received; whoever waits is told."""
        self._deaf = True
        if self._wait is not None:
            self._wait.cancel()

    async def _read(self) -> None:
        self._heard = trio.current_time()
        try:
            data = await self.stream.receive_some(self._size)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        finally:
            self._heard, self._pinged, self._size = math.inf, False, READ_SIZE
        if data:
            self._came.feed(bytes(data))
        else:
            self._end(Ending(CloseReason.ABNORMAL_CLOSURE, "the connection broke"))
        while (wait := self._allowance.wait(now := trio.current_time())) > 0:
            await trio.sleep(wait)
            self._begun += trio.current_time() - now  # it is not the message that is late

    def _take(self) -> tuple[bytes, bool]:
        """The messages that end in the next `TOGETHER` frames of what has been read, as lines; whether there may be
        more. What ends none has no bound but time: there are 32,768 pings in `READ_SIZE`, 0.2 s of others' time."""
        lines, left = list[bytes](), TOGETHER
        while left:
            for event in islice(self._frames.events(), left):
                left -= 1
                lines.append(self._hear(event))
                if self.ended is not None:
                    return b"".join(lines), False
            usual, number = (b"", 0) if self._judge.within else self._came.lines(left * _USUAL)
            if number:
                lines.append(usual)
                left -= -(-number // _USUAL)
            elif others := self._came.others(left):
                self._frames.receive_data(others)
            else:
                break
        if self._judge.within and self._begun == math.inf:
            self._begun = trio.current_time()
        return b"".join(lines), not left

    def _hear(self, event: Event) -> bytes:
        """The message that ends with this, as a line."""
        if isinstance(event, CloseConnection):
            self._hear_end(event)
            return b""
        text = event.data.encode() if isinstance(event, TextMessage) else b""
        if isinstance(event, TextMessage) and event.message_finished:
            whole, self._partial = bytes(self._partial) + text, bytearray()
            self._judge.within, self._begun = False, math.inf
            return whole.replace(b"\n", b"\r") + b"\n"  # both are space in JSON, and no part of a string
        self._partial += text
        if isinstance(event, Ping):
            self._say_aside(event.response())
        if len(text) < _CRUMB:
            self._size = _LEAST
            self._allowance.spend(_FRAME)
        return b""

    def _hear_end(self, event: CloseConnection) -> None:
        ours = self._frames.state is ConnectionState.OPEN
        self._end(Ending(int(event.code), (self._judge.why if ours else "") or event.reason or "", ours=ours))

    def _end(self, ending: Ending) -> None:
        if self.ended is None:
            self.ended = ending
            self._partial.clear()
            logger.debug("a connection ends: %s", ending)
        if self._wait is not None:
            self._wait.cancel()

    # --- Writing ------------------------------------------------------------------------------------------------------

    async def send(self, lines: bytes) -> None:
        """Each line, without its end, as a message. Raises trio.BrokenResourceError once nobody can take it."""
        await self._write(*(TextMessage(line.decode()) for line in lines.split(b"\n")[:-1]))

    async def _write(self, *events: Event) -> None:
        async with self._writing:
            if self._broken or self._frames.state not in _TAKES[isinstance(events[0], CloseConnection)]:
                raise trio.BrokenResourceError("the connection has ended")
            data = b"".join(map(self._frames.send, events))
            del events  # which are as large again
            view, unread = memoryview(data), self.unread
            unread.waiting += len(data)
            try:
                for start in range(0, len(data), SLICE):
                    with self._breaking(), trio.move_on_after(self.limits.send_timeout) as patience:
                        await self.stream.send_all(view[start : start + SLICE])
                    if patience.cancelled_caught:
                        self._broken = True
                        self._end(Ending(1006, f"nothing was read for {self.limits.send_timeout:g} s", ours=True))
                        raise trio.BrokenResourceError("the peer does not read")
                    unread.taken += min(SLICE, len(data) - start)
            finally:
                unread.waiting -= len(data)

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """Whoever is kept from writing a frame to its end leaves a connection on which nothing can follow."""
        try:
            yield
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._broken = True
            self._end(Ending(1006, "the connection broke"))
            raise trio.BrokenResourceError("the connection has ended") from None
        except trio.Cancelled:
            self._broken = True
            raise

    # --- Liveness -----------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Ping a peer that says nothing; who stays silent, or does not get on with a message, is given up."""
        limits, silent = self.limits, now - self._heard
        if self.ended is not None:
            return
        if now - self._begun > limits.message_timeout + len(self._partial) / MESSAGE_RATE:
            self._end(Ending(1008, "a message did not come in time", ours=True))
        elif silent >= limits.ping + limits.pong and self._pinged:
            self._end(Ending(1011, f"no sign of life for {limits.ping + limits.pong:g} s", ours=True))
        elif silent >= limits.ping and not self._pinged and self._aside is None:
            self._pinged = True
            self._say_aside(Ping())

    def _say_aside(self, event: Event) -> None:
        """Send it by a task of its own: two ends that wait, before they read, until the other has read, would wait for
        ever. What has not been begun when more is to be said is not said: of several pings the last is answered."""
        begun, self._aside = self._aside is not None, event
        if not begun:
            self.nursery.start_soon(self._send_aside)

    async def _send_aside(self) -> None:
        sent = None
        with suppress(trio.BrokenResourceError):
            while self._aside is not sent:
                sent = self._aside
                assert sent is not None
                await self._write(sent)
        self._aside = None

    # --- The end ------------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Say why and wait, for a bounded time, until the peer has heard it; then close. Leaves nothing open."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self.deafen()
        try:
            if self.ended is None or self.ended.code != CloseReason.ABNORMAL_CLOSURE:
                with trio.move_on_after(self.limits.close, shield=True):
                    code, reason = (self.ended.code, self.ended.reason) if self.ended is not None else self.parting()
                    await self._write(CloseConnection(code, reason))
                    while self._wait is not None:  # it has been cancelled
                        await trio.lowlevel.checkpoint()
                    await self._hear_out()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # whose stream it is may have waited for long enough
        finally:
            await trio.aclose_forcefully(self.stream)

    async def _hear_out(self) -> None:
        """Read until the peer has closed, so that no reset eats what it was told. The server closes first."""
        parsing = self.ended is None
        if not parsing and self.kind is ConnectionType.SERVER and isinstance(self.stream, HalfCloseableStream):
            await self.stream.send_eof()
        if parsing:
            self._frames.receive_data(self._came.rest())
        while True:
            while parsing and (events := list(islice(self._frames.events(), TOGETHER))):
                parsing = not any(isinstance(event, CloseConnection) for event in events)
                await trio.lowlevel.checkpoint()
            if self.kind is ConnectionType.SERVER and self._frames.state is ConnectionState.CLOSED:
                return
            data = await self.stream.receive_some(_LEAST)
            if not data:
                return
            if parsing:
                self._frames.receive_data(bytes(data))


async def tend(sockets: Collection[WebSocket]) -> None:
    """Look after the connections, for ever; they may become others meanwhile."""
    while True:
        await trio.sleep(LOOK)
        for number, socket in enumerate(tuple(sockets), 1):
            socket.look(trio.current_time())
            if number % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

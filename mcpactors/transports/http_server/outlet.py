"""What waits to be sent as one stream of events: the answer to one HTTP request, of either era.

Rule: no task. The task of the HTTP request sends and, while there is nothing to send, sees whether its client is still
there; whoever has something for the client puts it here, which wakes that task. What waits is bounded by who is fair:
it waits for `room`, and for nobody else's stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio
from attrs import define, field

from mcpactors.runtime.policy import DEFAULT_CLIENTS
from mcpactors.transports.asgi import Receive, Send, Unread

__all__ = ["COMMENT", "EVENT_FIELDS", "Outlet", "as_event"]

COMMENT: Final = b": ping\r\n\r\n"
ROOM: Final = 16
"""Events that wait before who brings more has to wait, too."""
EVENT_FIELDS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


def as_event(data: bytes, identity: str | None = None, kind: str = "message") -> bytes:
    """One event; `data` has no line end in it, which is so for JSON."""
    head = f"event: {kind}\r\n" if identity is None else f"id: {identity}\r\nevent: {kind}\r\n"
    return b"%bdata: %b\r\n\r\n" % (head.encode(), data)


@define(eq=False)
class Outlet:
    """One stream, from its first event until somebody ends it or its client leaves."""

    comment: float = DEFAULT_CLIENTS.comment
    """Seconds of nothing until a comment is sent, by which proxies see that the stream is alive, and we our client."""
    unread: Unread = field(factory=Unread)
    """What waits here is counted there."""
    resumed: bool = False
    """Its client had the beginning of it on another one."""
    taken: Callable[[], None] | None = field(default=None, init=False)
    """Called when nobody takes anything any more: it is all sent, or its client has left."""
    _waiting: list[bytes] = field(factory=list, init=False)
    _last: bytes = field(default=b"", init=False)
    _ended: bool = field(default=False, init=False)
    _gone: bool = field(default=False, init=False)
    _wait: trio.CancelScope | None = field(default=None, init=False)
    _room: trio.Event | None = field(default=None, init=False)

    # --- For who has something to send ----------------------------------------------------------------------------

    def put(self, event: bytes) -> None:
        """Send this, after what waits."""
        if not self._gone:
            self._waiting.append(event)
            self.unread.waiting += len(event)
            self._wake()

    def end(self, last: bytes = b"") -> None:
        """Nothing follows what waits but `last`, which is no event yet."""
        if not self._gone:
            self._last = last
            self.unread.waiting += len(last)
        self._ended = True
        self._wake()

    async def room(self) -> None:
        """Wait while too much is waiting and somebody may take it."""
        while len(self._waiting) >= ROOM and not self._gone:
            self._room = self._room or trio.Event()
            await self._room.wait()

    # --- For the task of the HTTP request -------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        return bool(self._waiting)

    @property
    def over(self) -> bool:
        """Whether it has ended and nothing waits."""
        return self._ended and not self._waiting

    async def stirred(self, receive: Receive) -> bool:
        """Wait until there is something to send, an end, or a comment is due; False: the client has left instead."""
        if self._waiting or self._ended:
            return True
        with trio.move_on_after(self.comment) as self._wait:
            while (await receive())["type"] != "http.disconnect":
                pass
            return False
        self._wait = None
        return True

    def take(self) -> list[bytes]:
        """What waits, which is the caller's from now on."""
        events, self._waiting = self._waiting, []
        self.unread.waiting -= sum(map(len, events))
        self._make_room()
        return events

    def take_last(self) -> bytes:
        """What `end` was given, which is the caller's from now on."""
        last, self._last = self._last, b""
        self.unread.waiting -= len(last)
        return last

    async def feed(self, receive: Receive, send: Send) -> bool:
        """Send what is put, the last as an event, and the end of the response; False: the client has left before.

        The response has begun. Raises OSError once nobody can read it.
        """
        while await self.stirred(receive):
            events = self.take()
            if self._ended:
                if last := self.take_last():
                    events.append(as_event(last))
                await send({"type": "http.response.body", "body": b"".join(events), "more_body": False})
                return True
            await send({"type": "http.response.body", "body": b"".join(events) or COMMENT, "more_body": True})
        return False

    def leave(self) -> None:
        """Nobody takes any more what is put; who waits for room is let go."""
        self._gone = True
        self.take()
        self.take_last()
        if self.taken is not None:
            self.taken()

    def _wake(self) -> None:
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

"""Server-sent events out of bytes (WHATWG HTML, 9.2.6).

Rule: pure; any split of the same bytes gives the same events, in time linear in them, and no more is held than one
event may have. Whoever reads for others' sake too has it take first what is `usual`, of which 64 KiB take half a
millisecond, feeds it `portions` of the rest, and lets the others have their turn between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from attrs import define, field

__all__ = ["LINES", "PORTION", "Event", "EventReader", "EventTooLong", "portions", "squeezed"]

BOM = b"\xef\xbb\xbf"
_SENDABLE = re.compile(rb"[!-~]{1,1024}")
"""An event id that can go into a header: with another one nothing can be asked for again."""


LINES: Final = 100_000
"""Of the data of one event: an empty one is one byte of it and costs fifty."""
PORTION: Final = 2048
"""Bytes of short lines that are read at once: a millisecond."""
_LONG: Final = 256
"""Bytes that lines have, on average, which are not short."""
_ENDS: Final = re.compile(rb"[\r\n]{3,}")
_BLANK: Final = re.compile(rb"\n\r?\n")
_USUAL: Final = rb"(event: ?message\r?\n)?(?:id: ?([!-~]{1,1024})\r?\n)?data: ?([^\r\n]*)\r?\n\r?\n"
"""An event with one message, as SDKs write it."""
_USUAL_EVENT: Final = re.compile(_USUAL)
_USUAL_EVENTS: Final = re.compile(b"(?:" + _USUAL + b")*+")


class EventTooLong(ValueError):
    """An event has more bytes, or lines, than it may."""


def portions(data: bytes) -> Iterable[bytes]:
    """`data` in pieces that take about equally long to read, however short its lines are."""
    if (data.count(b"\n") + data.count(b"\r")) * _LONG <= max(len(data), PORTION):
        return (data,)
    data = squeezed(data)
    return (data[start : start + PORTION] for start in range(0, len(data), PORTION))


def squeezed(data: bytes) -> bytes:
    """`data` without the empty lines that come after one: it ends the event, they end nothing."""
    return _ENDS.sub(b"\n\n", data)


class Event(NamedTuple):
    """One event: its type, its data with the newlines between its lines, and the stream's last event id by then."""

    kind: bytes
    data: bytes
    id: str | None


@define(eq=False)
class EventReader:
    """Cuts the body of a `text/event-stream` into events of at most `limit` bytes."""

    limit: int
    last_id: str | None = None
    """The last event id; None where the server gave none, or took it back."""
    retry: float | None = None
    """Seconds that the server wants to pass before the stream is asked for again."""
    begun: bool = field(default=False, init=False)
    """Whether any line has come."""
    bare_lines: int = field(default=0, init=False)
    """Lines that brought no data and ended no event."""
    _line: list[bytes] = field(factory=list, init=False)  # the pieces of a line whose end has not come
    _line_size: int = field(default=0, init=False)
    _after_cr: bool = field(default=False, init=False)
    _kind: bytes = field(default=b"", init=False)
    _data: list[bytes] = field(factory=list, init=False)
    _data_size: int = field(default=0, init=False)
    _id: str | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._id = self.last_id

    def resumed(self) -> EventReader:
        """A reader of the stream that goes on after the last event: of one that was cut short nothing is left."""
        return EventReader(self.limit, self.last_id, self.retry)

    def pause(self, ours: float) -> float:
        """Seconds until the stream is asked for again: as the server wants it, else `ours`."""
        return ours if self.retry is None else self.retry

    @property
    def held(self) -> int:
        """Bytes of an event that has not ended; not those of a line that is no data, so far as can be seen."""
        in_data = self._line and b"data:".startswith(self._line[0][:5])
        return self._data_size + (self._line_size if in_data else 0)

    def usual(self, data: bytes) -> tuple[list[Event], bytes]:
        """The first events that end in `data`, as far as they have one line of data each, and what is left to feed.

        Raises `EventTooLong`.
        """
        events = list[Event]()
        if self._within and (end := _BLANK.search(data, 0, PORTION)) is not None:
            events, data = self.feed(data[: end.end()]), data[end.end() :]
        if self._within or len(data) > self.limit:
            return events, data
        found = _USUAL_EVENTS.match(data)
        assert found is not None
        for kind, identity, value in _USUAL_EVENT.findall(data, 0, found.end()):
            if identity:
                self._id = identity.decode("ascii")
            self.bare_lines += bool(kind) + bool(identity)
            events.append(Event(b"message", value, self._id))
        self.last_id = events[-1].id if events else self.last_id
        return events, data[found.end() :]

    @property
    def _within(self) -> bool:
        """Whether what comes next may be the middle of something."""
        return bool(self._after_cr or self._line or self._kind or self._data or not self.begun)

    def feed(self, data: bytes) -> list[Event]:
        """The events that end in `data`. Raises `EventTooLong`."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if not data:
            return []
        if b"\n" not in data and b"\r" not in data:
            self._hold(data)
            return []
        if self._line:
            data = b"".join((*self._line, data))
            self._line.clear()
            self._line_size = 0
        if not self.begun:
            self.begun, data = True, data.removeprefix(BOM)
        self._after_cr = data.endswith(b"\r")
        lines = data.splitlines()  # of bytes: at CR, LF and CRLF, and nowhere else
        if not data.endswith((b"\n", b"\r")):
            self._hold(lines.pop())
        return [event for line in lines if (event := self._take(line)) is not None]

    def _hold(self, piece: bytes) -> None:
        self._line.append(piece)
        self._line_size += len(piece)
        self._check()

    def _check(self) -> None:
        if self._line_size + self._data_size > self.limit:
            self._line.clear()  # an error may be kept for long, and us with it
            self._data.clear()
            raise EventTooLong(f"an event of more than {self.limit} bytes")

    def _take(self, line: bytes) -> Event | None:
        """One whole line; the event that it ends."""
        if not line:
            return self._end()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_size += len(value) + 1
            self._check()
            if len(self._data) > LINES:
                raise EventTooLong(f"an event of more than {LINES} lines")
            return None
        self.bare_lines += 1
        if name == b"event":
            self._kind = value
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("ascii") if _SENDABLE.fullmatch(value) else None
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self.retry = int(value) / 1000
        return None

    def _end(self) -> Event | None:
        self.last_id = self._id
        kind, data, self._kind, self._data = self._kind or b"message", self._data, b"", []
        self._data_size = 0
        if not data:
            self.bare_lines += 1
            return None
        return Event(kind, b"\n".join(data), self._id)

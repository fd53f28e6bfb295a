"""Bytes of a WebSocket, cut at frames: usual ones become lines here, all others are wsproto's.

Rule: pure, and nothing is judged. Usual is a text message in one frame, neither masked nor compressed, all of which has
come: what servers send. wsproto takes 9 us for one, twenty times as long, and siblings wait meanwhile. Every other
frame is passed on as it is, also if it is wrong, as soon as wsproto could say something of it. RFC 6455 5.2. P6, F57.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

__all__ = ["FrameCutter"]

_TEXT: Final = 0x81
"""How a text message in one frame begins, of which no extension has made anything else."""
_OPCODE: Final = 0x0F
_LENGTH: Final = 0x7F
_DATA: Final = 2
"""The last opcode of a frame that may be longer than `_SHORT`; of others the first two bytes are header enough."""
_SHORT: Final = 125
_WIDE: Final = {126: 4, 127: 10}
"""Bytes of a header whose length is none of up to `_SHORT`."""


@define(eq=False)
class FrameCutter:
    """What has come and has not been taken: at most what was fed last, and less than a header.

    Whoever takes asks for `lines`, unless a message has begun whose end has not come, then for `others`; once there are
    neither it feeds more.
    """

    longest: int
    """Bytes of a message that may be usual."""
    usual: bool = True
    """Whether any message may be; else all that comes is for wsproto."""
    _data: bytes = field(default=b"", init=False)
    _at: int = field(default=0, init=False)
    _owed: int = field(default=0, init=False)  # bytes that have not come of a frame that has been passed on

    def feed(self, data: bytes) -> None:
        self._data, self._at = self._data[self._at :] + data, 0

    def lines(self, most: int) -> tuple[bytes, int]:
        """The usual messages that are next, at most so many, as lines with their ends; and how many they are."""
        texts, at, data = list[bytes](), self._at, self._data
        if self.usual and not self._owed:
            while len(texts) < most and (found := _usual(data, at, self.longest)) is not None:
                start, at = found
                texts.append(data[start:at])
        if not texts:
            return b"", 0
        lines = b"\n".join(texts)
        try:
            lines.decode()
        except UnicodeDecodeError:  # in one of them, which wsproto will find: the connection ends there
            self.usual = False
            return b"", 0
        self._at = at
        if lines.count(b"\n") >= len(texts):
            lines = b"\n".join(text.replace(b"\n", b"\r") for text in texts)
        return lines + b"\n", len(texts)

    def others(self, most: int) -> bytes:
        """The next frame, as much as has come of it, and those behind it up to a usual one; at most so many."""
        begin, size = self._at, len(self._data)
        end = begin + self._owed if self.usual else size
        while most and end < size and (end == begin or _usual(self._data, end, self.longest) is None):
            following = _end(self._data, end)
            if following == end:
                break  # its header has not come
            most, end = most - 1, following
        self._at = min(end, size)
        self._owed = end - self._at
        return self._data[begin : self._at]

    def rest(self) -> bytes:
        """All that has not been taken, for wsproto, like all that comes after it."""
        self.usual = False
        return self.others(0)


def _usual(data: bytes, at: int, longest: int) -> tuple[int, int] | None:
    """Where the message begins and ends of the frame that begins at `at`, if that is a usual one."""
    if len(data) < at + 2 or data[at] != _TEXT:
        return None
    start, size = at + 2, data[at + 1]
    if size == 126 and len(data) >= at + 4:
        start, size = at + 4, data[at + 2] << 8 | data[at + 3]
        if size <= _SHORT:
            return None
    elif size > _SHORT:
        return None
    end = start + size
    return (start, end) if end <= len(data) and size <= longest else None


def _end(data: bytes, at: int) -> int:
    """Where the frame ends that begins at `at`; `at` itself if that cannot be told yet."""
    if len(data) < at + 2:
        return at
    size = data[at + 1] & _LENGTH
    if size <= _SHORT or data[at] & _OPCODE > _DATA:
        return at + 2 + size
    start = at + _WIDE[size]
    return start + int.from_bytes(data[at + 2 : start], "big") if len(data) >= start else at

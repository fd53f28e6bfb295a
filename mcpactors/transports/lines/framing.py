"""Lines of bytes: what a child process prints, cut into lines, before anything is known about JSON-RPC.

Rule: pure. Neither trio nor mcp is imported and nothing waits, so that every split of every input can be tested.
Every function, here and in what looks into lines (shape.py, salvage.py, strict.py), takes time linear in its input,
whatever the input is: a backend chooses these bytes, and its siblings wait while they are looked at. Promises F6 to
F12.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from attrs import define, field, frozen

__all__ = ["BOM", "KEPT", "WHY", "LineFramer", "LongLine", "Skip", "why_not_json"]

KEPT: Final = 4096
"""Bytes kept of each end of a line that is too long, and looked at for the id of any line that cannot be read."""


@frozen
class LongLine:
    """A line over the limit: its first and last `KEPT` bytes and its length in bytes. The rest was dropped."""

    head: bytes
    tail: bytes
    size: int


@define(eq=False)
class LineFramer:
    """Cuts a stream of bytes at 0x0A, and nowhere else: U+2028 and U+0085 are text.

    At most `max_line` bytes (and, while a line is too long, two times `KEPT`) are held, whatever is fed.
    """

    max_line: int
    _partial: bytearray = field(factory=bytearray, init=False)
    _head: bytes = field(default=b"", init=False)
    _size: int = field(default=0, init=False)

    @property
    def unfinished(self) -> int:
        """Bytes seen of the line whose end has not come."""
        return self._size

    def feed(self, data: bytes) -> list[bytes | LongLine]:
        """The lines that end in `data`, without their newline."""
        *ended, rest = data.split(b"\n")
        lines: list[bytes | LongLine] = [*ended]  # the usual case: none is too long, and no copy is made
        for place, piece in enumerate(ended if len(data) > self.max_line else ended[:1]):
            if self._size or len(piece) > self.max_line:
                self._add(piece)
                lines[place] = self._end()
        if rest:
            self._add(rest)
        return lines

    def _add(self, piece: bytes) -> None:
        before, self._size = self._size, self._size + len(piece)
        self._partial += piece
        if self._size > self.max_line:
            self._head = bytes(self._partial[:KEPT]) if before <= self.max_line else (self._head + piece)[:KEPT]
            del self._partial[:-KEPT]

    def _end(self) -> bytes | LongLine:
        held, size, self._partial, self._size = bytes(self._partial), self._size, bytearray(), 0
        return held if size <= self.max_line else LongLine(self._head, held, size)


# --- Lines that cannot be read --------------------------------------------------------------------------------------

BOM: Final = b"\xef\xbb\xbf"

Skip = Literal[
    # Lines that cannot be read.
    "blank", "not_json", "not_jsonrpc", "bad_utf8", "bom", "too_deep", "too_many", "too_long", "unfinished",
    # Lines that must not be read: `lines/strict.py`.
    "repeated_key", "not_a_number", "ambiguous", "long_id",
    # Messages that nobody waits for or that cannot be taken: `owed.py`.
    "duplicate_reply", "late_reply", "unknown_reply", "id_in_use", "too_many_requests",
]  # fmt: skip
"""Why something that a peer sent was dropped."""

WHY: Final[Mapping[Skip, str]] = {
    "blank": "it is empty",
    "not_json": "it is not JSON; a program prints on stdout messages only, everything else on stderr",
    "not_jsonrpc": "it is JSON but not a JSON-RPC 2.0 message",
    "bad_utf8": "it is not UTF-8",
    "bom": "it begins with a byte order mark",
    "too_deep": "its arrays and objects nest too deep",
    "too_many": "its arrays and objects have too many parts",
    "too_long": "it is too long",
    "unfinished": "the other side went before its end",
    "repeated_key": "its envelope has a key twice",
    "not_a_number": "a number in it is none (NaN, Infinity), or larger than any (1e400)",
    "ambiguous": "it is a request and a response at once, or a request whose id is neither a string nor an integer",
    "long_id": "its id is too long",
    "duplicate_reply": "the request has been answered before",
    "late_reply": "the request had been given up",
    "unknown_reply": "no request has its id",
    "id_in_use": "its id is that of a request in flight",
    "too_many_requests": "too many requests of this side are unanswered",
}


def why_not_json(line: bytes) -> Skip:
    """The kind of a line that a JSON parser refused."""
    if not line or line.isspace():
        return "blank"
    if line.startswith(BOM):
        return "bom"
    try:
        line.decode()
    except UnicodeDecodeError:
        return "bad_utf8"
    return "not_json"

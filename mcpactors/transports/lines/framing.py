"""Lines of bytes: what a child process prints, cut into lines, before anything is known about JSON-RPC.

Rule: pure. Neither trio nor mcp is imported and nothing waits, so that every split of every input can be tested.
Every function takes time linear in its input, whatever the input is: a backend chooses these bytes, and its siblings
wait while they are looked at. Promises F6 to F12.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final, Literal

from attrs import define, field, frozen

__all__ = [
    "BOM",
    "KEPT",
    "WHY",
    "LineFramer",
    "LongLine",
    "Skip",
    "StderrTail",
    "misshapen",
    "outermost",
    "salvage_id",
    "text",
    "too_deep",
    "too_many",
    "why_not_json",
]

KEPT: Final = 4096
"""Bytes kept of each end of a line that is too long, and looked at for the id of any line that cannot be read."""

_MAX_ID: Final = 1024


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


# --- Shape --------------------------------------------------------------------------------------------------------

_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_BRACKETS: Final = b"[]{}"
_PARTS: Final = b"[{,"
_SLICE: Final = 2048
"""Bytes looked at before it is asked whether that is enough: rubbish shows at its beginning, and is not worth more.
What is well opens so little in so few that `too_deep` has nothing to add up."""


def _unescaped(line: bytes) -> bytes:
    """`line`, each byte at its place, with nothing for its escaped quotes and backslashes: a quote is a delimiter."""
    return line.replace(rb"\\", b"..").replace(rb"\"", b"..") if b"\\" in line else line


def _kept(piece: bytes, unwanted: bytes, in_string: bool) -> tuple[bytes, bool]:
    """What is outside the strings of a piece without escapes, but for the `unwanted`; and whether it ends in a string.

    Each step is one C call: an empty pair of quotes may go because nothing stands between them; of what is left every
    second part is outside a string.
    """
    parts = piece.translate(None, unwanted).replace(b'""', b"").split(b'"')
    return b"".join(parts[in_string::2]), in_string ^ (len(parts) % 2 == 0)


def _but(wanted: bytes) -> bytes:
    return bytes(set(range(256)).difference(wanted, b'"'))


def _outside(line: bytes, wanted: bytes) -> Iterator[bytes]:
    """Those bytes of `line` that are `wanted` and outside its strings, in slices."""
    clean, unwanted, in_string = _unescaped(line), _but(wanted), False
    for start in range(0, len(clean), _SLICE):
        kept, in_string = _kept(clean[start : start + _SLICE], unwanted, in_string)
        yield kept


def _steps(line: bytes) -> Iterator[bytes]:
    """The brackets of `line`: 1 opens, 0xff (-1 if read signed) closes."""
    return (brackets.translate(_STEPS) for brackets in _outside(line, _BRACKETS))


def too_deep(line: bytes, limit: int) -> bool:
    """Whether arrays and objects nest deeper than `limit`. A line with few brackets costs two counts."""
    if line.count(b"[") + line.count(b"{") <= limit:
        return False
    depth = 0
    for steps in _steps(line):
        might = depth + steps.count(b"\x01") > limit
        if might and max(accumulate(memoryview(steps).cast("b"), initial=depth)) > limit:
            return True
        depth += _net(steps)
    return False


def too_many(line: bytes, limit: int) -> bool:
    """Whether `line` has more than `limit` parts: what `{`, `[` and `,` stand for outside its strings.

    Each becomes an object of fifty bytes and more, so that few MiB of them take a hundred times what their size says,
    and a pause of all other work. A line that has few such bytes, even in its strings, costs three counts.
    """
    parts = line.count(b"{") + line.count(b"[") + line.count(b",")
    if parts <= limit:
        return False
    parts = 0
    return any((parts := parts + len(found)) > limit for found in _outside(line, _PARTS))


def _net(steps: bytes) -> int:
    return steps.count(b"\x01") - steps.count(b"\xff")


def misshapen(line: bytes, depth: int, parts: int) -> Literal["too_deep", "too_many"] | None:
    """Why `line` is not given to a JSON parser."""
    opened = line.count(b"{") + line.count(b"[")  # by which most lines are told, once for both
    if opened + line.count(b",") > parts and too_many(line, parts):  # first: how deep it is, is told by each bracket
        return "too_many"
    return "too_deep" if opened > depth and too_deep(line, depth) else None


_FLAT: Final = re.compile(rb'(?:[^][{}"]++|"[^"]*+")*+[][{}]')
_NOT_BRACKETS: Final = _but(_BRACKETS)


def outermost(line: bytes, most: int = 8) -> bytes | None:
    """An object of JSON without what is in the arrays and objects within it: `{"id":1,"result":{}}`.

    `line` must be valid. None if it has more than `most` arrays and objects as members: each costs a search.
    """
    clean, kept = _unescaped(line), list[bytes]()
    start, end = 0, clean.find(b"{") + 1
    for _ in range(most + 1):
        if (found := _FLAT.match(clean, end)) is None:
            return None
        end = found.end()
        if clean[end - 1] == ord("}"):
            return b"".join(kept) + line[start:end]
        kept.append(line[start:end])
        start = end = _closing(clean, end)
        end += 1
    return None


def _closing(clean: bytes, place: int) -> int:
    """Where the bracket is that closes what has been opened before `place`: in steps that shrink before it."""
    depth, in_string, size = 1, False, 16**4
    while size and (piece := clean[place : place + size]):
        brackets, cut = _kept(piece, _NOT_BRACKETS, in_string)
        steps = brackets.translate(_STEPS)
        if min(accumulate(memoryview(steps).cast("b"), initial=depth)) > 0:
            depth, in_string, place = depth + _net(steps), cut, place + size
        else:
            size //= 16
    return place


# --- Which call was this line the answer to? ----------------------------------------------------------------------

_TOKEN: Final = re.compile(rb'[ \t\r]*("[^"\\]*(?:\\.[^"\\]*)*"|[][{}:,]|[^][{}:,"\s]+)', re.DOTALL)
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]{0,63})")
_ID: Final = rb'(-?(?:0|[1-9][0-9]{0,63})|"[^"\\]{0,1024}")'
_LAST_MEMBERS: Final = re.compile(
    rb'\}\s*,\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*' + _ID + rb'|"id"\s*:\s*' + _ID + rb"\s*,"
    rb'\s*"jsonrpc"\s*:\s*"2\.0")\s*\}\s*\Z'
)
_PAIRS: Final = {b"{": b"}", b"[": b"]"}


def salvage_id(line: bytes | LongLine, of: Literal["response", "request"] = "response") -> int | str | None:
    """The id of the response, or the request, that a line which cannot be read was meant to be; None when in doubt.

    A wrong guess fails a call that may succeed, no guess leaves one call to its deadline: so the line must be a JSON
    object at least up to a top-level `result` or `error` (of a request: `method`), have none of the other's members,
    and name its id once. The id is taken from where the line is well-formed: before the fault, or as the last members
    together with `jsonrpc` (the order in which the TypeScript SDK writes) of a line whose brackets balance.
    """
    head, tail = (line.head, line.tail) if isinstance(line, LongLine) else (line[:KEPT], line[-KEPT:])
    if b'"id"' not in head and b'"id"' not in tail:
        return None
    members, closed = _members(head)
    keys = [key for key, _ in members]
    answers, asks = b'"result"' in keys or b'"error"' in keys, b'"method"' in keys
    if (answers, asks) != (of == "response", of == "request") or any(b"\\" in key for key in keys):
        return None
    if b'"id"' in keys:
        return _id_value(dict(members)[b'"id"']) if keys.count(b'"id"') == 1 else None
    last = None if closed else _LAST_MEMBERS.search(tail)
    if last is None or (isinstance(line, bytes) and sum(_net(steps) for steps in _steps(line)) != 0):
        return None
    return _id_value(last[1] or last[2])


def _tokens(head: bytes) -> Iterator[bytes]:
    position = 0
    while found := _TOKEN.match(head, position):
        yield found[1]
        position = found.end()


def _members(head: bytes) -> tuple[list[tuple[bytes, bytes | None]], bool]:
    """Top-level keys with their scalar values, up to the first fault; and whether the object was closed.

    A value is None when it is an array or an object, or when what follows was not seen: `12` may be a cut `123`.
    """
    members: list[tuple[bytes, bytes | None]] = []
    state, key, value = "start", b"", b""
    inside: list[bytes] = []
    for token in _tokens(head):
        if inside:
            if token in _PAIRS:
                inside.append(_PAIRS[token])
            elif token in (b"}", b"]") and token != inside.pop():
                break
        elif state == "start" and token == b"{":
            state = "key"
        elif state == "key" and token.startswith(b'"'):
            state, key = "colon", token
        elif state == "colon" and token == b":":
            state = "value"
        elif state == "value" and token not in (b"}", b"]", b":", b","):
            state, value = "next", token
            members.append((key, None))
            if token in _PAIRS:
                inside.append(_PAIRS[token])
        elif state == "next" and token in (b",", b"}"):
            if value not in _PAIRS:
                members[-1] = (key, value)
            if token == b"}":
                return members, True
            state = "key"
        else:
            break
    return members, False


def _id_value(token: bytes | None) -> int | str | None:
    if token is None or len(token) > _MAX_ID + 2:
        return None
    if _NUMBER.fullmatch(token):
        return int(token)
    try:
        value = json.loads(token) if token.startswith(b'"') else None
        return value if isinstance(value, str) and value.encode() else None  # encode: a lone surrogate is no id
    except ValueError:
        return None


# --- The other pipe -----------------------------------------------------------------------------------------------


@define(eq=False)
class StderrTail:
    """The last lines that a child wrote on stderr: at most `max_lines`, of `max_bytes` together. Outlives the child.

    With them, how many lines of its stdout were `dropped`, by why: the other things it said that were no message.
    """

    max_lines: int = 200
    max_bytes: int = 65536
    of: str | None = field(default=None, kw_only=True)
    """Whose it is, for the log: half of all servers are called npx. None: its command says it."""
    isolated: bool = field(default=False, kw_only=True)
    """It is one of ours (`isolate="process"`), and has a watchdog."""
    dropped: Counter[Skip] = field(factory=Counter, init=False)
    _lines: deque[bytes] = field(factory=deque, init=False)
    _held: int = field(default=0, init=False)
    _partial: bytearray = field(factory=bytearray, init=False)

    def feed(self, data: bytes) -> list[bytes]:
        """Takes what was read; returns the lines that ended in it."""
        *ended, rest = data.split(b"\n")
        if ended:
            ended[0] = bytes(self._partial) + ended[0]
            self._partial.clear()
        for line in ended[-self.max_lines :]:  # a flood costs no more than what is kept of it
            self._keep(line)
        self._partial += rest
        if len(self._partial) > self.max_bytes:
            del self._partial[: -self.max_bytes]
        self._trim()
        return ended

    def end(self) -> list[bytes]:
        """The child is gone: what it said last is a line too."""
        return self.feed(b"\n") if self._partial else []

    def tail(self) -> list[str]:
        """The lines kept, oldest first; bytes that are not UTF-8 are replaced."""
        unfinished = [bytes(self._partial)] if self._partial else []
        return [text(line) for line in [*self._lines, *unfinished][-self.max_lines :]]

    def _keep(self, line: bytes) -> None:
        line = line[-self.max_bytes :]
        self._lines.append(line)
        self._held += len(line)
        self._trim()

    def _trim(self) -> None:
        room = self.max_bytes - len(self._partial)
        while self._lines and (self._held > room or len(self._lines) > self.max_lines):
            self._held -= len(self._lines.popleft())


def text(line: bytes) -> str:
    """What a person is shown of bytes that should be UTF-8."""
    return line.decode(errors="replace").removesuffix("\r")

"""The shape of a line of JSON: how deep and how much it is, and its outermost object, told without parsing it.

Rule: pure, and linear in the line with few and long steps, each one call into C: most lines cost some counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, Literal

__all__ = ["balanced", "misshapen", "outermost", "too_deep", "too_many"]

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


def balanced(line: bytes) -> bool:
    """Whether as many arrays and objects end in `line` as begin."""
    return sum(map(_net, _steps(line))) == 0


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

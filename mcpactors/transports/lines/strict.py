"""What a lenient JSON parser lets pass and a relay must not: what it read is not what was written.

Rule: pure, and linear in the line. Nearly every line is let through by a few searches that run in C; of what they find
suspicious the outermost object is parsed again, and all of the line only if a number in it may be none. Promise F62.
"""

from __future__ import annotations

import json
import re
from collections import deque
from itertools import islice
from math import isinf
from typing import Any, Final, Literal, NoReturn

from mcpactors.runtime.policy import DEFAULT_BACKEND
from mcpactors.transports.lines.shape import outermost

__all__ = ["Fault", "fault", "long_id"]

Fault = Literal["repeated_key", "not_a_number", "ambiguous", "long_id"]

_KEY: Final = re.compile(rb'"(?:jsonrpc|id|method|params|result|error)"')
_PLAIN: Final = frozenset(
    frozenset(f'"{key}"'.encode() for key in keys.split())
    for keys in (
        "jsonrpc id result",
        "jsonrpc id error",
        "jsonrpc method",
        "jsonrpc method params",
        "jsonrpc id method",
        "jsonrpc id method params",
    )
)
"""The keys of an envelope, of each kind; whatever else a line has of these words is looked at twice."""
_MOST: Final = max(map(len, _PLAIN)) + 1
_ID: Final = re.compile(rb'"id"\s*:\s*(?:"|-?[0-9]+\s*[,}])')
"""An id that is one: a request with another is read as a notification."""
_SPELLED: Final = re.compile(rb"\\(?=u00[67])")
"""What may spell a key of the envelope: no writer escapes these letters."""
_LIKE: Final = bytes.maketrans(b"123456789E+", b"000000000e0")
_LARGE: Final = re.compile(rb"e(?<=0e)0000*+[\s,\]}]")
_LONG: Final = b"0" * 200
"""A number larger than any double has an exponent of three digits, or two and two hundred digits before it; what may
stand after a value is after it, so that most words with such a part are none. Both are sought in what is `_LIKE`."""
_NAN: Final = re.compile(rb"N(?=aN[\s,\]}])")
_INFINITY: Final = re.compile(rb"I(?=nfinity[\s,\]}])")
"""As with `_SPELLED`, one byte before the rest: `re` leaves the search for a single byte to C's memchr."""
_SHORT: Final = 4096
"""Bytes of a line, and commas of a longer one, with which it is parsed as fast as looked through for what to parse."""
_FEW: Final = 1000


def fault(line: bytes) -> Fault | None:
    """What is wrong with a line that has been parsed as a JSON-RPC message; None: nothing.

    Its envelope has a key twice (readers disagree on which counts), is a request and a response at once or a request
    whose id is none; or a number stands in it that no double and no integer can hold, which would be passed on as
    `null`. Lines that nest too deep must have been refused before.
    """
    numbers = _odd(line)
    if not numbers and not _suspicious(line):
        return None
    try:
        members = _members(line if numbers or len(line) <= _SHORT else outermost(line) or line)
    except (ValueError, RecursionError):
        return "not_a_number"
    keys = [key for key, _ in members]
    if len(set(keys)) < len(keys):
        return "repeated_key"
    envelope = dict(members)
    answers = ("result" in envelope) + ("error" in envelope)
    asks = "method" in envelope
    unnamed = "error" in envelope and envelope.get("id", 0) is None  # of a request that could not be read
    if asks + answers != 1 or ("id" in envelope and not (_is_id(envelope["id"]) or unnamed)):
        return "ambiguous"
    return None


def long_id(identity: int | str, most: int = DEFAULT_BACKEND.id) -> bool:
    """Whether it has more than `most` bytes; it is kept, and written again, for as long as its request runs."""
    return len(identity.encode()) > most if isinstance(identity, str) else identity.bit_length() > 8 * most // 3


def _odd(line: bytes) -> bool:
    """Whether there is, outside of words or within, what looks like a number that is none."""
    like = line.translate(_LIKE)  # `find`, as `in` tries first whether it is given a number
    return (
        (like.find(b"0e000") >= 0 and (line.count(b",") < _FEW or _LARGE.search(like) is not None))
        or like.find(_LONG) >= 0
        or (line.find(b"N") >= 0 and _NAN.search(line) is not None)
        or (line.find(b"I") >= 0 and _INFINITY.search(line) is not None)
    )


def _suspicious(line: bytes) -> bool:
    short = len(line) <= _SHORT
    words = _KEY.findall(line) if short else [found[0] for found in islice(_KEY.finditer(line), _MOST)]
    kind = frozenset(words)
    return (
        len(kind) < len(words)
        or kind not in _PLAIN
        or (b'"id"' in kind and _ID.search(line) is None)
        or (line.find(b"\\") >= 0 and _SPELLED.search(line) is not None)
    )


def _members(line: bytes) -> list[tuple[str, Any]]:
    """The members of the outermost object, of which only scalars have their values."""
    last: deque[list[tuple[str, Any]]] = deque(maxlen=1)  # the outermost ends last
    json.loads(line, object_pairs_hook=last.append, parse_constant=_refuse, parse_float=_finite)
    return last[0]


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        _refuse(text)
    return value


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)

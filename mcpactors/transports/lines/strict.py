"""What a lenient JSON parser lets pass and a relay must not: what it read is not what was written.

Rule: pure, and linear in the line. Nearly every line is let through by a few searches that run in C; only what they
find suspicious is parsed again. Promise F62.
"""

from __future__ import annotations

import json
import re
from math import isinf
from typing import Any, Final, Literal, NoReturn

from mcpactors.runtime.policy import DEFAULT_BACKEND

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
_ID: Final = re.compile(rb'"id"\s*:\s*(?:"|-?[0-9]+\s*[,}])')
"""An id that is one: a request with another is read as a notification."""
_ODD: Final = re.compile(
    rb"e(?<=[0-9].)(?:\+?[0-9]{3}|(?<=[0-9]{200}.))|E(?<=[0-9].)(?:\+?[0-9]{3}|(?<=[0-9]{200}.))"
    rb"|\.(?<=[0-9]{200}.)|NaN|Infinity|\\u00[67]"
)
"""A number larger than any double has an exponent of three digits, or two and two hundred digits before it. The last
alternative may spell a key of the envelope: no writer escapes these letters. Each begins with a letter of its own, by
which the search runs."""


def fault(line: bytes) -> Fault | None:
    """What is wrong with a line that has been parsed as a JSON-RPC message; None: nothing.

    Its envelope has a key twice (readers disagree on which counts), is a request and a response at once or a request
    whose id is none; or a number stands in it that no double and no integer can hold, which would be passed on as
    `null`. Lines that nest too deep must have been refused before.
    """
    if not _suspicious(line):
        return None
    try:
        members = _members(line)
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


def _suspicious(line: bytes) -> bool:
    words = _KEY.findall(line)
    kind = frozenset(words)
    return (
        len(kind) < len(words)
        or kind not in _PLAIN
        or (b'"id"' in kind and _ID.search(line) is None)
        or _ODD.search(line) is not None
    )


def _members(line: bytes) -> list[tuple[str, Any]]:
    """The members of the outermost object, of which only scalars have their values."""
    last: list[tuple[str, Any]] = []

    def pairs(found: list[tuple[str, Any]]) -> None:
        nonlocal last
        last = found  # the outermost ends last

    json.loads(line, object_pairs_hook=pairs, parse_constant=_refuse, parse_float=_finite)
    return last


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        _refuse(text)
    return value


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)

"""Which call was this line the answer to? Asked of a line that cannot be read.

Rule: pure, and linear in what is looked at; in doubt there is no id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final, Literal

from mcpactors.transports.lines.framing import KEPT, LongLine
from mcpactors.transports.lines.shape import balanced

__all__ = ["salvage_id"]

_MAX_ID: Final = 1024
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
    if last is None or (isinstance(line, bytes) and not balanced(line)):
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

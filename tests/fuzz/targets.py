"""What is fuzzed: functions of bytes that raise when something does not hold that must hold for every input.

Rule: pure, fast and without a clock, so that Hypothesis, atheris and a plain loop over the corpus can drive them. One
target is one function, named after what reads such bytes in the product. Promises F6-F12, F36, F62.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Final

from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState
from mcp.shared.inbound import decode_header_value, encode_header_value
from mcp_types.jsonrpc import jsonrpc_message_adapter
from pydantic import ValidationError

from mcpactors.errors import InvalidParams, NamespaceError
from mcpactors.runtime.listing import Cursor
from mcpactors.runtime.naming import KINDS, Namespace, UriFormat, validate_namespace
from mcpactors.transports.asgi.parse import Head, ParseLimits, Refused, RequestReader
from mcpactors.transports.http_server.guard import names_of, refusal
from mcpactors.transports.lines.framing import LineFramer, LongLine, why_not_json
from mcpactors.transports.lines.salvage import salvage_id
from mcpactors.transports.lines.shape import outermost, too_deep
from mcpactors.transports.lines.strict import fault

__all__ = ["CORPUS", "STATE", "TARGETS", "corpus_of"]

CORPUS: Final = Path(__file__).parent / "corpus"
_CODEC: Final = AESGCMRequestStateCodec([b"k" * 32])
STATE: Final = (CORPUS / "state" / "sealed").read_text()
"""A state sealed with that key: the only string that opens."""
_ANY_NAMES: Final = names_of(None)
_CURSOR_KEY: Final = b"c" * 16
_CURSOR: Final = Cursor("tools", 3, 20)
_LIMITS: Final = ParseLimits(start_line=64, head=256, fields=8, body=128)


def _pieces(data: bytes) -> Iterator[bytes]:
    """The rest of the input cut into pieces whose lengths its first byte decides."""
    step = data[0] % 7 + 1 if data else 1
    body = data[1:]
    for start in range(0, len(body), step):
        yield body[start : start + step]


def framer(data: bytes) -> None:
    """Any slicing of a child's stdout gives the same lines; looking at what cannot be read never raises."""
    body, limit = data[1:], 24
    cut = LineFramer(limit)
    sliced = [line for piece in _pieces(data) for line in cut.feed(piece)]
    assert sliced == LineFramer(limit).feed(body)
    assert cut.unfinished == len(body) - (body.rfind(b"\n") + 1)
    for line in body.split(b"\n"):
        _look_at(line)
        _look_at(LongLine(line[:16], line[-16:], len(line)))


def _look_at(line: bytes | LongLine) -> None:
    guess = salvage_id(line)
    if isinstance(line, LongLine):
        return
    assert why_not_json(line)
    try:
        value = json.loads(line.decode(), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return
    depth = _depth(value)
    assert not too_deep(line, depth)
    assert depth == 0 or too_deep(line, depth - 1)
    if guess is not None:  # a guess about a line that can be read after all is right
        assert isinstance(value, _Pairs)
        assert [found for key, found in value if key == "id"] == [guess]


class _Pairs(list[tuple[str, object]]):
    """An object's members, none lost where a name stands twice."""


def _depth(value: object) -> int:
    if isinstance(value, _Pairs):
        return 1 + max((_depth(inner) for _, inner in value), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def envelope(data: bytes) -> None:
    """What is relayed of a child's line has the same values in it, and no line is relayed that two could read."""
    try:
        message = jsonrpc_message_adapter.validate_json(data)
    except ValidationError:
        return
    try:
        members = json.loads(data.decode(), object_pairs_hook=_Pairs)
    except RecursionError:
        return
    own = outermost(data)
    assert own is None or [key for key, _ in json.loads(own, object_pairs_hook=_Pairs)] == [key for key, _ in members]
    keys = [key for key, _ in members if key in ("jsonrpc", "id", "method", "params", "result", "error")]
    kinds = [key for key in keys if key in ("method", "result", "error")]
    if len(keys) > len(set(keys)) or len(kinds) != 1 or not all(map(isfinite, _numbers(members))):
        assert fault(data) is not None
    if fault(data) is None:
        relayed = json.loads(message.model_dump_json(by_alias=True, exclude_unset=True))
        said = json.loads(data)
        if "error" in said:  # JSON-RPC 2.0 gives it these three; what else stands there is no part of MCP
            said["error"] = {key: said["error"][key] for key in ("code", "message", "data") if key in said["error"]}
        for key in set(keys):
            assert _same(relayed.get(key), said[key]), key


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner)


def _same(relayed: object, said: object) -> bool:
    """Equal, types and all: `1`, `1.0` and `true` are three values."""
    if isinstance(said, dict):
        return (
            isinstance(relayed, dict)
            and relayed.keys() == said.keys()
            and all(_same(relayed[key], value) for key, value in said.items())
        )
    if isinstance(said, list):
        return isinstance(relayed, list) and len(relayed) == len(said) and all(map(_same, relayed, said))
    return type(relayed) is type(said) and relayed == said


def headers(data: bytes) -> None:
    """What goes into `Mcp-Name` and `Mcp-Param-*` is one line of ASCII and comes out as it went in."""
    if refusal(_ANY_NAMES, [(b"host", b"x"), (b"mcp-name", data)]) is None:
        found = decode_header_value(data.decode("latin-1"))
        assert found is None or isinstance(found, str)
    with suppress(UnicodeDecodeError):
        name = data.decode()
        wire = encode_header_value(name)
        assert wire.isascii()
        assert wire.isprintable() or not wire
        assert decode_header_value(wire) == name


def names(data: bytes) -> None:
    """A name that goes out through namespaces comes back in as it was, and what does not fit is refused."""
    try:
        first, _, name = data.decode().partition("\n")
    except UnicodeDecodeError:
        return
    forms: tuple[UriFormat, ...] = ("path", "protocol")
    for form in forms:
        try:
            parts = tuple(validate_namespace(part, form) for part in first.split(" ") if part)
        except NamespaceError:
            continue
        namespace = Namespace(parts, form)
        for kind in KINDS:
            if kind in ("tools", "prompts") or name:
                assert namespace.inward(kind, namespace.outward(kind, name)) == name
            inner = namespace.inward(kind, name)
            if inner is not None and kind in ("tools", "prompts"):
                assert namespace.outward(kind, inner) == name


def cursor(data: bytes) -> None:
    """Of all strings only a cursor that was given is one."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = Cursor.read(text, "tools", _CURSOR_KEY)
    except InvalidParams:
        assert text != _CURSOR.sealed(_CURSOR_KEY)
        return
    assert found.sealed(_CURSOR_KEY) == text


def state(data: bytes) -> None:
    """Of all strings only a sealed `requestState` opens (promise F36)."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        opened = _CODEC.unseal(text)
    except InvalidRequestState:
        assert text != STATE
        return
    assert text == STATE, f"{text!r} opened as {opened!r}"


def requests(data: bytes) -> None:
    """Any slicing of what an HTTP client sends gives the same requests, or the same refusal."""
    sliced, whole = _requests(_pieces(data)), _requests([data[1:]])
    assert sliced == whole


def _requests(pieces: Iterator[bytes] | list[bytes]) -> list[object]:
    reader, seen = RequestReader(_LIMITS), list[object]()
    head: Head | None = None
    body = b""
    try:
        for piece in pieces:
            reader.feed(piece)
            while True:
                if head is None:
                    head, body = reader.head(), b""
                    if head is None:
                        break
                body += reader.body()
                if not reader.body_done:
                    break
                seen.append((head.method, head.raw_path, head.query, tuple(head.fields), body, head.keep_alive))
                if not head.keep_alive:
                    return seen
                head = None
    except Refused:
        seen.append("refused")  # of two reasons the one that is met first is told
    return seen


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    target.__name__: target for target in (framer, envelope, headers, names, cursor, state, requests)
}


def corpus_of(name: str) -> list[bytes]:
    """The committed inputs of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]

"""What a lenient parser lets pass: keys twice in the envelope, numbers that are none, requests that are responses."""

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types.jsonrpc import jsonrpc_message_adapter

from mcpactors.transports.lines.strict import Fault, fault, long_id
from tests.growth import linear


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"jsonrpc":"2.0","id":1,"id":2,"result":{}}', "repeated_key"),
        (b'{"jsonrpc":"2.0","id":1,"\\u0069d":2,"result":{}}', "repeated_key"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":1},"result":{"b":1}}', "repeated_key"),
        (b'{"jsonrpc":"2.0","jsonrpc":"2.0","method":"a"}', "repeated_key"),
        (b'{"jsonrpc":"2.0","method":"a","params":{},"params":{}}', "repeated_key"),
        # Below the envelope it is the sender's affair, and keys of the envelope are words like any other.
        (b'{"jsonrpc":"2.0","id":1,"result":{"id":1,"id":2,"method":"a","error":[{"id":3}]}}', None),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"text":"\\"id\\":7,\\"id\\":8"}}', None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":NaN}}', "not_a_number"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":[-Infinity]}}', "not_a_number"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":1e400}}', "not_a_number"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":-1E+0400}}', "not_a_number"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":' + b"9" * 310 + b".0}}", "not_a_number"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":' + b"9" * 250 + b"e99}}", "not_a_number"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":' + b"9" * 310 + b"}}", None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":1e308,"b":1e-400,"c":"NaN, 1e400 and Infinity"}}', None),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"a"}}', "ambiguous"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","result":{}}', "ambiguous"),
        (b'{"jsonrpc":"2.0","id":null,"method":"a"}', "ambiguous"),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"a"}', "ambiguous"),
        (b'{"jsonrpc":"2.0","id":true,"method":"a"}', "ambiguous"),
        (b'{"jsonrpc":"2.0","id" : -123456789012345678901234567890 ,"method":"a"}', None),
        (b'{"jsonrpc":"2.0","method":"a","params":{"id":1.5}}', None),
    ],
    ids=lambda value: value[:70].decode() if isinstance(value, bytes) else value,
)
def test_f62_what_was_read_is_what_was_written(line: bytes, found: Fault | None) -> None:
    jsonrpc_message_adapter.validate_json(line, by_name=False)  # the lenient parser has no objection
    assert fault(line) == found


keys = st.sampled_from(["jsonrpc", "id", "method", "result", "error", "params", "a"])
numbers = st.integers() | st.integers(10**29, 10**30) | st.floats(allow_nan=True) | st.sampled_from([1e308, 5e-324])
values = st.recursive(
    numbers | st.text('"\\:,{}1eE9NaInfity', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
)


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, float) else []


@given(st.dictionaries(keys, values, max_size=4), st.sampled_from(["result", "params"]), st.booleans())
def test_f62_whatever_passes_is_read_as_another_parser_reads_it(
    body: dict[str, Any], place: str, ascii_only: bool
) -> None:
    envelope: dict[str, Any] = {"jsonrpc": "2.0", "id": 7, place: body}
    if place == "params":
        envelope["method"] = "a"
    line = json.dumps(envelope, ensure_ascii=ascii_only).encode()
    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
    finite = all(map(math.isfinite, numbers_in(body)))
    assert fault(line) == (None if finite else "not_a_number")
    if finite:
        assert message.model_dump(by_alias=True, exclude_unset=True) == json.loads(line)


@given(st.lists(st.tuples(keys, st.integers(0, 3) | st.just("2.0")), max_size=6))
def test_f62_a_key_that_stands_twice_never_passes(members: list[tuple[str, Any]]) -> None:
    line = ("{" + ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in members) + "}").encode()
    names = [key for key, _ in members]
    known = {"jsonrpc", "id", "method", "result", "error", "params"}
    if any(names.count(name) > 1 for name in known):
        assert fault(line) == "repeated_key"


@pytest.mark.parametrize(
    ("identity", "long"), [("x" * 1024, False), ("x" * 1025, True), ("\u2028" * 342, True), (10**30, False)]
)
def test_an_id_has_a_kibibyte_at_most(identity: int | str, long: bool) -> None:
    assert long_id(identity) == long


@pytest.mark.parametrize("filler", [b"e", b"9", b".", b'\\"id\\"', b"9e"])
def test_looking_takes_linear_time(filler: bytes) -> None:
    def work(size: int) -> Callable[[], object]:
        return partial(fault, b'{"jsonrpc":"2.0","id":1,"result":{"a":"' + filler * (size // len(filler)) + b'"}}')

    assert linear(work, 1 << 15)

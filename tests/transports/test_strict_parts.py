"""Of a long line only a part is looked at twice: what is found is what is found in the whole of it.

Rule: the model is what `fault` did before it looked at parts.
"""

import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_core import from_json

from mcpactors.transports.lines.shape import outermost
from mcpactors.transports.lines.strict import Fault, fault
from tests.growth import linear

WORDS: Final = ("jsonrpc", "id", "method", "params", "result", "error")
KINDS: Final = [
    ("jsonrpc", "id", "result"),
    ("jsonrpc", "id", "error"),
    ("jsonrpc", "method"),
    ("jsonrpc", "method", "params"),
    ("jsonrpc", "id", "method"),
    ("jsonrpc", "id", "method", "params"),
]
_KEY: Final = re.compile(rb'"(?:jsonrpc|id|method|params|result|error)"')
_PLAIN: Final = {frozenset(f'"{key}"'.encode() for key in kind) for kind in KINDS}
_ID: Final = re.compile(rb'"id"\s*:\s*(?:"|-?[0-9]+\s*[,}])')
_ODD: Final = re.compile(rb"[eE](?<=[0-9].)(?:\+?[0-9]{3}|(?<=[0-9]{200}.))|\.(?<=[0-9]{200}.)|NaN|Infinity|\\u00[67]")


def model(line: bytes) -> Fault | None:
    """What is wrong with a line of which the whole is parsed again, if anything in it is suspicious."""
    words = _KEY.findall(line)
    kind = frozenset(words)
    unnamed = b'"id"' in kind and _ID.search(line) is None
    if len(kind) == len(words) and kind in _PLAIN and not unnamed and _ODD.search(line) is None:
        return None
    members: list[tuple[str, Any]] = []

    def pairs(found: list[tuple[str, Any]]) -> None:
        nonlocal members
        members = found

    try:
        json.loads(line, object_pairs_hook=pairs, parse_constant=_refuse, parse_float=_finite)
    except ValueError:
        return "not_a_number"
    envelope = dict(members)
    if len(envelope) < len(members):
        return "repeated_key"
    kinds = sum(key in envelope for key in ("method", "result", "error"))
    identity = envelope.get("id", 0)
    named = isinstance(identity, int | str) and not isinstance(identity, bool)
    return None if kinds == 1 and (named or ("error" in envelope and identity is None)) else "ambiguous"


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refuse(text)


@st.composite
def written(draw: st.DrawFn, keys: st.SearchStrategy[str]) -> str:
    """A key and its colon as they stand in JSON; one letter may be an escape."""
    key = draw(keys)
    at = draw(st.integers(-5 * len(key), len(key) - 1))
    text = key if at < 0 else f"{key[:at]}\\u00{ord(key[at]):x}{key[at + 1 :]}"
    return f'"{text}"' + draw(st.sampled_from([":", ":", ": ", " :", "\t: "]))


well = st.sampled_from(["1", "1.5", '"id"', '"3e123f"', '"1e400"', '"{"', '"\\"["', '"\\\\"', '"\\"id\\":"', "null"])
odd = st.sampled_from(
    ["1e308", "1E-400", "1e+40", "9" * 310, '"NaN"', '"NaN, "', '"Infinity}"', '"1e400,"', '"\\u0069d"', "true"]
) | st.sampled_from(["1e400", "-1E+0400", "9" * 310 + ".0", "9" * 250 + "e99", "NaN", "Infinity", "-Infinity"])
texts = st.text('"\\[]{}:,d', max_size=6).map(json.dumps)


def _nest(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.tuples(written(st.sampled_from([*WORDS, "a"])), inner).map("".join)
    arrays = st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
    return arrays | st.lists(members, max_size=3).map(lambda parts: f"{{{','.join(parts)}}}")


values = {
    few: st.recursive(scalars, _nest, max_leaves=6) for few, scalars in [(False, well | texts), (True, well | odd)]
}


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """An object with words of the envelope at any place; mostly longer than what is parsed again without a look."""
    value = values[draw(st.booleans())]
    more = draw(st.lists(st.sampled_from([*WORDS, "a"]), max_size=2, unique=True)) if draw(st.booleans()) else []
    members = []
    for key in draw(st.permutations([*draw(st.sampled_from(KINDS)), *more])):
        text = {"jsonrpc": '"2.0"', "id": "1", "method": '"a"'}.get(key, "")
        if not text or draw(st.integers(0, 9)) == 0:
            text = draw(value)
            if draw(st.booleans()):
                text = f"[{','.join([text] * (6000 // len(text)))}]"
        members.append(draw(written(st.just(key))) + text)
    return f"{{{','.join(members)}}}".encode()


@given(lines())
@example(b'{"jsonrpc":"2.0","id":1,"result":{"id":[' + b"{}," * 2000 + b'{}]},"\\u0069d":2}')
@example(b'{"jsonrpc":"2.0","id":1,"result":{"id":[' + b'{"]":"}"},' * 20_000 + b'{}]},"id":2}')
def test_f62_a_part_of_a_long_line_tells_what_the_whole_does(line: bytes) -> None:
    from_json(line)  # the lenient parser has no objection
    assert fault(line) == model(line)


@given(lines(), st.integers(0, 9))
def test_f62_the_outermost_object_keeps_all_that_is_its_own(line: bytes, most: int) -> None:
    members: Any = json.loads(line, object_pairs_hook=tuple, parse_constant=str)
    own = [(key, type(value)() if isinstance(value, list | tuple) else value) for key, value in members]
    found = outermost(line, most)
    assert (found is None) == (sum(value in ([], ()) for _, value in own) > most)
    assert found is None or list(json.loads(found, object_pairs_hook=tuple, parse_constant=str)) == own


@pytest.mark.parametrize(
    "filler", [b'"id":{},', b'"id":"1e400,",', b'"":[{}],', b'"' + b"9" * 199 + b'":1,', b'"NaN":0,']
)
@pytest.mark.parametrize("inner", [True, False])
def test_p6_looking_at_members_takes_linear_time(filler: bytes, inner: bool) -> None:
    def work(size: int) -> Callable[[], object]:
        members = filler * (size // len(filler)) + b'"a":0'
        return partial(fault, b'{"result":{' + members + b"}}" if inner else b"{" + members + b"}")

    assert linear(work, 1 << 14)

"""Framing: lines, nesting, salvage and the stderr ring, without a process and without a clock."""

import json
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpactors.transports.lines.framing import KEPT, LineFramer, LongLine, why_not_json
from mcpactors.transports.lines.salvage import salvage_id
from mcpactors.transports.lines.shape import misshapen, too_deep, too_many
from mcpactors.transports.lines.stderr import StderrTail
from tests.growth import linear


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


cuts = st.lists(st.integers(0, 1 << 20), max_size=12)
# Lengths around what is kept of a long line, and around the limits below.
lines = st.lists(
    st.builds(
        lambda start, filler, count: start + filler * count,
        st.binary(max_size=5).map(lambda data: data.replace(b"\n", b"\r")),
        st.sampled_from([b"a", b"\x85", b"\xe2\x80\xa8"]),
        st.sampled_from([0, 1, 2, 7, KEPT - 1, KEPT, KEPT + 1, 3 * KEPT]),
    ),
    max_size=6,
)


def expected(line: bytes, limit: int) -> bytes | LongLine:
    return line if len(line) <= limit else LongLine(line[:KEPT], line[-KEPT:], len(line))


@given(
    lines,
    st.binary(max_size=3).map(lambda data: data.replace(b"\n", b"")),
    cuts,
    st.sampled_from([0, 1, 7, KEPT, 9000]),
)
def test_any_split_of_any_lines_gives_the_same_lines(
    lines: list[bytes], rest: bytes, cuts: list[int], limit: int
) -> None:
    framer = LineFramer(limit)
    data = b"".join(line + b"\n" for line in lines) + rest
    got = [line for piece in split_at(data, cuts) for line in framer.feed(piece)]
    assert got == [expected(line, limit) for line in lines]
    assert framer.unfinished == len(rest)


@pytest.mark.parametrize(("size", "kept"), [(15, True), (16, True), (17, False)])
def test_a_line_of_exactly_the_limit_passes_and_one_byte_more_does_not(size: int, kept: bool) -> None:
    framer = LineFramer(16)
    [line] = framer.feed(b"x" * size + b"\n")
    assert isinstance(line, bytes) == kept


def test_the_limit_holds_for_a_line_in_pieces_too() -> None:
    framer = LineFramer(3 * KEPT)
    framer.feed(b"x" * KEPT)
    assert framer.feed(b"x" * 2 * KEPT + b"\n") == [b"x" * 3 * KEPT]
    framer.feed(b"x" * KEPT)
    assert framer.feed(b"x" * 2 * KEPT + b"y\n") == [LongLine(b"x" * KEPT, b"x" * (KEPT - 1) + b"y", 3 * KEPT + 1)]


@pytest.mark.parametrize("limit", [1 << 30, 1 << 16], ids=["within the limit", "over the limit"])
def test_f8_a_long_line_in_small_pieces_takes_linear_time(limit: int) -> None:
    def work(pieces: int) -> Callable[[], object]:
        framer = LineFramer(limit)

        def feed() -> None:
            for _ in range(pieces):
                framer.feed(b"x" * 64)  # so small that calls outweigh page faults
            framer.feed(b"\n")

        return feed

    assert linear(work, 2_000)


def test_f9_an_endless_line_takes_no_more_memory_than_the_limit() -> None:
    framer = LineFramer(1 << 16)
    piece = b"x" * 4096
    tracemalloc.start()
    try:
        for _ in range(4096):
            framer.feed(piece)
        assert tracemalloc.get_traced_memory()[1] < 4 << 16
    finally:
        tracemalloc.stop()
    assert framer.unfinished == 16 << 20


# --- Nesting ------------------------------------------------------------------------------------------------------

# Brackets, quotes and backslashes in the strings: everything that could fool a scan.
texts = st.text('[]{}"\\a,:', max_size=8)
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(values, st.booleans())
def test_depth_is_that_of_the_json_whatever_its_strings_hold(value: object, spaced: bool) -> None:
    line = json.dumps(value, indent=1 if spaced else None).encode()
    assert not too_deep(line, depth(value))
    assert depth(value) == 0 or too_deep(line, depth(value) - 1)


def test_a_scan_goes_on_where_the_slice_before_it_ended() -> None:
    shallow = b"[" + b",".join([b'"[[",["]","{"],"\\"["'] * 40_000) + b"]"
    assert not too_deep(shallow, 2)
    assert too_deep(shallow, 1)
    assert too_deep(shallow[:-1] + b",[[[0]]]]", 3)


@pytest.mark.parametrize("depth", [10**2, 10**3, 10**4, 10**5, 10**6])
@pytest.mark.parametrize("opener", [b"[", b'{"a":', b'[{"a":'])
def test_f10_nesting_over_the_limit_is_seen_closed_or_not(depth: int, opener: bytes) -> None:
    line = opener * depth
    assert too_deep(line, 128) == (depth * line.count(b"[", 0, len(opener)) + depth * (b"{" in opener) > 128)


def parts(value: object) -> int:
    """What is opened, and what is separated."""
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(len(inner) - 1, 0) + sum(map(parts, inner)) if isinstance(inner, list) else 0


@given(values, st.booleans())
def test_p6_parts_are_those_of_the_json_whatever_its_strings_hold(value: object, spaced: bool) -> None:
    line = json.dumps(value, indent=1 if spaced else None).encode()
    assert not too_many(line, parts(value))
    assert parts(value) == 0 or too_many(line, parts(value) - 1)


@given(st.text('{}[],:"\\a', max_size=40).map(str.encode), st.integers(0, 5), st.integers(0, 8))
@example(b"[[", 1, 2)
@example(b"[[,", 1, 2)
@example(b'{","', 1, 1)
def test_p6_how_much_is_in_a_line_is_told_before_how_deep_it_is(line: bytes, depth: int, parts: int) -> None:
    deep = "too_deep" if too_deep(line, depth) else None
    assert misshapen(line, depth, parts) == ("too_many" if too_many(line, parts) else deep)


def test_p6_commas_in_strings_are_no_parts_and_what_comes_behind_them_is() -> None:
    text = b'{"a":"' + b'\\",[{' * 100_000 + b'","b":['
    assert not too_many(text, 3)
    assert too_many(text, 2)
    assert too_many(text + b"{},{}]}", 5)


# --- Salvage ------------------------------------------------------------------------------------------------------

BODY = b'{"content":[{"type":"text","text":"a}],\\"id\\":9,"},{"id":8}],"id":7}'


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"jsonrpc":"2.0","id":5,"result":{"a":nope}}', 5),
        (b'{"jsonrpc":"2.0","id":"5","result":{"a":nope}}', "5"),
        (b' { "jsonrpc" : "2.0" , "id" : -5 , "error" : {"code"', -5),
        (b'{"jsonrpc":"2.0","id":"a\\"b","result":{"a":nope}}', 'a"b'),
        (b'{"jsonrpc":"2.0","result":' + BODY + b',"id":5,}', 5),
        (b'{"result":{"a":"\xff"},"jsonrpc":"2.0","id":5}', 5),
        (b'{"result":{"a":nope},"id":"x","jsonrpc":"2.0"} ', "x"),
        (b'{"jsonrpc":"2.0","id":123456789012345678901234567890,"result":{', 123456789012345678901234567890),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}{"jsonrpc":"2.0","id":2,"result":{}}', 1),
        # A request of the backend: its id is not one of ours.
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"a":nope}}', None),
        (b'{"jsonrpc":"2.0","method":"ping","id":5,"result":{"a":nope}}', None),
        # Perhaps a request: the line ends before it says.
        (b'{"jsonrpc":"2.0","id":5', None),
        (b'{"jsonrpc":"2.0","id":5,"res', None),
        # Perhaps cut: 123 of 1234.
        (b'{"jsonrpc":"2.0","result":{},"id":123', None),
        # Ids of something inside.
        (b'{"jsonrpc":"2.0","result":{"items":[{"id":7}', None),
        (b'{"jsonrpc":"2.0","result":{"items":[{"a":{},"jsonrpc":"2.0","id":7}', None),
        (b'{"jsonrpc":"2.0","result":{"items":[1},"id":7}', None),
        (b'{"jsonrpc":"2.0","result":{"items":[1}},"id":7}', None),
        # No id, or not one.
        (b'{"jsonrpc":"2.0","id":null,"error":{', None),
        (b'{"jsonrpc":"2.0","id":1.5,"result":{', None),
        (b'{"jsonrpc":"2.0","id":1e3,"result":{', None),
        (b'{"jsonrpc":"2.0","id":true,"result":{', None),
        (b'{"jsonrpc":"2.0","id":01,"result":{', None),
        (b'{"jsonrpc":"2.0","id":[1],"result":{', None),
        (b'{"jsonrpc":"2.0","id":"\\ud800","result":{', None),
        (b'{"jsonrpc":"2.0","id":"' + b"x" * 1025 + b'","result":{', None),
        # Two, or hidden.
        (b'{"jsonrpc":"2.0","id":5,"id":6,"result":{', None),
        (b'{"jsonrpc":"2.0","id":5,"\\u006dethod":"ping","result":{', None),
        # Not an object.
        (b'warning: {"jsonrpc":"2.0","id":5,"result":{}}', None),
        (b'[{"jsonrpc":"2.0","id":5,"result":{}}]', None),
        (b"", None),
    ],
)
def test_the_id_of_a_reply_is_found_only_where_there_is_no_doubt(line: bytes, found: int | str | None) -> None:
    got = salvage_id(line)
    assert (got, type(got)) == (found, type(found))


def test_the_id_of_a_line_too_long_is_found_at_either_end() -> None:
    first = b'{"jsonrpc":"2.0","id":5,"result":{"a":"' + b"x" * KEPT
    last = b"x" * KEPT + b'"},"jsonrpc":"2.0","id":6}'
    open_result = b'{"result":{"a":"' + b"x" * KEPT
    assert salvage_id(LongLine(first[:KEPT], b"x" * KEPT, 1 << 25)) == 5
    assert salvage_id(LongLine(open_result[:KEPT], last[-KEPT:], 1 << 25)) == 6
    assert salvage_id(LongLine(b"x" * KEPT, last[-KEPT:], 1 << 25)) is None
    assert salvage_id(LongLine(open_result[:KEPT], b"x" * KEPT, 1 << 25)) is None


keys = st.sampled_from(["id", "jsonrpc", "result", "error", "method", "a"])
results = st.recursive(
    st.integers(0, 99) | st.just("2.0") | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
)
orders = st.permutations(["jsonrpc", "id", "result"])


@given(st.dictionaries(keys, results, max_size=4), orders, st.integers(100, 10**6), st.booleans(), st.data())
def test_a_cut_reply_gives_its_own_id_or_none(
    result: dict[str, object], order: list[str], request_id: int, error: bool, data: st.DataObject
) -> None:
    members = {"jsonrpc": "2.0", "id": request_id, "result": result}
    message = {("error" if error and key == "result" else key): members[key] for key in order}
    line = json.dumps(message).encode()
    assert salvage_id(line[: data.draw(st.integers(0, len(line)))]) in (None, request_id)
    assert salvage_id(line) == request_id


@given(st.dictionaries(keys, results, max_size=4), st.permutations(["jsonrpc", "id", "method", "params"]), st.data())
def test_a_cut_request_gives_no_id(params: dict[str, object], order: list[str], data: st.DataObject) -> None:
    members = {"jsonrpc": "2.0", "id": 100, "method": "ping", "params": params}
    line = json.dumps({key: members[key] for key in order}).encode()
    assert salvage_id(line[: data.draw(st.integers(0, len(line)))]) is None


@given(st.binary() | st.text('{}[]"\\id:,5 ').map(str.encode))
def test_salvage_never_raises(line: bytes) -> None:
    salvage_id(line)
    salvage_id(b'{"jsonrpc":"2.0","id":1,"result":' + line)


@pytest.mark.parametrize(
    ("line", "kind"),
    [(b"", "blank"), (b" \r", "blank"), (b"\xef\xbb\xbf{}", "bom"), (b"\xff", "bad_utf8"), (b"hello", "not_json")],
)
def test_a_line_that_is_no_json_is_told_apart_by_kind(line: bytes, kind: str) -> None:
    assert why_not_json(line) == kind


# --- stderr -------------------------------------------------------------------------------------------------------


@example(["aa", "bb"], [], 5, 2)
@given(st.lists(st.text("ab\u00e9", max_size=9), max_size=12), cuts, st.integers(1, 5), st.integers(1, 24))
def test_the_tail_is_the_last_lines_within_both_bounds(texts: list[str], cuts: list[int], most: int, size: int) -> None:
    tail = StderrTail(max_lines=most, max_bytes=size)
    data = "\n".join(texts).encode()
    said = [line for piece in split_at(data, cuts) for line in tail.feed(piece)] + tail.end()
    kept = data.split(b"\n") if data and not data.endswith(b"\n") else data.split(b"\n")[:-1]
    whole = StderrTail(max_lines=most, max_bytes=size)
    whole.feed(data)
    assert tail.tail() == whole.tail()
    assert len(said) == data.count(b"\n") + bool(data.rpartition(b"\n")[2])
    assert len(tail.tail()) <= most
    if max((len(line) for line in kept), default=0) <= size:
        assert sum(len(line.encode()) for line in tail.tail()) <= size
        assert tail.tail() == [line.decode() for line in kept][len(kept) - len(tail.tail()) :]


def test_the_tail_replaces_what_is_no_utf8_and_shows_the_unfinished_line() -> None:
    tail = StderrTail()
    assert tail.feed(b"bad \xff\r\nand") == [b"bad \xff\r"]
    assert tail.tail() == ["bad \ufffd", "and"]
    assert tail.end() == [b"and"]
    assert tail.end() == []
    assert tail.tail() == ["bad \ufffd", "and"]


def test_a_stderr_line_without_end_is_kept_to_its_last_bytes() -> None:
    tail = StderrTail(max_bytes=8)
    for _ in range(1000):
        tail.feed(b"0123456789")
    assert tail.tail() == ["23456789"]
    tail.feed(b"\n0123456789\n")
    assert tail.tail() == ["23456789"]


def test_a_flood_of_empty_stderr_lines_takes_no_memory() -> None:
    tail = StderrTail()
    tracemalloc.start()
    try:
        for _ in range(100):
            tail.feed(b"\n" * 10_000)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert tail.tail() == [""] * 200


def test_the_last_words_are_those_of_the_exception_also_where_it_came_in_a_group() -> None:
    tail = StderrTail()
    assert tail.last_words() is None
    tail.feed(b"  | RuntimeError: refused the password\n  +------------------------------------\n\n")
    assert tail.last_words() == "RuntimeError: refused the password"
    tail.feed(b"and that was it " + b"!" * 1_000)
    assert tail.last_words() == "and that was it " + "!" * 184

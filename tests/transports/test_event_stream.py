"""Server-sent events: any split gives the same events, and what is too long is refused without being held."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpactors.transports.http_client.event_stream import (
    LINES,
    PORTION,
    Event,
    EventReader,
    EventTooLong,
    portions,
    squeezed,
)

ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
LINES_OF_ONE = st.one_of(
    st.sampled_from([b"", b"data", b"data:", b"data: ", b"data:  a", b"id", b"id: 1", b"id: \0", b"id: \xff", b":c"]),
    st.sampled_from([b"retry: 20", b"retry: x", b"event: message", b"event: other", b"nothing: a", b"data: {}"]),
    st.text("ab:d \u2028", max_size=8).map(str.encode),
)
STREAMS = st.lists(st.tuples(LINES_OF_ONE, ENDS), max_size=20).map(lambda lines: b"".join(a + b for a, b in lines))


@given(st.booleans(), STREAMS, st.lists(st.integers(0, 200), max_size=8))
def test_any_split_gives_the_same_events(bom: bool, body: bytes, cuts: list[int]) -> None:
    body = b"\xef\xbb\xbf" * bom + body
    whole = EventReader(1000)
    events = whole.feed(body)
    for places in (cuts, range(len(body))):
        reader = EventReader(1000)
        where = sorted({0, len(body), *(cut for cut in places if cut < len(body))})
        found = [event for start, end in pairwise(where) for event in reader.feed(body[start:end])]
        assert (found, reader.last_id, reader.retry) == (events, whole.last_id, whole.retry)


USUAL = st.builds(
    lambda kind, identity, data, end: b"".join((kind, identity, data, b"")).replace(b"\n", end) + end,
    st.sampled_from([b"", b"event: message\n", b"event:message\n"]),
    st.sampled_from([b"", b"id: 1\n", b"id:2\n", b"id: \xff\n"]),
    st.sampled_from([b"data: a\n", b"data:  b\n", b"data:\n", b"data: \n", b"data: a\rb\n", b"data: a\ndata: b\n"]),
    st.sampled_from([b"\n", b"\r\n"]),
)


@given(st.lists(st.one_of(USUAL, STREAMS), max_size=12), st.lists(st.integers(0, 300), max_size=8))
def test_p6_what_is_usual_is_read_as_anything_is(pieces: list[bytes], cuts: list[int]) -> None:
    body = b"".join(pieces)
    plain, reader, found = EventReader(1000), EventReader(1000), list[Event]()
    events = plain.feed(body)
    for start, end in pairwise(sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})):
        usual, rest = reader.usual(body[start:end])
        found += usual + reader.feed(rest)
    assert (found, reader.last_id, reader.bare_lines) == (events, plain.last_id, plain.bare_lines)
    assert (reader.feed(b"data: x\n\n"), reader.retry) == (plain.feed(b"data: x\n\n"), plain.retry)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_p6_of_a_flood_of_usual_events_only_the_first_and_the_last_are_fed(end: bytes) -> None:
    reader, flood = EventReader(1 << 20), (b"event: message" + end + b"id: 7" + end + b"data: {}" + end + end) * 1000
    reader.feed(flood[:20])
    events, rest = reader.usual(flood[20:-5])
    assert (len(events), rest) == (999, flood[-(len(flood) // 1000) : -5])


@given(st.lists(st.tuples(LINES_OF_ONE, st.text("\r\n", min_size=1, max_size=6).map(str.encode)), max_size=20))
def test_p6_empty_lines_after_an_empty_line_change_nothing(lines: list[tuple[bytes, bytes]]) -> None:
    body = b"".join(a + b for a, b in lines)
    plain, reader = EventReader(1000), EventReader(1000)
    events = [event for byte in body for event in plain.feed(bytes([byte]))]
    assert (reader.feed(squeezed(body)), reader.last_id, reader.retry) == (events, plain.last_id, plain.retry)


@given(st.lists(st.tuples(LINES_OF_ONE, ENDS), max_size=20), st.integers(1, 300))
def test_p6_portions_are_all_of_it_and_of_few_lines_each(lines: list[tuple[bytes, bytes]], times: int) -> None:
    body = b"".join(a + b for a, b in lines) * times
    pieces = list(portions(body))
    assert b"".join(pieces) in (body, squeezed(body))
    assert all(len(piece) <= PORTION or len(piece.splitlines()) * 256 <= len(piece) for piece in pieces)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b"\n\r"])
def test_p6_a_flood_of_empty_lines_is_one_event_that_ends(end: bytes) -> None:
    assert list(portions(end * 30_000)) == [b"\n\n"]


def test_p6_an_event_has_so_many_lines_and_no_more() -> None:
    reader = EventReader(16 << 20)
    [event] = reader.feed(b"data:\n" * LINES + b"\n")
    assert len(event.data) == LINES - 1
    with pytest.raises(EventTooLong, match=f"more than {LINES} lines"):
        reader.feed(b"data:\n" * (LINES + 1))


@given(st.lists(st.tuples(st.text(max_size=20), st.sampled_from([None, "1", "two"])), max_size=6), ENDS)
def test_what_was_written_is_read(written: list[tuple[str, str | None]], end: bytes) -> None:
    body, expected, last = b"", [], None
    for text, identity in written:
        lines = text.encode("utf-8", "replace").splitlines() or [b""]
        body += b"".join(b"data: " + line + end for line in lines)
        if identity is not None:
            body, last = body + b"id: " + identity.encode() + end, identity
        body += end
        expected.append(Event(b"message", b"\n".join(lines), last))
    assert EventReader(1000).feed(body) == expected


def test_a_byte_order_mark_at_the_beginning_is_none_of_it_and_one_later_is() -> None:
    reader = EventReader(100)
    body = b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n"
    assert [event.data for event in reader.feed(body)] == [b"a", b"c"]


def test_an_event_that_was_cut_short_leaves_nothing_to_the_stream_that_goes_on() -> None:
    reader = EventReader(100)
    reader.feed(b"id: 1\nretry: 50\ndata: a\n\nid: 2\ndata: half")
    resumed = reader.resumed()
    assert (resumed.last_id, resumed.retry) == ("1", 0.05)
    assert resumed.feed(b"data: b\n\n") == [Event(b"message", b"b", "1")]


@pytest.mark.parametrize("piece", [b"x", b"data: x\n", b"data:\n", b": x"])
def test_what_has_no_end_is_refused_once_it_is_too_long(piece: bytes) -> None:
    reader = EventReader(1000)
    with pytest.raises(EventTooLong, match="more than 1000 bytes"):
        for _ in range(1100):
            reader.feed(piece)


def test_many_events_that_are_each_short_are_as_many_as_they_are() -> None:
    reader = EventReader(100)
    assert sum(len(reader.feed(b"data: " + b"x" * 50 + b"\n\n: " + b"c" * 90 + b"\n")) for _ in range(100)) == 100


def test_an_id_that_cannot_go_into_a_header_is_none() -> None:
    for identity in (b"a b", b"\xe9", b"x" * 1025, b""):
        reader = EventReader(10_000)
        reader.feed(b"id: 1\n\nid: " + identity + b"\n\n")
        assert reader.last_id is None

"""Request smuggling: what two servers could read differently is refused by ours, and nothing after it is read.

Rule: raw bytes. Each case is tried at a real socket with a request hidden behind it, and every case and many requests
more are cut at every place: any split of the same bytes gives the same requests. RFC 9112 sections 2.2, 3.2, 5, 6, 7.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpactors.transports.asgi import Receive, Scope, Send
from mcpactors.transports.asgi.parse import ParseLimits, Refused, RequestReader
from tests.transports.http_raw import answer, body_of, chunked, get, hosted, post

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"


def head(*lines: bytes, start: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def in_chunks(raw: bytes) -> bytes:
    return head(b"Transfer-Encoding: chunked") + raw


REFUSED = {
    # Lengths
    "the same length twice": head(b"Content-Length: 2", b"Content-Length: 2") + b"hi",
    "two lengths": head(b"Content-Length: 2", b"Content-Length: 36") + b"hi",
    "a list of lengths": head(b"Content-Length: 2, 2") + b"hi",
    "a length with a sign": head(b"Content-Length: +2") + b"hi",
    "a negative length": head(b"Content-Length: -2") + b"hi",
    "a length in hexadecimal": head(b"Content-Length: 0x2") + b"hi",
    "a length with an underscore": head(b"Content-Length: 0_2") + b"hi",
    "a length in other digits": head("Content-Length: \uff12".encode()) + b"hi",
    "an empty length": head(b"Content-Length:") + b"hi",
    "a length with a space in it": head(b"Content-Length: 1 2") + b"hi",
    "a length with a vertical tab": head(b"Content-Length: \x0b2") + b"hi",
    "a length that overflows": head(b"Content-Length: 18446744073709551618") + b"hi",
    # Length and coding
    "a length, then chunks": head(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks, then a length": head(b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n",
    "a length of nothing and chunks": head(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    # Codings
    "another coding": head(b"Transfer-Encoding: gzip") + b"0\r\n\r\n",
    "another coding before chunks": head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "another coding after chunks": head(b"Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n",
    "identity": head(b"Transfer-Encoding: identity", b"Content-Length: 2") + b"hi",
    "chunks twice": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunked, chunked": head(b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
    "a coding, then chunks, apart": head(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "xchunked": head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "chunked with a parameter": head(b"Transfer-Encoding: chunked;a=b") + b"0\r\n\r\n",
    "chunked in quotes": head(b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n",
    "chunked after a vertical tab": head(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n",
    "chunked and a comma": head(b"Transfer-Encoding: chunked,") + b"0\r\n\r\n",
    "an empty coding": head(b"Transfer-Encoding:") + b"0\r\n\r\n",
    "chunks in HTTP/1.0": head(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0") + b"0\r\n\r\n",
    # Chunks
    "a chunk size in 0x": in_chunks(b"0x2\r\nhi\r\n0\r\n\r\n"),
    "a chunk size with a sign": in_chunks(b"+2\r\nhi\r\n0\r\n\r\n"),
    "a negative chunk size": in_chunks(b"-2\r\nhi\r\n0\r\n\r\n"),
    "a chunk size that overflows": in_chunks(b"10000000000000002\r\nhi\r\n0\r\n\r\n"),
    "no chunk size": in_chunks(b"\r\nhi\r\n0\r\n\r\n"),
    "a space after a chunk size": in_chunks(b"2 \r\nhi\r\n0\r\n\r\n"),
    "a chunk size that ends with LF": in_chunks(b"2\nhi\r\n0\r\n\r\n"),
    "a chunk extension that ends with LF": in_chunks(b"2;a\nhi\r\n0\r\n\r\n"),
    "a chunk extension with CR in it": in_chunks(b"2;a\rb\r\nhi\r\n0\r\n\r\n"),
    "a chunk that is longer than its size": in_chunks(b"2\r\nhello\r\n0\r\n\r\n"),
    "a chunk without its end": in_chunks(b"2\r\nhi0\r\n\r\n"),
    "a chunk that ends with LF": in_chunks(b"2\r\nhi\n0\r\n\r\n"),
    "a trailer that frames": in_chunks(b"0\r\nContent-Length: 5\r\n\r\n"),
    "a trailer with LF": in_chunks(b"0\r\nA: b\n\r\n"),
    # Lines
    "a folded line": head(b"A: b\r\n c"),
    "a folded line with a tab": head(b"A: b\r\n\tc"),
    "a folded coding": head(b"Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n",
    "a first line that is folded": head(b"A: b", host=b" Host: a\r\n"),
    "LF after the first line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "LF after a field": head(b"A: b\nC: d"),
    "LF instead of the empty line": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "LF everywhere": b"GET / HTTP/1.1\nHost: a\n\n",
    "CR after a field": head(b"A: b\rC: d"),
    "CR at the end of a field": head(b"A: b\r"),
    "two empty lines before": b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "LF before": b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    # Fields
    "a space before the colon": head(b"A : b"),
    "a tab before the colon": head(b"A\t: b"),
    "a space before the colon of a coding": head(b"Transfer-Encoding : chunked") + b"0\r\n\r\n",
    "no name": head(b": b"),
    "no colon": head(b"A"),
    "NUL in a value": head(b"A: b\0c"),
    "NUL in a name": head(b"A\0: b"),
    "a control in a value": head(b"A: b\x01c"),
    "DEL in a value": head(b"A: b\x7f"),
    "a name that is not ASCII": head("Ä: b".encode()),
    "a name with parentheses": head(b"A(b): c"),
    # Host
    "no Host": head(host=b""),
    "two Hosts": head(b"Host: b"),
    "the same Host twice": head(b"Host: a"),
    "two Hosts in HTTP/1.0": head(b"Host: b", start=b"GET / HTTP/1.0"),
    "an empty Host": head(host=b"Host:\r\n"),
    "a list of Hosts": head(host=b"Host: a, b\r\n"),
    "a Host with a path": head(host=b"Host: a/b\r\n"),
    "a Host with a user": head(host=b"Host: a@b\r\n"),
    "a Host with a port that is none": head(host=b"Host: a:b\r\n"),
    "a Host that is not ASCII": head(host="Host: ä\r\n".encode()),
    "another host in the target": head(start=b"GET http://b/ HTTP/1.1"),
    "another port in the target": head(start=b"GET http://a:81/ HTTP/1.1"),
    "a user in the target": head(start=b"GET http://u@a/ HTTP/1.1"),
    # The first line
    "two spaces": head(start=b"GET  / HTTP/1.1"),
    "a tab": head(start=b"GET\t/ HTTP/1.1"),
    "a space after it": head(start=b"GET / HTTP/1.1 "),
    "a space in the target": head(start=b"GET /a b HTTP/1.1"),
    "a fragment": head(start=b"GET /a#b HTTP/1.1"),
    "a target that is not ASCII": head(start="GET /ä HTTP/1.1".encode()),
    "a control in the target": head(start=b"GET /\x01 HTTP/1.1"),
    "a target that is no path": head(start=b"GET a HTTP/1.1"),
    "a star": head(start=b"GET * HTTP/1.1"),
    "a target of another scheme": head(start=b"GET ftp://a/ HTTP/1.1"),
    "a host and a port as a target": head(start=b"GET a:80 HTTP/1.1"),
    "a method that is none": head(start=b"get / HTTP/1.1"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9, said": head(start=b"GET / HTTP/0.9"),
    "HTTP/1.2": head(start=b"GET / HTTP/1.2"),
    "HTTP/2.0": head(start=b"GET / HTTP/2.0"),
    "HTTP/1.10": head(start=b"GET / HTTP/1.10"),
    "HTTP/01.1": head(start=b"GET / HTTP/01.1"),
    "http/1.1": head(start=b"GET / http/1.1"),
    "another protocol": head(start=b"GET / RTSP/1.0"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}

SERVED = {
    "white space around a value": (head(b"Content-Length: \t2\t "), b"hi"),
    "chunked in another case": (head(b"tRANSFER-eNCODING: CHUNKED"), b"2\r\nhi\r\n0\r\n\r\n"),
    "chunk extensions": (head(b"Transfer-Encoding: chunked"), b'2;a=b;c="d"\r\nhi\r\n0;e\r\n\r\n'),
    "leading zeros": (head(b"Transfer-Encoding: chunked"), b"0002\r\nhi\r\n000\r\n\r\n"),
    "one empty line before": (b"\r\n" + head(b"Content-Length: 2"), b"hi"),
    "its own host in the target": (head(b"Content-Length: 2", start=b"POST HTTP://A/ HTTP/1.1"), b"hi"),
    "a host with brackets": (head(b"Content-Length: 2", host=b"Host: [::1]:80\r\n"), b"hi"),
    "fields that only look like a length": (head(b"Content-Length: 2", b"X-Content-Length: 7"), b"hi"),
    "bytes that are not ASCII in a value": (head(b"Content-Length: 2", b"A: \xe9\xff"), b"hi"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_can_be_read_in_two_ways_is_400_and_what_is_hidden_behind_it_is_not_read(name: str) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        await answer(send, b"served")

    async with hosted(app) as served, served.client() as client:
        await client.write(REFUSED[name] + HIDDEN)
        said = await client.to_the_end()
        assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n"), said
        assert said.count(b"HTTP/1.1 ") == 1
        assert b"\r\nconnection: close\r\n" in said
        assert "/hidden" not in seen


@pytest.mark.parametrize("name", SERVED)
async def test_what_is_unusual_but_has_one_meaning_is_served(name: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, scope["path"].encode() + await body_of(receive))

    async with hosted(app) as served, served.client() as client:
        await client.write(*SERVED[name], HIDDEN)
        assert [(await client.reply()).body for _ in range(2)] == [b"/hi", b"/hidden"]


# --- Any split of the same bytes --------------------------------------------------------------------------------------

Request = tuple[str, str, bytes, tuple[tuple[bytes, bytes], ...], bytes]


def read(pieces: list[bytes], limits: ParseLimits) -> tuple[list[Request], int | None, bytes]:
    """The whole requests in the bytes, the status that ended it, and what came of a request that is not whole."""
    reader = RequestReader(limits)
    requests: list[Request] = []
    current, body = None, b""
    try:
        for piece in pieces:
            reader.feed(piece)
            while True:
                if current is None:
                    current = reader.head()
                if current is None:
                    break
                body += reader.body()
                if not reader.body_done:
                    break
                requests.append((current.method, current.path, current.query, tuple(current.fields), body))
                current, body = None, b""
    except Refused as refused:
        return requests, refused.status, b""
    return requests, None, body


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


tokens = st.text("ab-", min_size=1, max_size=4)
fields = st.lists(st.builds("X-{}: {}".format, tokens, st.text("ab \t,", max_size=6)), max_size=3)
bodies = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n\r\n", b"0\r\n\r\n", b"a", b"GET / HTTP/1.1\r\n"]), max_size=5)
paths = st.builds("/{}?{}".format, tokens, tokens)
good = st.one_of(
    st.builds(lambda path, lines: get(path, *lines), paths, fields),
    st.builds(lambda body, path, lines: post(b"".join(body), path, *lines), bodies, paths, fields),
    st.builds(lambda body, path, trailer: chunked(*body, path=path, trailers=trailer), bodies, paths,
              st.sampled_from([b"", b"A: b\r\n", b"Host: b\r\nC:\r\n"])),
)  # fmt: skip
cuts = st.lists(st.integers(0, 1 << 20), max_size=12)
SMALL = ParseLimits(start_line=64, head=160, fields=4, body=24)


@given(st.lists(good, max_size=4), cuts)
def test_requests_are_the_same_however_their_bytes_are_cut(messages: list[bytes], where: list[int]) -> None:
    whole = read([b"".join(messages)], ParseLimits())
    assert len(whole[0]) == len(messages)
    assert whole[1:] == (None, b"")
    assert read(split_at(b"".join(messages), where), ParseLimits()) == whole


@given(
    st.lists(st.one_of(good, st.sampled_from([*REFUSED.values()]), st.just(HIDDEN)), min_size=1, max_size=3),
    st.integers(0, 1 << 20),
    st.binary(max_size=2),
    cuts,
    st.sampled_from([ParseLimits(), SMALL]),
)
@example([in_chunks(b"2\r\nhi\r\n0\r\n\r\n")], 0, b"", [], SMALL)
def test_refusals_are_the_same_however_the_bytes_are_cut(
    messages: list[bytes], place: int, noise: bytes, where: list[int], limits: ParseLimits
) -> None:
    data = b"".join(messages)
    place %= len(data) + 1
    data = data[:place] + noise + data[place + len(noise) :]
    requests, status, rest = read([data], limits)
    cut, cut_status, cut_rest = read(split_at(data, where), limits)
    assert cut == requests
    assert (cut_status is None) == (status is None)  # what is wrong in two ways may be called by either
    assert cut_rest == rest
    assert read([data[i : i + 1] for i in range(len(data))], limits)[0] == requests


@pytest.mark.parametrize("name", REFUSED)
def test_each_case_is_refused_byte_by_byte_too(name: str) -> None:
    data = REFUSED[name] + HIDDEN
    requests, status, _ = read([data[i : i + 1] for i in range(len(data))], ParseLimits())
    assert (requests, status) == ([], 400)


@given(st.binary(max_size=200), cuts)
def test_rubbish_is_refused_or_waited_for_and_nothing_else_is_raised(data: bytes, where: list[int]) -> None:
    assert read(split_at(data, where), ParseLimits())[0] == []

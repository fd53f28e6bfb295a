"""HTTP/1.1 requests out of bytes: heads, bodies, and where one message ends and the next begins.

Rule: pure; nothing waits, and any split of the same bytes gives the same requests. Two readers have to agree on every
head: httptools' parser takes it apart, and what that lets through although two servers could read it differently is
looked for here. In doubt a message is refused and the connection ends: nothing is guessed about bytes that follow a
message whose end is in question. RFC 9110, RFC 9112 (its sections are named where they are kept).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from attrs import define, field, frozen
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from mcpactors.runtime.policy import DEFAULT_CLIENTS

__all__ = ["Head", "ParseLimits", "Refused", "RequestReader"]

_KIB: Final = 1024
_END: Final = b"\r\n\r\n"
_START_LINE: Final = re.compile(rb"([A-Z-]+) ([!-~]+) HTTP/1\.([01])\r\n")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?@]+)(/[^?]*)?(\?.*)?", re.IGNORECASE)
_AUTHORITY: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_SPECIAL: Final = frozenset((b"host", b"connection", b"content-length", b"transfer-encoding", b"expect"))
_CHUNKS_FOLLOW: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_FRAMING_SLACK: Final = 64 * _KIB
"""Chunk sizes, extensions and trailers may take this much more than the body that they frame."""


class Refused(Exception):
    """A request that is not served: the status to say so with, and a sentence for people. The connection ends."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@frozen
class ParseLimits:
    """Sizes in bytes."""

    start_line: int = 8 * _KIB
    """With the request target in it: 414 above."""
    head: int = 64 * _KIB
    """Start line and header fields: 431 above."""
    fields: int = 100
    body: int = DEFAULT_CLIENTS.body
    """413 above, before anything is read where the length is declared."""


@define(eq=False)
class Head:
    """What came before a body. Field names are in lower case, values without the white space around them."""

    method: str
    raw_path: bytes
    path: str
    query: bytes
    version: str
    fields: list[tuple[bytes, bytes]]
    length: int | None
    """Of the body, in bytes; None when it comes in chunks."""
    keep_alive: bool
    expects_continue: bool
    upgrades: bool
    """Whether another protocol is asked for on this connection."""


@define(eq=False)
class _Seen:
    """What the parser has called back with, of one message."""

    fields: list[tuple[bytes, bytes]] = field(factory=list)
    body: list[bytes] = field(factory=list)
    head_ended: bool = False
    ended: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.head_ended = True

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.ended = True


@define(eq=False)
class RequestReader:
    """Cuts what one client sends into requests, one at a time: a head, its body to the end, the next head.

    What was fed and is not asked for yet stays in `ahead`; who feeds bounds it.
    """

    limits: ParseLimits
    ahead: bytes = field(default=b"", init=False)
    body_done: bool = field(default=True, init=False)
    _seen: _Seen = field(factory=_Seen, init=False)
    _parser: HttpRequestParser | None = field(default=None, init=False)
    _parsed: int = field(default=0, init=False)  # how much of `ahead` the parser has, while a head is not whole
    _skipped: bool = field(default=False, init=False)
    _left: int | None = field(default=0, init=False)  # of the body; None: it comes in chunks
    _taken: int = field(default=0, init=False)
    _framing: int = field(default=0, init=False)
    _tail: bytes = field(default=b"", init=False)

    def feed(self, data: bytes) -> None:
        """More of what the client sends."""
        self.ahead = self.ahead + data if self.ahead else data

    def head(self) -> Head | None:
        """The next head, once it is whole; the body before it must have been taken. Raises Refused as soon as known."""
        if not self._parsed and not self._skipped and self.ahead.startswith(b"\r\n"):
            self.ahead, self._skipped = self.ahead[2:], True  # RFC 9112 2.2: an empty line before, but one only
        raw = self.ahead
        if not raw or raw == b"\r":
            return None
        end = raw.find(_END, max(0, self._parsed - 3))
        upto = end + 4 if end >= 0 else len(raw)
        self._within_limits(raw, upto)
        if self._parser is None:
            self._seen = _Seen()
            self._parser = HttpRequestParser(self._seen)
        self._parse(raw[self._parsed : upto])
        self._parsed = upto
        if self._seen.head_ended != (end >= 0):
            raise Refused(400, "the head of the request does not end where it should")
        if end < 0:
            return None
        self.ahead, self._parsed, self._skipped = raw[upto:], 0, False
        head = self._checked(raw)
        self._left, self._taken, self._framing, self._tail = head.length, 0, 0, b""
        self.body_done, self._parser = head.length == 0, None  # with a length, the rest is counting
        if head.length is None:
            # Another parser, and other fields: a wish to upgrade makes the first one skip the body, and trailers may
            # not change what was decided on the head.
            self._seen = _Seen()
            self._parser = HttpRequestParser(self._seen)
            self._parse(_CHUNKS_FOLLOW)
        return head

    def body(self) -> bytes:
        """What has come of the body since the last time; `body_done` says whether that was all."""
        if self.body_done:
            return b""
        if self._left is None:
            return self._chunks()
        data = self.ahead
        if len(data) <= self._left:
            self.ahead = b""
        else:
            data, self.ahead = data[: self._left], data[self._left :]
        self._left -= len(data)
        self._taken += len(data)
        self.body_done = self._left == 0
        return data

    @property
    def taken(self) -> int:
        """Bytes of the present body, so far."""
        return self._taken

    def _within_limits(self, raw: bytes, upto: int) -> None:
        """Before the parser sees it, so that what is too long is called that however it came."""
        limits = self.limits
        if upto > limits.start_line and raw.find(b"\r\n", 0, limits.start_line) < 0:
            raise Refused(414, f"the request line is longer than {limits.start_line} bytes")
        if upto > limits.head:
            raise Refused(431, f"the head of the request is longer than {limits.head} bytes")

    def _parse(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # RFC 9110 7.8 lets a server ignore the wish; who does not has the stream: asgi/exchange.py
        except HttpParserError as error:
            raise Refused(400, f"not HTTP/1.1: {str(error).lower()}") from error
        if len(self._seen.fields) > self.limits.fields:
            raise Refused(431, f"the request has more than {self.limits.fields} header fields")

    def _checked(self, raw: bytes) -> Head:
        """The head, once what the parser lets through is refused."""
        start = _START_LINE.match(raw)
        if start is None:
            raise Refused(400, "the first line is not that of a request of HTTP/1.0 or HTTP/1.1")
        method, target, minor = start.groups()
        version = "1.1" if minor == b"1" else "1.0"
        hosts, connection, codings, expects, length = 0, b"", 0, b"", 0
        host = b""
        for name, value in self._seen.fields:
            if name not in _SPECIAL:
                continue
            if name == b"host":
                host, hosts = value, hosts + 1
            elif name == b"content-length":
                length = int(value)  # digits, and only once: the parser's work
            elif name == b"connection":
                connection += b"," + value.lower()
            elif name == b"expect":
                expects = value.lower()
            else:
                codings += 1
                if codings > 1 or value.lower() != b"chunked" or version == "1.0":
                    raise Refused(400, "of transfer codings only a single chunked is understood, in HTTP/1.1")
        _check_host(hosts, host, version)
        if length > self.limits.body:
            raise Refused(413, f"the body is longer than {self.limits.body} bytes")
        if expects and expects != b"100-continue":
            raise Refused(417, "the only expectation that is understood is 100-continue")
        raw_path, query = _split_target(method, target, host)
        closing = version == "1.0" or (connection and b"close" in [t.strip() for t in connection.split(b",")])
        path = raw_path.decode("ascii")
        return Head(
            method=method.decode("ascii"),
            raw_path=raw_path,
            path=unquote(path) if "%" in path else path,
            query=query,
            version=version,
            fields=self._seen.fields,
            length=None if codings else length,
            keep_alive=not closing,
            expects_continue=bool(expects) and version == "1.1",
            upgrades=b"upgrade" in connection,
        )

    def _chunks(self) -> bytes:
        """Give the parser what can only be this body's: a chunked body ends with an empty line and nowhere else."""
        data, seen, begin = self.ahead, self._seen, 0
        while begin < len(data) and not seen.ended:
            upto = self._next_end(data, begin)
            self._tail = (self._tail + data[max(begin, upto - 3) : upto])[-3:]
            self._parse(data[begin:upto])
            begin = upto
        self.ahead = data[begin:]
        body = b"".join(seen.body)
        seen.body.clear()
        self._taken += len(body)
        self._framing += begin - len(body)
        if seen.ended:
            self.body_done, self._parser = True, None
        if self._taken > self.limits.body:
            raise Refused(413, f"the body is longer than {self.limits.body} bytes")
        if self._framing > _FRAMING_SLACK + self._taken:
            raise Refused(413, "the chunks, their extensions and trailers take more than what they carry")
        return body

    def _next_end(self, data: bytes, begin: int) -> int:
        """Where the next empty line ends, begun in `_tail` perhaps; else the end of `data`."""
        straddling = self._tail + data[begin : begin + 3]
        found = straddling.find(_END)
        if found >= 0:
            return begin + found + 4 - len(self._tail)
        found = data.find(_END, begin)
        return found + 4 if found >= 0 else len(data)


def _check_host(hosts: int, host: bytes, version: str) -> None:
    """RFC 9112 3.2: exactly one, and one that can be read in one way only."""
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise Refused(400, "a request has exactly one Host field")
    if hosts and not _AUTHORITY.fullmatch(host):
        raise Refused(400, "the Host field is not a host with or without a port")


def _split_target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Path and query of the request target (RFC 9112 3.2): origin form, absolute form that agrees with Host, or *."""
    if b"#" in target:
        raise Refused(400, "a request target has no fragment")
    if method == b"CONNECT":
        raise Refused(501, "this server is no tunnel")
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return path, query
    if target == b"*" and method == b"OPTIONS":
        return target, b""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or absolute[1].lower() != host.lower():
        raise Refused(400, "the request target is neither a path nor a URL of this host")
    return absolute[2] or b"/", (absolute[3] or b"?")[1:]

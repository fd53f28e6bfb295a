"""HTTP/1.1 requests to one origin, over connections that are kept: trio streams, httptools' parser.

Rule: nothing of MCP here, and no task for a request: who asks awaits the answer itself. As many connections as there
are requests at once; who calls bounds those. A connection is used again only where its last answer came to its end
and nothing after it, and only for less time than servers keep one (5 s, as uvicorn and Node do). RFC 9112.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Final, Protocol

import trio
from attrs import define, field
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from mcpactors.transports.http_client.reasons import reason_of, speaks_tls

__all__ = ["Answer", "AnswerLost", "Exchange", "NotReached", "Pool", "PoolClosed"]

CONNECT_TIMEOUT: Final = 10.0
KEPT_FOR: Final = 4.0
"""Seconds an idle connection may be used again."""
HEAD_LIMIT: Final = 64 * 1024
READ_SIZE: Final = 64 * 1024
TAIL_TIMEOUT: Final = 1.0
"""Seconds for the end of an answer of which all that matters has been read."""


class NotReached(Exception):
    """No connection: nothing was sent. The message completes "cannot be reached: ..."."""


class AnswerLost(Exception):
    """The request was sent, or a part of it, and its answer did not come whole; the message completes "it ...".

    `stale`: the connection had been idle and its other end closed it before any byte of an answer, as a server does
    that has not seen the request; it may have seen it all the same (RFC 9110 9.2.2).
    """

    def __init__(self, why: str, *, stale: bool = False) -> None:
        super().__init__(why)
        self.stale = stale


class PoolClosed(Exception):
    """We have closed the connections ourselves."""


class Answer(Protocol):
    """A response: its head has come."""

    @property
    def status(self) -> int: ...

    @property
    def fields(self) -> Mapping[str, str]:
        """By their names in lower case; those of one name joined by commas."""
        ...

    @property
    def pieces(self) -> int:
        """How many pieces of the body what was last received is of."""
        ...

    async def receive(self) -> bytes:
        """What has come of the body; `b""` at its end. Raises `AnswerLost`, `PoolClosed`."""
        ...

    async def aclose(self, *, done: bool) -> None:
        """No more of it is wanted. `done`: it has said what it had to, and its end is about to come."""
        ...


class Exchange(Protocol):
    """Sends requests to one origin."""

    async def send(
        self, method: str, target: str, fields: Mapping[str, str], body: bytes, *, fresh: bool = False
    ) -> Answer:
        """Raises `NotReached`, `AnswerLost`, `PoolClosed`. `fresh`: on a connection that nobody has used."""
        ...

    async def run(self) -> None:
        """Whatever the connections need that are idle; runs beside the requests."""
        ...

    async def aclose(self) -> None:
        """Close everything, under whoever uses it."""
        ...


class _Connection:
    """A stream; while it is idle, until when it may be used, and the answer whose end has not come."""

    __slots__ = ("_socket", "stream", "tail", "until", "used")

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream: trio.abc.Stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else stream.transport_stream.socket
        self.used = False
        self.until = 0.0
        self.tail: _Answer | None = None

    @property
    def readable(self) -> bool:
        """Whether something has come, or the other end has closed."""
        return self._socket.is_readable()

    def close(self) -> None:
        self._socket.close()


class _Answer:
    """A response as it comes; httptools calls the `on_` methods."""

    def __init__(self, pool: Pool, connection: _Connection) -> None:
        self._pool = pool
        self._connection = connection
        self._parser = HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._head_size = 0
        self._headed = False
        self._framed = True
        self._keep = False
        self.whole = False
        self.status = self.pieces = 0
        self.fields: dict[str, str] = {}

    # --- What the parser finds ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.whole:
            self._keep = False  # more than was asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:  # else a trailer
            key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
            self.fields[key] = f"{self.fields[key]}, {text}" if key in self.fields else text

    def on_headers_complete(self) -> None:
        if self.whole:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self.fields.clear()
            return
        self.status, self._headed = status, True
        self._framed = "content-length" in self.fields or "transfer-encoding" in self.fields or status in (204, 304)
        self._keep = self._framed and self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        if not self.whole:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        self.whole = self._headed

    # --- Reading --------------------------------------------------------------------------------------------------

    async def head(self) -> None:
        """Wait for the head."""
        while not self._headed:
            await self._read()

    async def receive(self) -> bytes:
        while not self._parts:
            if self.whole:
                return b""
            await self._read()
        parts, self._parts = self._parts, []
        self.pieces = len(parts)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read(self) -> None:
        try:
            data = await self._connection.stream.receive_some(READ_SIZE)
        except trio.ClosedResourceError:
            raise PoolClosed from None
        except (trio.BrokenResourceError, OSError) as error:
            raise self._lost(f"broke the connection: {reason_of(error)}") from error
        if not data:
            if self._framed or not self._headed:
                raise self._lost("closed the connection")
            self.whole = True
            return
        if not self._headed:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            raise AnswerLost("wants another protocol than HTTP") from None
        except HttpParserError as error:
            if speaks_tls(data) and self._pool.tls is None and not self._pool.answered:
                raise AnswerLost("speaks TLS; try https://") from error
            raise AnswerLost(f"does not speak HTTP/1.1: {str(error).lower()}") from error
        if self._head_size > HEAD_LIMIT and (not self._headed or self._head_size > HEAD_LIMIT + READ_SIZE):
            raise AnswerLost(f"sent a head of more than {HEAD_LIMIT} bytes")

    def _lost(self, why: str) -> AnswerLost:
        if self._headed:
            return AnswerLost(f"{why} before its reply was whole")
        unknown = not (self._head_size or self._pool.answered or self._pool.tls)
        advice = " (if it speaks TLS, try https://)" if unknown else ""
        return AnswerLost(f"{why} before it replied{advice}", stale=self._connection.used and not self._head_size)

    # --- Its end --------------------------------------------------------------------------------------------------

    async def aclose(self, *, done: bool) -> None:
        self.end(done=done)

    def end(self, *, done: bool) -> None:
        """Keep the connection, if it can be used again, or close it."""
        self._pool.ended(self, self._connection, kept=done and self._keep and not self._parts)

    @property
    def kept_for(self) -> float:
        """Seconds that the server keeps the connection: `Keep-Alive: timeout=5` takes precedence over our guess."""
        _, found, seconds = self.fields.get("keep-alive", "").lower().partition("timeout=")
        digits = seconds.split(",")[0].strip()
        return min(KEPT_FOR, int(digits) - 1) if found and digits.isdigit() and len(digits) < 6 else KEPT_FOR

    async def reaches_its_end(self) -> bool:
        """Read on: something has come. True when that was the end and nothing else."""
        self._parts.clear()
        try:
            with trio.move_on_after(TAIL_TIMEOUT):
                await self._read()
        except (AnswerLost, PoolClosed):
            return False
        return self.whole and self._keep and not self._parts


@define(eq=False)
class Pool:
    """An `Exchange` of our own. `fields` go with every request."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    fields: Mapping[str, str]
    answered: bool = field(default=False, init=False)
    """Whether anything has ever been."""
    _idle: list[_Connection] = field(factory=list, init=False)  # the last used last
    _busy: set[_Connection] = field(factory=set, init=False)
    _some_idle: trio.Event = field(factory=trio.Event, init=False)
    _closed: bool = field(default=False, init=False)
    _head: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._head = _lines(self.fields)

    async def send(
        self, method: str, target: str, fields: Mapping[str, str], body: bytes, *, fresh: bool = False
    ) -> _Answer:
        length = f"content-length: {len(body)}\r\n" if body else ""
        head = f"{method} {target} HTTP/1.1\r\n{self._head}{_lines(fields)}{length}\r\n"
        connection = (None if fresh else await self._borrow()) or await self._connect()
        if self._closed:
            connection.close()
            raise PoolClosed
        self._busy.add(connection)
        answer = _Answer(self, connection)
        try:
            try:
                await connection.stream.send_all(head.encode("ascii") + body)
            except trio.BrokenResourceError:
                pass  # it may have answered without reading all, and closed; if not, reading says why
            except trio.ClosedResourceError:
                raise PoolClosed from None
            await answer.head()
        except BaseException:
            answer.end(done=False)
            raise
        self.answered = True
        return answer

    def ended(self, answer: _Answer, connection: _Connection, *, kept: bool) -> None:
        """This answer is not read any more."""
        if connection not in self._busy:
            return
        self._busy.discard(connection)
        if not kept or self._closed:
            connection.close()
            return
        connection.used = True
        connection.tail = None if answer.whole else answer
        connection.until = trio.current_time() + answer.kept_for
        self._idle.append(connection)
        if not self._some_idle.is_set():
            self._some_idle.set()

    async def _borrow(self) -> _Connection | None:
        """An idle connection that can be used."""
        unfinished = []
        found = None
        while self._idle and found is None:
            connection = self._idle.pop()
            tail, readable = connection.tail, connection.readable
            if connection.until <= trio.current_time() or (tail is None and readable):
                connection.close()
            elif tail is None:
                found = connection
            elif not readable:
                unfinished.append(connection)
            else:
                self._busy.add(connection)
                try:
                    ended = await tail.reaches_its_end()
                except BaseException:
                    connection.close()
                    raise
                finally:
                    self._busy.discard(connection)
                    self._idle[:0], unfinished = unfinished, []
                if ended:
                    found = connection
                else:
                    connection.close()
        self._idle[:0] = unfinished
        return found

    async def _connect(self) -> _Connection:
        stream = None
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                stream = await trio.open_tcp_stream(self.host, self.port)
                _notice_death(stream)
                if self.tls is None:
                    return _Connection(stream)
                secured = trio.SSLStream(stream, self.tls, server_hostname=self.host, https_compatible=True)
                await secured.do_handshake()
                return _Connection(secured)
        except BaseException as error:
            if stream is not None:
                stream.socket.close()
            if isinstance(error, trio.TooSlowError):
                raise NotReached(f"no connection within {CONNECT_TIMEOUT:g} s") from None
            if isinstance(error, OSError | trio.BrokenResourceError):
                raise NotReached(reason_of(error)) from error
            raise

    async def run(self) -> None:
        while True:
            await self._some_idle.wait()
            while self._idle:
                await trio.sleep_until(min(connection.until for connection in self._idle))
                now = trio.current_time()
                self._idle, old = (
                    [connection for connection in self._idle if connection.until > now],
                    [connection for connection in self._idle if connection.until <= now],
                )
                for connection in old:
                    connection.close()
            self._some_idle = trio.Event()

    async def aclose(self) -> None:
        self._closed = True
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()
        self._busy.clear()


def _lines(fields: Mapping[str, str]) -> str:
    """Raises ValueError: a field would be more than one line."""
    text = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    if text.count("\n") != len(fields) or text.count("\r") != len(fields) or not text.isascii():
        raise ValueError("a header field has a line break, or a character that is not ASCII, in it")
    return text


def _notice_death(stream: trio.SocketStream) -> None:
    """A stream that waits for what may never come is told when the other machine is gone."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

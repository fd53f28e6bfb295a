"""One HTTP request and its response, as an ASGI 3 application sees them: `scope`, `receive`, `send`.

Rule: nothing here starts a task. The body is read, and the client's leaving seen, in the task of the application that
waits in `receive`; so a request costs the host no task, and an application that asks for nothing is told nothing.
https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import trio
from attrs import define, field
from trio.abc import Stream

from mcpactors.transports.asgi.parse import Head, Refused
from mcpactors.transports.asgi.wire import AHEAD, ClientGone, Wire

__all__ = ["STOPPING", "UPGRADE", "ASGIApp", "Exchange", "Message", "Receive", "Scope", "Send", "plain_response"]

logger = logging.getLogger("mcpactors.http")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Upgraded = Callable[[Stream, bytes], Awaitable[None]]

STOPPING: Final = "mcpactors.stopping"
"""In the `state` of a scope: an event that is set when what serves begins to stop."""
UPGRADE: Final = "mcpactors.upgrade"
"""In the `extensions` of a scope: `Exchange.upgrade`."""
BODY_RATE: Final = 8 * 1024
"""Bytes a second that a body has to come at, once the body timeout is spent."""

LARGE: Final = 64 * 1024
"""Bytes of a body that is not copied behind its head, for one system call less."""
RETRY: Final = b"retry-after: 1\r\n"
"""Whoever is not served now is told when to come again, also by applications that do not care."""
_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_OURS: Final = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"content-length", b"date"))
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_COMMENT: Final = b":\n\n"
_EVENT_ENDS: Final = (b"\n\n", b"\r\n\r\n")


@define(eq=False)
class Exchange:
    """A request that is being answered. `scope` is its ASGI scope; `run` is called once."""

    head: Head
    wire: Wire
    scope: Scope
    body_timeout: float
    closing: bool
    """Whether the connection ends with this exchange; also read when it is over."""
    upgraded: Callable[[], Awaitable[None]] | None = field(default=None, init=False)
    """What the connection is for when this is over; see `upgrade`."""
    lasting: bool = False
    """It goes on until somebody ends it: a stop tells the application that the client has left."""
    _start: Message | None = field(default=None, init=False)
    _begun: bool = field(default=False, init=False)  # the head of the response is on its way
    _done: bool = field(default=False, init=False)  # the application has said the last of it
    _sent: bool = field(default=False, init=False)  # which was sent
    _chunked: bool = field(default=False, init=False)
    _bodiless: bool = field(default=False, init=False)
    _owed: int | None = field(default=None, init=False)  # bytes of the body that was announced
    _refused: Refused | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)
    _between: bool = field(default=False, init=False)  # events, of an application that sends whole ones
    _delivered: bool = field(default=False, init=False)  # the end of the request's body, to the application
    _waited: float = field(default=0.0, init=False)
    _receiving: bool = field(default=False, init=False)
    _received: trio.Event | None = field(default=None, init=False)  # for who waits until another has
    _watch: trio.CancelScope | None = field(default=None, init=False)

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer, and end the response however it ended. `closing` says what is left to do."""
        failed = False
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:
            failed = self._log(error)
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if cancelled is None or (rest is not None and not isinstance(rest, ExceptionGroup)):
                raise
            if rest is not None:
                self._log(rest)
            raise cancelled from None
        if not self._done:
            await self._end_for(failed)
        if not self._sent or not self.wire.reader.body_done or self.wire.gone:
            self.closing = True

    @property
    def halfway(self) -> bool:
        """Whether the client has been sent some of a response and not all of it."""
        return self._begun and not self._sent

    def stop(self) -> None:
        """The server stops: no further request, and an exchange that would last is told that its client has left."""
        self.closing = True
        if self.lasting:
            self._stopped = True
            self._wake()

    # --- ASGI ---------------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """`http.request` until the body is whole, then `http.disconnect` once the client has left or is answered."""
        if not self._delivered and self._refused is None:
            part = self._part()
            if part is not None:
                return part
        while self._receiving:
            if self._received is None:
                self._received = trio.Event()
            await self._received.wait()
        if self._over:
            await trio.lowlevel.checkpoint()
            return {"type": "http.disconnect"}
        self._receiving = True
        try:
            return await (self._departure() if self._delivered else self._next_part())
        finally:
            self._receiving = False
            if self._received is not None:
                self._received.set()
                self._received = None

    async def send(self, message: Message) -> None:
        """`http.response.start`, then `http.response.body` to the end. Raises ClientGone once nobody reads it.

        Raises:
            RuntimeError: the messages do not come in that order, or the body is not as long as was announced.
            ValueError: a status that is none, or a header field that would end too early.
        """
        kind = message["type"]
        if self._refused is not None or self.wire.broken:
            raise ClientGone("the client has gone")
        if kind == "http.response.start" and self._start is None:
            if not 200 <= message["status"] <= 999:
                raise ValueError(f"{message['status']} is not the status of a response")
            self._start = message
            if _is_event_stream(message):  # whose client waits to know that it listens, however long nothing happens
                self._between = True
                await self._send_body(b"", True)
        elif kind == "http.response.body" and self._start is not None and not self._done:
            await self._send_body(bytes(message.get("body", b"")), bool(message.get("more_body", False)))
        else:
            raise RuntimeError(f"{kind} is not what may be sent now")

    async def upgrade(self, fields: Iterable[tuple[bytes, bytes]], serve: Upgraded) -> None:
        """Answer 101 and give the connection away, with every wait on the client.

        Once the application has returned, `serve` is called with the stream, and with what has come on it behind the
        request's head; nothing of the request is kept meanwhile. Raises ClientGone.
        """
        if self._start is not None or not self.wire.reader.body_done:
            raise RuntimeError("only a request that is not answered and has no body can be upgraded")
        self._start, self._begun, self._done, self._sent = {}, True, True, True
        self.closing = True
        lines = [_STATUS_LINES[101], *(b"%b: %b\r\n" % (name, value) for name, value in fields)]
        await self.wire.write(_ended(lines, False, False))
        self.upgraded = partial(serve, self.wire.stream, self.wire.reader.ahead)

    # --- The request --------------------------------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return self._sent or self._stopped or self._refused is not None or self.wire.gone

    def _part(self) -> Message | None:
        """What has come of the body, or its end."""
        reader = self.wire.reader
        try:
            data = reader.body()
        except Refused as refused:
            self._refused = refused
            return {"type": "http.disconnect"}
        if not data and not reader.body_done:
            return None
        self._delivered = reader.body_done
        return {"type": "http.request", "body": data, "more_body": not reader.body_done}

    async def _next_part(self) -> Message:
        reader = self.wire.reader
        if self.head.expects_continue and not self._begun and not reader.taken:
            self.head.expects_continue = False
            await self.wire.gather(_CONTINUE)
        part = None
        while part is None and not self._over:
            began = trio.current_time()
            if await self.wire.read(began + self.body_timeout + reader.taken / BODY_RATE - self._waited):
                part = self._part()
            self._waited += trio.current_time() - began
        return part or {"type": "http.disconnect"}

    async def _departure(self) -> Message:
        with trio.CancelScope() as self._watch:
            while len(self.wire.reader.ahead) < AHEAD:
                if not await self.wire.read():
                    await self.wire.until_gone(self._nothing)
                    return {"type": "http.disconnect"}
            await trio.sleep_forever()
        return {"type": "http.disconnect"}

    def _nothing(self) -> bytes | None:
        """What means nothing to the client, if there is such a thing: an interim response, or a comment of events."""
        if self._done:
            return b""
        if not self._begun:
            return _CONTINUE if self.head.version == "1.1" else None
        return self._framed(_COMMENT, True) if self._between and self._owed is None and not self._bodiless else None

    def _wake(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    # --- The response -------------------------------------------------------------------------------------------------

    async def _send_body(self, body: bytes, more: bool) -> None:
        head = b"" if self._begun else self._response_head(None if more else len(body))
        data = b"" if self._bodiless else self._framed(body, more)
        self._begun = True
        if body:
            self._between = self._between and body.endswith(_EVENT_ENDS)
        try:
            if more:
                await self.wire.gather(head + data)
                return
            self._done = True
            if head and len(data) > LARGE:
                await self.wire.write(head)
            else:
                data = head + data
            await self.wire.write(data)
        except trio.Cancelled:  # by the application, of its own sending: what the client has of it, nobody knows
            self.wire.broken = True
            raise
        if self._owed:
            raise RuntimeError(f"the body is {self._owed} bytes shorter than content-length said")
        self._sent = True  # not before: an application that is told takes its answer for sent, and may cancel it
        self._wake()

    def _framed(self, body: bytes, more: bool) -> bytes:
        if self._owed is not None:
            if len(body) > self._owed:
                self.closing = True
                raise RuntimeError("the body is longer than content-length said")
            self._owed -= len(body)
            return body
        if not self._chunked:
            return body
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk if more else chunk + b"0\r\n\r\n"

    def _response_head(self, length: int | None) -> bytes:
        """The head, and how the body will be told from what follows; `length` is the body's where that is known."""
        assert self._start is not None
        status, declared, dated = int(self._start["status"]), None, False
        parts = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode()]
        for name, value in self._start.get("headers", ()):
            lower = bytes(name).lower()
            if lower in _OURS:
                if lower == b"content-length":
                    declared = int(value)
                elif lower == b"connection" and b"close" in bytes(value).lower():
                    self.closing = True
                dated = dated or lower == b"date"
                if lower != b"date":
                    continue
            parts.append(b"%b: %b\r\n" % (name, value))
        if status == HTTPStatus.SERVICE_UNAVAILABLE and not any(p.lower().startswith(b"retry-after:") for p in parts):
            parts.append(RETRY)
        empty = status == HTTPStatus.NO_CONTENT
        self._bodiless = empty or status == HTTPStatus.NOT_MODIFIED or self.head.method == "HEAD"
        length = declared if declared is not None else length
        if length is not None and not empty:
            if declared is not None or status != HTTPStatus.NOT_MODIFIED:
                parts.append(b"content-length: %d\r\n" % length)
            self._owed = None if self._bodiless else length
        elif self.head.version == "1.1" and not self._bodiless:
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        if not self.wire.reader.body_done or (not self._chunked and self._owed is None and not self._bodiless):
            self.closing = True
        return _ended(parts, dated, self.closing)

    # --- The end ------------------------------------------------------------------------------------------------------

    async def _end_for(self, failed: bool) -> None:
        """The application has gone without ending the response. Half a response is left half, so that it is seen."""
        self._done = True
        try:
            if self._begun:
                if self._stopped and not failed and self._chunked:
                    await self.wire.write(b"0\r\n\r\n")
                else:
                    await self.wire.flush()
            elif self._refused is not None:
                await self.wire.write(plain_response(self._refused.status, self._refused.why))
            elif not self.wire.gone:
                if self._stopped:
                    await self.wire.write(plain_response(503, "the server stops"))
                else:
                    if not failed:
                        logger.error("%s %s was not answered", self.head.method, self.head.path)
                    await self.wire.write(plain_response(500, "the server failed to answer"))
        except ClientGone:
            pass
        self.closing = True

    def _log(self, error: Exception) -> bool:
        """Whether it counts as a failure: of an application whose client has left, nothing is expected."""
        group = error if isinstance(error, ExceptionGroup) else ExceptionGroup("", [error])
        if group.split(OSError)[1] is None and (self.wire.gone or self._refused is not None):
            return False
        if self._over and not self._done:
            logger.debug("%s %s ended with its client", self.head.method, self.head.path, exc_info=error)
        else:
            logger.error("%s %s failed", self.head.method, self.head.path, exc_info=error)
        return True


def plain_response(status: int, why: str) -> bytes:
    """A whole response in the host's own name, after which the connection ends."""
    body = why.encode() + b"\n"
    fields = [b"content-type: text/plain; charset=utf-8\r\n", b"content-length: %d\r\n" % len(body)]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields.append(RETRY)
    return _ended([_STATUS_LINES[status], *fields], False, True) + body


def _is_event_stream(start: Message) -> bool:
    fields = start.get("headers", ())
    return any(name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in fields)


_dated: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, f"date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _dated[1]


def _ended(lines: list[bytes], dated: bool, closing: bool) -> bytes:
    """The lines as one head, with our own fields. Raises ValueError."""
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
        raise ValueError("a header field of the response has a line end or NUL in it")
    return head + (b"" if dated else _date()) + (b"connection: close\r\n\r\n" if closing else b"\r\n")

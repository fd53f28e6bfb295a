"""Connecting to a backend of the HTTP+SSE transport of 2024-11-05: its messages come on one stream, ours are posted.

Rule: where we post is said by the backend, and is at the origin of its stream or nowhere. A message that cannot be
posted costs the call that it is of; the end of the stream is the end of the connection.
MCP 2024-11-05, basic/transports "HTTP with SSE".
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import httpx2
import trio
from attrs import define, field
from mcp.shared.exceptions import MCPError
from pydantic_core import from_json, to_json
from trio.abc import ReceiveStream, SendStream

from mcpactors.errors import CONNECTION_CLOSED, REQUEST_TIMEOUT, UNAVAILABLE, BackendStartError
from mcpactors.runtime.policy import DEFAULT_BACKEND, BackendLimits
from mcpactors.transports.http_client.ask import GET_FIELDS, POST_FIELDS
from mcpactors.transports.http_client.endpoint import Endpoint
from mcpactors.transports.http_client.event_stream import Event, EventReader, EventTooLong, portions
from mcpactors.transports.http_client.faults import error_of, kind_of, refusal, refuse_compressed
from mcpactors.transports.http_client.pace import Pace
from mcpactors.transports.http_client.pool import Answer, AnswerLost, NotReached, PoolClosed
from mcpactors.transports.lines.duplex import connected
from mcpactors.transports.lines.flood import Allowance
from mcpactors.transports.lines.streams import StdioLimits
from mcpactors.transports.streams import Streams

__all__ = ["Arrivals", "sse_client"]

logger = logging.getLogger("mcpactors")

CONNECT_TIMEOUT: Final = 10.0
"""Seconds until the backend has said where to post."""
POST_TIMEOUT: Final = 30.0
"""Seconds for a message, which the backend has only to accept; its answer comes on the stream."""
POSTS: Final = 64
"""Requests that may be on their way at one time."""


@asynccontextmanager
async def sse_client(
    url: str,
    headers: Mapping[str, str] | None = None,
    client: Any = None,
    *,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    taken: BackendLimits = DEFAULT_BACKEND,
    allowance: Allowance | None = None,
) -> AsyncIterator[Streams]:
    """Connect to the stream at `url`; `headers` go with every request there and nowhere else.

    `client`, `ssl_context` and `allowance` are those of `http_dispatcher`.

    Yields the streams from and to it; a nursery block. A stream that ends, ends the read stream.

    Raises:
        BackendStartError: the URL is none, or has not said where to post within `connect_timeout` seconds.
    """
    stream = await Endpoint.at(url, headers or {}, client, ssl_context)
    posts: Endpoint | None = None
    allowance = allowance or Allowance()
    try:
        arrivals = Arrivals(str(stream), taken, allowance)
        try:
            with trio.fail_after(connect_timeout):
                answer = await _open(stream)
                where = _where(url, str(stream), await arrivals.endpoint(answer))
                posts = await Endpoint.at(where, headers or {}, client, ssl_context)
        except trio.TooSlowError:
            raise BackendStartError(f"{stream}: no event stream within {connect_timeout:g} s; check its URL") from None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(posts.run)
            nursery.start_soon(arrivals.run, answer)
            leaving = _Posts(str(stream), posts, arrivals, nursery)
            async with connected(str(stream), arrivals, leaving, StdioLimits.of(taken), allowance) as both:
                yield both
            nursery.cancel_scope.cancel()
    finally:
        for endpoint in (stream, posts):
            if endpoint is not None:
                await endpoint.aclose()


async def _open(stream: Endpoint) -> Answer:
    try:
        answer = await stream.send("GET", GET_FIELDS, b"", safe=True)
    except NotReached as error:
        raise BackendStartError(f"{stream} cannot be reached: {error}") from error
    except (AnswerLost, PoolClosed) as error:
        raise BackendStartError(f"{stream} {error}") from error
    if answer.status == 200 and kind_of(answer.fields) == "text/event-stream":
        return answer
    await answer.aclose(done=False)
    if answer.status == 200:
        raise BackendStartError(f"{stream} is no event stream; a streamable HTTP endpoint has the transport http")
    raise BackendStartError(refusal(str(stream), answer.status, answer.fields).message)


def _where(url: str, name: str, said: str) -> str:
    """The URL to post to. Raises `BackendStartError`: it is of another origin."""
    try:
        base = httpx2.URL(url)
        target = base.join(said)
    except httpx2.InvalidURL as error:
        raise BackendStartError(f"{name} names no URL to post to: {error}") from None
    if (target.scheme, target.host, target.port) != (base.scheme, base.host, base.port):
        raise BackendStartError(f"{name} wants messages posted to another origin, {target.scheme}://{target.host}")
    return str(target.copy_with(userinfo=base.userinfo))


@define(eq=False)
class Arrivals(ReceiveStream):
    """The backend's messages, a line each; and what we say in its stead of messages that could not be posted."""

    name: str
    taken: BackendLimits
    _allowance: Allowance = field(factory=Allowance)
    _reader: EventReader = field(init=False)
    _pace: Pace = field(init=False)  # of what is no message; the others are counted by who reads the lines
    _early: list[Event] = field(factory=list, init=False)
    _wrong: str | None = field(default=None, init=False)
    _lines: tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]] = field(
        factory=lambda: trio.open_memory_channel[bytes](0), init=False
    )

    def __attrs_post_init__(self) -> None:
        self._reader = EventReader(self.taken.message)
        self._pace = Pace(self.taken, lambda: 0, allowance=self._allowance)

    async def endpoint(self, answer: Answer) -> str:
        """What the first event says. Raises `BackendStartError`."""
        try:
            refuse_compressed(self.name, answer)
            while data := await answer.receive():
                for portion in portions(data):
                    self._early += self._reader.feed(portion)
                    await trio.lowlevel.checkpoint()
                if self._early:
                    first = self._early.pop(0)
                    if first.kind != b"endpoint":
                        break
                    return first.data.decode()
        except (AnswerLost, EventTooLong, MCPError, UnicodeDecodeError) as error:
            raise BackendStartError(f"{self.name}: the event stream is none: {error}") from error
        raise BackendStartError(f"{self.name} did not begin its event stream with where to post")

    async def run(self, answer: Answer) -> None:
        """Take what comes until the stream ends."""
        try:
            await self._take([event.data for event in self._early if event.kind == b"message"])
            while self._wrong is None and (data := await answer.receive()):
                messages, wrong = await self._pace.cut(self._reader, data, answer.pieces)
                self._wrong = None if wrong is None else str(wrong)
                await self._take(messages)
                await self._pace.room_for(self._reader)
        except AnswerLost as error:
            logger.debug("%s %s", self.name, error)
        except trio.BrokenResourceError:
            pass  # nobody reads any more
        finally:
            self._pace.leave(self._reader)
            self._lines[0].close()
            await answer.aclose(done=False)

    async def say(self, line: bytes) -> None:
        """Have it read as if it came."""
        try:
            await self._lines[0].send(line)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Raises anyio.BrokenResourceError: the stream was given up."""
        try:
            return await self._lines[1].receive()
        except trio.EndOfChannel:
            if self._wrong is not None:
                raise anyio.BrokenResourceError(f"{self.name} sent {self._wrong}") from None
            return b""

    async def aclose(self) -> None:
        self._lines[1].close()
        await trio.lowlevel.checkpoint()

    async def _take(self, messages: Sequence[bytes]) -> None:
        """Together, so that of a flood it is seen what need not be parsed (`lines/flood.py`)."""
        if messages:  # a line break in them can only be one between tokens
            await self._lines[0].send(b"".join(data.replace(b"\n", b" ") + b"\n" for data in messages))


@define(eq=False)
class _Posts(SendStream):
    """Our messages, each a POST: requests beside one another, all else in its order."""

    _name: str
    _endpoint: Endpoint
    _arrivals: Arrivals
    _nursery: trio.Nursery
    _room: trio.Semaphore = field(factory=lambda: trio.Semaphore(POSTS), init=False)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for line in bytes(data).split(b"\n"):
            if not line:
                continue
            said = from_json(line)
            if "method" in said and "id" in said:
                await self._room.acquire()
                self._nursery.start_soon(self._ask, said["id"], line)
            elif (error := await self._post(line)) is not None:
                logger.debug("%s did not take %s: %s", self._name, said.get("method", "an answer"), error)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _ask(self, identity: Any, line: bytes) -> None:
        try:
            error = await self._post(line)
        finally:
            self._room.release()
        if error is not None:
            said = error.error.model_dump(by_alias=True, mode="json", exclude_none=True)
            await self._arrivals.say(to_json({"jsonrpc": "2.0", "id": identity, "error": said}) + b"\n")

    async def _post(self, line: bytes) -> MCPError | None:
        """Post a message; why it was not taken."""
        data = {"actor": self._name}
        try:
            with trio.fail_after(POST_TIMEOUT):
                answer = await self._endpoint.send("POST", POST_FIELDS, line, safe=False)
                try:
                    if answer.status < 300:
                        return None
                    return await error_of(answer) or refusal(self._name, answer.status, answer.fields)
                finally:
                    await answer.aclose(done=True)
        except NotReached as error:
            return MCPError(UNAVAILABLE, f"{self._name} cannot be reached: {error}", data)
        except AnswerLost as error:
            why = "the outcome is unknown, and nothing was retried"
            return MCPError(CONNECTION_CLOSED, f"{self._name} {error}: {why}", data)
        except PoolClosed:
            return MCPError(CONNECTION_CLOSED, "Connection closed")
        except trio.TooSlowError:
            return MCPError(REQUEST_TIMEOUT, f"{self._name} did not take the message in {POST_TIMEOUT:g} s", data)

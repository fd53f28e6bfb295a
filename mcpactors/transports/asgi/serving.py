"""An HTTP/1.1 host for any ASGI 3 application, on trio streams.

Rule: knows neither MCP nor sockets: it takes trio listeners, so TCP, TLS and Unix sockets are the caller's choice. A
connection is one task (a second one only while a streamed response is being written), and whatever goes wrong in it,
in the application too, stays in it. Promises F19, F21; the limits of promises.md.
"""

from __future__ import annotations

import errno
import logging
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from attrs import define, field, frozen
from trio.abc import Listener, Stream

try:
    import resource
except ImportError:  # Windows counts no descriptors
    resource = None  # type: ignore[assignment,unused-ignore]

from mcpactors.runtime.policy import DEFAULT_CLIENTS
from mcpactors.transports.asgi.exchange import UPGRADE, ASGIApp, Exchange, Scope, plain_response
from mcpactors.transports.asgi.parse import Head, ParseLimits, Refused, RequestReader
from mcpactors.transports.asgi.unread import UNREAD, Unread, to_drop
from mcpactors.transports.asgi.wire import ClientGone, Wire

__all__ = ["HTTPHost", "HostLimits", "HostStatistics", "serve"]

logger = logging.getLogger("mcpactors.http")

LOOK: Final = 1.0
"""Seconds between two looks at who is late."""
LAST_WORD: Final = 1.0
"""Seconds for a response in the host's own name to somebody who may not be reading."""
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


@frozen
class HostLimits:
    """Times in seconds. What a client is late with is found within a second (`LOOK`) of these."""

    parse: ParseLimits = ParseLimits()
    head_timeout: float = DEFAULT_CLIENTS.head_timeout
    """From the first byte of a request (of a connection's first one: from its beginning) to the end of its head."""
    body_timeout: float = 10.0
    """That the application may wait for a body in all, and a second more for each 8 KiB that came."""
    idle_timeout: float = 75.0
    """Between two requests. Longer than what clients keep connections for, so that none writes into a closing one."""
    send_timeout: float = 30.0
    """Without the client's taking anything of what it is sent."""
    linger: float = 1.0
    """That a client is listened to after the last word to it."""
    drain: float = 30.0
    connections: int = 10_000
    """Above, a client is answered 503 and Retry-After."""
    turned_away: int = 64
    """Clients that are being answered so; above, a connection is closed without a word."""
    unread: int = DEFAULT_CLIENTS.unread
    """Bytes that wait for all clients together; above, connections of clients that do not keep up are closed."""


@frozen
class HostStatistics:
    """What a host has now (`connections`, `in_flight`) and has done (`requests`, `turned_away`)."""

    connections: int
    in_flight: int
    requests: int
    turned_away: int


def _room() -> int:
    """Three quarters of the descriptors that this process may have."""
    if resource is None:
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft * 3 // 4


@define(eq=False)
class HTTPHost:
    """What serves while a `serve` block lasts."""

    app: ASGIApp
    limits: HostLimits
    lasting: Callable[[Scope], bool]
    state: Mapping[str, Any] | None = None
    room: int = field(factory=_room, init=False)
    """Connections for which there are descriptors, those of backends left to them."""
    stopping: bool = field(default=False, init=False)
    connections: set[_Connection] = field(factory=set, init=False)
    requests: int = field(default=0, init=False)
    _away: int = field(default=0, init=False)
    _away_now: int = field(default=0, init=False)
    _empty: trio.Event = field(factory=trio.Event, init=False)

    def statistics(self) -> HostStatistics:
        """A snapshot."""
        in_flight = sum(connection.exchange is not None for connection in self.connections)
        return HostStatistics(len(self.connections), in_flight, self.requests, self._away)

    async def accept(self, listener: Listener[Stream], nursery: trio.Nursery) -> None:
        """Give every client of the listener a task of `nursery`; closes the listener."""
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _EXHAUSTED:
                        raise
                    logger.error("no connection can be accepted: %s", error.strerror)
                    await trio.sleep(0.1)
                    continue
                if len(self.connections) < min(self.limits.connections, self.room):
                    connection = _Connection(self, stream)
                    self.connections.add(connection)
                    nursery.start_soon(connection.run)
                else:
                    self._away += 1
                    self._away_now += 1
                    nursery.start_soon(self._turn_away, stream)

    async def look(self) -> None:
        """End the connections of clients that are late, for ever."""
        while True:
            await trio.sleep(LOOK)
            await trio.lowlevel.checkpoint()  # whoever could send in this pass has had the chance
            now = trio.current_time()
            for connection in self.connections:
                connection.end_if_late(now)
            await self._drop_unread()

    async def _drop_unread(self) -> None:
        dropped = to_drop([connection.unread for connection in self.connections], self.limits.unread)
        if dropped:
            size = sum(unread.waiting for unread in dropped)
            said = "more than %d bytes wait for clients; %d connections end of which nothing is taken, with %d of them"
            logger.warning(said, self.limits.unread, len(dropped), size)
            for connection in [each for each in self.connections if each.unread in dropped]:
                await connection.drop()

    async def drain(self) -> None:
        """Close what is idle, let what is in flight end; returns after the drain time, whatever has not."""
        self.stopping = True
        for connection in list(self.connections):
            connection.stop()
        with trio.move_on_after(self.limits.drain):
            while self.connections:
                self._empty = trio.Event()
                await self._empty.wait()

    def ended(self, connection: _Connection) -> None:
        """A connection is over."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    async def _turn_away(self, stream: Stream) -> None:
        """Answer 503 without having read a word."""
        try:
            if self._away_now <= self.limits.turned_away:
                with trio.move_on_after(LAST_WORD + self.limits.linger):
                    async with trio.open_nursery() as nursery:
                        wire = Wire(stream, RequestReader(self.limits.parse), nursery, math.inf)
                        await wire.write(plain_response(503, "too many connections; try again"))
                        await wire.linger(self.limits.linger)
        except ClientGone:
            pass
        except Exception as error:
            logger.debug("a client that was turned away", exc_info=error)
        finally:
            self._away_now -= 1
            await trio.aclose_forcefully(stream)


@define(eq=False)
class _Connection:
    """One client, from its accepting to its close."""

    host: HTTPHost
    stream: Stream
    unread: Unread = field(factory=Unread, init=False)
    exchange: Exchange | None = field(default=None, init=False)
    _scope: trio.CancelScope | None = field(default=None, init=False)
    _wire: Wire | None = field(default=None, init=False)
    _upgraded: Callable[[], Awaitable[None]] | None = field(default=None, init=False)
    _late: bool = field(default=False, init=False)  # with sending
    _awaited: bool = field(default=False, init=False)  # a request has begun to come
    _halfway: bool = field(default=False, init=False)  # in the response that was the last
    _facts: Scope = field(factory=dict, init=False)

    async def run(self) -> None:
        """Serve the client's requests, one after the other; nothing but a cancellation from outside gets out."""
        try:
            await self._speak_http()
            if self._upgraded is not None:
                await self._upgraded()
        except Exception as error:
            logger.error("a connection failed", exc_info=error)
        finally:
            self.host.ended(self)
            await trio.aclose_forcefully(self.stream)

    async def _speak_http(self) -> None:
        limits = self.host.limits
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            wire = self._wire = Wire(
                self.stream, RequestReader(limits.parse), nursery, limits.send_timeout, self.unread
            )
            try:
                await self._serve(wire)
            finally:
                wire.over = True
        self._wire, self._scope, self._facts = None, None, {}
        if self._late and self._awaited and not self._halfway:
            await self._tell_late(wire)

    def stop(self) -> None:
        """The server stops: an idle connection ends at once, another one with what it is at."""
        if self.exchange is not None:
            self.exchange.stop()
        elif not self._awaited and self._scope is not None:
            self._scope.cancel()

    def end_if_late(self, now: float) -> None:
        """Cancel what runs for this client, if the client has let it wait for too long."""
        wire, scope = self._wire, self._scope
        if wire is not None and scope is not None and (wire.read_by <= now or wire.write_by <= now):
            self._late = wire.read_by <= now < wire.write_by
            scope.cancel()

    async def drop(self) -> None:
        """Cancel what runs for this client, or take the stream from whoever has been given it."""
        if self._scope is not None:
            self._scope.cancel()
        elif self._upgraded is not None:
            await trio.aclose_forcefully(self.stream)

    async def _serve(self, wire: Wire) -> None:
        try:
            while True:
                head = await self._next_head(wire)
                if head is None or not await self._answer(head, wire):
                    break
        except Refused as refused:
            await wire.flush()
            await wire.write(plain_response(refused.status, refused.why))
        except ClientGone:
            return
        if self._upgraded is None and not wire.gone:
            await wire.linger(self.host.limits.linger)

    async def _next_head(self, wire: Wire) -> Head | None:
        """The next request, or None when there will not be one."""
        limits, reader = self.host.limits, wire.reader
        first = not self._facts
        self._awaited = bool(reader.ahead)
        now = trio.current_time()
        by = now + (limits.head_timeout if first or self._awaited else limits.idle_timeout)
        while (head := reader.head()) is None:
            if self.host.stopping and not self._awaited:
                return None
            if not await wire.read(by):
                return None
            if not self._awaited:
                self._awaited = True
                by = by if first else trio.current_time() + limits.head_timeout
        return head

    async def _answer(self, head: Head, wire: Wire) -> bool:
        """Let the application answer; False when the connection has to end."""
        host = self.host
        if not self._facts:
            self._facts = _facts(self.stream)
        scope: Scope = {
            **self._facts,
            "http_version": head.version,
            "method": head.method,
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.fields,
            "extensions": {UNREAD: self.unread},
        }
        if host.state is not None:
            scope["state"] = dict(host.state)
        host.requests += 1
        closing = host.stopping or not head.keep_alive
        exchange = self.exchange = Exchange(head, wire, scope, host.limits.body_timeout, closing, host.lasting(scope))
        if head.upgrades:
            scope["extensions"][UPGRADE] = exchange.upgrade
        try:
            await exchange.run(host.app)
        finally:
            self.exchange, self._halfway, self._upgraded = None, exchange.halfway, exchange.upgraded
        return not exchange.closing

    async def _tell_late(self, wire: Wire) -> None:
        """The client did not send in time; what it had begun is answered, if that can be done at once."""
        with trio.move_on_after(LAST_WORD):
            try:
                await wire.write(plain_response(408, "the request did not come in time"))
            except ClientGone:
                return
        await wire.linger(self.host.limits.linger)


@asynccontextmanager
async def serve(
    app: ASGIApp,
    listeners: Sequence[Listener[Any]],
    limits: HostLimits = HostLimits(),
    lasting: Callable[[Scope], bool] = lambda scope: False,
    state: Mapping[str, Any] | None = None,
) -> AsyncIterator[HTTPHost]:
    """Serve `app` on the listeners while the block lasts, and close them.

    Leaving the block drains: nothing is accepted, idle connections close, requests in flight have `limits.drain`
    seconds to be answered; those that `lasting` is true of are told at once that their client has left, and end well.
    A cancellation of the block does not wait for anybody. `state` is what `lifespan` yielded.
    """
    host = HTTPHost(app, limits, lasting, state)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(host.accept, listener, connections)
            connections.start_soon(host.look)
            yield host
            accepting.cancel_scope.cancel()
        await host.drain()
        connections.cancel_scope.cancel()


def _facts(stream: Stream) -> Scope:
    """What the scopes of all requests of a connection have in common."""
    secure = isinstance(stream, trio.SSLStream)
    inner: Stream = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    client: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None
    if isinstance(inner, trio.SocketStream):
        try:
            ours, theirs = inner.socket.getsockname(), inner.socket.getpeername()
        except OSError:  # it has gone already
            ours = theirs = None
        if isinstance(ours, tuple):
            server, client = (ours[0], ours[1]), (theirs[0], theirs[1])
        elif ours:
            server = (ours if isinstance(ours, str) else bytes(ours).decode(errors="replace"), None)
    return {
        "type": "http",
        "asgi": _ASGI,
        "scheme": "https" if secure else "http",
        "root_path": "",
        "client": client,
        "server": server,
    }

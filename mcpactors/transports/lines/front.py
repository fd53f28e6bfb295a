"""Clients at the other ends of two streams of lines each: what all that come to one place have in common.

Rule: a client that says nothing has the task that reads what it says, and no other. What is to be looked after, begun
or stopped for all of them one task does for all. Promises F43, P10.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from attrs import define, field
from mcp.server.lowlevel import Server
from mcp.shared.message import ServerMessageMetadata
from trio.abc import ReceiveStream, SendStream

from mcpactors.transports.answering import Serving
from mcpactors.transports.lines.duplex import close_written
from mcpactors.transports.lines.serving import Desk
from mcpactors.transports.lines.streams import StdioLimits, StdioReader, StdioWriter
from mcpactors.transports.owed import Owed

__all__ = ["LinesFront", "serve_duplex"]


@define(eq=False)
class LinesFront:
    """Where clients are served while `run` lasts; `limits` are each one's."""

    server: Server[Any]
    limits: StdioLimits
    drain: float = 30.0
    stopping: bool = field(default=False, init=False)
    """Nothing new is begun."""
    _state: Any = field(default=None, init=False)
    _nursery: trio.Nursery = field(init=False)
    _desks: set[Desk] = field(factory=set, init=False)

    @asynccontextmanager
    async def run(self, stopping: trio.Event | None = None) -> AsyncIterator[trio.Nursery]:
        """Serve while the block lasts, which has to be longer than any `serve`; yields what has the tasks for it.

        Once `stopping` is set nothing new is begun, and what clients have asked has `drain` seconds to be answered.
        """
        async with self.server.lifespan(self.server) as self._state, trio.open_nursery() as self._nursery:
            if stopping is not None:
                self._nursery.start_soon(self._stop, stopping)
            yield self._nursery
            self._nursery.cancel_scope.cancel()

    async def serve(
        self,
        incoming: ReceiveStream,
        outgoing: SendStream,
        metadata: ServerMessageMetadata | None = None,
        until: float = math.inf,
        read: Callable[[Desk, StdioReader], Awaitable[None]] = Desk.read,
        hold: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Serve a client until `incoming` ends, or all that it asked is answered after a stop; closes both streams.

        At the time `until`, of trio's clock, it is over at once. `metadata` goes with every message: what the SDK's
        server may know of the connection. `read` returns when there is nothing more to read. `hold`: see `StdioWriter`.
        """
        limits = self.limits
        writer = StdioWriter(limits.outgoing, Owed(limits.requests, limits.request_bytes), hold)
        try:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = until
                writer.run_in(self._nursery, outgoing, nursery.cancel_scope.cancel)
                desk = Desk(Serving(self.server, self._state, nursery), writer, metadata)
                self._desks.add(desk)
                try:
                    if self.stopping:
                        desk.stop()
                    await read(desk, StdioReader("the client", incoming, writer, limits, serving=True))
                finally:
                    self._desks.discard(desk)
                    nursery.cancel_scope.cancel()
                    await desk.aclose()
        finally:
            await close_written(writer, outgoing, incoming, limits.exit_grace)

    async def _stop(self, stopping: trio.Event) -> None:
        await stopping.wait()
        self.stopping = True
        for desk in tuple(self._desks):
            desk.stop()
        await trio.sleep(self.drain)
        for desk in tuple(self._desks):
            desk.end()


async def serve_duplex(
    server: Server[Any],
    incoming: ReceiveStream,
    outgoing: SendStream,
    limits: StdioLimits,
    stopping: trio.Event | None = None,
    drain: float = 30.0,
    started: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
) -> None:
    """Serve one client, as a `LinesFront` does, until it leaves, or until `stopping` is set.

    The end of what comes may be that of what was piped in: what was asked is answered, if it is answered soon, or soon
    after `started()` has returned: until then nothing could be.
    """
    front = LinesFront(server, limits, drain)
    async with front.run(stopping):
        await front.serve(incoming, outgoing, read=partial(Desk.read_and_answer, started=started))

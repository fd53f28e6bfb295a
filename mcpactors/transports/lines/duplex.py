"""Two streams of lines with a backend at their other end: how they are opened, and, with anybody, closed for good.

Rule: knows of no descriptors and no sockets; a line is a message, in either direction. How clients are served on them
is lines/front.py. Promises F6 to F13, P10.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.abc import ReceiveStream, SendStream

from mcpactors.transports.lines.flood import Allowance
from mcpactors.transports.lines.streams import StdioLimits, StdioReader, StdioWriter
from mcpactors.transports.owed import Owed

__all__ = ["close_written", "connected"]


@asynccontextmanager
async def connected(
    name: str, incoming: ReceiveStream, outgoing: SendStream, limits: StdioLimits, allowance: Allowance
) -> AsyncIterator[tuple[StdioReader, StdioWriter]]:
    """Messages on two streams of lines, which are closed afterwards. What was accepted is written, in bounded time.
    `allowance` is that of the backend."""
    writer = StdioWriter(limits.outgoing, Owed(limits.requests, limits.request_bytes))
    reader = StdioReader(name, incoming, writer, limits, allowance=allowance)

    async def write() -> None:
        await writer.run(outgoing)
        await reader.wake()  # a peer that takes nothing has gone

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        try:
            yield reader, writer
        finally:
            await close_written(writer, outgoing, incoming, limits.exit_grace)
            nursery.cancel_scope.cancel()


async def close_written(writer: StdioWriter, outgoing: SendStream, incoming: ReceiveStream, patience: float) -> None:
    """Close both streams once what was accepted is written, or after `patience` seconds; also when cancelled."""
    with trio.CancelScope(shield=True):
        writer.close()
        with trio.move_on_after(patience):
            await writer.written()
        await outgoing.aclose()
        await incoming.aclose()

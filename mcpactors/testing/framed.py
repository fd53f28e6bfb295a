"""Messages on two streams of bytes: what the stdio transport does with a child's pipes, without the child.

Rule: the reader and the writer are the transport's own, so that garbage means here what it means there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from mcpactors.transports.lines.duplex import close_written
from mcpactors.transports.lines.framing import Skip
from mcpactors.transports.lines.streams import StdioLimits, StdioReader, StdioWriter
from mcpactors.transports.stdio.child import wake_after_last_words

__all__ = ["framed"]


@asynccontextmanager
async def framed(
    name: str,
    stdin: trio.abc.SendStream,
    stdout: trio.abc.ReceiveStream,
    limits: StdioLimits = StdioLimits(),
    dropped: Counter[Skip] | None = None,
) -> AsyncIterator[tuple[StdioReader, StdioWriter]]:
    """Messages to and from a peer called `name`. Leaving it closes both streams, in bounded time.

    What the reader drops is counted in `dropped`, by kind.
    """
    writer = StdioWriter(limits.outgoing)
    reader = StdioReader(name, stdout, writer, limits, Counter() if dropped is None else dropped)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, stdin)
        nursery.start_soon(wake_after_last_words, reader)
        try:
            yield reader, writer
        finally:
            await close_written(writer, stdin, stdout, limits.exit_grace)
            nursery.cancel_scope.cancel()

"""The transport of one process: an SDK server at the other end of two memory channels.

Rule: it has the shape of every other transport, so an actor cannot tell that its backend is in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp.client._memory import InMemoryTransport
from mcp.server.lowlevel import Server

from mcpactors.transports.streams import Streams

__all__ = ["memory_client"]


@asynccontextmanager
async def memory_client(server: Server[Any]) -> AsyncIterator[Streams]:
    """Connect to a server in this process, as to a backend: messages, sessions and eras are real."""
    async with InMemoryTransport(server) as streams:
        yield streams

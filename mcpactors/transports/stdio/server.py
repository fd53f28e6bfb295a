"""Serving one client on this process's own stdin and stdout.

Rule: the two descriptors are made ours, and stray prints are kept off them; what is spoken on them is in
lines/serving.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from mcpactors.runtime.policy import DEFAULT_CLIENTS, ClientLimits
from mcpactors.transports.http_server.body import PARTS
from mcpactors.transports.lines.front import serve_duplex
from mcpactors.transports.lines.streams import StdioLimits

__all__ = ["serve_stdio"]


async def serve_stdio(
    server: Server[Any],
    stopping: trio.Event | None = None,
    drain: float = 30.0,
    clients: ClientLimits = DEFAULT_CLIENTS,
    started: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
) -> None:
    """Serve until the client closes our stdin, or until `stopping` is set.

    Then nothing new is begun, and what the client has asked has `drain` seconds to be answered; when it has closed our
    stdin, a moment (docs/closing.md), or until a moment after `started()` has returned.
    """
    if sys.platform == "win32":  # no pipe of ours can be waited for there
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
        return
    limits = StdioLimits(line=clients.line, depth=clients.depth, id=clients.id, parts=PARTS, endless=16 * clients.line)
    with _own_descriptors() as (stdin, stdout):
        incoming, outgoing = trio.lowlevel.FdStream(os.dup(stdin)), trio.lowlevel.FdStream(os.dup(stdout))
        await serve_duplex(server, incoming, outgoing, limits, stopping, drain, started)


@contextmanager
def _own_descriptors() -> Iterator[tuple[int, int]]:
    """What are stdin and stdout now; meanwhile everybody else finds the one empty, and prints to stderr."""
    sys.stdout.flush()
    wire = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    try:
        yield wire
    finally:
        sys.stdout.flush()
        for number, descriptor in enumerate(wire):
            os.dup2(descriptor, number)
            os.close(descriptor)

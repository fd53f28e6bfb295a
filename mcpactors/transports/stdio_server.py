"""Serving one client on this process's own stdin and stdout.

Rule: the SDK's server end does the wire, and keeps stray prints off it. Reading stdin blocks a thread that cannot be
interrupted, so whoever cancels this does not wait for that thread (the process is about to end).
"""

from __future__ import annotations

from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

__all__ = ["serve_stdio"]


async def serve_stdio(server: Server[Any]) -> None:
    """Serve until the client closes our stdin."""
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

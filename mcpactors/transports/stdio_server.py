"""Serving one client on this process's own stdin and stdout.

Rule: the SDK's server end does the wire, and keeps stray prints off it. What cannot be written as JSON costs its own
call only: the SDK's writer would end, and with it the whole process.
"""

from __future__ import annotations

import logging
from typing import Any, Self

from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import INTERNAL_ERROR, ErrorData, JSONRPCError, JSONRPCResponse
from pydantic_core import PydanticSerializationError

from mcpactors.transports.streams import WriteStream

__all__ = ["serve_stdio"]

logger = logging.getLogger("mcpactors")


async def serve_stdio(server: Server[Any]) -> None:
    """Serve until the client closes our stdin."""
    async with stdio_server() as (read, write):
        await server.run(read, _Writable(write), server.create_initialization_options())


class _Writable:
    """A write stream that passes on what can be written, and for a result that cannot, an error."""

    def __init__(self, inner: WriteStream[SessionMessage]) -> None:
        self._inner = inner

    async def send(self, item: SessionMessage) -> None:
        try:
            item.message.model_dump_json(by_alias=True, exclude_unset=True)
        except (PydanticSerializationError, UnicodeError, ValueError) as error:
            logger.warning("a message cannot be written as JSON: %s", error)
            if not isinstance(item.message, JSONRPCResponse):
                return
            said = ErrorData(code=INTERNAL_ERROR, message="the result cannot be written as JSON (no valid Unicode?)")
            item = SessionMessage(JSONRPCError(jsonrpc="2.0", id=item.message.id, error=said))
        await self._inner.send(item)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

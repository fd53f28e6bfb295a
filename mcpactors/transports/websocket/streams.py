"""A WebSocket as two streams of lines, a line a message, which `lines/` reads and writes like any other.

Rule: nothing is held or decided here; the end of the one that sends is that of the connection.
"""

from __future__ import annotations

import anyio
import trio
from attrs import frozen
from trio.abc import ReceiveStream, SendStream

from mcpactors.transports.websocket.frames import WebSocket

__all__ = ["Incoming", "Outgoing"]


@frozen(eq=False)
class Incoming(ReceiveStream):
    """What a WebSocket receives, a line a message. With `telling`, what is wrong with it is raised."""

    socket: WebSocket
    telling: str | None = None
    """What the peer is called."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Messages, each whole, however long. Raises anyio.BrokenResourceError: the peer has not just left."""
        line = await self.socket.receive()
        if not line and self.telling is not None and (ended := self.socket.ended) is not None and not ended.good:
            raise anyio.BrokenResourceError(f"{self.telling}: {ended}")
        return line

    async def aclose(self) -> None:
        self.socket.deafen()
        await trio.lowlevel.checkpoint()


@frozen(eq=False)
class Outgoing(SendStream):
    """What a WebSocket sends; its end is that of the connection."""

    socket: WebSocket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.socket.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.socket.aclose()

"""Room for what one backend has sent in part: its messages that are not whole yet, over all its connections.

Rule: who has begun first always goes on, so that something ends, however little room there is. Only what has grown
large is counted. Promise F60.
"""

from __future__ import annotations

from typing import Final

import trio
from attrs import define, field

__all__ = ["LARGE", "Room"]

LARGE: Final = 256 * 1024
"""Bytes up to which an unfinished message costs nothing."""
ROOM: Final = 32 * 1024 * 1024
"""Bytes of all that are larger: two as long as a message may be."""


@define(eq=False)
class Room:
    """The unfinished messages of one backend, by who reads them; the oldest first."""

    _held: dict[object, int] = field(factory=dict)
    _total: int = 0
    _waiting: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    async def hold(self, reader: object, size: int) -> None:
        """`reader` has `size` bytes of its message by now. Waits, before more is read, while all have too many."""
        self._count(reader, size)
        while self._total > ROOM and next(iter(self._held)) is not reader:
            await self._waiting.park()

    def leave(self, reader: object) -> None:
        """Its message is whole, or given up."""
        if reader in self._held:
            self._total -= self._held.pop(reader)
            self._waiting.unpark_all()

    def _count(self, reader: object, size: int) -> None:
        self._total += size - self._held.get(reader, 0)
        self._held[reader] = size

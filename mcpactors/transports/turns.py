"""Whose turn it is: how many calls of one connection run at one time, and who is next.

Rule: who finds no turn free waits for one in the order of asking, for as long as a call may be without a sign of life
and no longer. A call that waits for its client's answer has lent its turn: what the client does for that answer may be
another call. Lists and what else ends soon take none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import trio

from mcpactors.errors import Overloaded

__all__ = ["Turns"]


@final
class Turns:
    """Those of one connection: `most` at one time; who waits is refused after `patience` seconds."""

    __slots__ = ("_most", "_patience", "_taken", "_waiting")

    def __init__(self, most: int, patience: float) -> None:
        self._most = most
        self._patience = patience
        self._taken = 0
        self._waiting = trio.lowlevel.ParkingLot()

    async def take(self) -> None:
        """Take one; no checkpoint where one is free. Raises `Overloaded` when there is none in time."""
        if self._taken < self._most:
            self._taken += 1
            return
        with trio.move_on_after(self._patience):
            await self._waiting.park()  # who is woken has been given a turn
            return
        raise Overloaded(
            f"{self._most} calls of this connection are running, and none has ended for {self._patience:g} s; "
            "retry when some have",
            {"retryAfter": 1.0},
        )

    def give_back(self) -> None:
        """It has ended: whoever waits longest is next."""
        self._taken -= 1
        while self._waiting and self._taken < self._most:
            self._taken += 1
            self._waiting.unpark()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """While the block lasts it is another's; at the end it is taken back at once, though none may be free."""
        self.give_back()
        try:
            yield
        finally:
            self._taken += 1

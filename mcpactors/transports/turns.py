"""Whose turn it is: how many calls of one connection run at one time, and who is next.

Rule: who finds no turn free waits for one in the order of asking, for as long as a call may be without a sign of life
and no longer. A call that waits for its client's answer has lent its turn: what the client does for that answer may be
another call. Lists and what else ends soon take none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final
from weakref import WeakKeyDictionary

import trio
from mcp.server.connection import Connection, NotifyOnlyOutbound
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpactors.errors import Overloaded

__all__ = ["CLIENTS", "Turns", "TurnsOfAll"]

CLIENTS: Final = 8
"""For how many clients a gateway's connection counts. With the defaults its calls take half of a mount at most."""


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


@final
class TurnsOfAll:
    """The turns of each connection, for as long as it lasts."""

    def __init__(self, most: int, patience: float) -> None:
        self._most = most
        self._patience = patience
        self._known: WeakKeyDictionary[object, Turns] = WeakKeyDictionary()
        self._gateways: WeakKeyDictionary[object, Turns] = WeakKeyDictionary()

    def of(self, connection: Connection, *, by_gateway: bool) -> Turns | None:
        """Those of an old session, or of the stream that requests of a modern client come on.

        A call that comes `by_gateway` had its turn there, and all the gateway's clients may be on one connection: they
        would wait for each other, and so there are more of these turns. Not as many as are wanted: it is the client
        that says so.

        None: it is a request by itself, as over HTTP, where a client's connection has one at a time; or of a client in
        memory, which is this program's own.
        """
        line: object = connection
        if connection.protocol_version in MODERN_PROTOCOL_VERSIONS:
            line = connection.outbound
            if not isinstance(line, NotifyOnlyOutbound):
                return None
        known = self._gateways if by_gateway else self._known
        turns = known.get(line)
        if turns is None:
            turns = known[line] = Turns(self._most * (CLIENTS if by_gateway else 1), self._patience)
        return turns

"""Whose turn it is: how many requests of one connection run at one time, and who is next.

Rule: a request begins while fewer than `most` of its connection run, or fewer than `own` of those that go where it
goes: however many a mount keeps, every other has turns of its own (promise P6). Who finds none waits in the order of
asking, but never for one that cannot begin, for as long as a call may be without a sign of life and no longer. A call
that waits for its client's answer has lent its turn: what the client does for that answer may be another call.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final, final
from weakref import WeakKeyDictionary

import trio
from attrs import define, field
from mcp.server.connection import Connection, NotifyOnlyOutbound
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpactors.errors import Overloaded

__all__ = ["CLIENTS", "OWN", "Turn", "Turns", "TurnsOfAll"]

CLIENTS: Final = 8
"""For how many clients a gateway's connection counts. With the defaults its calls take half of a mount at most."""
OWN: Final = 8
"""Turns that requests to one mount have on a connection, whatever those to others do."""


@define(eq=False)
class _Line:
    """The requests of one connection that go to the same place."""

    running: int = 0
    waiting: dict[_Waiter, None] = field(factory=dict)
    """In the order of asking."""


@define(eq=False)
class _Waiter:
    line: _Line
    woken: trio.Event = field(factory=trio.Event)


@final
class Turn:
    """One that was taken. Whoever has it gives it back, once."""

    __slots__ = ("_lent", "_line", "_of", "_to")

    def __init__(self, of: Turns, to: Hashable, line: _Line) -> None:
        self._of, self._to, self._line = of, to, line
        self._lent = 0  # to so many blocks at once

    def give_back(self) -> None:
        """It has ended: of those that may begin now, who waits longest is next."""
        self._of._end(self._to, self._line)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """While the block lasts it is another's; at the end it is taken back at once, though none may be free. Of
        several blocks that overlap, as of a call that has several questions open, the first and the last do that."""
        if not self._lent:
            self.give_back()
        self._lent += 1
        try:
            yield
        finally:
            self._lent -= 1
            if not self._lent:
                self._line = self._of._lines.setdefault(self._to, self._line)
                self._of._begin(self._line)


@final
class Turns:
    """Those of one connection. Who waits is refused after `patience` seconds."""

    __slots__ = ("_lines", "_most", "_own", "_patience", "_running", "_waiting")

    def __init__(self, most: int, own: int, patience: float) -> None:
        self._most = most
        self._own = own
        self._patience = patience
        self._running = 0
        self._lines: dict[Hashable, _Line] = {}  # those of which any run or wait
        self._waiting: dict[_Waiter, None] = {}  # of all lines, in the order of asking

    async def take(self, to: Hashable) -> Turn:
        """One for a request that goes there; no checkpoint where it may begin. Raises `Overloaded`: none in time."""
        line = self._lines.get(to)
        if line is None:
            line = self._lines[to] = _Line()
        if self._running < self._most or line.running < self._own:
            self._begin(line)
            return Turn(self, to, line)
        waiter = _Waiter(line)
        self._waiting[waiter] = line.waiting[waiter] = None
        try:
            with trio.move_on_after(self._patience):
                await waiter.woken.wait()
        except trio.Cancelled:
            if waiter.woken.is_set():  # after it was cancelled and before it ran: who gives the turn cannot know
                self._end(to, line)
            raise
        finally:
            self._leave(waiter)
        if waiter.woken.is_set():  # who is woken has been given a turn, be it when its patience was at its end
            return Turn(self, to, line)
        raise Overloaded(
            f"{self._running} calls of this connection are running, {line.running} of them where this one goes, and "
            f"its turn has not come for {self._patience:g} s; retry when some have ended",
            {"retryAfter": 1.0},
        )

    def _begin(self, line: _Line) -> None:
        self._running += 1
        line.running += 1

    def _leave(self, waiter: _Waiter) -> None:
        self._waiting.pop(waiter, None)
        waiter.line.waiting.pop(waiter, None)

    def _end(self, to: Hashable, line: _Line) -> None:
        self._running -= 1
        line.running -= 1
        while (waiter := self._next(line)) is not None:
            self._leave(waiter)
            self._begin(waiter.line)
            waiter.woken.set()
        if not line.running and not line.waiting:
            self._lines.pop(to, None)

    def _next(self, line: _Line) -> _Waiter | None:
        """Who may begin, now that one of this line has ended: of the other lines none could before."""
        if self._running < self._most:
            return next(iter(self._waiting), None)
        return next(iter(line.waiting), None) if line.running < self._own else None


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
            clients = CLIENTS if by_gateway else 1
            turns = Turns(self._most * clients, min(OWN, self._most) * clients, self._patience)
            known[line] = turns
        return turns

"""Calls that their callers have given up, and that whoever works on them elsewhere may go on with: each keeps a slot.

Rule: a caller is free at once, whatever is done here. A slot is kept until it is known that the work has ended, until
the call would have ended at the latest, or until the life of the actor has ended; and never more than a share of them:
who is never told of an end, as by backends that do as the protocol wants, is not without slots by that (promise F24).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import final

import trio

__all__ = ["GivenUp"]


@final
class GivenUp:
    """Those of one actor. `freed()` is called for each slot that is not kept any more."""

    __slots__ = ("_freed", "_most", "_nursery", "_sweep", "until")

    def __init__(self, freed: Callable[[], None] = lambda: None) -> None:
        self.until: dict[tuple[object, Hashable], float] = {}
        """By where the work goes on and what it is there: when its slot is free at the latest; the oldest first."""
        self._freed = freed
        self._most = 0
        self._nursery: trio.Nursery | None = None
        self._sweep: trio.CancelScope | None = None

    def begin(self, most: int, nursery: trio.Nursery) -> None:
        """From now on, and in this life, so many slots may be kept."""
        self._most, self._nursery = most, nursery

    def end(self) -> None:
        """The life has ended, and its nursery: nothing goes on."""
        self._most, self._nursery, self._sweep = 0, None, None
        self.until.clear()

    def keep(self, where: object, what: Hashable, until: float) -> None:
        """Keep a slot until this moment; the oldest goes when there are as many as may be."""
        if self._nursery is None or not self._most or until <= trio.current_time():
            return
        if len(self.until) >= self._most:
            self.free(*next(iter(self.until)))
        self.until[where, what] = until
        if self._sweep is None:
            self._sweep = trio.CancelScope(deadline=until)
            self._nursery.start_soon(self._free_in_time, self._sweep)
        else:
            self._sweep.deadline = min(self._sweep.deadline, until)

    def free(self, where: object, what: Hashable) -> None:
        """It has ended."""
        if self.until.pop((where, what), None) is not None:
            self._freed()

    def free_all(self, where: object) -> None:
        """Nothing goes on there any more."""
        for there, what in list(self.until):
            if there is where:
                self.free(there, what)

    async def _free_in_time(self, sweep: trio.CancelScope) -> None:
        """One task for all of them, for as long as there are any."""
        while True:
            with sweep:
                await trio.sleep_forever()
            now = trio.current_time()
            for (where, what), until in list(self.until.items()):
                if until <= now:
                    self.free(where, what)
            if not self.until:
                self._sweep = None
                return
            self._sweep = sweep = trio.CancelScope(deadline=min(self.until.values()))

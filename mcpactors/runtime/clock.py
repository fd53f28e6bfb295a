"""When a call's deadline may have come: one task a run tells all calls, instead of a cancel scope a call.

Rule: who is told decides itself, in its own turn, what that means. One that has ended is held no more, as its outcome
would be with it; its number is swept out when such are most of what is here.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Protocol, final

import trio

__all__ = ["Clock", "Watched", "clock_of_this_run"]

SWEEP_AT: Final = 256


class Watched(Protocol):
    """Who waits, and does so until some time at the latest; times are those of trio's clock."""

    number: int
    """Its own of `Clock.numbers`."""
    waits_until: float
    """When the wait that goes on now ends at the latest; inf: none does."""
    watched_until: float
    """When the clock looks at it next; the clock sets it. inf: not at all."""

    @property
    def ended(self) -> bool:
        """Whether it will wait no more."""

    def look_at_the_clock(self, now: float) -> float:
        """Called when the deadline may have come: when to look again."""


@final
class Clock:
    """Looks at each of those who wait when the earliest of its deadlines so far has come."""

    def __init__(self) -> None:
        self.numbers = count()
        self._heap: list[tuple[float, int]] = []
        self._watched: dict[int, Watched] = {}
        self._ended = 0
        self._sooner = trio.Event()

    def watch(self, it: Watched) -> None:
        """Look at it when the wait that it begins must end."""
        at = it.watched_until = it.waits_until
        self._watched[it.number] = it
        heappush(self._heap, (at, it.number))
        if self._heap[0][1] == it.number:
            self._sooner.set()

    def forget(self, it: Watched) -> None:
        """One of them has ended."""
        self._watched.pop(it.number, None)
        self._ended += 1
        if self._ended > SWEEP_AT and 2 * self._ended > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[1] in self._watched]
            heapify(self._heap)
            self._ended = 0

    async def run(self) -> None:
        """For as long as the run of trio lasts."""
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                it = self._watched.pop(heappop(self._heap)[1], None)
                if it is None:
                    continue
                it.watched_until = math.inf
                if not it.ended and it.look_at_the_clock(now) < math.inf:
                    self.watch(it)
            self._sooner = trio.Event()
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf):
                await self._sooner.wait()


_clock: Final[trio.lowlevel.RunVar[Clock]] = trio.lowlevel.RunVar("mcpactors.clock")


def clock_of_this_run() -> Clock:
    """The one of this run of trio; made, with its task, when it is first asked for."""
    try:
        return _clock.get()
    except LookupError:
        clock = Clock()
        _clock.set(clock)
        trio.lowlevel.spawn_system_task(clock.run, name="mcpactors: deadlines of calls")
        return clock

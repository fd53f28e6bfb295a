"""One look at all processes for all who ask at the same time.

Rule: whoever asks gets a look that began after it asked, and one is under way at a time: each reads all of /proc, and
two hundred children may be stopped at once. Promises F46 to F49.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Final

import trio
from attrs import define, field, frozen

from mcpactors.transports.stdio.processes import Process, family, look, marks_of

__all__ = ["Family"]

logger = logging.getLogger("mcpactors.stdio")


@frozen
class _Seen:
    """Every process of this machine by its pid, and the marks of those that have some."""

    processes: Mapping[int, Process]
    marks: Mapping[int, bytes]


def _see() -> _Seen:
    processes = look()
    return _Seen(processes, {pid: marks for pid in processes if (marks := marks_of(pid))})


@define(eq=False)
class _Looks:
    """Those of one trio run."""

    turn: trio.Lock = field(factory=trio.Lock)
    begun: int = 0
    last: _Seen | None = None


_looks: Final[trio.lowlevel.RunVar[_Looks]] = trio.lowlevel.RunVar("mcpactors looks")


async def _everybody() -> _Seen | None:
    """In a thread that no handler can have taken, as /proc may be long; None where none, or no descriptor, is left."""
    try:
        looks = _looks.get()
    except LookupError:
        _looks.set(looks := _Looks())
    wanted = looks.begun + 1
    async with looks.turn:
        if looks.begun < wanted:
            looks.begun, looks.last = wanted, None
            try:
                looks.last = await trio.to_thread.run_sync(_see, limiter=trio.CapacityLimiter(1))
            except (OSError, RuntimeError) as error:
                logger.info("the processes of this machine cannot be looked at: %s", error)
        return looks.last


@define(eq=False)
class Family:
    """Whoever descends from one process of ours: `leader` of a session, with `mark`. Who was found once stays in it.

    To be asked while parents live who may die before their children: who is known by a parent only is known no more.
    """

    leader: int
    mark: str
    asked: trio.Event = field(factory=trio.Event)
    """Whether it was, once."""
    _known: dict[int, int] = field(factory=dict)

    async def living(self) -> list[Process]:
        """Those that run now; none where that cannot be seen."""
        found = list[Process]()
        if sys.platform == "linux" and (seen := await _everybody()) is not None:
            mark = self.mark.encode()
            found = family(seen.processes, lambda pid: mark in seen.marks.get(pid, b""), (self.leader,), self._known)
            self._known.update((each.pid, each.started) for each in found)
        self.asked.set()
        return found

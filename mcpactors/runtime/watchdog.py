"""Who keeps the loop from turning: a thread that looks at it from outside, and names the actor and its stack.

Rule: the loop pays nothing while it turns. The thread looks at the stack of the loop's thread; only when that does not
wait for the world does it ask for a turn, and when none comes it reads the actor off the stack and the tree of tasks.
It counts its own ticks, not seconds: a program that was suspended has not stalled (promises F31, F58).

A handler that computes holds Python's lock only 5 ms at a time, so it is seen; one call into C that holds it all the
while is seen when it returns.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, final

import trio
from attrs import frozen

__all__ = ["LOG", "MARK", "Stall", "Watchdog", "watchdog"]

LOG: Final = "mcpactors.watchdog"
"""The logger that it says everything to."""
MARK: Final = f"WARNING {LOG}: "
"""How each line begins that one in a child process of ours says on stderr: the parent's log says it, too."""
logger = logging.getLogger(LOG)

TICK: Final = 1 / 5
"""How often the loop is looked at, as a share of the time within which a stall is to be named."""
SAMPLES: Final = 2
"""Looks without an answer after which it is named: the rest of that time is for what delays the watchdog itself."""
ACTOR: Final = "actor "
"""How the names of the tasks begin that actors live in."""
ENDS_WITHIN: Final = 1.0
"""Seconds that leaving a runtime waits for the thread at most."""
DEEPEST: Final = 40
"""Frames of a stack that are shown, the innermost."""


@frozen
class Stall:
    """What the loop was doing when it had not turned for too long."""

    actors: tuple[str, ...]
    """Whose task ran all the while: the innermost actor first; empty for one of the embedding program, and for many."""
    stack: str
    """Of that task, the innermost frame last; of many, of the last one."""
    many: bool = False
    """Whether one task ran after the other: then none of them is to blame."""

    @property
    def who(self) -> str:
        """Whom to blame, for people."""
        if self.many:
            return "many tasks at once, each but for a moment,"
        return f"actor {self.actors[0]}" if self.actors else "a task outside of any actor"


@final
class Watchdog:
    """Watches the loop of the thread that makes it. `run` is for a thread of its own."""

    def __init__(self, limit: float) -> None:
        self.stalls: Counter[str] = Counter()
        """How often each actor has kept the loop from turning."""
        self.users = 0
        self._tick = TICK * limit
        self._loop = threading.get_ident()
        self._token = trio.lowlevel.current_trio_token()
        self._over = threading.Event()
        self._turned = True
        self._asked_at = math.inf
        self._seen: list[object] = []
        self._stall: Stall | None = None
        self._thread = threading.Thread(target=self.run, name="mcpactors watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread: it does not wait for anything, but to be run."""
        self._over.set()
        self._thread.join(ENDS_WITHIN)

    def run(self) -> None:
        while not self._over.wait(self._tick):
            try:
                self.look()
            except trio.RunFinishedError:
                return

    def look(self) -> None:
        """One tick: ask a loop that is at work for a turn; name who runs when several ticks pass without one."""
        if not self._turned:
            if len(self._seen) < SAMPLES:
                self._look_closer()
            return
        self._seen.clear()
        if self._stall is not None:
            lasted = time.monotonic() - self._asked_at
            logger.log(_level(self._stall), "the loop turns again: %s had it for %.2f s", self._stall.who, lasted)
            self._stall = None
        if not self._waits():
            self._turned, self._asked_at = False, time.monotonic()
            self._token.run_sync_soon(self._turn)

    def _turn(self) -> None:
        self._turned = True

    def _waits(self) -> bool:
        """Whether the loop waits for the world: then it turns as soon as there is something to do."""
        frame = sys._current_frames().get(self._loop)
        return frame is not None and frame.f_code.co_name == "get_events"

    def _look_closer(self) -> None:
        """Note which task runs; after enough ticks without a turn, tell of it."""
        frame = sys._current_frames().get(self._loop)
        if frame is None:
            return
        task, frames = read(frame)
        self._seen.append(task)
        if len(self._seen) < SAMPLES:
            return
        many = any(seen is not task for seen in self._seen)
        self._stall = stall = Stall(() if many else tuple(_actors(task)), _shown(frames), many)
        self.stalls.update(stall.actors)
        logger.log(
            _level(stall),
            "%s has kept the loop from turning for %.0f ms, and everything waits for it; run what blocks in a thread "
            'or mount its server with isolate="process". Its stack:\n%s',
            stall.who,
            1000 * (time.monotonic() - self._asked_at),
            stall.stack,
        )


def _level(stall: Stall) -> int:
    return logging.WARNING if stall.actors else logging.INFO


def read(frame: FrameType) -> tuple[object, list[FrameType]]:
    """The task that runs in this frame, which is the innermost of the loop's thread, and its frames from there on."""
    frames: list[FrameType] = []
    task: object = None
    here: FrameType | None = frame
    while here is not None and task is None:
        frames.append(here)
        here = here.f_back
        if here is not None and here.f_code.co_name == "unrolled_run":  # trio's loop; it has no public way to ask
            task = here.f_locals.get("task")
    return task, frames


def _shown(frames: list[FrameType]) -> str:
    """Without the lines themselves: to read them from their files would take its time, while the loop stands."""
    rows = ((each.f_code, each.f_lineno) for each in reversed(frames[:DEEPEST]))
    return "\n".join(f'  File "{code.co_filename}", line {line}, in {code.co_qualname}' for code, line in rows)


def _actors(task: object) -> Iterator[str]:
    """The actors that a task belongs to, the innermost first."""
    while isinstance(task, trio.lowlevel.Task):
        if task.name.startswith(ACTOR):
            yield task.name.removeprefix(ACTOR)
        nursery = task.parent_nursery
        task = nursery.parent_task if nursery is not None else None


_of_this_run: Final[trio.lowlevel.RunVar[Watchdog]] = trio.lowlevel.RunVar("mcpactors.watchdog")


@contextmanager
def watchdog(limit: float | None) -> Iterator[Watchdog | None]:
    """The watchdog of this trio run: one however many runtimes it has, and the first one's limit, in seconds.

    None when there is no limit, and on virtual time, where nothing takes time.
    """
    if limit is None or hasattr(trio.lowlevel.current_clock(), "autojump_threshold"):
        yield None
        return
    try:
        dog = _of_this_run.get()
    except LookupError:
        dog = None
    if dog is None or not dog.users:
        dog = Watchdog(limit)
        dog.start()
        _of_this_run.set(dog)
    dog.users += 1
    try:
        yield dog
    finally:
        dog.users -= 1
        if not dog.users:
            dog.stop()

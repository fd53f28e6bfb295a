"""A whole program on virtual time, every choice of the scheduler decided by a seed: a failure can be replayed.

Rule: `trio.run` and nothing beside it: what runs is the program itself, not a model of it. A scenario uses memory
streams only; a socket, a process or a thread takes real time and is not decided by the seed.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import trio
import trio._core._run as scheduler  # its random and its switch have no public names
from attrs import frozen
from trio.testing import MockClock

from mcpactors.testing.running import ThreadsHoldTime

__all__ = ["Scenario", "Simulated", "simulate", "simulate_many"]

T = TypeVar("T")
Scenario = Callable[[random.Random], Awaitable[T]]
"""An async function. What it decides at random it asks of the `Random` that it is given."""

HOUR: Final = 3600.0
MANY_STEPS: Final = 10_000_000
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+")
"""Where in memory something is, which no seed decides: in the name of a task whose function is an object."""


@frozen
class Simulated(Generic[T]):
    """One run of a scenario: what it returned, and which run it was."""

    seed: int
    value: T
    digest: str
    """Of the trace: which task ran when, step by step. Two runs with one digest went the very same way."""
    steps: int
    seconds: float
    """Virtual seconds that it took."""


def simulate(scenario: Scenario[T], seed: int = 0, *, seconds: float = HOUR, steps: int = MANY_STEPS) -> Simulated[T]:
    """Run `scenario(draw)` on virtual time, in the one of its many schedules that `seed` stands for.

    Waiting costs nothing: when every task waits, the clock jumps to the next deadline. At every turn the seed decides
    the order of the tasks that can run. One seed is one run, again and again, as long as the code is the same.

    Raises what the scenario raises, with a note that names the seed; `trio.TooSlowError` when it does not end within
    `seconds` of virtual time or `steps` steps of its tasks.
    """
    clock = MockClock(autojump_threshold=0)
    trace = _Trace(clock, steps)

    async def in_time() -> T:
        trace.limit.deadline = trio.current_time() + seconds
        with trace.limit:
            return await scenario(random.Random(f"scenario {seed}"))
        raise trio.TooSlowError(f"the scenario has not ended after {clock.current_time():g} s and {trace.steps} steps")

    with _seeded(seed):
        try:
            value = trio.run(in_time, clock=clock, instruments=[trace, ThreadsHoldTime(clock)])
        except BaseException as error:
            name = getattr(scenario, "__qualname__", "scenario")
            error.add_note(
                f"Simulated with seed {seed}, trace {trace.digest()}: simulate({name}, seed={seed}) replays it."
            )
            raise
    return Simulated(seed, value, trace.digest(), trace.steps, clock.current_time())


def simulate_many(
    scenario: Scenario[T], seeds: Iterable[int] = range(1000), *, seconds: float = HOUR, steps: int = MANY_STEPS
) -> list[Simulated[T]]:
    """`simulate` once a seed, up to the first failure, which names its seed. A small scenario takes about 1 ms."""
    return [simulate(scenario, seed, seconds=seconds, steps=steps) for seed in seeds]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Everything that this process draws at random comes from `seed`, and afterwards from where it came before."""
    before = scheduler._r.getstate(), random.getstate(), scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._r.seed(seed)
    random.seed(seed)  # the jitter of restarts
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # batches are sorted, then shuffled
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[2]  # type: ignore[misc]
        random.setstate(before[1])
        scheduler._r.setstate(before[0])


class _Trace(trio.abc.Instrument):
    """Notes which task ran when; ends a run that goes round and round without time passing."""

    def __init__(self, clock: MockClock, steps: int) -> None:
        self.steps = 0
        self.limit = trio.CancelScope()
        self._clock = clock
        self._most = steps
        self._numbers: dict[trio.lowlevel.Task, int] = {}
        self._spawned = 0
        self._hash = hashlib.blake2b(digest_size=8)

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._numbers[task] = self._spawned
        self._spawned += 1
        self._hash.update(_ADDRESS.sub("", task.name).encode())

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._hash.update(b"%d %f\n" % (self._numbers[task], self._clock.current_time()))
        self.steps += 1
        if self.steps == self._most:
            self.limit.cancel()

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        del self._numbers[task]

    def digest(self) -> str:
        return self._hash.hexdigest()

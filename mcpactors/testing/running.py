"""One trio run that a synchronous test drives step by step, in its own thread.

Rule: nothing happens between two steps. The run is a guest of the caller's thread (`trio.lowlevel.start_guest_run`),
so a Hypothesis rule can await a step and draw again; on virtual time a wait costs nothing and a schedule depends on
what was drawn alone.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, final

import outcome
import trio
from trio.testing import MockClock, active_thread_count

__all__ = ["GuestRun", "ThreadsHoldTime"]

T = TypeVar("T")
R = TypeVar("R")

STUCK = 60.0
"""Real seconds without anything to do after which a step is given up."""


class ThreadsHoldTime(trio.abc.Instrument):
    """Virtual time jumps when all tasks wait; but not while one waits for a thread, which takes real time."""

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock
        self._held = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        held = active_thread_count() > 0
        if held is not self._held:
            self._held = held
            self._clock.autojump_threshold = math.inf if held else 0


@final
class GuestRun(Generic[T]):
    """Holds an async context manager open; `step` runs a function with what it gave, to its end, in its task.

    `step_timeout` is in seconds of the run's clock, which is virtual unless `virtual_time` is false. Functions that
    run in threads are waited for; sockets and processes are not, so use real time where a step needs them.
    """

    def __init__(
        self,
        resource: Callable[[], AbstractAsyncContextManager[T]],
        *,
        virtual_time: bool = True,
        step_timeout: float = 300.0,
    ) -> None:
        self._due: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._resource = resource
        self._timeout = step_timeout
        self._job: Callable[[T], Awaitable[Any]] | None = None
        self._result: outcome.Outcome[Any] | None = None
        self._ended: outcome.Outcome[None] | None = None
        clock = MockClock(autojump_threshold=0) if virtual_time else None
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._due.put,
            done_callback=self._done,
            clock=clock,
            instruments=[ThreadsHoldTime(clock)] if clock is not None else [],
        )
        self._pump(lambda: self._result is not None)
        self._take_result()

    def step(self, function: Callable[[T], Awaitable[R]]) -> R:
        """What `function(resource)` returns, or raises. What it waits for that never comes raises `TooSlowError`."""
        if self._ended is not None:
            raise RuntimeError("this run has ended")
        self._job = function
        self._wake.set()
        self._pump(lambda: self._result is not None)
        result: R = self._take_result()
        return result

    def close(self) -> None:
        """Leave the context manager and end the run; raises what leaving it raises. May be called again."""
        if self._ended is not None:
            return
        self._job = None
        self._wake.set()
        self._pump(lambda: False)
        assert self._ended is not None
        self._ended.unwrap()

    async def _main(self) -> None:
        async with self._resource() as resource:
            self._wake = trio.Event()
            self._result = outcome.Value(None)
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                if self._job is None:
                    return
                try:
                    with trio.fail_after(self._timeout):
                        self._result = outcome.Value(await self._job(resource))
                except trio.Cancelled:
                    raise
                except BaseException as error:
                    self._result = outcome.Error(error)

    def _done(self, ended: outcome.Outcome[None]) -> None:
        self._ended = ended

    def _take_result(self) -> Any:
        result, self._result = self._result, None
        if result is not None:
            return result.unwrap()
        assert self._ended is not None
        self._ended.unwrap()
        raise RuntimeError("the run has ended before the step had")

    def _pump(self, enough: Callable[[], bool]) -> None:
        """Run what trio wants to have run, until that is enough or the run has ended."""
        while self._ended is None and not enough():
            try:
                callback = self._due.get(timeout=STUCK)
            except Empty:
                raise trio.TooSlowError(f"nothing has happened in {STUCK:g} s of real time") from None
            callback()

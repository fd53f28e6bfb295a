"""Owning all that descends from us, also what its parents left behind, and also beyond our own death (Linux).

Rule: a process has one parent of last resort, so this is the affair of the whole process: `serve` does it, a program
that embeds a runtime says so (`RuntimeSettings.subreaper`). docs/closing.md. Promises F46 to F49, P9.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import trio

from mcpactors.transports.stdio import processes
from mcpactors.transports.stdio.processes import ALL_MARKS, LEADERS, Process, family, look, signal_all

__all__ = ["own_orphans"]

logger = logging.getLogger("mcpactors.stdio")

LOOK_EVERY: Final = 5.0
"""Seconds between two looks for orphans that have ended. One that is seen ended twice is reaped."""
END_PATIENCE: Final = 1.0
LOOK_AGAIN: Final = 0.1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37


@asynccontextmanager
async def own_orphans(nursery: trio.Nursery, look_every: float = LOOK_EVERY) -> AsyncIterator[None]:
    """While the block lasts, orphans below us are ours: reaped when they end, and ended with the block.

    An orphan is a child of ours in another session that nobody here has started as a backend; what a program starts
    itself in a session of its own while the block lasts is taken for one. A guardian (a process of its own) ends what
    we started when we cannot, because we were killed. Elsewhere than on Linux nothing of that can be had: a warning
    says so. One block in a process at a time; `nursery` must be left after the block.
    """
    if sys.platform != "linux":
        logger.warning(
            "subreaper: not on %s; processes that leave their group outlive their server, and those that "
            "ignore the end of stdin outlive us when we are killed",
            sys.platform,
        )
        yield
        return
    scope = trio.CancelScope()
    before = {child.pid for child in await _children()}
    with _as_subreaper():
        async with _guarded() as guardian:
            nursery.start_soon(_reap_now_and_then, scope, look_every)
            try:
                yield
            finally:
                scope.cancel()
                with trio.move_on_after(END_PATIENCE, shield=True):
                    await _end_orphans(before | {guardian})


@contextmanager
def _as_subreaper() -> Iterator[None]:
    prctl = ctypes.CDLL(None).prctl
    before = ctypes.c_int()
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


# --- Orphans that are ours by now ---------------------------------------------------------------------------------


async def _reap_now_and_then(scope: trio.CancelScope, look_every: float) -> None:
    """Reap who has ended and whom nobody waits for: whoever has started a process itself has until the next look."""
    ended: set[tuple[int, int]] = set()
    with scope:
        while True:
            await trio.sleep(look_every)
            with suppress(OSError):  # no descriptor is left to look with: the next look may have one
                before, ended = ended, {(child.pid, child.started) for child in await _children() if child.dead}
                for pid, _ in before & ended:
                    if pid not in LEADERS:
                        _reap(pid)


async def _children() -> list[Process]:
    found = await trio.to_thread.run_sync(look, limiter=trio.CapacityLimiter(1))
    return [process for process in found.values() if process.parent == os.getpid()]


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


async def _found(find: Callable[[], list[Process]]) -> list[Process]:
    """What a look finds, in a thread; waits where no descriptor is left to look with. Who calls has a deadline."""
    while True:
        try:
            return await trio.to_thread.run_sync(find, limiter=trio.CapacityLimiter(1))
        except OSError:
            await trio.sleep(LOOK_AGAIN)


async def _end_orphans(others: Collection[int]) -> None:
    """End the orphans, and what they have started; `others` are children of ours that are none."""
    own = os.getsid(0)

    def find() -> list[Process]:
        everybody = look()
        orphans = {
            process.pid: process.started
            for process in everybody.values()
            if process.parent == os.getpid() and process.session != own and process.pid not in {*others, *LEADERS}
        }
        return family(everybody, lambda pid: False, known=orphans)

    while left := await _found(find):
        signal_all(left, signal.SIGKILL)
        for process in left:
            with suppress(OSError):
                descriptor = os.pidfd_open(process.pid)
                try:
                    await trio.lowlevel.wait_readable(descriptor)
                finally:
                    os.close(descriptor)
            _reap(process.pid)


# --- The guardian -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _guarded() -> AsyncIterator[int]:
    """With a guardian; yields its pid. A word before the end of its stdin tells it that we were not killed."""
    guardian = await trio.lowlevel.open_process(
        [sys.executable, "-I", "-S", processes.__file__, ALL_MARKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        start_new_session=True,
    )
    assert guardian.stdin is not None
    try:
        yield guardian.pid
    finally:
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END_PATIENCE), suppress(trio.BrokenResourceError):
                await guardian.stdin.send_all(b".")
                await guardian.stdin.aclose()
                await guardian.wait()
            guardian.kill()
            await guardian.wait()
            await guardian.stdin.aclose()

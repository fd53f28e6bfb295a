"""Who descends from a child process of ours, whatever it did to hide, and the guardian that ends them when we are gone.

Rule: nothing but the standard library, and nothing of ours: the guardian is this very file, run by its path. Linux
only, by /proc; elsewhere `look` finds nothing, and whoever asks must say so. Promises F46 to F49, P9.

A descendant is known by its session or group, by its parents while they live, and by a mark in its environment that
survives fork, setsid and the death of every parent. Who escapes has left the session, lost its parents and cleared
its environment.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from itertools import count
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = [
    "ALL_MARKS",
    "LEADERS",
    "VARIABLE",
    "Process",
    "family",
    "look",
    "look_at",
    "marks_of",
    "new_mark",
    "signal_all",
]

VARIABLE: Final = "MCPACTORS_CHILD"
"""The environment variable with the marks: of every life that this process is part of, the outermost first."""
ALL_MARKS: Final = secrets.token_hex(8) + "."
"""What the marks of all our children begin with."""
LEADERS: Final[set[int]] = set()
"""Children of ours that some session looks after, of all runtimes of this process."""
_numbers = count(1)
_ENVIRON: Final = f"{VARIABLE}=".encode()


class Process(NamedTuple):
    """One process, as /proc shows it. `pid` and `started` (in clock ticks) together are never used again."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    dead: bool
    """It only waits to be reaped."""


def new_mark() -> str:
    """A mark for one life of one child."""
    return f"{ALL_MARKS}{next(_numbers)};"


def look() -> dict[int, Process]:
    """Every process of this machine by its pid; none where there is no /proc. Takes 10 us each: not for the loop."""
    found = {}
    for entry in os.listdir("/proc") if sys.platform == "linux" else ():
        if entry.isdigit() and (process := look_at(int(entry))) is not None:
            found[process.pid] = process
    return found


def look_at(pid: int) -> Process | None:
    """One process; None when there is none."""
    try:
        stat = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # before it stands the command's name, with what it likes in it
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), fields[0] in b"ZX")


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # half of what a buffer and a Path cost, for each process there is
        return file.read()


def marks_of(pid: int) -> bytes:
    """What this process, and those that it descends from, were started with; empty where there is none."""
    with suppress(OSError):  # another user's, or gone
        for variable in _read(f"/proc/{pid}/environ").split(b"\0"):
            if variable.startswith(_ENVIRON):
                return variable
    return b""


def family(
    processes: Mapping[int, Process],
    marked: Callable[[int], bool],
    leaders: Collection[int] = (),
    known: Mapping[int, int] = MappingProxyType({}),
) -> list[Process]:
    """Those that live of the sessions and groups of `leaders`, of who is `marked`, and all below them.

    `known` are those found before, `pid` to `started`: they stay in the family, whatever they did since.
    """
    of_all: set[int] = set()
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
        near = process.session in leaders or process.group in leaders or process.pid in leaders
        if near or known.get(process.pid) == process.started or (not process.dead and marked(process.pid)):
            of_all.add(process.pid)
    unseen = list(of_all)
    while unseen:
        below = [pid for pid in children.get(unseen.pop(), ()) if pid not in of_all]
        of_all.update(below)
        unseen += below
    return [process for pid in sorted(of_all) if not (process := processes[pid]).dead]


def signal_all(processes: Iterable[Process], number: int) -> None:
    """Signal each, unless its number is another's by now."""
    for process in processes:
        with suppress(OSError):
            now = look_at(process.pid)
            if now is not None and now.started == process.started:
                os.kill(process.pid, number)


# --- The guardian -------------------------------------------------------------------------------------------------

LOOK_EVERY: Final = 2.0
EXIT_GRACE: Final = 1.0
TERM_GRACE: Final = 1.5
KILL_GRACE: Final = 1.0
_LOOK: Final = 0.05


def guard(mark: str) -> None:
    """Wait for stdin to close. Without a word before it, whoever held it was killed: end what it had started.

    Its children have noticed already that their stdin was closed; they have `EXIT_GRACE` seconds to go by themselves,
    `TERM_GRACE` from SIGTERM to SIGKILL. Who belongs to whom is looked at every `LOOK_EVERY` seconds, while parents
    live who may die before their children.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    known: dict[int, int] = {}
    while not select.select([0], [], [], LOOK_EVERY)[0]:
        _left(mark, known)
    if os.read(0, 1):
        return
    for grace, number in (EXIT_GRACE, signal.SIGTERM), (TERM_GRACE, signal.SIGKILL):
        if _gone_within(grace, mark, known):
            return
        signal_all(_left(mark, known), number)
    deadline = time.monotonic() + KILL_GRACE
    while (left := _left(mark, known)) and time.monotonic() < deadline:
        signal_all(left, signal.SIGKILL)
        time.sleep(_LOOK)


def _gone_within(seconds: float, mark: str, known: dict[int, int]) -> bool:
    deadline = time.monotonic() + seconds
    while _left(mark, known):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK)
    return True


def _left(mark: str, known: dict[int, int]) -> list[Process]:
    return left_of(look(), lambda pid: mark.encode() in marks_of(pid), known)


def left_of(processes: Mapping[int, Process], marked: Callable[[int], bool], known: dict[int, int]) -> list[Process]:
    """Those that live of the marked, of their sessions, of the `known`, and all below them; who is then the known."""
    with_mark = {process.pid for process in processes.values() if not process.dead and marked(process.pid)}
    near = with_mark | {pid for pid, started in known.items() if pid in processes and processes[pid].started == started}
    left = family(processes, with_mark.__contains__, {processes[pid].session for pid in near}, known)
    known.clear()
    known.update((process.pid, process.started) for process in left)
    return left


if __name__ == "__main__":
    guard(sys.argv[1])

"""A peer that says more than anybody can use: what of it need not be read, and how long to wait before reading on.

Rule: pure. Lines are told apart by their bytes, in time linear in them; where there is doubt about a line it is kept.
What is dropped here would be dropped after it was parsed, by those who keep the last progress of a call and ask once
however often a list has changed; but its parsing costs forty times as much, and that is its siblings' time. Promises
P5, P6, F4 and F5.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Final

from attrs import define, field

from mcpactors.transports.lines.framing import LongLine
from mcpactors.transports.lines.room import Room

__all__ = [
    "DEAR",
    "DROPPED",
    "FEW",
    "LOGS_KEPT",
    "LONGEST",
    "MANY",
    "PART",
    "READ",
    "SAID",
    "SKIPPED",
    "SMALL",
    "Allowance",
    "Steps",
    "cost",
    "flood_of",
    "parsing",
    "size_of",
    "thinned",
]

# --- What need not be read --------------------------------------------------------------------------------------------

MANY: Final = 16
"""Lines read at once that need not be read: who says so many, and again, floods; who prints now and then does not."""
FEW: Final = 64
"""Lines read at once that are all parsed, of a peer that does not flood: every step of a short way is heard."""
LOGS_KEPT: Final = 8
"""Log messages kept of what is read at once, of a peer that floods."""
_NOTIFICATION: Final = re.compile(
    rb'[ \t\r]*\{[ \t\r]*(?:"jsonrpc"[ \t\r]*:[ \t\r]*"2\.0"[ \t\r]*,[ \t\r]*)?"method"[ \t\r]*:[ \t\r]*'
    rb'"notifications/(?:(progress)|(message)|((?:tools|prompts|resources)/list_changed|resources/updated))"'
)
"""As every SDK begins one. With the method so far ahead it is that of the message, and of nothing that is within it."""
_PROGRESS, _LOG = 1, 2
_TOKEN_KEY: Final = b'"progressToken"'
_TOKEN: Final = re.compile(rb'"progressToken"[ \t\r]*:[ \t\r]*(-?(?:0|[1-9][0-9]{0,17})|"[^"\\]{1,128}")[ \t\r]*[,}]')
_BEGINNINGS: Final = (b"{", b" ", b"\t", b"\r")
"""Of lines that may be messages."""

Lines = Sequence[bytes | LongLine]
TokenOf = Callable[[bytes], object]
"""The token of a line that can be read and is a progress notification; of any other None."""


def thinned(lines: Lines, token_of: TokenOf, logs: float = math.inf) -> Lines:
    """What must be parsed of `lines`, which were read at once; in their order.

    Dropped are: progress, if there is later progress with its token; that something has changed, if the same is said
    later; all log messages but the last `logs`. "Later" ends before the next line of any other kind: nothing is heard
    after what was said behind it, and progress comes before its result or not at all.
    """
    if len(lines) < 2:
        return lines
    later, kept = _Later(token_of, logs), list[bytes | LongLine]()
    for line in reversed(lines):
        if (  # most lines of a flood are told by this
            isinstance(line, bytes) and (line.startswith(later.alike) or line in later.changes) and not _doubtful(line)
        ):
            continue
        if not later.replaces(line):
            kept.append(line)
    kept.reverse()
    return kept


def _doubtful(line: bytes) -> bool:
    """Whether it may be no notification, whatever it begins with."""
    return line.find(b'"id"') >= 0 or line.find(b"\\u006") >= 0  # the escapes of its letters; `in` takes thrice as long


@define(eq=False)
class _Later:
    """What is said later, up to the next line of another kind, while the lines are looked at from their end."""

    token_of: TokenOf
    logs: float
    changes: set[bytes] = field(factory=set)
    """Of lines that are replaced, unless there is doubt about them, some whole ones; and `alike`, how others begin."""
    alike: tuple[bytes, ...] = ()
    _needless: tuple[bytes, ...] = ()  # how the last log began that was not kept: no more are
    _progress: dict[bytes, bytes | None] = field(factory=dict)  # token -> its last line; None once that was tried

    def replaces(self, line: bytes | LongLine) -> bool:
        """Whether the line need not be parsed, now that all after it have been looked at."""
        if isinstance(line, LongLine):
            return self._ends()
        if not line.startswith(_BEGINNINGS):
            return False
        if _doubtful(line):
            return self._ends()
        found = _NOTIFICATION.match(line)
        if found is None:
            return self._ends()
        if found.lastindex == _PROGRESS:
            return self._replaces_progress(line)
        if found.lastindex != _LOG:
            self.changes.add(line)
            return False
        self.logs -= 1
        if self.logs >= 0:
            return self._ends()
        self._needless = (found[0],)
        self.alike = (*self._needless, *self.alike[-1:])
        return True

    def _replaces_progress(self, line: bytes) -> bool:
        found = _TOKEN.search(line)
        if found is None or line.count(_TOKEN_KEY) > 1:
            return self._ends()
        token = found[1]
        newer = self._progress.get(token, b"")
        if newer is None:
            return True
        same = _TOKEN.search(newer)
        said = self.token_of(newer) if same is not None else None
        if same is None or said is None or said != json.loads(token):
            self._progress[token] = line
            return False
        self._progress[token] = None
        self.alike = (*self._needless, newer[: same.end()])
        return True

    def _ends(self) -> bool:
        self.changes.clear()
        self._progress.clear()
        self.alike = self._needless
        return False


def flood_of(read: Lines, kept: Lines) -> int:
    """Bytes of what need not be read, if that is a flood."""
    return sum(map(size_of, read)) - sum(map(size_of, kept)) if len(read) - len(kept) >= MANY else 0


def size_of(line: bytes | LongLine) -> int:
    """Bytes of it, also of those that were not kept."""
    return line.size if isinstance(line, LongLine) else len(line)


# --- How long to wait -------------------------------------------------------------------------------------------------

SAID: Final = 20e-6
"""Seconds that a message costs that nobody waits for: rough ones, which say how the costs compare. `SKIPPED`: a line
that cannot be read. `DROPPED`: one that was not looked into; `READ`: to read so much at once that there were any."""
SKIPPED: Final = 4e-6
DROPPED: Final = 0.25e-6
READ: Final = 150e-6
_BYTE: Final = 5e-9
PART: Final = 0.1e-6
"""Seconds for a comma of a line that is parsed: what it is made of takes longer than its bytes."""
SMALL: Final = 4096
"""Bytes of a message whose parts are not counted; what is waited for costs nothing up to there."""
SHARE: Final = 0.001
"""Of all time, for what nobody waits for: 50 messages a second, or a pipe full of which most need not be read."""
NEXT: Final = 40e-9
"""Seconds more for a byte of a flood, once all was spent: its writer says the next one on a processor that others want,
and that is felt more than what we do with it."""
BURST: Final = 0.125
"""Seconds for it, after silence, sooner than at that share: 6,000 messages, or 200,000 of which most need not be
read."""
HASTE: Final = 0.1
"""The share of the time at which those are used up: a reply behind 100,000 lines of progress is half a second late."""
AT_ONCE: Final = 0.005
"""Seconds for it at once: within any twentieth of a second it gets no more than twice this."""
DEAR: Final = 0.0007
"""Seconds that one read may cost: who has more to say of what costs so much is read in smaller pieces, as others feel a
long one and not many short ones. As much as a pipe holds of what is mostly dropped costs less."""
LONGEST: Final = 1.0
"""Seconds to wait at most for 64 KiB; only rubbish comes to so much, and what takes very long to parse."""
_SHORTEST: Final = 0.001
"""Less is not worth a timer."""
STEP: Final = 1 / 20
"""Seconds from one progress of a call to its next that is passed on: see `CallLimits`. `AHEAD`: so many come early."""
AHEAD: Final = 10


def cost(each: float, size: int) -> float:
    """Seconds for a line of so many bytes."""
    return each + size * _BYTE


def parsing(line: bytes | LongLine) -> float:
    """Seconds more for a line that is parsed, if it is long."""
    return line.count(b",") * PART if isinstance(line, bytes) and len(line) > SMALL else 0.0


@define(eq=False)
class Allowance:
    """How much of the time goes on what nobody waits for. Not spent, it grows to `BURST`; overspent, it is waited for.

    So a flood is read at the pace that leaves its siblings their time; the pipe fills, and its writer waits. It is not
    time that is measured but lines that are counted: the same lines wait equally long everywhere. All sessions with a
    backend of the network have one, or a flood would be a new one in each; they wait with what they have read in hand,
    as of many that wait the first then spends, and the others see it.
    """

    _left: float = BURST
    _now: float = AT_ONCE
    _at: float = 0.0
    _spent: bool = False
    """Nothing was left, and it was not silent for long since: what has grown anew is for no flood. A flood with pauses
    of some seconds would else be a new one after each."""
    room: Room = field(factory=Room)
    """The memory that goes on what is not whole yet, which all sessions share as well."""

    @property
    def strained(self) -> bool:
        """Whether a quarter of it is gone: it floods."""
        return self._left < BURST * 3 / 4

    def spend(self, seconds: float, longest: float = LONGEST, flood: int = 0) -> float:
        """So much more was for nobody. `longest` is how many seconds are waited for it at most: less where less is read
        at once, or smaller pieces would be read more slowly. What is owed already stays owed. `flood`: how many
        bytes of it need not be read, of `MANY` lines. Returns what that comes to."""
        if flood and self._spent:
            self._left = min(self._left, 0.0)
            seconds += flood * NEXT
        self._left = min(self._left, max(self._left - seconds, -longest * SHARE))
        self._now = min(self._now, max(self._now - seconds, -longest * HASTE))
        self._spent |= self._left <= 0
        return seconds

    def wait(self, now: float) -> float:
        """Seconds to wait before more is read; often 0. `now` is on a clock that never goes back."""
        self._left = min(self._left + (now - self._at) * SHARE, BURST)
        self._now = min(self._now + (now - self._at) * HASTE, AT_ONCE)
        self._at = now
        self._spent &= self._left < BURST / 4
        owed = max(-self._left / SHARE, -self._now / HASTE)
        return owed if owed >= _SHORTEST else 0.0


@define(eq=False)
class Steps:
    """Progress that is waited for: of each call as much as is passed on. Who has many calls says much, and floods not.

    Calls are told by their tokens; of as many tokens as there are calls, so that no more is had by making them up.
    """

    _due: dict[int | str, float] = field(factory=dict)
    """When the next of a token would come that comes in time; who spoke last is last."""

    def is_one(self, token: object, calls: int, now: float) -> bool:
        """Whether progress with this token, that comes now, is one of them; `calls` are in flight."""
        if not isinstance(token, int | str) or not calls:
            return False
        due = self._due.pop(token, None)
        if due is None:
            while len(self._due) >= calls:
                first = next(iter(self._due))
                if self._due[first] > now:
                    return False
                del self._due[first]
            due = now
        in_time = due - now <= AHEAD * STEP
        self._due[token] = max(due, now) + STEP if in_time else due
        return in_time

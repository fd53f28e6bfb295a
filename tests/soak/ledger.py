"""What the clients of a soak have asked and got: every call ends once, and in time.

Rule: PURE but for the clock. A promise that was broken is a sentence; none means that all hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import trio
from attrs import define, field

__all__ = ["Call", "Ledger", "percentile", "terminal"]

MOST: Final = 50
"""Broken promises that are kept word for word."""


@define(eq=False)
class Call:
    """One call: what it is, what it may take (seconds), and how it ended."""

    what: str
    limit: float
    began: float
    answers: int = 0
    left: bool = False
    """Its client has gone away."""


@define
class Ledger:
    """Of all clients together. `second`: what this second's calls to siblings took; `worst`: the worst p99 of one."""

    broken: list[str] = field(factory=list)
    more_broken: int = 0
    counts: Counter[str] = field(factory=Counter)
    open: set[Call] = field(factory=set)
    siblings: list[float] = field(factory=list)
    lists: list[float] = field(factory=list)
    second: list[float] = field(factory=list)
    worst: float = 0.0
    began: float = field(factory=trio.current_time)

    def breaks(self, what: str) -> None:
        """A promise was broken."""
        if len(self.broken) < MOST:
            self.broken.append(f"{trio.current_time() - self.began:6.1f} s: {what}")
        else:
            self.more_broken += 1

    @contextmanager
    def call(self, what: str, kind: str, limit: float) -> Iterator[Call]:
        """A block in which a call is made; it must have had one answer at the end, unless its client has left."""
        call = Call(what, limit, trio.current_time())
        self.open.add(call)
        self.counts["begun"] += 1
        self.counts[kind] += 1
        try:
            yield call
        finally:
            self.open.discard(call)
            if call.left:
                self.counts["left"] += 1
            elif call.answers == 1:
                self.counts["ended"] += 1
            else:
                self.counts["unended"] += 1
                took = trio.current_time() - call.began
                self.breaks(f"{what} had {call.answers} answers within {took:.1f} s, not one")

    def answered_by_sibling(self, seconds: float) -> None:
        """A call to a sibling took so long."""
        self.siblings.append(seconds)
        self.second.append(seconds)

    def check(self) -> None:
        """What must hold each second."""
        books = self.counts
        if books["begun"] != books["ended"] + books["left"] + books["unended"] + len(self.open):
            self.breaks(f"calls that nobody accounts for: {dict(books)}, {len(self.open)} open")
        now = trio.current_time()
        for call in self.open:
            if now - call.began > call.limit:
                self.breaks(f"{call.what} is open for {now - call.began:.1f} s")
        self.worst = max(self.worst, percentile(self.second, 0.99))
        self.second = []


def percentile(times: Sequence[float], share: float) -> float:
    """What `share` (0 to 1) of them do not exceed; 0 of none."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))] if times else 0.0


def terminal(messages: Sequence[dict[str, Any]], number: object) -> list[dict[str, Any]]:
    """The answers to this request among what came."""
    return [message for message in messages if message.get("id") == number and "method" not in message]

"""What a callee asks its caller, and which questions of one call are open.

Rule: a question is answered once, and for certain. While any is open the callee cannot work: for how long that was is
known here, so that it is not counted against the call. Import `Question` from `reply.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, final

import trio
from attrs import define, field

from mcpactors.runtime.outcome import Outcome

__all__ = ["OpenQuestions", "Question"]


@define(eq=False)
class Question:
    """A request of the callee to its caller (sampling, elicitation, roots). Whoever takes it must `answer` it."""

    method: str
    params: Mapping[str, Any] | None
    _answered: trio.Event = field(factory=trio.Event)
    _outcome: Outcome | None = None

    def answer(self, outcome: Outcome) -> bool:
        """Give the callee its answer. False, and nothing happens, when there already was one."""
        if self._outcome is not None:
            return False
        self._outcome = outcome
        self._answered.set()
        return True

    @property
    def answered(self) -> bool:
        """Whether it has its answer, be it that nobody wants one any more."""
        return self._outcome is not None

    async def outcome(self) -> Outcome:
        """Wait until somebody answered."""
        await self._answered.wait()
        assert self._outcome is not None
        return self._outcome


@final
class OpenQuestions:
    """Those of one call; there from its first one on."""

    __slots__ = ("_asked", "_paused_at", "paused", "resumed_at")

    def __init__(self) -> None:
        self._asked: dict[Question, float] = {}  # when each was asked, the oldest first
        self._paused_at = -math.inf
        self.paused = 0.0
        """Seconds for which the callee could not work, up to the last time that it had all its answers."""
        self.resumed_at = -math.inf
        """When that was."""

    def __len__(self) -> int:
        return len(self._asked)

    def __iter__(self) -> Iterator[Question]:
        return iter(list(self._asked))

    @property
    def oldest_at(self) -> float:
        """When the oldest of them was asked."""
        return next(iter(self._asked.values()))

    def open(self, asked: Question) -> None:
        """The callee waits for its answer."""
        now = trio.current_time()
        if not self._asked:
            self._paused_at = now
        self._asked[asked] = now

    def close(self, asked: Question) -> None:
        """The callee does not wait for it any more."""
        del self._asked[asked]
        if not self._asked:
            self.resumed_at = trio.current_time()
            self.paused += self.resumed_at - self._paused_at

"""One call's way back: `Replies` is the caller's end, `ReplyChannel` the callee's.

Rule: any number of `Notice` and `Question`, then exactly one `Outcome`. `finish()` decides once; what comes later is
counted and dropped (promises P1 and P4). Nothing here waits for the other side's goodwill: a notice never waits, an
outcome never waits, and a caller that leaves its `with Replies()` block cancels the callee. A call that sends nothing
costs one `trio.Event`; the queue exists only once something is sent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, final

import trio
from attrs import field, frozen

from mcpactors.errors import CallTimeout, QuestionRefused
from mcpactors.runtime.checks import number
from mcpactors.runtime.clock import clock_of_this_run
from mcpactors.runtime.naming import Namespace
from mcpactors.runtime.outcome import Failure, Outcome, Result
from mcpactors.runtime.policy import DEFAULT_CALLS, CallLimits
from mcpactors.runtime.question import OpenQuestions, Question

__all__ = ["CallDeadlines", "Failure", "Notice", "Outcome", "Question", "Replies", "ReplyChannel", "Result"]

QUESTIONS_OPEN: Final = 64
PROGRESS: Final = "notifications/progress"
CLOSE_STREAM: Final = "mcpactors/closeStream"
"""A notice that is nobody's but ours: the caller may hang up, and ask for the outcome later."""
_ROOT: Final = Namespace()


@frozen
class Notice:
    """Something the callee says while it works, in the words of MCP: a notification's method and params.

    Progress carries no token here: each edge puts in its own (kernel rule 7).
    """

    method: str
    params: Mapping[str, Any]


@frozen
class CallDeadlines:
    """Seconds a call may take: without a sign of life, in all, and for the client to answer one question.

    The clock of `total` stands still while a question is open, and that of `idle` begins anew after it: the callee
    cannot work then. A wrong value raises ValueError naming it.
    """

    idle: float = field(default=30.0, validator=number(0, math.inf))
    total: float = field(default=300.0, validator=number(0, math.inf))
    question: float = field(default=600.0, validator=number(0, math.inf))


@final
class ReplyChannel:
    """The callee's end of one call."""

    __slots__ = (
        "_event",
        "_feed",
        "_held_back",
        "_questions",
        "_scope",
        "dropped",
        "late",
        "limits",
        "namespace",
        "outcome",
        "until",
    )

    def __init__(self, limits: CallLimits = DEFAULT_CALLS) -> None:
        self.limits = limits
        self.outcome: Outcome | None = None
        """How the call ended; None while it goes on."""
        self.late = 0
        """Outcomes and notices that came after the end and were dropped."""
        self.dropped = 0
        """Notices dropped because the callee talks faster than its caller reads, or tells of progress too often."""
        self.until = -math.inf
        """Where its caller has left: when the call would have ended at the latest."""
        self.namespace = _ROOT
        """Where in the tree the callee is mounted; what it says is renamed by this on the way back."""
        self._event = trio.Event()
        self._feed: deque[Notice | Question] | None = None
        self._held_back = False  # all that waits to be read is one progress notice, and its reader will come for it
        self._questions: OpenQuestions | None = None
        self._scope: trio.CancelScope | None = None

    @property
    def finished(self) -> bool:
        """True once the call has its outcome, or its caller has left."""
        return self.outcome is not None

    @property
    def asks(self) -> bool:
        """True while a question of this call waits for its answer."""
        return bool(self._questions)

    def notice(self, method: str, params: Mapping[str, Any]) -> None:
        """Tell the caller something. Never waits; dropped and counted once the call has ended.

        At most `limits.notices` are kept for a caller that does not read: then progress replaces the last progress,
        and anything else displaces the oldest notice.
        """
        if self.outcome is not None:
            self.late += 1
            return
        feed = self._feed
        if feed is None:
            feed = self._feed = deque()
        elif self._held_back and method == PROGRESS and len(feed) == 1:
            feed[-1] = Notice(method, params)
            self.dropped += 1
            return
        elif len(feed) >= self.limits.notices and not self._make_room(feed, method):
            return
        feed.append(Notice(method, params))
        self._event.set()

    def _make_room(self, feed: deque[Notice | Question], method: str) -> bool:
        """Drop one notice for a new one. False when only questions wait: then it is the new one that goes."""
        self.dropped += 1
        last = feed[-1]
        if method == PROGRESS and isinstance(last, Notice) and last.method == PROGRESS:
            feed.pop()
            return True
        for place, item in enumerate(feed):
            if isinstance(item, Notice):
                del feed[place]
                return True
        return False

    async def question(self, method: str, params: Mapping[str, Any] | None) -> Outcome:
        """Ask the caller and wait for its answer.

        The caller's end answers for certain: with what its client said, with a refusal when that client cannot be
        asked, or with a timeout. When the call ends first the answer is a failure. So it is at once when 64 questions
        of this call are open already.
        """
        if self.outcome is not None:
            return Failure.of(QuestionRefused(f"{method} cannot be asked: the call it belongs to has ended"))
        if self._feed is None:
            self._feed = deque()
        questions = self._questions
        if questions is None:
            questions = self._questions = OpenQuestions()
        elif len(questions) >= QUESTIONS_OPEN:
            said = f"{method} cannot be asked: {QUESTIONS_OPEN} questions of this call are open; await their answers"
            return Failure.of(QuestionRefused(said))
        asked = Question(method, params)
        questions.open(asked)
        self._feed.append(asked)
        self._event.set()
        try:
            return await asked.outcome()
        finally:
            self._withdraw(asked)
            questions.close(asked)
            self._event.set()  # the caller's clock runs again

    def _withdraw(self, asked: Question) -> None:
        """Nobody waits for this answer any more: the caller is not to ask its client, or may stop asking."""
        if asked.answer(Failure.of(QuestionRefused("the call this question belongs to has ended"))) and self._feed:
            with suppress(ValueError):
                self._feed.remove(asked)

    def finish(self, outcome: Outcome) -> bool:
        """End the call. True for the one that ended it; a later one is counted and dropped."""
        if self.outcome is not None:
            self.late += 1
            return False
        self.outcome = outcome
        self._event.set()
        if self._questions:
            for asked in self._questions:
                self._withdraw(asked)
        return True

    def runs_in(self, scope: trio.CancelScope) -> None:
        """Name the scope that answers this call, so that a caller that leaves can cancel it."""
        self._scope = scope

    def left(self, scope: trio.CancelScope) -> None:
        """This scope has nothing to do with the call any more."""
        if self._scope is scope:
            self._scope = None

    def abandon(self, outcome: Failure) -> None:
        """The caller's way to end the call: the outcome is decided and the callee is cancelled."""
        if self.finish(outcome) and self._scope is not None:
            self._scope.cancel()


_LEFT: Final = Failure(-32800, "the caller left before the call had ended")


@final
class Replies:
    """The caller's end of one call: a `with` block around the whole exchange.

        with Replies(deadlines) as replies:
            ref.offer(Envelope(request, replies.channel))
            async for event in replies:      # Notice | Question, in the order they were sent
                ...
            outcome = replies.outcome

    Leaving the block early, by exception or cancellation, cancels the callee. A call that exceeds its deadlines gets
    a `CallTimeout` failure as its outcome, and the callee is cancelled.
    """

    __slots__ = (
        "_clock",
        "_deadlines",
        "_due",
        "_idle_at",
        "_progress",
        "_total_at",
        "channel",
        "number",
        "waits_until",
        "watched_until",
    )

    def __init__(self, deadlines: CallDeadlines = CallDeadlines(), limits: CallLimits = DEFAULT_CALLS) -> None:
        self.channel = ReplyChannel(limits)
        self._deadlines = deadlines
        now = trio.current_time()
        self._idle_at = now + deadlines.idle
        self._total_at = now + deadlines.total
        self.waits_until = math.inf
        self.watched_until = math.inf
        self._due = False
        self._progress: deque[float] | None = None  # when the last few were passed on, once there were any
        self._clock = clock_of_this_run()
        self.number = next(self._clock.numbers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self, outcome: Failure = _LEFT) -> None:
        """End the exchange, with this outcome if there is none yet: what leaving the block does.

        For a caller that has no block around the whole: a call that is parked between two requests of its client.
        """
        if self.channel.outcome is None:
            self.channel.until = self._next_deadline()
            self.channel.abandon(outcome)
        if self.watched_until != math.inf:
            self._clock.forget(self)

    @property
    def ended(self) -> bool:
        """Whether the call has its outcome."""
        return self.channel.outcome is not None

    @property
    def outcome(self) -> Outcome:
        """How the call ended. Only to be read once the iteration is over."""
        outcome = self.channel.outcome
        assert outcome is not None, "the call has not ended: iterate the replies to their end first"
        return outcome

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notice | Question:
        channel = self.channel
        while True:
            if channel._feed:
                if channel._feed[0].method == PROGRESS and (wait := self._coalesce(channel._feed)) > 0:
                    await self._hold_back(wait)
                    continue
                event = channel._feed.popleft()
                self._sign_of_life()
                return event
            if channel.outcome is not None:
                raise StopAsyncIteration
            if self._due:
                self._due = False
                channel._event = trio.Event()
                if trio.current_time() >= self._next_deadline():
                    self._time_out()
                    continue
            elif channel._event.is_set():
                channel._event = trio.Event()  # set for what was read already
            await self._wait()

    def _coalesce(self, feed: deque[Notice | Question]) -> float:
        """For how many seconds the progress that is to be read next is kept back: newer may come, and is kept then.

        The last one is never lost, nor does it come after what was said later: whatever follows it sends it on.
        """
        self._sign_of_life()
        now, channel = trio.current_time(), self.channel
        passed, rate = self._progress, channel.limits.progress
        if passed is None:
            passed = self._progress = deque(maxlen=rate)
        wait = passed[0] + 1 - now if len(passed) == rate else 0
        if wait > 0:
            while len(feed) > 1 and feed[1].method == PROGRESS:
                feed.popleft()
                channel.dropped += 1
            if len(feed) == 1 and channel.outcome is None:
                return wait
        passed.append(now)
        return 0

    async def _hold_back(self, wait: float) -> None:
        """Wait while nothing is said but progress, of which each takes the place of the one before."""
        channel = self.channel
        channel._event, channel._held_back = trio.Event(), True
        try:
            with trio.move_on_at(min(trio.current_time() + wait, self._next_deadline())):
                await channel._event.wait()
        finally:
            channel._held_back = False

    async def _wait(self) -> None:
        self.waits_until = self._next_deadline()
        if self.waits_until < self.watched_until:
            self._clock.watch(self)
        try:
            await self.channel._event.wait()
        finally:
            self.waits_until = math.inf

    def look_at_the_clock(self, now: float) -> float:
        """Called by the clock when the deadline may have come: when to look again.

        The caller itself decides, in its own turn: what comes at this very instant still counts.
        """
        if self.waits_until <= now:
            deadline = self._next_deadline()
            if deadline > now:
                self.waits_until = deadline
            else:
                self._due = True
                self.channel._event.set()
                return math.inf
        return self.waits_until

    def _sign_of_life(self) -> None:
        """Note that something came. It does not save a call from the other deadlines, however much comes."""
        now = trio.current_time()
        self._idle_at = now + self._deadlines.idle
        if self.channel.outcome is None and now >= self._next_deadline():
            self._time_out()

    def _next_deadline(self) -> float:
        questions = self.channel._questions
        if questions is None:
            return min(self._idle_at, self._total_at)
        if questions:
            return questions.oldest_at + self._deadlines.question
        if questions.paused:
            self._idle_at = max(self._idle_at, questions.resumed_at + self._deadlines.idle)
        return min(self._idle_at, self._total_at + questions.paused)

    def _time_out(self) -> None:
        questions = self.channel._questions
        if questions:
            said = f"the client did not answer a question within {self._deadlines.question:g} s"
        elif self._idle_at <= self._total_at + (0.0 if questions is None else questions.paused):
            said = f"no sign of life for {self._deadlines.idle:g} s"
        else:
            said = f"not finished within {self._deadlines.total:g} s"
        self.channel.abandon(Failure.of(CallTimeout(f"call timed out: {said}; it was cancelled")))

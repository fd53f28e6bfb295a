"""How any actor lives: its mailbox, its address, and the loop that turns envelopes into outcomes.

Rule: nothing here knows what a request means. An actor is two things to write, `lifespan()` and `handle()`; an
exception of `handle` is an error reply and the actor lives, an exception of `lifespan` is a crash: calls in flight
fail at once, waiting ones stay in the mailbox for the next life (design.md section 4, rules 1 and 2).
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Final, final

import trio
from attrs import define, field, frozen

from mcpactors.errors import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    ActorCrashed,
    ActorUnavailable,
    MailboxFull,
    MCPActorsError,
    QuestionRefused,
)
from mcpactors.runtime.poison import Suspects
from mcpactors.runtime.reply import CallDeadlines, Failure, Notice, Outcome, Question, Replies, ReplyChannel, Result

__all__ = [
    "Actor",
    "ActorRef",
    "Caller",
    "Down",
    "Envelope",
    "Forwarded",
    "Mailbox",
    "MailboxStatistics",
    "Request",
    "Tally",
    "part",
    "run_actor",
    "witnesses",
]

logger = logging.getLogger("mcpactors")

SPARE_WORKERS: Final = 4
"""Idle tasks that an actor keeps for its next requests."""
NO_DEADLINES: Final = CallDeadlines(idle=math.inf, total=math.inf, question=math.inf)


@frozen
class Caller:
    """The facts about whoever sent a request; they travel with it so that nobody has to ask."""

    revision: str = "2026-07-28"
    capabilities: Mapping[str, Any] = field(factory=dict)
    """What the client declared it can do, as on the wire (`sampling`, `elicitation`, `roots`)."""
    info: Mapping[str, Any] | None = None
    principal: str | None = None
    session: str | None = None
    """Which client session this is, where there is one; never the transport's own session id."""
    log_level: str | None = None
    can_be_asked: bool = False
    """Whether a question can be put to this client while the call runs."""


@frozen
class Request:
    """One MCP request: immutable, params as they came, so that unknown fields survive."""

    method: str
    params: Mapping[str, Any]
    caller: Caller = Caller()
    onward: tuple[tuple[ActorRef, str], ...] = ()
    """Where the request goes from here, and under which name, when the actor only puts its middleware around it."""


@frozen(eq=False)
class Envelope:
    """A request with the channel to answer on. One offer of it is one accepted request, so it has identity."""

    request: Request
    reply: ReplyChannel


@frozen
class Forwarded:
    """What `handle` returns when another actor now owes the answer."""


@frozen
class MailboxStatistics:
    """A snapshot of a mailbox: how much waits in it, how much may, how many offers it refused."""

    waiting: int
    capacity: int
    control_waiting: int
    refused: int


@final
class Mailbox:
    """A bounded queue that outlives its actor's restarts. Control messages overtake data.

    `offer` and `cast` never wait. Full means `MailboxFull`: the caller is told at once and may come back.
    """

    def __init__(self, owner: str, *, capacity: int = 256, control_capacity: int = 64) -> None:
        self.owner = owner
        self._capacity = capacity
        self._control_capacity = control_capacity
        self._data: deque[Envelope] = deque()
        self._control: deque[object] = deque()
        self._waiter = trio.lowlevel.ParkingLot()
        self._refusal: Callable[[], MCPActorsError] | None = None
        self._refused = 0

    def offer(self, envelope: Envelope) -> None:
        """Put a request in, at the end of the data lane.

        Raises:
            MailboxFull: as many wait as may; `data.retryAfter` says when to come back, in seconds.
            ActorStopped, ActorUnavailable: whatever `refuse` was told to say.
        """
        if self._refusal is not None:
            self._refused += 1
            raise self._refusal()
        if self.full:
            self._refused += 1
            raise MailboxFull(
                f"{self.owner} is overloaded: {self._capacity} calls are waiting already; retry in a second",
                {"actor": self.owner, "retryAfter": 1.0},
            )
        self._data.append(envelope)
        self._waiter.unpark()

    def cast(self, message: object) -> None:
        """Put a control message in: no answer, ahead of all data. Raises `MailboxFull` like `offer`."""
        if len(self._control) >= self._control_capacity:
            self._refused += 1
            raise MailboxFull(f"{self.owner} has {self._control_capacity} control messages waiting already")
        self._control.append(message)
        self._waiter.unpark()

    async def receive(self, has_slot: Callable[[], bool]) -> Envelope | object:
        """Take the next message, waiting for one: any control message first, then a request if there is a slot.

        Always a checkpoint. Several may receive at once; each message goes to one of them.
        """
        if self._control or (self._data and has_slot()):
            await trio.lowlevel.checkpoint()
        while True:
            if self._control:
                return self._control.popleft()
            if self._data and has_slot():
                return self._data.popleft()
            await self._waiter.park()

    @property
    def receivers(self) -> int:
        """How many wait in `receive`."""
        return len(self._waiter)

    def slot_freed(self) -> None:
        """Make a waiting `receive` look again."""
        if self._data:
            self._waiter.unpark()

    @property
    def full(self) -> bool:
        """Whether as many requests wait as may."""
        return len(self._data) >= self._capacity

    def sweep(self) -> int:
        """Drop the requests whose callers have left, and return how many these were."""
        before = len(self._data)
        self._data = deque(envelope for envelope in self._data if not envelope.reply.finished)
        return before - len(self._data)

    def accept(self) -> None:
        """Take requests again."""
        self._refusal = None

    def refuse(self, error: Callable[[], MCPActorsError]) -> list[Envelope]:
        """Refuse every request from now on, with the error that `error()` makes, and give back those that wait."""
        self._refusal = error
        waiting, self._data = list(self._data), deque()
        return waiting

    def statistics(self) -> MailboxStatistics:
        """A frozen snapshot."""
        return MailboxStatistics(len(self._data), self._capacity, len(self._control), self._refused)


@define(eq=False)
class Tally:
    """What became of an actor's requests. At every moment, promise P11:

    accepted == answered + failed + cancelled + forwarded + in flight + waiting in the mailbox
    """

    accepted: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    forwarded: int = 0


@frozen
class Down:
    """Since when an actor is down, on trio's clock, and why."""

    at: float
    why: str | None
    outlook: str = "it is tried again by itself"


witnesses: Final[list[Callable[[ActorRef], None]]] = []
"""Called with every address that is made, before anything is sent to it: how tests see the books of all that lives."""


class ActorRef:
    """An actor's address. It keeps its meaning across restarts, so routing tables never churn."""

    __slots__ = ("__weakref__", "_idle", "down", "in_flight", "kind", "mailbox", "name", "state", "suspects", "tally")

    def __init__(self, name: str, kind: str, mailbox: Mailbox) -> None:
        self.name = name
        self.kind = kind
        self.mailbox = mailbox
        self.tally = Tally()
        self.in_flight: set[Envelope] = set()
        self._idle: trio.Event | None = None
        self.state = "stopped"
        """What the actor does now, in the supervisor's words (`ChildState`)."""
        self.down: Down | None = None
        """Set while it has gone down, or could not start, and is not up again."""
        self.suspects = Suspects()
        for witness in witnesses:
            witness(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __str__(self) -> str:
        return self.name

    def offer(self, envelope: Envelope) -> None:
        """Hand over a request. Never waits; raises as `Mailbox.offer` does."""
        if self.mailbox.full:  # callers that gave up must not keep others out
            self.tally.cancelled += self.mailbox.sweep()
        self.mailbox.offer(envelope)
        self.tally.accepted += 1

    def cast(self, message: object) -> None:
        """Send a control message, without an answer."""
        self.mailbox.cast(message)

    async def ask(self, request: Request, deadlines: CallDeadlines = CallDeadlines()) -> Outcome:
        """Send a request and wait for its outcome; notices are dropped and questions refused.

        Raises as `offer` does.
        """
        with Replies(deadlines) as replies:
            self.offer(Envelope(request, replies.channel))
            async for event in replies:
                refuse_question(event)
            return replies.outcome

    def settled(self, envelope: Envelope) -> None:
        """One request less is in flight."""
        self.in_flight.discard(envelope)
        self.mailbox.slot_freed()
        if self._idle is not None and not self.in_flight:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until nothing waits for the actor and nothing is in flight."""
        while self.in_flight or self.mailbox.statistics().waiting:
            self._idle = trio.Event()
            await self._idle.wait()

    def unavailable(self) -> ActorUnavailable:
        """The error that says who is down, for how long (seconds) and why; only of one that is."""
        assert self.down is not None
        since, why = trio.current_time() - self.down.at, (self.down.why or "it has ended").rstrip(".")
        return ActorUnavailable(
            f"{self.name} is down for {since:.1f} s: {why}; {self.down.outlook}",
            {"actor": self.name, "since": round(since, 3), "reason": self.down.why},
        )

    def refuse(self, error: Callable[[], MCPActorsError]) -> None:
        """Refuse requests from now on and fail the waiting ones."""
        for envelope in self.mailbox.refuse(error):
            if envelope.reply.finished:
                self.tally.cancelled += 1  # its caller left while it waited
            else:
                envelope.reply.finish(Failure.of(error()))
                self.tally.failed += 1


class Actor(ABC):
    """One kind of actor: what it holds while it lives, and how it answers.

    One instance lives one life: after a crash the supervisor makes a new one.
    """

    kind: ClassVar[str] = "actor"
    concurrency: int = 1024
    """Requests answered at the same time, at most."""

    @abstractmethod
    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """What the actor holds while it lives, entered and left in the actor's own task.

        Raising, at any time, is a crash. A nursery opened in here ends the life when one of its tasks raises.
        """

    @abstractmethod
    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome | Forwarded:
        """Answer one request. Runs in a task of its own, which a caller that leaves cancels."""

    def receive_cast(self, message: object) -> None:
        """Take a control message. Sync: it must not wait. An actor that expects none is sent none."""
        raise TypeError(f"{type(self).__name__} takes no control messages, got {message!r}")


async def relay(target: ActorRef, request: Request, reply: ReplyChannel) -> Outcome:
    """Send a request on and carry what comes back to `reply`, all but the outcome, which is returned.

    The deadlines are those of whoever waits at the other end of `reply`. Raises as `ActorRef.offer` does.
    """
    with Replies(NO_DEADLINES, reply.limits) as replies:
        target.offer(Envelope(request, replies.channel))
        async for event in replies:
            if isinstance(event, Question):
                break
            reply.notice(event.method, event.params)
        else:
            return replies.outcome

        async def ask(question: Question) -> None:
            question.answer(await reply.question(question.method, question.params))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, event)
            async for event in replies:
                if isinstance(event, Question):
                    nursery.start_soon(ask, event)
                else:
                    reply.notice(event.method, event.params)
            nursery.cancel_scope.cancel()
        return replies.outcome


def refuse_question(event: Notice | Question) -> None:
    """Answer a question for which there is nobody to ask; let a notice go."""
    if isinstance(event, Question):
        event.answer(Failure.of(QuestionRefused(f"{event.method} cannot be asked: no client is behind this call")))


async def run_actor(actor: Actor, ref: ActorRef, started: Callable[[trio.CancelScope], None]) -> None:
    """Live one life of `actor`: enter its lifespan, answer what comes in, until cancelled or crashed.

    `started(serving)` is called once the lifespan is entered. Cancelling `serving` ends the life in good order: the
    lifespan is then left as by a return, so that what stands after its `yield` runs and may wait.

    A slot is free before a request is taken, so that the mailbox's bound means something (rule 1). When the life
    ends, the calls in flight fail at once, before the lifespan is unwound.
    """
    async with actor.lifespan(), trio.open_nursery() as nursery:
        started(nursery.cancel_scope)
        await _work(actor, ref, nursery)


async def _work(actor: Actor, ref: ActorRef, nursery: trio.Nursery) -> None:
    """Take requests and answer them, one after another; whoever takes one sees to it that somebody else listens.

    So a request costs one turn of the scheduler and no new task, while calls still run side by side. Each has a
    context of its own. A task whose call was cancelled is not used again: its scope is spent. Nor is one whose
    handler left a cancel scope open (by an async generator that it did not close): the next call would be inside it.
    """
    in_flight, mailbox, concurrency = ref.in_flight, ref.mailbox, actor.concurrency
    task = trio.lowlevel.current_task()
    own = task.context
    clean = own.copy()
    leaked = False

    def has_slot() -> bool:
        return len(in_flight) < concurrency

    try:
        with trio.CancelScope() as scope:
            innermost = task._cancel_status  # which scope we are in; trio has no public name for it
            while not scope.cancel_called:
                task.context = clean.copy()  # takes effect at the checkpoint in `receive`: nothing leaks to the next
                message = await mailbox.receive(has_slot)
                if not isinstance(message, Envelope):
                    actor.receive_cast(message)
                elif message.reply.finished:
                    ref.tally.cancelled += 1  # its caller left while it waited
                else:
                    in_flight.add(message)
                    if not mailbox.receivers:
                        nursery.start_soon(_work, actor, ref, nursery)
                    try:
                        await _answer(actor, ref, message, scope)
                    finally:
                        leaked = task._cancel_status is not innermost
                    if leaked or mailbox.receivers >= SPARE_WORKERS:
                        return
    except BaseException as error:
        if leaked and isinstance(error, RuntimeError):  # trio's, about the scope that was left open
            logger.error("%s: a handler left a cancel scope or nursery open", ref.name, exc_info=error)
            return
        # The life ends: nobody waits for what is still in flight.
        for envelope in list(in_flight):
            _settle(ref, envelope, None)
        raise
    finally:
        task.context = own  # it may live on, in the next life: nothing of a call is to be there


async def _answer(actor: Actor, ref: ActorRef, envelope: Envelope, scope: trio.CancelScope) -> None:
    """Answer one request. Being in `ref.in_flight` means: not settled yet."""
    request, reply = envelope.request, envelope.reply
    outcome: Outcome | Forwarded | None = None  # what it stays when this task is cancelled
    reply.runs_in(scope)
    try:
        if ref.suspects.known:
            ref.suspects.check(ref.name, request.method, request.params, trio.current_time())
        outcome = await actor.handle(request, reply)
        if ref.suspects.known:
            _acquit(ref, request, outcome)
    except MCPActorsError as error:
        outcome = Failure.of(error)
    except BaseException as error:
        passing, own = part(error)
        if own is None:
            raise
        logger.error("%s: %s raised", ref.name, request.method, exc_info=own)
        said = f"{ref.name} failed while answering {request.method} ({type(own).__name__}); see its log"
        outcome = Failure(INTERNAL_ERROR, said)
        if ref.suspects.known:
            _acquit(ref, request, outcome)
        if passing is not None:
            raise passing from None
    finally:
        reply.left(scope)
        _settle(ref, envelope, outcome)


def _acquit(ref: ActorRef, request: Request, outcome: Outcome | Forwarded) -> None:
    """What was answered did no harm; that the way to a backend is lost is no answer."""
    if isinstance(outcome, Result) or (isinstance(outcome, Failure) and outcome.code != CONNECTION_CLOSED):
        ref.suspects.acquit(request.method, request.params)


def part(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What must pass through whoever contains the errors of an actor, and what is that actor's own (promise F59)."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(_passes)
    return (error, None) if _passes(error) else (None, error)


def _passes(error: BaseException) -> bool:
    """Ctrl-C, and a cancellation that somebody asked trio for. Not SystemExit, and no GeneratorExit of a handler's."""
    if isinstance(error, trio.Cancelled):
        return trio.current_effective_deadline() == -math.inf
    return isinstance(error, KeyboardInterrupt)


def _settle(ref: ActorRef, envelope: Envelope, outcome: Outcome | Forwarded | None) -> None:
    """Close the account of one request. No outcome means: cancelled, by its caller or because the actor went down."""
    if envelope not in ref.in_flight:
        return  # failed already, when the actor went down
    ref.settled(envelope)
    reply, tally = envelope.reply, ref.tally
    if isinstance(outcome, Forwarded):
        tally.forwarded += 1
    elif outcome is None and reply.finished:
        tally.cancelled += 1  # its caller had left, and nothing came after that
    elif not reply.finish(outcome or _went_down(ref)):
        tally.cancelled += 1  # its caller had left, and does not get what came
    elif isinstance(outcome, Result):
        tally.answered += 1
    else:
        tally.failed += 1
        if outcome is None or outcome.code == CONNECTION_CLOSED:
            ref.suspects.lost(envelope.request.method, envelope.request.params, trio.current_time())


def _went_down(ref: ActorRef) -> Failure:
    return Failure.of(
        ActorCrashed(
            f"{ref.name} went down while it held the call: the outcome is unknown, and nothing was retried",
            {"actor": ref.name},
        )
    )

"""What an actor is to those who send to it: requests, the mailbox that they wait in, its address and its books.

Rule: nothing here runs an actor or knows what a request means. An address outlives the lives of its actor, and so do
its mailbox and its books: what was accepted is accounted for, whatever becomes of the actor (promise P11).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, final

import trio
from attrs import define, field, frozen

from mcpactors.errors import ActorUnavailable, MailboxFull, MCPActorsError, QuestionRefused
from mcpactors.runtime.given_up import GivenUp
from mcpactors.runtime.poison import Suspects
from mcpactors.runtime.reply import CallDeadlines, Failure, Notice, Outcome, Question, Replies, ReplyChannel

__all__ = [
    "ActorRef",
    "Caller",
    "Down",
    "Envelope",
    "Mailbox",
    "MailboxStatistics",
    "Request",
    "Tally",
    "witnesses",
]


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
    user: Any = field(default=None, eq=False, repr=False)
    """Who `principal` is, with the token: for handlers in this process only. It goes to no backend (features E3)."""


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

    __slots__ = (
        "__weakref__",
        "_idle",
        "down",
        "given_up",
        "in_flight",
        "kind",
        "mailbox",
        "name",
        "state",
        "suspects",
        "tally",
    )

    def __init__(self, name: str, kind: str, mailbox: Mailbox) -> None:
        self.name = name
        self.kind = kind
        self.mailbox = mailbox
        self.tally = Tally()
        self.in_flight: set[Envelope] = set()
        self.given_up = GivenUp(mailbox.slot_freed)
        """Calls that are over here, and keep slots."""
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


def refuse_question(event: Notice | Question) -> None:
    """Answer a question for which there is nobody to ask; let a notice go."""
    if isinstance(event, Question):
        event.answer(Failure.of(QuestionRefused(f"{event.method} cannot be asked: no client is behind this call")))

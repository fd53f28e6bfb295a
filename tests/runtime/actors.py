"""Actors that do what a test tells them, callers in tasks of their own, and the books that must balance.

Rule: real actors under the real kernel, no mocks. A scenario is an `async def` on virtual time; `simulate` runs one
under a seeded scheduler and checks promise P11 after every step of every task.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeVar

import trio
import trio._core._run as trio_run  # its scheduler's random has no public name
from attrs import asdict, define, field
from trio.testing import MockClock

from mcpactors.runtime.actor import Actor, Forwarded, run_actor
from mcpactors.runtime.mailbox import ActorRef, Envelope, Mailbox, Request, Tally
from mcpactors.runtime.reply import CallDeadlines, Failure, Notice, Outcome, Question, Replies, ReplyChannel, Result
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.runtime.supervisor import ChildSpec, ChildState, Supervisor

T = TypeVar("T")
Handler = Callable[[Request, ReplyChannel], Awaitable[Outcome | Forwarded]]
Lifespan = Callable[[], AbstractAsyncContextManager[None]]

TOO_LONG = 1e7
"""Seconds of virtual time after which a test that hangs fails."""
PATIENT = CallDeadlines(idle=1e6, total=1e6, question=1e6)
"""For callers whose deadlines are not the subject."""


# --- What a handler may do ------------------------------------------------------------------------------------------


async def echo(request: Request, reply: ReplyChannel) -> Outcome:
    return Result(request.params)


async def hang(request: Request, reply: ReplyChannel) -> Outcome:
    await trio.sleep_forever()
    raise AssertionError


async def take_a_second(request: Request, reply: ReplyChannel) -> Outcome:
    await trio.sleep(1)
    return Result(request.params)


def raising(error: BaseException) -> Handler:
    async def handle(request: Request, reply: ReplyChannel) -> Outcome:
        raise error

    return handle


@define(eq=False)
class Script:
    """A handler whose `methods` are given by name, and that keeps what has begun and what has ended, and how."""

    methods: dict[str, Handler] = field(factory=dict)
    begun: list[str] = field(factory=list)
    ended: list[str] = field(factory=list)

    async def __call__(self, request: Request, reply: ReplyChannel) -> Outcome | Forwarded:
        self.begun.append(request.method)
        try:
            outcome = await self.methods.get(request.method, echo)(request, reply)
        except trio.Cancelled:
            self.ended.append(f"{request.method} cancelled")
            raise
        self.ended.append(request.method)
        return outcome


# --- What an actor may hold -----------------------------------------------------------------------------------------


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


@define(eq=False)
class Wire:
    """A connection: `cut` ends the life of whoever holds it, from a task inside the lifespan, as a lost one does."""

    made: list[float] = field(factory=list)
    left: list[float] = field(factory=list)
    refused: BaseException | None = None
    """What making it raises, if anything."""
    up: trio.Event = field(factory=trio.Event)
    """Set while it is held."""
    closing_takes: float = 0
    """Seconds to close it, which cannot be cut short."""
    _cuts: trio.Event = field(factory=trio.Event)
    _error: BaseException | None = None

    def cut(self, error: BaseException | None = None) -> None:
        self._error = error or OSError("the wire was cut")
        self._cuts.set()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.made.append(trio.current_time())
        if self.refused is not None:
            raise self.refused
        self._cuts = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                self.up.set()
                yield
                nursery.cancel_scope.cancel()
        finally:
            self.up = trio.Event()
            with trio.CancelScope(shield=True):
                await trio.sleep(self.closing_takes)
            self.left.append(trio.current_time())

    async def _watch(self) -> None:
        await self._cuts.wait()
        assert self._error is not None
        raise self._error


class Scripted(Actor):
    """Answers with `handler`, holds `lifespan()`, and keeps the control messages it gets."""

    kind = "scripted"

    def __init__(self, handler: Handler = echo, lifespan: Lifespan = nothing, concurrency: int = 1024) -> None:
        self._handler = handler
        self._lifespan = lifespan
        self.concurrency = concurrency
        self.casts: list[object] = []

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        return self._lifespan()

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome | Forwarded:
        return await self._handler(request, reply)

    def receive_cast(self, message: object) -> None:
        self.casts.append(message)


def make_ref(name: str = "api", capacity: int = 256) -> ActorRef:
    return ActorRef(name, Scripted.kind, Mailbox(name, capacity=capacity))


@asynccontextmanager
async def living(actor: Actor, ref: ActorRef | None = None) -> AsyncIterator[ActorRef]:
    """One life of `actor`, without a supervisor."""
    ref = ref or make_ref()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_actor, actor, ref, lambda serving: None)
        with trio.fail_after(TOO_LONG):
            yield ref
        nursery.cancel_scope.cancel()
    assert not ref.in_flight
    assert_books_balance(ref)


@asynccontextmanager
async def supervising() -> AsyncIterator[Supervisor]:
    """A supervisor whose children are stopped at the end, and whose waits before a restart have no jitter."""
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, jitter=lambda: 0.5)
        with trio.fail_after(TOO_LONG):
            yield supervisor
            await supervisor.stop_all()


POLICY = RestartPolicy(intensity=2, period=30, backoff_initial=1, backoff_max=4, reset_after=20, probe_after=60)


@define(eq=False)
class Child:
    """A child under test: its address, what it holds, what its handler does, and the lives it had."""

    supervisor: Supervisor
    policy: RestartPolicy = POLICY
    ref: ActorRef = field(factory=make_ref)
    wire: Wire = field(factory=Wire)
    script: Script = field(factory=lambda: Script({"hang": hang}))
    concurrency: int = 1024
    start_timeout: float = 15

    def start(self) -> Child:
        def make() -> Scripted:
            return Scripted(self.script, self.wire.lifespan, self.concurrency)

        self.supervisor.start_child(ChildSpec(self.ref, make, self.policy, self.start_timeout))
        return self

    def state(self) -> ChildState:
        return self.supervisor.state_of(self.ref.name)

    async def crash(self, times: int = 1, apart: float = 0) -> None:
        for _ in range(times):
            await self.wire.up.wait()
            await trio.sleep(apart)
            self.wire.cut()
            await trio.testing.wait_all_tasks_blocked()


# --- Callers --------------------------------------------------------------------------------------------------------


@define(eq=False)
class Call:
    """One call by a caller in a task of its own, who may leave, and what came of it."""

    ref: ActorRef
    request: Request
    deadlines: CallDeadlines = PATIENT
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    channel: ReplyChannel = field(factory=ReplyChannel)
    accepted: bool = False
    events: list[Notice | Question] = field(factory=list)
    read: Outcome | None = None
    """The outcome, if the caller was still there to read it."""
    done_at: float | None = None
    """When the caller was free again."""

    @property
    def code(self) -> int | None:
        """The code of the failure that the caller has read, if it was one."""
        return self.read.code if isinstance(self.read, Failure) else None

    async def __call__(self) -> None:
        with self.scope:
            with Replies(self.deadlines) as replies:
                self.channel = replies.channel
                self.ref.offer(Envelope(self.request, self.channel))
                self.accepted = True
                self.events = [event async for event in replies]
                self.read = replies.outcome
        self.done_at = trio.current_time()


async def place(nursery: trio.Nursery, ref: ActorRef, method: str = "echo", **params: object) -> Call:
    """Start a call, and let it come as far as it does by itself."""
    call = Call(ref, Request(method, params))
    nursery.start_soon(call)
    await trio.testing.wait_all_tasks_blocked()
    return call


async def ask(ref: ActorRef, method: str = "echo", **params: object) -> Outcome:
    return await ref.ask(Request(method, params), PATIENT)


# --- The books (promise P11) ----------------------------------------------------------------------------------------


def counted(ref: ActorRef) -> dict[str, int]:
    """What its tally has counted so far, without the zeros."""
    return {name: count for name, count in asdict(ref.tally).items() if count}


class Counted(Protocol):
    """An address, or no more than its books."""

    @property
    def in_flight(self) -> set[Envelope]: ...
    @property
    def mailbox(self) -> Mailbox: ...
    @property
    def tally(self) -> Tally: ...


def imbalance(ref: Counted) -> int:
    """How many accepted requests nobody can account for."""
    tally = ref.tally
    settled = tally.answered + tally.failed + tally.cancelled + tally.forwarded
    return tally.accepted - settled - len(ref.in_flight) - len(ref.mailbox._data)


def assert_books_balance(*refs: ActorRef) -> None:
    for ref in refs:
        assert imbalance(ref) == 0, f"{ref}: {ref.tally}"


class Auditor(trio.abc.Instrument):
    """Checks the books of `refs` after every step of every task."""

    def __init__(self, refs: Iterable[ActorRef]) -> None:
        self._refs = tuple(refs)
        self.found: list[str] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        for ref in self._refs:
            if imbalance(ref):
                self.found.append(f"after a step of {task.name}: {ref} {ref.tally}")


def simulate(seed: int, scenario: Callable[[], Awaitable[T]], *audited: ActorRef) -> T:
    """Run a scenario on virtual time, with the scheduler's choices and so the whole run decided by `seed`."""

    async def in_time() -> T:
        with trio.fail_after(TOO_LONG):
            return await scenario()

    auditor = Auditor(audited)
    before = trio_run._r.getstate()
    trio_run._r.seed(seed)
    try:
        result = trio.run(in_time, clock=MockClock(autojump_threshold=0), instruments=[auditor] if audited else [])
    finally:
        trio_run._r.setstate(before)
    assert not auditor.found, auditor.found[0]
    return result


def draws(seed: int) -> random.Random:
    """What a scenario decides at random, apart from the scheduler's own choices."""
    return random.Random(f"scenario {seed}")

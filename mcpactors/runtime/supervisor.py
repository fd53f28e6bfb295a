"""Who keeps actors alive: OTP's supervisor, one_for_one, on trio.

Rule: the `try` that turns a crash into a restart stands outside the cancel scope that stops the child, and children
are stopped by their own scopes, never through the supervisor's nursery: a crash at the very instant of a stop raises
a group that mixes the error with `Cancelled` (design.md section 4, rule 5). What to do after an exit is decided by
the pure functions of `restart.py`.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from functools import partial
from types import MappingProxyType
from typing import Final, Literal

import trio
from attrs import asdict, define, evolve, field, frozen

from mcpactors.errors import ActorStopped, said_of
from mcpactors.runtime.actor import Actor, part, run_actor
from mcpactors.runtime.mailbox import ActorRef, Down, MailboxStatistics
from mcpactors.runtime.poison import Suspects
from mcpactors.runtime.restart import Record, RestartLimit, RestartPolicy, Spread, Wait, should_restart

__all__ = ["ActorInfo", "ChildSpec", "ChildState", "Supervisor"]

logger = logging.getLogger("mcpactors")

ChildState = Literal["starting", "running", "backoff", "quarantined", "stopped"]
SOON: Final = 2.0
"""Seconds until a restart for which calls wait; when it takes longer they fail at once."""
PATIENCE: Final = 5.0
"""Seconds that calls wait, in all, for the restart of what has crashed: a process takes some to be up."""
STOP_PATIENCE: Final = 10.0
"""Seconds `stop_child` waits for an end before it says who does not end; every cleanup has a bound of its own."""

IN_ORDER: Final = 2.0
"""Seconds in all that `stop_all` stops one child after the other."""


@frozen
class ChildSpec:
    """How to start one child and what to do when it ends (OTP's child specification)."""

    ref: ActorRef
    start: Callable[[], Actor]
    """Makes the actor for one life; called again for every restart."""
    policy: RestartPolicy = RestartPolicy()
    start_timeout: float = 15.0
    """Seconds its lifespan may take to be entered."""
    last_words: Callable[[], str | None] = lambda: None
    """What is to be told beside the error of a crash, for people; asked once the life is over."""
    stop_timeout: float = 5.0
    """Seconds its lifespan may take to be left in good order, before it is cancelled."""


@frozen
class ActorInfo:
    """One row of `ps`: a frozen snapshot of an actor's state."""

    name: str
    kind: str
    state: ChildState
    mailbox: MailboxStatistics
    in_flight: int
    asking: int
    """Of the calls in flight, those that wait for their client's answer to a question."""
    restarts: int
    since: float
    """Seconds it has been in this state."""
    last_exit: str | None
    """Why it last went down, for people."""
    accounting: Mapping[str, int]
    """Promise P11: accepted, answered, failed, cancelled, forwarded."""
    children: tuple[ActorInfo, ...] = ()
    threads: int = 0
    """Threads that its sync handlers are in, those whose calls are over included."""
    stalls: int = 0
    """How often it has kept the loop from turning, as the watchdog saw it."""
    changed_tools: tuple[str, ...] = ()
    """Its tools whose definitions are not what they were at first, and that nobody has approved."""
    dropped: Mapping[str, int] = field(factory=dict)
    """What its process said that could not be taken, by why: rubbish, replies that nobody waited for, too much."""
    given_up: int = 0
    """Calls whose callers have left, and that keep a slot each: its backend may be at work on them still."""
    era: Literal["legacy", "modern"] | None = None
    """What is spoken to it, or was last, where it is a backend."""


@define(eq=False)
class _Child:
    spec: ChildSpec
    state: ChildState = "starting"
    since: float = field(factory=trio.current_time)
    restarts: int = 0
    last_exit: str | None = None
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    serving: trio.CancelScope | None = None
    """What it does inside its lifespan, while it is running."""
    patience: trio.CancelScope = field(factory=trio.CancelScope)
    """That of its callers, while they wait for its restart."""
    stopping: bool = False
    given_up: bool = False
    """It was quarantined, and has not been up since."""
    missed: bool = False
    """It was given up, or did not start: that it is up is worth a warning, as that it was not."""
    settled: trio.Event = field(factory=trio.Event)
    """Set once it has started, or failed to, for the first time."""
    ended: trio.Event = field(factory=trio.Event)

    def enter(self, state: ChildState) -> None:
        self.state = state
        self.since = trio.current_time()


class Supervisor:
    """Starts children, restarts them when they crash, gives up on those that crash too often.

    `nursery` belongs to whoever opened it, who also leaves it. `on_change(ref, state)` is called at every change of
    a child's state; it must not raise or wait.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        on_change: Callable[[ActorRef, ChildState], None] = lambda ref, state: None,
        jitter: Callable[[], float] = random.random,
        limit: RestartLimit = RestartLimit(),
    ) -> None:
        self._nursery = nursery
        self._context = copy_context()  # of children: they outlive the call in which one is mounted, and whom it is for
        self._on_change = on_change
        self._jitter = jitter
        self._spread = Spread(limit)
        self._children: dict[str, _Child] = {}

    def start_child(self, spec: ChildSpec) -> None:
        """Begin to supervise a child; its name must be new. Returns at once: see `wait_settled`."""
        name = spec.ref.name
        if name in self._children:
            raise ValueError(f"an actor named {name!r} is already supervised; unmount it first or choose another name")
        spec.ref.suspects = Suspects(spec.policy.poison_after, spec.policy.probe_after)
        child = self._children[name] = _Child(spec)
        self._context.run(partial(self._nursery.start_soon, self._supervise, child, name=f"actor {name}"))

    async def wait_settled(self, name: str) -> ChildState:
        """Wait until the child has started or failed to for the first time; the start timeout bounds this."""
        child = self._children.get(name)
        if child is None:
            return "stopped"
        await child.settled.wait()
        return child.state

    async def stop_child(self, name: str) -> None:
        """Stop a child for good: calls in flight and waiting ones fail, its lifespan is left. Idempotent."""
        child = self._children.get(name)
        if child is not None:
            self._ask_to_stop(child)
            await _ended([child], trio.current_time() + STOP_PATIENCE)

    async def stop_all(self) -> None:
        """Stop every child, and wait for them: the youngest first, as in OTP, each once the one after it has ended.

        Where that takes longer than `IN_ORDER`, the rest is stopped at once, still the youngest first.
        """
        children = list(reversed(self._children.values()))
        with trio.move_on_after(IN_ORDER):  # one for all, and no task for any: there may be ten thousand
            for child in children:
                self._ask_to_stop(child)
                await child.ended.wait()
        for child in children:
            self._ask_to_stop(child)
        await _ended(children, trio.current_time() + STOP_PATIENCE)

    def state_of(self, name: str) -> ChildState:
        """The child's state; "stopped" for one that is not there."""
        child = self._children.get(name)
        return child.state if child is not None else "stopped"

    def info(self, name: str) -> ActorInfo:
        """A frozen snapshot of one child."""
        child = self._children[name]
        ref, tally = child.spec.ref, child.spec.ref.tally
        return ActorInfo(
            name=name,
            kind=ref.kind,
            state=child.state,
            mailbox=ref.mailbox.statistics(),
            in_flight=len(ref.in_flight),
            asking=sum(envelope.reply.asks for envelope in ref.in_flight),
            restarts=child.restarts,
            since=trio.current_time() - child.since,
            last_exit=child.last_exit,
            accounting=MappingProxyType(asdict(tally)),
            given_up=len(ref.given_up.until),
        )

    def _ask_to_stop(self, child: _Child) -> None:
        if child.ended.is_set():
            if self._children.get(child.spec.ref.name) is child:  # ended by itself: it was kept only to be told of
                del self._children[child.spec.ref.name]
            return
        if child.stopping:
            return
        child.stopping = True
        self._refuse_as_stopped(child)
        if child.serving is None:
            child.scope.cancel()
        else:
            child.serving.cancel()
            child.scope.deadline = trio.current_time() + child.spec.stop_timeout

    def _refuse_as_stopped(self, child: _Child) -> None:
        ref, name = child.spec.ref, child.spec.ref.name  # a mailbox does not keep its address alive
        ref.refuse(lambda: ActorStopped(f"{name} was stopped; list again to see what there is now"))

    def _enter(self, child: _Child, state: ChildState) -> None:
        child.enter(state)
        child.spec.ref.state = state
        if state in ("running", "stopped"):
            child.patience.cancel()
        self._on_change(child.spec.ref, state)

    async def _supervise(self, child: _Child) -> None:
        spec, record = child.spec, Record.of(child.spec.policy)
        try:
            while not child.stopping:
                answered = spec.ref.tally.answered
                crashed = await self._live(child)
                child.settled.set()
                if child.stopping or not should_restart(spec.policy, "crash" if crashed else "normal"):
                    break
                now = trio.current_time()
                lived = now - child.since if child.state == "running" else None
                if lived is not None and spec.ref.tally.answered == answered:
                    lived = 0.0  # it was up, and of no use
                record, wait = record.after(now, lived, self._jitter)
                self._enter(child, wait.state)
                if wait.state == "quarantined" or wait.seconds > SOON:
                    self._turn_away(child)
                elif lived is not None:
                    child.patience = trio.CancelScope()
                    self._nursery.start_soon(self._lose_patience, child, child.patience)
                self._tell_of(child, wait, was_up=lived is not None)
                await self._until_restart(child, now + wait.seconds)
                child.restarts += 1
        finally:
            self._end(child)

    def _tell_of(self, child: _Child, wait: Wait, was_up: bool) -> None:
        """That it is given up is a warning, once until it is up; every single wait is for who wants to know it all."""
        name, reason = child.spec.ref.name, child.last_exit
        if wait.state == "quarantined" and not child.given_up:
            outlook = f"calls to it fail at once, and it is tried again in {wait.seconds:.0f} s"
            logger.warning("actor %s is given up: %s; it went down for this: %s", name, outlook, reason)
            child.given_up = True
        else:
            logger.info("actor %s: %s for %.2f s after: %s", name, wait.state, wait.seconds, reason)
        child.missed = child.given_up or child.missed or not was_up

    def _tell_it_is_up(self, child: _Child) -> None:
        if child.spec.ref.down is not None:
            level = logging.WARNING if child.missed else logging.INFO
            away = trio.current_time() - child.spec.ref.down.at
            logger.log(level, "actor %s is up, after %.1f s", child.spec.ref.name, away)
        child.missed = child.given_up = False

    async def _lose_patience(self, child: _Child, patience: trio.CancelScope) -> None:
        """Turn the waiting calls away, and those to come, when the restart is not over soon: it may hang."""
        with patience:
            await trio.sleep(PATIENCE)
            self._turn_away(child)

    async def _until_restart(self, child: _Child, at: float) -> None:
        """Wait for this child's own time, and then for its turn among all that restart now; a stop ends both."""
        child.scope = trio.CancelScope(deadline=at)
        with child.scope:
            await trio.sleep_forever()
        if not child.stopping:
            self._spread, turn = self._spread.add(trio.current_time())
            child.scope = trio.CancelScope(deadline=turn)
            with child.scope:
                await trio.sleep_forever()

    def _end(self, child: _Child) -> None:
        """It is not started again."""
        spec, name = child.spec, child.spec.ref.name
        if child.stopping or spec.ref.down is None:
            self._refuse_as_stopped(child)
            del self._children[name]
        else:  # for `ps` and for its callers it is there, and down, until somebody takes it out
            outlook = f"its restart policy is {spec.policy.restart!r}, so it is not started again"
            spec.ref.down = evolve(spec.ref.down, outlook=outlook)
            self._turn_away(child)
        self._enter(child, "stopped")
        child.settled.set()
        child.ended.set()

    async def _live(self, child: _Child) -> bool:
        """One life. True when it ended by a crash; the error is logged and kept for `ps`."""
        spec = child.spec
        self._enter(child, "starting")
        child.scope = scope = trio.CancelScope(deadline=trio.current_time() + spec.start_timeout)
        if child.stopping:
            scope.cancel()

        def started(serving: trio.CancelScope) -> None:
            if scope.cancel_called:
                return  # stopped, or out of time, at this very instant
            scope.deadline = math.inf
            self._tell_it_is_up(child)
            child.serving, spec.ref.down = serving, None
            spec.ref.mailbox.accept()
            child.settled.set()
            self._enter(child, "running")

        crash: BaseException | None = None
        try:
            with scope:
                await run_actor(spec.start(), spec.ref, started)
        except BaseException as error:
            passing, crash = part(error)
            if crash is None:
                raise
            self._note(child, crash)
            if passing is not None:
                raise passing from None
        child.serving = None
        failed_to_start = child.state == "starting" and not child.stopping
        if crash is None:
            late = f"not started within {spec.start_timeout:g} s"
            child.last_exit = self._with_last_words(child, late) if failed_to_start else "it ended by itself"
        if child.stopping:
            return crash is not None
        if crash is not None:
            spec.ref.suspects.crashed(trio.current_time())
        down = spec.ref.down
        spec.ref.down = Down(trio.current_time() if down is None else down.at, child.last_exit)
        if failed_to_start:
            self._turn_away(child)
        return crash is not None or failed_to_start

    def _with_last_words(self, child: _Child, said: str) -> str:
        words = child.spec.last_words()
        return f"{said} ({words})" if words else said

    def _note(self, child: _Child, crash: BaseException) -> None:
        child.last_exit = self._with_last_words(child, said_of(crash))
        logger.log(
            logging.WARNING if child.state == "running" else logging.INFO,
            "actor %s crashed: %s",
            child.spec.ref.name,
            child.last_exit,
            exc_info=crash if logger.isEnabledFor(logging.DEBUG) else None,
        )

    def _turn_away(self, child: _Child) -> None:
        """Calls to a child that is down fail at once, saying who, since when, why, and what is to be expected."""
        child.spec.ref.refuse(child.spec.ref.unavailable)


async def _ended(children: Iterable[_Child], deadline: float) -> None:
    """Wait until all of them have ended; of those that have not by then, the log is told."""
    with trio.move_on_at(deadline):
        for child in children:
            if not child.ended.is_set():
                await child.ended.wait()
    for child in children:
        if not child.ended.is_set():
            name = child.spec.ref.name
            logger.warning("actor %s does not end within %g s of being stopped", name, STOP_PATIENCE)

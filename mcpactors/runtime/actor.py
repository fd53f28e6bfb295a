"""How any actor lives: what there is to write of one, and the loop that turns envelopes into outcomes.

Rule: nothing here knows what a request means. An actor is two things to write, `lifespan()` and `handle()`; an
exception of `handle` is an error reply and the actor lives, an exception of `lifespan` is a crash: calls in flight
fail at once, waiting ones stay in the mailbox for the next life (design.md section 4, rules 1 and 2).
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Final

import trio
from attrs import frozen

from mcpactors.errors import CONNECTION_CLOSED, INTERNAL_ERROR, ActorCrashed, MCPActorsError
from mcpactors.runtime.mailbox import ActorRef, Envelope, Request
from mcpactors.runtime.reply import CallDeadlines, Failure, Outcome, Question, Replies, ReplyChannel, Result

__all__ = ["Actor", "Forwarded", "part", "relay", "run_actor"]

logger = logging.getLogger("mcpactors")

SPARE_WORKERS: Final = 4
"""Idle tasks that an actor keeps for its next requests."""
GIVEN_UP_SHARE: Final = 2
"""Half of an actor's slots at most are kept by calls that their callers have given up."""
NO_DEADLINES: Final = CallDeadlines(idle=math.inf, total=math.inf, question=math.inf)


@frozen
class Forwarded:
    """What `handle` returns when another actor now owes the answer."""


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
    replies = Replies(NO_DEADLINES, reply.limits)
    try:
        with replies:
            target.offer(Envelope(request, replies.channel))
            await _carry(replies, reply)
    finally:
        replies.channel.until = reply.until
    return replies.outcome


async def _carry(replies: Replies, reply: ReplyChannel) -> None:
    """All but the outcome."""
    async for event in replies:
        if isinstance(event, Question):
            break
        reply.notice(event.method, event.params)
    else:
        return

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


async def run_actor(actor: Actor, ref: ActorRef, started: Callable[[trio.CancelScope], None]) -> None:
    """Live one life of `actor`: enter its lifespan, answer what comes in, until cancelled or crashed.

    `started(serving)` is called once the lifespan is entered. Cancelling `serving` ends the life in good order: the
    lifespan is then left as by a return, so that what stands after its `yield` runs and may wait.

    A slot is free before a request is taken, so that the mailbox's bound means something (rule 1). When the life
    ends, the calls in flight fail at once, before the lifespan is unwound.
    """
    try:
        async with actor.lifespan():
            try:
                async with trio.open_nursery() as nursery:
                    ref.given_up.begin(actor.concurrency // GIVEN_UP_SHARE, nursery)
                    started(nursery.cancel_scope)
                    await _work(actor, ref, nursery)
            finally:
                ref.suspects.ended(trio.current_time())
    finally:
        ref.given_up.end()


async def _work(actor: Actor, ref: ActorRef, nursery: trio.Nursery) -> None:
    """Take requests and answer them, one after another; whoever takes one sees to it that somebody else listens.

    So a request costs one turn of the scheduler and no new task, while calls still run side by side. Each has a
    context of its own. A task whose call was cancelled is not used again: its scope is spent. Nor is one whose
    handler left a cancel scope open (by an async generator that it did not close): the next call would be inside it.
    """
    in_flight, mailbox, concurrency = ref.in_flight, ref.mailbox, actor.concurrency
    given_up = ref.given_up.until
    free = concurrency - concurrency // GIVEN_UP_SHARE  # whatever was given up
    task = trio.lowlevel.current_task()
    own = task.context
    clean = own.copy()
    leaked = False

    def has_slot() -> bool:
        return len(in_flight) < free or len(in_flight) + len(given_up) < concurrency

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

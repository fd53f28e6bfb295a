"""Ten times the actors cost at most twenty times as much (promise F44); the figures: benchmarks/capacity.py."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from mcpactors.runtime.actor import Actor
from mcpactors.runtime.mailbox import ActorRef, Mailbox, Request
from mcpactors.runtime.reply import Outcome, ReplyChannel, Result
from mcpactors.runtime.supervisor import ChildSpec, Supervisor

FEW = 250
ROUNDS = 4
"""The best of so many counts, and one of each comes after the other: what else the machine does falls on both."""


class Trivial(Actor):
    """Does nothing but live."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome:
        return Result({})


async def cost(number: int) -> float:
    """Seconds of this thread that it takes to start so many actors and to stop them; nothing is collected meanwhile."""
    gc.collect()
    gc.disable()
    try:
        began = time.thread_time()
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(nursery)
            for n in range(number):
                supervisor.start_child(ChildSpec(ActorRef(str(n), "trivial", Mailbox(str(n))), Trivial))
            for n in range(number):
                assert await supervisor.wait_settled(str(n)) == "running"
            await supervisor.stop_all()
            nursery.cancel_scope.cancel()
        return time.thread_time() - began
    finally:
        gc.enable()


async def test_f44_ten_times_the_actors_cost_less_than_twenty_times_as_much() -> None:
    rounds = [(await cost(FEW), await cost(10 * FEW)) for _ in range(ROUNDS)]
    few, many = (min(each) for each in zip(*rounds, strict=True))
    assert many < 20 * few

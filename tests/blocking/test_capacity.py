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

FEW = 100
ROUNDS = 2


class Trivial(Actor):
    """Does nothing but live."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome:
        return Result({})


async def cost(number: int) -> float:
    """Seconds of processor time that it takes to start so many actors, and to stop them."""
    gc.collect()
    began = time.process_time()
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        for n in range(number):
            supervisor.start_child(ChildSpec(ActorRef(str(n), "trivial", Mailbox(str(n))), Trivial))
        for n in range(number):
            assert await supervisor.wait_settled(str(n)) == "running"
        await supervisor.stop_all()
        nursery.cancel_scope.cancel()
    return time.process_time() - began


async def test_f44_ten_times_the_actors_cost_less_than_twenty_times_as_much() -> None:
    few = min([await cost(FEW) for _ in range(ROUNDS)])
    many = min([await cost(10 * FEW) for _ in range(ROUNDS)])
    assert many < 20 * few

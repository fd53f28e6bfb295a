"""The watchdog: who keeps the loop from turning, and where (promise F58). Real threads, real time."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from attrs import define, field
from mcp.server import MCPServer

from mcpactors import RuntimeSettings, Server, open_runtime
from mcpactors.runtime.watchdog import SAMPLES, TICK, Watchdog

PATIENCE = 30.0
"""Seconds for what must happen soon; only a failing test waits so long."""
STALL = "has kept the loop from turning"
AGAIN = "the loop turns again"


def is_ours(line: str) -> bool:
    """Whether it tells of a stall that a test has made: on a busy machine there are others."""
    return STALL in line and any(f", in {block.__name__}\n" in f"{line}\n" for block in (sleeps, computes))


@define(eq=False)
class Log(logging.Handler):
    """Keeps what the watchdog says, and lets go what blocks until it has said it."""

    said: list[str] = field(factory=list)
    named: threading.Event = field(factory=threading.Event)
    turns: threading.Event = field(factory=threading.Event)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.said.append(f"{record.levelname} {text}")
        if is_ours(text):
            self.named.set()
        elif AGAIN in text:
            self.turns.set()


@pytest.fixture
def log() -> Iterator[Log]:
    handler, logger = Log(), logging.getLogger("mcpactors")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    handler.named.set()
    logger.removeHandler(handler)
    logger.setLevel(before)


def sleeps(log: Log) -> bool:
    return log.named.wait(PATIENCE)


def computes(log: Log) -> bool:
    for number in range(10**9):
        if log.named.is_set():
            return True
        number * number
    return False


@pytest.mark.parametrize("block", [sleeps, computes])
async def test_f58_the_watchdog_names_the_actor_and_shows_the_stack_that_stalls_the_loop(
    block: Callable[[Log], bool], log: Log
) -> None:
    server, sibling = Server("heavy"), MCPServer("light")
    held: list[bool] = []

    @server.tool
    async def work() -> str:
        held.append(block(log))
        return "done"

    async with open_runtime() as runtime, runtime.client() as client:
        heavy, light = await runtime.mount(server), await runtime.mount(sibling)
        await client.call_tool("work", {})
        assert held == [True]  # it was named while it blocked
        assert await trio.to_thread.run_sync(log.turns.wait, PATIENCE)
        assert heavy.info().stalls
        assert [row.stalls for row in runtime.ps().children] == [heavy.info().stalls, light.info().stalls]
    place, stall = next((place, line) for place, line in enumerate(log.said) if ".work\n" in line)
    assert stall.startswith("WARNING actor heavy ")
    assert f", in {block.__name__}\n" in f"{stall}\n"
    assert log.said[place + 1].startswith("WARNING the loop turns again: actor heavy had it for ")


async def test_f58_a_lifespan_and_a_task_that_a_handler_started_have_their_actor_too(log: Log) -> None:
    async def child() -> None:
        assert sleeps(log)

    @asynccontextmanager
    async def lifespan(server: object) -> AsyncIterator[None]:
        assert sleeps(log)
        log.named.clear()
        yield None

    server = Server("deep", lifespan=lifespan)

    @server.tool
    async def work() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        return "done"

    async with open_runtime() as runtime, runtime.client() as client:
        await runtime.mount(server, namespace="ns")
        await client.call_tool("ns_work", {})
    assert [line.split(" has ")[0] for line in log.said if is_ours(line)] == ["WARNING actor ns"] * 2


async def test_f58_what_the_embedding_program_does_itself_is_no_actors_fault(log: Log) -> None:
    async with open_runtime(Server("here")):
        assert sleeps(log)
    assert [line.split(" has ")[0] for line in log.said if is_ours(line)] == ["INFO a task outside of any actor"]


# --- Tick by tick: no thread, no time -------------------------------------------------------------------------------


async def test_f58_a_loop_that_turns_between_two_ticks_has_not_stalled(log: Log) -> None:
    dog = Watchdog(1.0)
    for _ in range(10 * SAMPLES):
        dog.look()
        await trio.testing.wait_all_tasks_blocked()
    assert log.said == []
    assert not dog.stalls


async def test_f58_by_default_a_stall_is_named_within_a_fifth_of_a_second(log: Log) -> None:
    """By its ticks, however it falls between two of them: one may pass until the loop is asked for a turn."""
    limit = RuntimeSettings().stall
    assert limit is not None
    dog, ticks = Watchdog(limit), 0
    while not log.said:
        dog.look()
        ticks += 1
    assert ticks * TICK * limit < 0.2


async def test_f58_one_stall_is_told_once_and_the_next_one_anew(log: Log) -> None:
    dog = Watchdog(1.0)
    for stall in (1, 2):
        for tick in range(3 * SAMPLES):
            dog.look()
            assert len(log.said) == 2 * (stall - 1) + (tick >= SAMPLES)
        await trio.testing.wait_all_tasks_blocked()
        dog.look()
        assert len(log.said) == 2 * stall
        await trio.testing.wait_all_tasks_blocked()


async def test_f58_where_many_tasks_run_in_one_turn_none_is_blamed(log: Log) -> None:
    dog = Watchdog(1.0)

    async def short() -> None:
        dog.look()

    async with trio.open_nursery() as nursery:  # all of them in one turn
        for _ in range(SAMPLES + 1):
            nursery.start_soon(short, name="actor busy")
    [stall] = [line for line in log.said if STALL in line]
    assert stall.startswith("INFO many tasks at once, ")
    assert not dog.stalls


async def test_f31_a_program_that_was_suspended_has_not_stalled(log: Log) -> None:
    dog = Watchdog(1e-9)  # any time at all is too long; but both threads stood still
    dog.look()
    dog.look()
    await trio.testing.wait_all_tasks_blocked()
    dog.look()
    assert log.said == []


# --- When there is one ----------------------------------------------------------------------------------------------


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mcpactors watchdog"]


async def test_p9_runtimes_share_one_watchdog_and_leave_none() -> None:
    async with open_runtime():
        async with open_runtime():
            assert len(watchdogs()) == 1
        assert len(watchdogs()) == 1
    assert watchdogs() == []
    async with open_runtime():
        assert len(watchdogs()) == 1
    assert watchdogs() == []


async def test_nobody_watches_where_no_limit_is_set() -> None:
    async with open_runtime(settings=RuntimeSettings(stall=None)):
        assert watchdogs() == []


def test_nobody_watches_virtual_time() -> None:
    async def main() -> None:
        async with open_runtime():
            assert watchdogs() == []

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

"""What a soak looks at each second: the clients' ledger, the gateway's books, and what its process holds.

Rule: a bound is what would be a leak, not what is usual: it must hold on a machine that is busy with other things.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio
from attrs import Factory, define, field, frozen

from tests.soak.clients import SLACK, Modern, said
from tests.soak.ledger import Ledger

__all__ = ["Books", "Watch"]

MORE_MEMORY: Final = 192 * 1024
"""KiB above what the gateway had at the beginning: what nobody reads, or a line without end, is held for a while."""
MORE_TASKS: Final = 500
MORE_DESCRIPTORS: Final = 200
LEFT_TASKS: Final = 64
LEFT_DESCRIPTORS: Final = 4
LEFT_MEMORY: Final = 96 * 1024
"""The same once all is calm and the clients have gone. An actor keeps some tasks for its next calls."""
SILENCE: Final = 3
"""Seconds in which there must be an answer of a sibling."""


@frozen
class Books:
    """What the gateway's process says of itself. `memory` in KiB; `states` of its actors, by name."""

    unbalanced: list[str]
    in_flight: int
    waiting: int
    states: Mapping[str, str]
    tasks: int
    descriptors: int
    memory: int


@define(eq=False)
class Watch:
    """Asks for the books through a connection of its own, as a client would."""

    client: Modern
    ledger: Ledger
    first: Books = field(init=False)
    last: Books = field(init=False)
    peak: dict[str, int] = Factory(dict)

    async def look(self, collect: bool = False) -> Books:
        """The books now; `collect`: after what is garbage has gone. Raises RuntimeError when they cannot be had."""
        with self.ledger.call("near_books", "books", SLACK) as call:
            answer = await self.client.request(
                call, "tools/call", {"name": "near_books", "arguments": {"collect": collect}}
            )
        text = said(answer) if answer is not None else None
        if text is None:
            raise RuntimeError(f"the gateway's books cannot be had: {answer}")
        seen: dict[str, Any] = json.loads(text)
        books = Books(**seen)
        for name in ("tasks", "descriptors", "memory"):
            self.peak[name] = max(self.peak.get(name, 0), seen[name])
        for sentence in books.unbalanced:
            self.ledger.breaks(f"the books do not balance: {sentence}")
        self.last = books
        return books

    async def each_second(self, ending: Callable[[], bool]) -> None:
        """Check what is promised, until cancelled; once it is `ending`, clients call no more."""
        silent = 0
        while True:
            await trio.sleep(1)
            silent = 0 if self.ledger.second or ending() else silent + 1
            if silent >= SILENCE:
                self.ledger.breaks(f"no sibling has answered for {silent} s")
            self.ledger.check()
            books = await self.look()
            self._bounded("tasks", books.tasks, self.first.tasks + MORE_TASKS)
            self._bounded("descriptors", books.descriptors, self.first.descriptors + MORE_DESCRIPTORS)
            self._bounded("KiB of memory", books.memory, self.first.memory + MORE_MEMORY)

    def _bounded(self, what: str, number: int, bound: int) -> None:
        if number > bound:
            self.ledger.breaks(f"the gateway holds {number} {what}, more than {bound}")

    async def calm(self, patience: float) -> None:
        """Once clients have gone: all children come back by themselves, nothing is in flight, nothing has grown."""
        until = trio.current_time() + patience
        while (still := self._unsettled(await self.look(True))) and trio.current_time() < until:  # noqa: ASYNC110
            await trio.sleep(0.2)
        for sentence in still:
            self.ledger.breaks(f"{patience:g} s after all is calm {sentence}")

    def _unsettled(self, books: Books) -> list[str]:
        found = [f"{name} is {state}" for name, state in books.states.items() if state != "running"]
        if books.in_flight > 1 or books.waiting:  # the one is who asks
            found.append(f"{books.in_flight} calls are in flight and {books.waiting} wait")
        if books.tasks > self.first.tasks + LEFT_TASKS:
            found.append(f"there are {books.tasks} tasks, and were {self.first.tasks}")
        if books.descriptors > self.first.descriptors + LEFT_DESCRIPTORS:
            found.append(f"there are {books.descriptors} descriptors, and were {self.first.descriptors}")
        if books.memory > self.first.memory + LEFT_MEMORY:
            found.append(f"there are {books.memory} KiB in use, and were {self.first.memory}")
        return found

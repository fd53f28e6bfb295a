"""What befalls the children of a soak, by a seed: each has its own sequence of faults, and is well between them.

Rule: a fault is one function: it brings it about, lasts, and mends what can be mended. The sequence of a child depends
on the seed and its name alone; when each fault hits depends on the machine.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from attrs import define, field

from tests.soak.children import Children, Life

__all__ = ["Chaos"]

CALM: Final = 1.5
"""Seconds between two faults of a child, at most."""
LONG: Final = 3.0
"""Seconds that a fault lasts, at most."""


@define(eq=False)
class Chaos:
    """The faults of one child."""

    children: Children
    name: str
    rng: random.Random
    happened: Counter[str]
    """How often each fault was injected, of all children."""
    calm: trio.Event = field(factory=trio.Event)
    """Set to let it be well for good; the last fault is mended then."""

    async def rage(self) -> None:
        """One fault after the other, until it shall be calm; then it is well, as far as orders can bring it about."""
        while not self.calm.is_set():
            await self._wait(CALM)
            life = await self._living()
            if life is None:
                continue
            fault = self.rng.choice(list(FAULTS))
            self.happened[fault] += 1
            await FAULTS[fault](self, life)
        self.children.beginnings.pop(self.name, None)
        for life in self.children.living(self.name):
            life.send(signal.SIGKILL)  # what cannot be mended goes: the next life is well

    async def _living(self) -> Life | None:
        with trio.move_on_after(CALM):
            return await self.children.alive(self.name)
        return None  # given up, or waiting to be restarted

    async def _wait(self, seconds: float) -> None:
        with trio.move_on_after(self.rng.uniform(0, seconds)):
            await self.calm.wait()

    async def kill(self, life: Life) -> None:
        """SIGKILL."""
        life.send(signal.SIGKILL)

    async def stop(self, life: Life) -> None:
        """SIGSTOP for a while, longer than a call may take at times."""
        life.send(signal.SIGSTOP)
        await self._wait(LONG * 3)
        life.send(signal.SIGCONT)

    async def begin(self, life: Life, **order: Any) -> None:
        """This life ends, and the next ones begin badly."""
        self.children.beginnings[self.name] = order
        life.send(signal.SIGKILL)
        await self._wait(LONG * 2)
        self.children.beginnings.pop(self.name, None)
        for later in self.children.living(self.name):
            later.send(signal.SIGKILL)

    async def order(self, life: Life, **order: Any) -> None:
        """It misbehaves for a while; some of that ends it."""
        await life.order(**order)
        await self._wait(LONG)
        await life.order(do="well")


def _order(**order: Any) -> Callable[[Chaos, Life], Awaitable[None]]:
    return lambda chaos, life: chaos.order(life, **order)


def _begin(**order: Any) -> Callable[[Chaos, Life], Awaitable[None]]:
    return lambda chaos, life: chaos.begin(life, **order)


FAULTS: Final[dict[str, Callable[[Chaos, Life], Awaitable[None]]]] = {
    "SIGKILL": Chaos.kill,
    "SIGSTOP": Chaos.stop,
    "crash at start": _begin(do="exit", code=1),
    "hang at start": _begin(do="hang"),
    "exit mid-call": _order(do="answer", how="die"),
    "half a reply": _order(do="answer", how="half"),
    "stray replies": _order(do="answer", how="more"),
    "slow": _order(do="slow", seconds=0.3),
    "deaf": _order(do="deaf"),
    "progress flood": _order(do="flood", what="progress", seconds=LONG),
    "log flood": _order(do="flood", what="log", seconds=LONG, rate=5000),
    "list_changed flood": _order(do="flood", what="list_changed", seconds=LONG, rate=5000),
    "garbage flood": _order(do="flood", what="garbage", seconds=LONG, rate=5000),
    "stderr flood": _order(do="stderr", lines=10_000),
    "endless line": _order(do="endless"),
    "closes stdin": _order(do="close", what=0),
    "closes stdout": _order(do="close", what=1),
    "grandchild": _order(do="grandchild", apart=False),
    "grandchild apart": _order(do="grandchild", apart=True),
}

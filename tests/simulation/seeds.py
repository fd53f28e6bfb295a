"""Which seeds a simulation runs: other ones on each Python, so that runs on two of them are twice the schedules.

Rule: the same ones each time on the same Python. A failure names its seed, which `simulate` replays on any.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import trio

T = TypeVar("T")


def seeds(count: int) -> range:
    """So many seeds."""
    first = count * sys.version_info.minor
    return range(first, first + count)


def side_by_side(race: Callable[[Random], Awaitable[T]], count: int) -> Callable[[Random], Awaitable[list[T]]]:
    """A scenario of so many schedules that know nothing of each other, each drawn for itself; yields what they return.

    Starting and ending trio takes as long as a small one.
    """

    async def scenario(draw: Random) -> list[T]:
        values: list[T] = []

        async def run(own: Random) -> None:
            values.append(await race(own))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(run, Random(draw.random()))
        return values

    return scenario

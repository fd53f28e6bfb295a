"""P11: the books of every actor of a runtime balance at every moment, whatever befalls its connections and its calls.

Rule: they are looked at after every step of every task; what happens meanwhile is that of the chaos runs and of the
cancel races.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
import trio
from attrs import define, field

from mcpactors.testing import simulate_many
from tests.books import Books
from tests.runtime.actors import imbalance
from tests.simulation.seeds import seeds
from tests.simulation.test_cancel_race import cancel_race
from tests.simulation.test_chaos_runs import chaos

SEEDS = 4


@define(eq=False)
class Audit(trio.abc.Instrument):
    """Looks at all books after every step of every task."""

    books: Books = field(factory=Books)
    steps: int = 0
    wrong: list[str] = field(factory=list)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        self.wrong += [f"after {task.name}: {book.name}" for book in self.books._books if imbalance(book)]


def audited(scenario: Callable[[Random], Awaitable[Any]]) -> Callable[[Random], Awaitable[Audit]]:
    async def run(draw: Random) -> Audit:
        audit = Audit()
        trio.lowlevel.add_instrument(audit)
        with audit.books.kept():
            await scenario(draw)
        trio.lowlevel.remove_instrument(audit)
        return audit

    return run


@pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])
@pytest.mark.parametrize("happens", ["chaos", "cancellations"])
def test_p11_the_books_of_every_actor_of_a_runtime_balance_after_every_step(happens: str, legacy: bool) -> None:
    scenario = chaos("legacy" if legacy else "modern") if happens == "chaos" else cancel_race(legacy)
    audits = [run.value for run in simulate_many(audited(scenario), seeds(SEEDS))]
    assert not [said for audit in audits for said in audit.wrong][:3]
    assert min(len(audit.books._books) for audit in audits) > 1
    assert sum(audit.steps for audit in audits) > 1000 * SEEDS

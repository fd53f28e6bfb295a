"""The turns of one connection, held against what they are to be at any moment, whatever comes in whatever order."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mcpactors.errors import Overloaded
from mcpactors.transports.turns import Turn, Turns

MOST, OWN = 2, 1
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["end", "leave", "lend", "return"]), st.integers(0, 20)),
    ),
    max_size=40,
)


class Model:
    """Who runs and who waits, by the rule in the plainest words."""

    def __init__(self) -> None:
        self.running: list[tuple[str, int]] = []
        self.lent: list[tuple[str, int]] = []
        self.waiting: list[tuple[str, int]] = []

    def may_begin(self, to: str) -> bool:
        return len(self.running) < MOST or sum(other == to for other, _ in self.running) < OWN

    def look(self) -> None:
        while (first := next((one for one in self.waiting if self.may_begin(one[0])), None)) is not None:
            self.waiting.remove(first)
            self.running.append(first)


@given(STEPS)
def test_p6_those_run_that_may_and_who_waits_longest_of_those_that_may_is_next(
    steps: list[tuple[str, str | int]],
) -> None:
    async def run() -> None:
        model, turns = Model(), Turns(MOST, OWN, 1000)
        taken: dict[tuple[str, int], Turn] = {}
        scopes: dict[tuple[str, int], trio.CancelScope] = {}
        loans: dict[tuple[str, int], ExitStack] = {}

        async def ask(one: tuple[str, int]) -> None:
            with trio.CancelScope() as scopes[one]:
                taken[one] = await turns.take(one[0])

        async with trio.open_nursery() as nursery:
            for number, (what, which) in enumerate(steps):
                if what == "ask":
                    one = (str(which), number)
                    model.waiting.append(one)
                    nursery.start_soon(ask, one)
                else:
                    among = {"end": model.running, "leave": model.waiting, "lend": model.running, "return": model.lent}
                    if not among[what]:
                        continue
                    one = among[what].pop(int(which) % len(among[what]))
                    if what == "leave":
                        scopes[one].cancel()
                    elif what == "end":
                        taken.pop(one).give_back()
                    elif what == "lend":
                        model.lent.append(one)
                        loans[one] = ExitStack()
                        loans[one].enter_context(taken[one].lent())
                    else:
                        model.running.append(one)
                        loans.pop(one).close()
                model.look()
                await trio.testing.wait_all_tasks_blocked()
                assert sorted(set(taken) - set(loans)) == sorted(model.running)
                assert len(turns._waiting) == len(model.waiting)
            for one in list(loans):
                loans.pop(one).close()
            nursery.cancel_scope.cancel()
        for turn in taken.values():
            turn.give_back()
        assert (turns._running, turns._lines, turns._waiting) == (0, {}, {})  # nothing is kept of who has gone

    trio.run(run)


async def test_who_is_given_a_turn_at_the_moment_of_being_cancelled_has_it_and_who_gave_up_has_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns = Turns(1, 1, 5)
    got: list[tuple[str, Turn | None]] = []

    async def ask(name: str, scope: trio.CancelScope) -> None:
        with scope:
            try:
                got.append((name, await turns.take("a")))
            except Overloaded:
                got.append((name, None))

    first = await turns.take("a")
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(ask, "woken", scope)
        await trio.testing.wait_all_tasks_blocked()
        first.give_back()
        scope.cancel()  # too late
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, "late", trio.CancelScope())
    [(woken, turn), (late, none)] = got
    assert (woken, late, none) == ("woken", "late", None)
    assert turn is not None
    turn.give_back()
    assert not turns._lines


async def test_p6_a_call_that_has_two_questions_open_lends_its_turn_once() -> None:
    turns = Turns(MOST, OWN, 5)
    asking = await turns.take("a")
    with asking.lent():
        with asking.lent():
            assert turns._running == 0
            other = await turns.take("a")  # finds another line than the one that was empty
        assert turns._running == 1
    assert turns._running == 2
    asking.give_back()
    other.give_back()
    assert (turns._running, turns._lines) == (0, {})


@pytest.mark.parametrize("cancelled", [True, False])
async def test_p6_a_turn_that_is_given_to_who_has_just_been_cancelled_or_out_of_patience_is_not_lost(
    cancelled: bool, autojump_clock: trio.testing.MockClock
) -> None:
    turns = Turns(1, 1, 5)

    async def ask(scope: trio.CancelScope) -> None:
        with scope, suppress(Overloaded):
            (await turns.take("a")).give_back()

    for _ in range(20):  # the order of tasks is random
        first, scope = await turns.take("a"), trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, scope)
            await trio.testing.wait_all_tasks_blocked()
            if cancelled:
                scope.cancel()
            else:
                await trio.sleep_until(trio.current_time() + 5)
            first.give_back()
        assert (turns._running, turns._lines, turns._waiting) == (0, {}, {})

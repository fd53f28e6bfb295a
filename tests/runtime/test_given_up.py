"""Slots that calls keep which their callers have given up: of one life of one actor (F24)."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from mcpactors.runtime.given_up import GivenUp


async def test_f24_no_slot_is_kept_of_a_life_that_has_ended_or_has_not_begun(autojump_clock: Any) -> None:
    freed: list[float] = []
    given_up, here = GivenUp(lambda: freed.append(trio.current_time())), object()
    given_up.keep(here, 1, 10)
    assert not given_up.until
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            given_up.begin(2, nursery)
            given_up.keep(here, 1, trio.current_time() + 10)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        given_up.end()
        given_up.keep(here, 2, trio.current_time() + 10)
        assert (given_up.until, freed) == ({}, [])
    async with trio.open_nursery() as nursery:  # what the last life kept time for is no concern of this one
        given_up.begin(2, nursery)
        given_up.keep(here, 1, trio.current_time() + 10)
        at = trio.current_time() + 10
    assert (given_up.until, freed) == ({}, [at])


async def test_f24_one_task_keeps_the_time_of_all_and_only_while_there_are_any(autojump_clock: Any) -> None:
    given_up = GivenUp()
    async with trio.open_nursery() as nursery:
        given_up.begin(100, nursery)
        for number in range(50):
            given_up.keep(given_up, number, trio.current_time() + 50 - number)
        assert len(nursery.child_tasks) == 1
        for left in range(49, -1, -1):
            await trio.sleep(1)
            await trio.testing.wait_all_tasks_blocked()
            assert len(given_up.until) == left
        assert not nursery.child_tasks
        given_up.end()

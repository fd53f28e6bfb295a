"""`simulate`: one seed is one run; a failure says which, and what never ends is ended."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import trio
import trio._core._run as scheduler

from mcpactors import Server, open_runtime
from mcpactors.testing import simulate, simulate_many

ROOT = Path(__file__).parent.parent.parent


async def race(draw: Random) -> list[int]:
    """Eight tasks that are ready at one moment: the order in which they come."""
    order: list[int] = []

    async def runner(number: int) -> None:
        await trio.sleep(1)
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(runner, number)
    return order


async def composed(draw: Random) -> list[str]:
    """A whole runtime, and clients of both eras that call it at once."""
    api, answers = Server("api"), list[str]()

    @api.tool()
    async def slow(seconds: float) -> str:
        await trio.sleep(seconds)
        return f"{seconds:g} s"

    async with open_runtime() as runtime:
        await runtime.mount(api, "api")
        async with runtime.client() as modern, runtime.client(mode="legacy") as legacy:

            async def call(client, seconds: int) -> None:
                result = await client.call_tool("api_slow", {"seconds": seconds})
                answers.append(f"{client is modern} {result.content[0].text}")

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    for client in (modern, legacy):
                        nursery.start_soon(call, client, draw.randint(0, 3))
    return answers


def test_one_seed_is_one_run_and_other_seeds_are_others() -> None:
    first, again = simulate_many(race, range(40)), simulate_many(race, range(40))
    assert first == again
    assert len({run.digest for run in first}) > 30
    assert len({tuple(run.value) for run in first}) > 30
    assert {(run.seconds, sorted(run.value) == list(range(8))) for run in first} == {(1, True)}


def test_whole_runtime_replays_step_by_step() -> None:
    assert simulate_many(composed, range(4)) == simulate_many(composed, range(4))


def test_a_run_is_the_same_in_another_process_whatever_its_hashes_are() -> None:
    program = "from tests.testing.test_simulation import composed, simulate; print(simulate(composed, 3).digest)"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == simulate(composed, 3).digest


class Waits:
    """A task's function that is an object: trio names the task by its address."""

    async def __call__(self) -> None:
        await trio.lowlevel.checkpoint()


def test_a_run_is_the_same_wherever_the_objects_lie_that_its_tasks_are_named_by() -> None:
    held: list[Waits] = []  # so that no two have one address

    async def scenario(draw: Random) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                held.append(Waits())
                nursery.start_soon(held[-1])

    assert simulate(scenario, 3) == simulate(scenario, 3)


def test_what_a_scenario_draws_comes_from_the_seed_too() -> None:
    async def draws(draw: Random) -> tuple[float, float]:
        return draw.random(), random.random()

    [one, again], [other] = simulate_many(draws, [1, 1]), simulate_many(draws, [2])
    assert one == again
    assert one.value[0] != other.value[0]
    assert one.value[1] != other.value[1]


def test_the_process_draws_on_as_if_nothing_had_been_simulated() -> None:
    before = random.getstate(), scheduler._r.getstate()
    simulate(race, 5)
    assert (random.getstate(), scheduler._r.getstate()) == before


def test_failure_names_its_seed_and_the_call_that_replays_it() -> None:
    async def unlucky(draw: Random) -> None:
        order = await race(draw)
        assert order[0] != 3

    with pytest.raises(AssertionError) as failed:
        simulate_many(unlucky)
    [note] = failed.value.__notes__[-1:]
    seed = int(note.split("seed=")[1].split(")")[0])
    assert "simulate(" in note
    assert "unlucky" in note
    with pytest.raises(AssertionError) as again:
        simulate(unlucky, seed)
    assert again.value.__notes__[-1] == note  # the trace, too
    simulate_many(unlucky, range(seed))


async def wait_for_ever(draw: Random) -> None:
    await trio.sleep_forever()


async def spin(draw: Random) -> None:
    while True:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("scenario", [wait_for_ever, spin])
def test_what_never_ends_is_ended(scenario) -> None:
    with pytest.raises(trio.TooSlowError, match="has not ended after") as ended:
        simulate(scenario, 1, seconds=50, steps=1000)
    assert "seed=1" in ended.value.__notes__[-1]

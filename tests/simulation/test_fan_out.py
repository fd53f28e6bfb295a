"""F26: a list of many children takes as long as the slowest that is within the budget, and not one tick more."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcpactors import RuntimeSettings, create_proxy, open_runtime
from mcpactors.testing import Expect, Reply, Script, ScriptedBackend, Wait, assert_books_balance, simulate

BUDGET = 2.0
ERAS = ["modern", "legacy"]
TOOLS: dict[str, Any] = {
    "tools": [{"name": "t", "inputSchema": {"type": "object"}}],
    "ttlMs": 0,
    "cacheScope": "private",
}


def slow(latency: float, era: Any) -> ScriptedBackend:
    """A backend that is up at once and takes this long to say what tools it has."""
    return ScriptedBackend(Script([Expect("tools/list"), Wait(latency), Reply(TOOLS)], era=era))


def listed(latencies: list[float], era: str) -> tuple[float, list[str], list[str]]:
    """How long one list took, which tools it had, and who was missing."""

    async def scenario(draw: object) -> tuple[float, list[str], list[str]]:
        async with open_runtime(settings=RuntimeSettings(list_budget=BUDGET)) as runtime:
            for number, latency in enumerate(latencies):
                await runtime.mount(create_proxy(slow(latency, era), sessions="shared"), f"b{number}")
            async with runtime.client() as client:
                begun = trio.current_time()
                result = await client.list_tools()
                took = trio.current_time() - begun
            assert_books_balance(runtime.ps())
            missing = (result.meta or {}).get("mcpactors/missing", [])
            return took, sorted(tool.name for tool in result.tools), sorted(row["actor"] for row in missing)

    return simulate(scenario).value


latency = st.sampled_from([0, 0.25, 0.5, 1, 1.75, 1.999, 2.001, 2.5, 10])


@pytest.mark.parametrize("era", ERAS)
@given(st.lists(latency, min_size=1, max_size=4))
@example([0, 10, 0.5])
@settings(max_examples=30)
def test_f26_fan_out_takes_exactly_the_longest_of_its_latencies_within_the_budget(era, latencies) -> None:
    took, tools, missing = listed(latencies, era)
    # the router asked at the mount already: a list waits for that answer and asks again only for what is not kept
    assert took == pytest.approx(max(min(each, BUDGET) for each in latencies), abs=1e-9)
    assert tools == [f"b{number}_t" for number, each in enumerate(latencies) if each < BUDGET]
    assert missing == [f"b{number}" for number, each in enumerate(latencies) if each > BUDGET]

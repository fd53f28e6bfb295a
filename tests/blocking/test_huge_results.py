"""Results that are far too big cost their own calls, and not our memory (promise F60). A real process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from mcpactors import Server, StdioServer, create_proxy, open_runtime

PATIENCE = 120.0
"""Seconds for what must happen soon; only a failing test waits so long."""
HUGE = Path(__file__).parent / "huge.py"
SIZE = 32
"""MiB of one result."""
CALLS = 50
BUDGET = 64
"""MiB that our memory may peak above what it was: a line up to its limit of 16, and what moving it costs."""


def peak() -> float:
    """MiB of memory that this process has had at most since `forget_peak`."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


async def refused(client: Client, errors: list[str]) -> None:
    with pytest.raises(MCPError) as raised:
        await client.call_tool("far_huge", {})
    errors.append(raised.value.error.message)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of our memory is read off /proc")
async def test_f60_results_of_32_mib_are_refused_one_by_one_and_our_memory_stays_within_its_budget() -> None:
    near, errors = Server("near"), list[str]()
    near.tool(name="answer")(lambda: "here")
    backend = create_proxy(StdioServer(sys.executable, (str(HUGE), str(SIZE))))
    with trio.fail_after(PATIENCE):
        async with open_runtime() as runtime, runtime.client() as client:
            await runtime.mount(near, namespace="near")
            handle = await runtime.mount(backend, namespace="far")
            await client.call_tool("far_small", {})
            forget_peak()
            before = peak()
            async with trio.open_nursery() as calls:
                for _ in range(CALLS):
                    calls.start_soon(refused, client, errors)
                assert not (await client.call_tool("near_answer", {})).is_error
            assert len(errors) == CALLS
            assert peak() - before < BUDGET
            assert not (await client.call_tool("far_small", {})).is_error
            assert handle.info().restarts == 0
    assert all("it is too long (the limit is 16777216)" in error for error in errors), errors[0]

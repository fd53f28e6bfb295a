"""Results that are far too big cost their own calls, and not our memory (promise F60). A real process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from mcpactors import Server, StdioServer, create_proxy, open_runtime

PATIENCE = 120.0
"""Seconds for what must happen soon; only a failing test waits so long."""
HUGE = Path(__file__).parent / "huge.py"
HUGE_HTTP = Path(__file__).parent / "huge_http.py"
SIZE = 32
"""MiB of one result."""
CALLS = 50
BUDGET = 64
"""MiB that our memory may peak above what it was: a line up to its limit of 16, and what moving it costs."""
HTTP_BUDGET = 80
"""Of answers that come at once: the room for unfinished ones, of 32, one that is whole, and what moving it costs."""


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


@asynccontextmanager
async def all_refused(client: Client, errors: list[str], budget: float) -> AsyncIterator[None]:
    """Meanwhile so many calls are refused, with no more than `budget` MiB above what there was; what is small comes."""
    assert not (await client.call_tool("far_small", {})).is_error
    forget_peak()
    before = peak()
    async with trio.open_nursery() as calls:
        for _ in range(CALLS):
            calls.start_soon(refused, client, errors)
        yield
    assert len(errors) == CALLS
    assert peak() - before < budget
    assert not (await client.call_tool("far_small", {})).is_error


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of our memory is read off /proc")
async def test_f60_results_of_32_mib_are_refused_one_by_one_and_our_memory_stays_within_its_budget() -> None:
    near, errors = Server("near"), list[str]()
    near.tool(name="answer")(lambda: "here")
    backend = create_proxy(StdioServer(sys.executable, (str(HUGE), str(SIZE))))
    with trio.fail_after(PATIENCE):
        async with open_runtime() as runtime, runtime.client() as client:
            await runtime.mount(near, namespace="near")
            handle = await runtime.mount(backend, namespace="far")
            async with all_refused(client, errors, BUDGET):
                assert not (await client.call_tool("near_answer", {})).is_error
            assert handle.info().restarts == 0
    assert all("it is too long (the limit is 16777216)" in error for error in errors), errors[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of our memory is read off /proc")
@pytest.mark.parametrize("kind", ["json", "events"])
async def test_f60_results_of_32_mib_that_come_at_once_over_http_wait_for_room_and_are_refused(kind: str) -> None:
    errors = list[str]()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            command = [sys.executable, "-S", str(HUGE_HTTP), str(SIZE), kind]
            process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE, check=False))
            port = int(await process.stdout.receive_some())
            async with open_runtime() as runtime, runtime.client() as client:
                backend = create_proxy(f"http://127.0.0.1:{port}/mcp", era="legacy")
                handle = await runtime.mount(backend, namespace="far")
                async with all_refused(client, errors, HTTP_BUDGET):
                    pass
                assert handle.info().restarts == 0
            nursery.cancel_scope.cancel()
    assert all("more than 16777216 bytes" in error for error in errors), errors[0]

"""F2 with a real process: one that is stopped (SIGSTOP) keeps nobody waiting but its own callers, and can go on."""

from __future__ import annotations

import os
import signal

import pytest
import trio
from mcp.shared.exceptions import MCPError

from mcpactors import CallDeadlines
from tests.faults.helpers import PATIENCE, linux_only, ward

pytestmark = linux_only


async def test_f2_a_backend_that_is_stopped_keeps_no_list_no_sibling_and_no_call_beyond_its_deadline_waiting() -> None:
    # a list that waited for it would wait for longer than the test has; siblings' calls have the same deadline
    async with ward(list_budget=2 * PATIENCE, deadlines=CallDeadlines(idle=6)) as sick:
        pid = (await sick.call("echo"))["pid"]
        known = (await sick.client.list_tools()).tools
        os.kill(pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_times_out, sick.call)
            for number in range(10):
                assert (await sick.call("echo", "well", value=number))["value"] == number
                with trio.fail_after(PATIENCE):
                    listed = await sick.client.list_tools(cache_mode="bypass")
                assert (listed.tools, (listed.meta or {}).get("mcpactors/missing")) == (known, None)
        os.kill(pid, signal.SIGCONT)
        assert await sick.call("echo", value=1) == {"value": 1, "pid": pid}
        assert sick.restarts() == 0


async def _times_out(call) -> None:
    with pytest.raises(MCPError, match="no sign of life"):
        await call("echo")

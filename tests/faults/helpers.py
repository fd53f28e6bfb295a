"""A runtime with a sick child (`child.py`) and a well one beside it; and who of them lives.

Rule: nothing sleeps as synchronisation; that a process ends is waited for by its pidfd.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent

from mcpactors import RestartPolicy, RuntimeSettings, StdioTransport, create_proxy, open_runtime
from mcpactors.host import Runtime
from mcpactors.runtime.restart import RestartLimit

CHILD = str(Path(__file__).parent / "child.py")
SICK = StdioTransport(sys.executable, ("-I", "-S", CHILD))
SHELL = StdioTransport("/bin/sh", (str(Path(__file__).parent / "child.sh"),))
"""Starts in a millisecond; it has `echo`, `ignore` and `spawn` only."""
PATIENCE = 60.0
"""Seconds for what must happen soon; only a failing test waits so long."""
AGAIN_AT_ONCE = RestartPolicy(intensity=10**9, backoff_initial=0, backoff_max=0, poison_after=0)
UNLIMITED = RestartLimit(burst=10**6)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="subreaper, pidfd and /proc are Linux's")


@frozen
class Ward:
    """A runtime, a client of it, and its children `sick` and `well`."""

    runtime: Runtime
    client: Client

    async def call(self, tool: str, child: str = "sick", **arguments: Any) -> Any:
        """What the tool gives, as a value."""
        with trio.fail_after(PATIENCE):
            result = await self.client.call_tool(f"{child}_{tool}", arguments)
        [content] = result.content
        assert isinstance(content, TextContent)
        return json.loads(content.text)

    async def pid_of_next_life(self, before: int) -> int:
        """Wait until the sick child is another process that answers; calls amid the crash may fail, too."""
        with trio.fail_after(PATIENCE):
            while True:
                with suppress(MCPError):
                    if (pid := (await self.call("echo"))["pid"]) != before:
                        return int(pid)
                await trio.lowlevel.checkpoint()

    def dropped(self, child: str = "sick") -> dict[str, int]:
        """What ps says of it."""
        [row] = [row for row in self.runtime.ps().children if row.name == child]
        return dict(row.dropped)

    def restarts(self, child: str = "sick") -> int:
        [row] = [row for row in self.runtime.ps().children if row.name == child]
        return row.restarts


@asynccontextmanager
async def ward(child: StdioTransport = SICK, **settings: Any) -> AsyncIterator[Ward]:
    """Open a runtime over the two children; `child` is the sick one."""
    settings = {"restart": AGAIN_AT_ONCE, "restart_limit": UNLIMITED, "stall": None, **settings}
    async with open_runtime("ward", settings=RuntimeSettings(**settings)) as runtime:
        for name, command in {"sick": child, "well": SICK}.items():
            await runtime.mount(create_proxy(command, name=name), namespace=name)
        async with runtime.client() as client:
            yield Ward(runtime, client)


def runs(pid: int) -> bool:
    """Whether the process lives; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def ended(pid: int) -> None:
    """Wait until a process, whoever's it is, runs no more."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def descriptors() -> list[str]:
    """The kinds of what is open in this process: each pipe has another number."""
    folder = "/proc/self/fd"
    numbers = [number for number in os.listdir(folder) if os.path.lexists(f"{folder}/{number}")]
    return sorted(re.sub(r"[0-9]+", "", os.readlink(f"{folder}/{number}")) for number in numbers)

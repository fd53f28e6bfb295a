"""F52, F53: a config that is read anew under load (real processes): who is the same goes on, who is gone drains."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from trio.testing import wait_all_tasks_blocked

from mcpactors import MountHandle, RuntimeSettings, open_runtime
from mcpactors.errors import ConfigError, MCPActorsError
from mcpactors.host import Runtime
from tests.faults.helpers import CHILD, PATIENCE, ended, linux_only

pytestmark = linux_only


def program(**more: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-I", "-S", CHILD], **more}


@define(eq=False)
class Served:
    """A runtime of a config file, a client, and what became of the calls that were made all the while."""

    runtime: Runtime
    client: Client
    path: Path
    mounted: dict[str, MountHandle | MCPActorsError] = field(factory=dict)
    answered: Counter[str] = field(factory=Counter)

    def read(self, servers: dict[str, Any]) -> None:
        """Write the file and have it read, for the first time or anew."""
        self.path.write_text(json.dumps({"mcpServers": servers}))
        self.mounted = self.runtime.mount_config(self.path, self.mounted or None)

    async def pid(self, tool: str) -> int:
        with trio.fail_after(PATIENCE):
            [content] = (await self.client.call_tool(tool, {})).content
        return int(json.loads(content.text)["pid"])  # type: ignore[union-attr]

    async def load(self, tool: str) -> None:
        """One call after the other; each must be answered."""
        while True:
            await self.pid(tool)
            self.answered[tool] += 1

    async def goes_on(self, *tools: str) -> None:
        """Wait until each of these calls that began later than now is answered."""
        wanted = {tool: self.answered[tool] + 2 for tool in tools}
        with trio.fail_after(PATIENCE):
            while any(self.answered[tool] < number for tool, number in wanted.items()):
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def served(folder: Path, servers: dict[str, Any], **settings: Any) -> AsyncIterator[Served]:
    async with open_runtime(settings=RuntimeSettings(stall=None, **settings)) as runtime, runtime.client() as client:
        it = Served(runtime, client, folder / "mcp.json")
        it.read(servers)
        yield it


async def test_f52_a_reload_under_load_keeps_who_is_the_same_replaces_who_is_not_and_drains_who_is_gone(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, {name: program() for name in "abc"}) as it, trio.open_nursery() as nursery:
        pids = {name: await it.pid(f"{name}_echo") for name in "abc"}
        nursery.start_soon(it.load, "a_echo")
        nursery.start_soon(it.load, "b_echo")
        os.kill(pids["c"], signal.SIGSTOP)
        last: list[int] = []

        async def in_flight() -> None:
            last.append(await it.pid("c_echo"))

        nursery.start_soon(in_flight)
        await it.goes_on("a_echo", "b_echo")
        it.read({"a": program(), "b": program(env={"OTHER": "1"}), "d": program()})
        assert len({await it.pid("d_echo"), *pids.values()}) == 4
        await it.goes_on("a_echo", "b_echo")
        await ended(pids["b"])
        assert await it.pid("a_echo") == pids["a"]
        assert await it.pid("b_echo") != pids["b"]
        with pytest.raises(MCPError, match="c_echo"):
            await it.client.call_tool("c_echo", {})
        assert not last
        os.kill(pids["c"], signal.SIGCONT)
        await ended(pids["c"])
        assert last == [pids["c"]]
        assert [row.restarts for row in it.runtime.ps().children] == [0] * 3
        nursery.cancel_scope.cancel()


async def test_f52_a_server_that_is_alone_no_more_keeps_its_process_and_gets_its_name_as_namespace(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, {"a": program()}) as it:
        pid = await it.pid("echo")
        it.read({"a": program(), "b": program(disabled=True), "c": program()})
        assert await it.pid("a_echo") == pid
        it.read({"a": program(), "c": program(disabled=True)})
        assert await it.pid("echo") == pid


@pytest.mark.parametrize(
    "servers",
    [
        {"a": program(), "b": program(args=[5]), "d": program()},
        {"b": program(), "no name": program()},
        {"b": program(), "d": {"module": "there.is.none"}},
    ],
    ids=["wrong", "no namespace", "no module"],
)
async def test_f53_a_wrong_config_is_refused_whole(servers: dict[str, Any], tmp_path: Path) -> None:
    async with served(tmp_path, {name: program() for name in "ab"}) as it:
        pids = [await it.pid(f"{name}_echo") for name in "ab"]
        mounted, tree = it.mounted, [row.name for row in it.runtime.ps().children]
        with pytest.raises(ConfigError):
            it.read(servers)
        await wait_all_tasks_blocked()
        assert [row.name for row in it.runtime.ps().children] == tree
        assert [await it.pid(f"{name}_echo") for name in "ab"] == pids
        it.read({name: program() for name in "ab"})
        assert it.mounted == mounted

"""Whoever descends from a backend is gone with it: after its stop, its crash, and our own SIGKILL (real processes)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import TextContent
from mcp_types.jsonrpc import JSONRPCRequest, JSONRPCResponse

from mcpactors.transports.lines.limits import StdioLimits
from mcpactors.transports.stdio.child import stdio_client
from mcpactors.transports.stdio.orphans import own_orphans
from mcpactors.transports.stdio.processes import look_at
from tests.faults.helpers import CHILD, PATIENCE, SICK, ended, linux_only, runs, ward
from tests.processes import below, serve

pytestmark = linux_only

# How a grandchild hides: by a session of its own, without our environment, without its parent. One way it is still
# known: by its session, by its mark, by its parent.
HIDING: dict[str, dict[str, Any]] = {
    "not at all": {},
    "setsid": {"session": True},
    "no environment": {"env": False},
    "setsid, no environment": {"session": True, "env": False},
    "no parent": {"orphan": True},
    "no parent, setsid": {"orphan": True, "session": True},
    "no parent, no environment": {"orphan": True, "env": False},
}
HIDDEN: dict[str, Any] = {"orphan": True, "session": True, "env": False}
PARENTLESS = [name for name, how in HIDING.items() if how != {"session": True, "env": False}]


@pytest.mark.parametrize("how", HIDING)
async def test_f47_a_grandchild_is_gone_once_its_server_is_stopped(how: str) -> None:
    async with ward() as sick:
        pid = (await sick.call("spawn", **HIDING[how]))["pid"]
        assert runs(pid)
    assert not runs(pid)


async def test_f47_a_grandchild_is_gone_though_its_server_ended_as_soon_as_its_stdin_was_closed() -> None:
    limits = StdioLimits(exit_grace=PATIENCE)
    async with stdio_client(SICK.command, SICK.args, limits=limits) as (read, write):
        call = {"name": "spawn", "arguments": HIDING["setsid, no environment"]}
        await write.send(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="tools/call", params=call)))
        answer = await read.receive()
        assert isinstance(answer, SessionMessage)
        assert isinstance(answer.message, JSONRPCResponse)
        pid = json.loads(answer.message.result["content"][0]["text"])["pid"]
        grandchild = look_at(pid)
        assert grandchild is not None
        await write.aclose()  # as a session does that ends, sooner than its transport does
        await ended(grandchild.parent)
        assert runs(pid)
    assert not runs(pid)


async def test_f47_grandchildren_are_gone_once_their_server_has_crashed() -> None:
    async with ward() as sick:
        pids = [(await sick.call("spawn", **HIDING[how]))["pid"] for how in PARENTLESS]
        assert all(map(runs, pids))
        before = (await sick.call("echo"))["pid"]
        with pytest.raises(MCPError, match="outcome is unknown"):
            await sick.call("crash")
        for pid in pids:
            await ended(pid)
        await sick.pid_of_next_life(before)


async def test_f47_with_a_subreaper_nobody_can_hide() -> None:
    async with ward(subreaper=True) as sick:
        pid = (await sick.call("spawn", **HIDDEN))["pid"]
        assert runs(pid)
    assert not runs(pid)


async def test_f47_what_the_program_itself_has_started_is_left_alone() -> None:
    before = await trio.lowlevel.open_process(["sleep", "600"], start_new_session=True)
    async with ward(subreaper=True) as sick:
        meanwhile = await trio.lowlevel.open_process(["sleep", "600"])
        await sick.call("echo")
    assert (runs(before.pid), runs(meanwhile.pid)) == (True, True)
    for process in (before, meanwhile):
        process.kill()
        await process.wait()


async def test_f47_orphans_that_end_are_reaped() -> None:
    code = "import os, sys; pid = os.fork(); (print(pid, flush=True), os._exit(0)) if pid else sys.stdin.read()"
    async with trio.open_nursery() as nursery, own_orphans(nursery, look_every=0.02):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        pid = int(await process.stdout.receive_some())
        await process.wait()
        assert os.getpgid(pid) == process.pid  # an orphan, and ours
        await process.stdin.aclose()
        await process.stdout.aclose()
        with trio.fail_after(PATIENCE):
            while look_at(pid) is not None:  # noqa: ASYNC110 (that a zombie is gone is no event)
                await trio.sleep(0.01)


async def test_p9_a_subreaper_leaves_no_process_of_its_own() -> None:
    before = set(below(os.getpid()))
    async with ward(subreaper=True) as sick:
        await sick.call("echo")
        assert len(below(os.getpid())) == len(before) + 3  # two children and the guardian
    assert set(below(os.getpid())) == before


# --- Our own end --------------------------------------------------------------------------------------------------


async def test_f48_when_serve_is_killed_nobody_is_left(tmp_path: Path) -> None:
    config: dict[str, Any] = {"sick": {"command": sys.executable, "args": ["-I", "-S", CHILD]}}
    async with serve(config, tmp_path) as served:
        await served.said("up:")
        async with Client(served.url) as client:
            family = [await _spawned(client, **HIDING[how]) for how in HIDING if "no environment" not in how]
            family.append((await _called(client, "ignore_everything"))["pid"])
        family += below(served.pid)  # the child, the guardian, who lost its parent
        served.send(signal.SIGKILL)
        for pid in family:
            await ended(pid)


async def test_f50_when_serve_is_stopped_nobody_is_left(tmp_path: Path) -> None:
    config: dict[str, Any] = {"sick": {"command": sys.executable, "args": ["-I", "-S", CHILD]}}
    async with serve(config, tmp_path) as served:
        await served.said("up:")
        async with Client(served.url) as client:
            family = [await _spawned(client, **how) for how in (*HIDING.values(), HIDDEN)]
        family += below(served.pid)
    assert served.process.returncode == 0
    assert not any(map(runs, family))


async def _spawned(client: Client, **how: Any) -> int:
    return int((await _called(client, "spawn", **how))["pid"])


async def _called(client: Client, tool: str, **arguments: Any) -> Any:
    [content] = (await client.call_tool(tool, arguments)).content
    assert isinstance(content, TextContent)
    return json.loads(content.text)

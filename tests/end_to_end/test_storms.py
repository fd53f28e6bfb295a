"""Crash loops and poison with real processes (promises F27, F29): they take the seconds that they are about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.shared.exceptions import MCPError

from mcpactors import create_proxy, open_runtime
from tests.processes import PATIENCE

FRAGILE = """
import os
from mcp.server import MCPServer

server = MCPServer("fragile")

@server.tool()
async def kill(n: int) -> str:
    os._exit(7)

@server.tool()
async def echo(text: str) -> str:
    return text

server.run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
async def test_f27_a_program_that_ends_at_once_is_started_six_times_in_ten_seconds_at_most(tmp_path: Path) -> None:
    async with open_runtime("main") as runtime:
        loop = {"command": "sh", "args": ["-c", "echo started >> starts; exit 1"], "cwd": str(tmp_path)}
        began = trio.current_time()
        await runtime.mount(create_proxy(loop), namespace="loop")
        await trio.sleep_until(began + 10)
        starts = (tmp_path / "starts").read_text().count("started")
        assert 2 <= starts <= 6


async def test_f29_a_message_that_kills_its_process_twice_is_refused_and_others_are_answered(tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy({"command": sys.executable, "args": [str(tmp_path / "fragile.py")]}))

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[int, str]:
            async with runtime.client() as client:
                try:
                    result = await client.call_tool(tool, arguments)
                except MCPError as error:
                    return error.code, error.message
                return 0, str(result.content[0].text)  # type: ignore[union-attr]

        async def alive() -> None:
            while await call("echo", {"text": "alive"}) != (0, "alive"):  # noqa: ASYNC110 (a start may fail)
                await trio.sleep(0.1)

        with trio.fail_after(PATIENCE):
            assert (await call("kill", {"n": 1}))[0] == -32000
            await alive()
            assert (await call("kill", {"n": 1}))[0] == -32000
            await alive()
            code, message = await call("kill", {"n": 1})
            assert code == -32003
            assert "has gone down 2 times while it held this very message" in message
            await alive()

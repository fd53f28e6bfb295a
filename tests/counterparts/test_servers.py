"""Servers that others' SDKs serve as backends of ours, as processes, with a client of either era at our end."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import pytest
import trio

from mcpactors import NodeStdioTransport, create_proxy, open_runtime
from tests.bridge.clients import legacy, modern
from tests.bridge.questions import accepting
from tests.processes import PATIENCE

SERVER: Final = str(Path(__file__).parent / "server.mjs")


async def first_line(process: trio.Process) -> str:
    assert process.stdout is not None
    said = b""
    while not said.endswith(b"\n"):
        more = await process.stdout.receive_some()
        assert more, "it ended before it served"
        said += more
    return said.decode().strip()


@pytest.mark.parametrize("way", ["stdio", "http"])
@pytest.mark.parametrize(("version", "connect"), [("v1", modern), ("v2", legacy)], ids=["v1-modern", "v2-legacy"])
async def test_d1_a_server_of_the_typescript_sdk(version: str, way: str, connect: Any, node: str) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            target: Any = NodeStdioTransport(SERVER, (version, "stdio"), node_cmd=node)
            if way == "http":
                words = [node, SERVER, version, "http"]
                process = await nursery.start(partial(trio.run_process, words, stdout=PIPE, check=False))
                target = await first_line(process)
            async with open_runtime() as runtime:
                handle = await runtime.mount(create_proxy(target), namespace="ts")
                assert handle.state == "running", handle.info()
                async with connect(runtime, accepting) as client:
                    listed = await client.request("tools/list")
                    assert {tool["name"] for tool in listed["tools"]} == {"ts_echo", "ts_steps", "ts_ask"}
                    said = await client.tool("ts_echo", text="näme \u2028 🎈")
                    assert said["content"] == [{"type": "text", "text": "näme \u2028 🎈"}]
                    call = {"name": "ts_steps", "arguments": {"number": 3}, "_meta": {"progressToken": "mine"}}
                    assert (await client.complete("tools/call", call))["content"] == [{"type": "text", "text": "done"}]
                    steps = [step for _, step in client.progress()]
                    assert steps == sorted(set(steps)), steps
                    assert steps[-1] == 2  # of what comes at once the last is told (P5)
                    asked = await client.tool("ts_ask", question="who?")
                    assert asked["content"] == [{"type": "text", "text": "who?"}]
            nursery.cancel_scope.cancel()

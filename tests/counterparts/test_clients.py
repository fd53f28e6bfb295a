"""Other people's clients at our endpoint, as processes: each lists, calls, hears progress and answers questions.

Rule: a client is a program that says as JSON what it saw; what it is told to connect to is a row of the contract's
ends. Real time, loopback.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.bridge.clients import BOTH, EVERYTHING, INFO
from tests.contract.ends import ENDS
from tests.contract.served import TOOLS
from tests.processes import PATIENCE

pytestmark = pytest.mark.filterwarnings("ignore:The logging capability")
HERE: Final = Path(__file__).parent
SEEN: Final = {"echoed": "näme \u2028 🎈", "stepped": "done", "asked": "to one, to two", "progress": [0, 1, 2]}
TYPESCRIPT: Final = [
    (generation, era, end)
    for generation, era in (("v1", "legacy"), ("v2", "legacy"), ("v2", "modern"))
    for end in ("http", "stdio", "sse")
    if era in ENDS[end].eras
]


@asynccontextmanager
async def served(end: str, forks: str) -> AsyncIterator[Any]:
    """Yields `{"url": ...}`, `{"sse": ...}` or `{"command": ..., "args": [...]}`."""
    with trio.fail_after(PATIENCE):
        async with ENDS[end].serve(TOOLS, forks) as target:
            assert isinstance(target, Mapping)
            yield {"sse" if end == "sse" else key: value for key, value in target.items() if key != "type"}


async def run(*words: object, home: Path | None = None) -> str:
    """What a program says on stdout."""
    env = dict(os.environ) if home is None else {**os.environ, "HOME": str(home)}
    command = [word if isinstance(word, str) else json.dumps(word) for word in words]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=env)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def compare(said: str, *, in_one_chunk: bool = False) -> None:
    seen = json.loads(said)
    assert {"echo", "steps", "ask"} <= set(seen.pop("tools"))
    if in_one_chunk:
        # The TypeScript SDK defers a notification, and forgets whose it is at the response in the same chunk.
        seen["progress"] += SEEN["progress"][len(seen["progress"]) :]
    assert seen == SEEN


@pytest.mark.parametrize(("generation", "era", "end"), TYPESCRIPT)
async def test_d1_the_typescript_sdks_client(generation: str, era: str, end: str, node: str, forks: str) -> None:
    async with served(end, forks) as where:
        compare(await run(node, str(HERE / "client.mjs"), generation, era, where), in_one_chunk=end != "http")


async def test_d1_the_python_sdks_client_on_asyncio(forks: str) -> None:
    async with served("http", forks) as http, served("stdio", forks) as stdio:
        targets = ("legacy", http, "2026-07-28", http, "auto", stdio)
        for said in (await run(sys.executable, str(HERE / "python_sdk.py"), *targets)).splitlines():
            compare(said)


async def test_d1_the_inspectors_command_line(node: str, forks: str, tmp_path: Path) -> None:
    inspector = (node, str(HERE / "node_modules" / ".bin" / "mcp-inspector"), "--cli")
    async with served("http", forks) as where:
        at = ("--transport", "http", where["url"])
        listed = json.loads(await run(*inspector, *at, "--method", "tools/list", home=tmp_path))
        assert "echo" in {tool["name"] for tool in listed["tools"]}
        call = ("--method", "tools/call", "--tool-name", "echo", "--tool-arg", "text=hello")
        said = json.loads(await run(*inspector, *at, *call, home=tmp_path))
        assert said["content"] == [{"type": "text", "text": "hello"}]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_d1_curl_in_both_eras(forks: str) -> None:
    async with served("http", forks) as where:
        headers = {**BOTH, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "echo"}
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": EVERYTHING,
            "io.modelcontextprotocol/clientInfo": INFO,
        }
        call = {"name": "echo", "arguments": {"text": "näme \u2028"}}
        _, modern = await curl(
            where["url"], headers, {"id": 1, "method": "tools/call", "params": {**call, "_meta": meta}}
        )
        assert modern["result"]["content"] == [{"type": "text", "text": "näme \u2028"}]
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": INFO}
        head, begun = await curl(where["url"], BOTH, {"id": 1, "method": "initialize", "params": hello})
        assert begun["result"]["protocolVersion"] == "2025-11-25"
        session = {**BOTH, "mcp-session-id": head["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        await curl(where["url"], session, {"method": "notifications/initialized"})
        _, listed = await curl(where["url"], session, {"id": 2, "method": "tools/list"})
        assert "echo" in {tool["name"] for tool in listed["result"]["tools"]}
        _, legacy = await curl(where["url"], session, {"id": 3, "method": "tools/call", "params": call})
        assert legacy["result"]["content"] == [{"type": "text", "text": "näme \u2028"}]


async def curl(url: str, headers: Mapping[str, str], message: Mapping[str, Any]) -> tuple[dict[str, str], Any]:
    """The head of the response, and the JSON in it: as its body, or in the last event of a stream."""
    fields = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    data = json.dumps({"jsonrpc": "2.0", **message})
    head, _, body = (await run("curl", "-sS", "-i", *fields, "-d", data, url)).replace("\r\n", "\n").partition("\n\n")
    named = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\n")[1:])}
    events = [line.removeprefix("data: ") for line in body.split("\n") if line.startswith("data: {")]
    text = events[-1] if events else body
    return named, json.loads(text) if text.strip() else None


async def test_d1_fastmcps_client(fastmcp: str, forks: str) -> None:  # the last, as it may be long in coming
    async with served("http", forks) as http, served("stdio", forks) as stdio:
        for said in (await run(fastmcp, str(HERE / "fastmcp_client.py"), http, stdio)).splitlines():
            compare(said)

"""The README's Python runs as it stands there, but for the ports. Real processes, real time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import mcp_types as types
import pytest
import trio
from mcp.client import Client

from tests.processes import PATIENCE, unused_port

README = Path(__file__).parent.parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def block_with(text: str) -> str:
    """The block that has `text` in it, with a port for the absent backend at which surely nobody listens."""
    [block] = [block for block in BLOCKS if text in block]
    assert isinstance(block, str)
    return block.replace("127.0.0.1:9000", f"127.0.0.1:{unused_port()}")


@asynccontextmanager
async def running(script: Path) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process([sys.executable, "-u", str(script)], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def first_line(process: trio.Process, start: str) -> str:
    """What comes after `start` in the first line that begins so."""
    said = b""
    assert process.stdout is not None
    async for chunk in process.stdout:
        said += chunk
        if found := re.search(rf"^{start}(.*)\n", said.decode(), re.MULTILINE):
            return found[1]
    raise AssertionError(f"it ended and never said {start!r}: {said.decode()}")


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_block_is_python(block: str) -> None:
    compile(block, "README.md", "exec")


async def test_the_embedding_block_serves_its_weather_though_its_backend_is_absent(tmp_path: Path) -> None:
    block = block_with("runtime.mount(weather")
    assert "port=8000" in block
    script = tmp_path / "embedding.py"
    script.write_text(block.replace("port=8000", "port=0"))
    with trio.fail_after(PATIENCE):
        async with running(script) as process:
            url = await first_line(process, "serving ")
            async with Client(url) as client:
                result = await client.call_tool("weather_forecast", {"city": "Rome"})
    [answer] = result.content
    assert isinstance(answer, types.TextContent)
    assert answer.text == "Sunny in Rome"


async def test_the_composing_block_lists_what_it_says_is_visible(tmp_path: Path) -> None:
    script = tmp_path / "composing.py"
    script.write_text(block_with("async def run()"))
    with trio.fail_after(PATIENCE):
        done = await trio.run_process([sys.executable, str(script)], capture_stdout=True)
    assert done.stdout.decode() == "['weather_get_forecast']\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("async with Client(config)", "['time_get_current_time', 'time_convert_time', 'weather_forecast'"),
        ("tool.copy(description=", "'What time is it?'"),
    ],
)
async def test_the_blocks_of_clients_and_of_copies_run(text: str, said: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block_with(text))
    with trio.fail_after(PATIENCE):
        done = await trio.run_process([sys.executable, str(script)], capture_stdout=True)
    assert said in done.stdout.decode()

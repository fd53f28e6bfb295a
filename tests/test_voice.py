"""What is said on stderr, where nobody reads it, or nobody is there any more."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
import trio
from mcp.client import Client

from mcpactors.voice import HELD, Voice
from tests.processes import PATIENCE


def test_a_stderr_that_nobody_reads_keeps_nobody_and_what_was_dropped_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        monkeypatch.setattr(sys, "stderr", stream)
        with Voice.on_stderr() as voice:
            for number in range(3 * HELD):
                voice.say(f"{number} " + "x" * 2000)  # more than any pipe takes
            said = [reader.readline() for _ in range(HELD)]
            voice.say("after")
            while not said[-1].startswith("after"):
                said.append(reader.readline())
    assert [line.split()[0] for line in said[:3]] == ["0", "1", "2"]
    assert any("lines were dropped" in line for line in said[HELD:]), said[-3:]


def test_a_stderr_that_is_closed_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with Voice.on_stderr() as voice:
            for number in range(10):
                voice.say(str(number))
            voice.emit(logging.LogRecord("x", logging.INFO, "", 0, "%d", ("not a number",), None))
        with pytest.raises(BrokenPipeError):
            stream.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


@pytest.mark.parametrize("reader", ["gone", "asleep"])
async def test_serve_goes_on_whoever_reads_its_stderr(reader: str, tmp_path: Path) -> None:
    failing = {"command": sys.executable, "args": ["-c", "import sys; sys.exit('no ' * 20000)"]}
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"w": {"module": "mcpactors.example:weather"}, "bad": failing}}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mcpactors", "serve", str(config), "--port", str(port), "--log-level", "debug"]
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(command, stderr=PIPE)
        assert process.stderr is not None
        try:
            if reader == "gone":
                await process.stderr.aclose()
            for _ in range(3):
                async with Client(await _answering(f"http://127.0.0.1:{port}/mcp")) as client:
                    assert "w_forecast" in [tool.name for tool in (await client.list_tools()).tools]
            process.send_signal(signal.SIGTERM)
            if reader == "asleep":
                await process.stderr.aclose()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _answering(url: str) -> str:
    port = int(url.split(":")[2].split("/")[0])
    while True:
        try:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            return url
        except OSError:
            await trio.sleep(0.05)

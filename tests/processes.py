"""Real processes for tests: `mcpactors serve`, and what lives below a process (Linux's /proc)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

PATIENCE = 60.0
"""Seconds for what must happen soon; only a failing test waits so long."""


@define(eq=False)
class Served:
    """A running `mcpactors serve`: what it has printed, and where it serves."""

    process: trio.Process
    lines: list[str] = field(factory=list)
    _more: trio.Event = field(factory=trio.Event)

    @property
    def url(self) -> str:
        return next(line.removeprefix("serving ") for line in self.lines if line.startswith("serving "))

    @property
    def pid(self) -> int:
        return self.process.pid

    async def said(self, text: str) -> str:
        """Wait for a line with `text` in it."""
        with trio.fail_after(PATIENCE):
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                if self.process.returncode is not None:
                    raise AssertionError(f"ended with {self.process.returncode} and never said {text!r}: {self.lines}")
                self._more = trio.Event()
                await self._more.wait()

    async def read(self) -> None:
        rest = b""
        assert self.process.stderr is not None
        async with self.process.stderr as stderr:
            async for chunk in stderr:
                *whole, rest = (rest + chunk).split(b"\n")
                self.lines += [line.decode() for line in whole]
                self._more.set()
        await self.process.wait()
        self._more.set()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def serve(config: dict[str, Any] | Path | None, folder: Path, *arguments: str) -> AsyncIterator[Served]:
    """Run `python -m mcpactors serve`, if nothing else is said on a free port of the loopback; end it, whatever
    happens."""
    place = () if "--uds" in arguments else ("--port", "0")
    command = [sys.executable, "-m", "mcpactors", "serve", *place]
    if isinstance(config, dict):
        path = folder / "mcp.json"
        path.write_text(json.dumps({"mcpServers": config}))
        command.append(str(path))
    elif config is not None:
        command.append(str(config))
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [*command, *arguments], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        served = Served(process)
        nursery.start_soon(served.read)
        try:
            yield served
        finally:
            if process.returncode is None:
                process.terminate()
            with trio.move_on_after(PATIENCE, shield=True) as patience:
                await process.wait()
            if patience.cancelled_caught:
                process.kill()
                raise AssertionError("serve did not end on SIGTERM")


EVERYTHING = str(Path(__file__).parent / "backends" / "everything.py")
"""The script of a backend that can do everything."""


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def everything_over_http(*arguments: str) -> AsyncIterator[str]:
    """Run `everything.py` as an HTTP server until the block ends; yields its URL once it accepts connections."""
    port = unused_port()
    process = await trio.lowlevel.open_process([sys.executable, EVERYTHING, "--http", str(port), *arguments])
    try:
        with trio.fail_after(PATIENCE):
            while not await _accepts(port):
                assert process.returncode is None, "everything.py ended before it served"
                await trio.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _accepts(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


def below(pid: int) -> dict[int, str]:
    """The processes that `pid` has started and that live: pid -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found[int(entry.name)] = command
    return found


def backend_pid(parent: int, text: str) -> int:
    """The child of `parent` whose command line has `text` in it."""
    [pid] = [pid for pid, command in below(parent).items() if text in command]
    return pid


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

"""The processes that benchmarks measure: how they are started, spoken to and ended, and where FastMCP comes from.

Rule: a program says `serving URL` on stderr once it listens, whoever wrote it, and has answered before it is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from benchmarks._proxy_client import QUESTIONS, HTTPPeer, Peer, Pipes, Question

__all__ = ["FASTMCP", "Target", "fastmcp_python", "http_target", "python_with", "running", "stdio_target"]

FASTMCP: Final = "fastmcp==4.1.2"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mcpactors-benchmarks"
START_LIMIT: Final = 60.0
STOP_LIMIT: Final = 30.0
"""Seconds; a busy machine has needed more than five to end what had 2,000 connections."""


@frozen(eq=False)
class Target:
    """A process that answers, and how to reach it."""

    pid: int
    open: Callable[[], Awaitable[Peer]]

    def cpu(self) -> float | None:
        """Seconds of CPU that the process has used, all its threads; None where the system does not say."""
        return time.clock_gettime(((~self.pid) << 3) | 2) if sys.platform == "linux" else None


@asynccontextmanager
async def http_target(
    command: Sequence[str], questions: Sequence[Question] = QUESTIONS
) -> AsyncIterator[tuple[Target, str]]:
    """Run a program that says `serving URL` on stderr; yields it, answering the questions, and its URL."""
    async with running(command, stderr=subprocess.PIPE) as (process, nursery):
        assert process.stderr is not None
        said = b""
        with trio.fail_after(START_LIMIT):
            while b"serving http" not in said or not said.endswith(b"\n"):
                data = await process.stderr.receive_some()
                if not data:
                    raise RuntimeError(f"{command} ended: {said.decode(errors='replace')}")
                said += data
        nursery.start_soon(_drain, process.stderr)
        url = said.split(b"serving ")[1].split()[0].decode()
        port = int(url.split(":")[2].split("/")[0])
        target = Target(process.pid, partial(HTTPPeer.open, port))
        await _until_answering(target, questions)
        yield target, url


async def _until_answering(target: Target, questions: Sequence[Question]) -> None:
    """A gateway may listen before it can answer."""
    with trio.fail_after(START_LIMIT):
        while True:
            try:
                async with aclosing(await target.open()) as peer:
                    for question in questions:
                        await peer.ask(question)
                return
            except (OSError, RuntimeError):
                await trio.sleep(0.2)


async def _drain(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


@asynccontextmanager
async def stdio_target(command: Sequence[str]) -> AsyncIterator[Target]:
    """Run a program and speak to it over its pipes."""
    async with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as (process, nursery):
        pipes = Pipes(process)
        nursery.start_soon(pipes.listen)

        async def the_pipes() -> Peer:
            return pipes

        yield Target(process.pid, the_pipes)


@asynccontextmanager
async def running(command: Sequence[str], **pipes: int) -> AsyncIterator[tuple[trio.Process, trio.Nursery]]:
    """A process that is told to end with the block, and killed when it does not."""
    async with trio.open_nursery() as nursery:
        options = {"check": False, "deliver_cancel": _end, "stdin": subprocess.DEVNULL, **pipes}
        run = partial(trio.run_process, list(command), **options)
        process: trio.Process = await nursery.start(run)
        yield process, nursery
        nursery.cancel_scope.cancel()


async def _end(process: trio.Process) -> None:
    process.terminate()
    await trio.sleep(STOP_LIMIT)
    warnings.warn(f"{process.args!r} did not end within {STOP_LIMIT:g} s of SIGTERM", RuntimeWarning, stacklevel=1)
    process.kill()


def fastmcp_python() -> str | None:
    """A Python that has FastMCP; None where that cannot be had."""
    return python_with(FASTMCP, [FASTMCP])


def python_with(name: str, packages: Sequence[str]) -> str | None:
    """A Python that has `packages`, made in the user's cache folder at the first run; None where that fails."""
    folder = CACHE / name
    python, done = folder / "bin" / "python", folder / "done"
    wanted = " ".join(packages)
    if not done.exists() or done.read_text() != wanted:
        print(f"installing {wanted} into {folder}", file=sys.stderr)
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"without {wanted}: {error}", file=sys.stderr)
            return None
        done.write_text(wanted)
    return str(python)

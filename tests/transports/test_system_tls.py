"""What the system trusts is read beside the loop, and once: it takes longer than a loop may stand still."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
import trio

from tests.processes import PATIENCE

PROGRAM = """
import sys, trio
from mcpactors import Client
from mcpactors.errors import BackendStartError

async def connect(url):
    try:
        async with Client(url, mode="legacy"):
            print("connected")
    except BackendStartError:
        print("refused", flush=True)

async def turn():
    await trio.to_thread.run_sync(sys.stdin.readline)
    print("the loop turns", flush=True)

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn)
        for url in sys.argv[1:]:
            nursery.start_soon(connect, url)

trio.run(main)
"""


async def hang_up(connection: trio.SocketStream) -> None:
    """Once it has said something."""
    with suppress(trio.BrokenResourceError):
        await connection.receive_some()
    await connection.aclose()


@asynccontextmanager
async def program(*arguments: str, **env: str) -> AsyncIterator[trio.Process]:
    started = await trio.lowlevel.open_process(
        [sys.executable, "-c", PROGRAM, *arguments], stdin=PIPE, stdout=PIPE, env={**os.environ, **env}
    )
    try:
        yield started
    finally:
        started.kill()
        with trio.CancelScope(shield=True):
            await started.wait()


def readers(pid: int, path: str) -> int:
    """How often the process has this file open, where that can be seen."""
    folder = Path(f"/proc/{pid}/fd")
    number = 0
    for descriptor in folder.iterdir() if folder.exists() else ():
        with suppress(FileNotFoundError):  # it has been closed meanwhile
            number += os.readlink(descriptor) == path
    return number


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="what is read here is a named pipe")
async def test_p6_what_the_system_trusts_is_read_once_and_beside_the_loop(tmp_path: Path) -> None:
    """The file with the certificates is a pipe: whoever reads it waits until it is written, and it is written once."""
    pipe = str(tmp_path / "certificates.pem")
    os.mkfifo(pipe)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, hang_up, 0, host="127.0.0.1"))
            place = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            urls = f"https://{place}/mcp", f"https://{place}/sse", f"wss://{place}/mcp"
            async with program(*urls, SSL_CERT_FILE=pipe) as running:
                assert running.stdin is not None
                assert running.stdout is not None
                writes = await trio.to_thread.run_sync(os.open, pipe, os.O_WRONLY, abandon_on_cancel=True)
                await running.stdin.send_all(b"\n")  # there is who reads the pipe, and waits
                said = b""
                while not said.endswith(b"\n"):
                    said += await running.stdout.receive_some()
                assert said == b"the loop turns\n"
                assert readers(running.pid, pipe) <= 1
                os.close(writes)
                said = b"".join([bytes(some) async for some in running.stdout])
                assert said == b"refused\n" * len(urls)
            nursery.cancel_scope.cancel()

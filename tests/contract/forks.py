"""Servers over stdio, each a process that forks from one which has imported everything: a start costs little.

Rule: what runs is `serve_stdio` on the descriptors 0 and 1 of a process of its own. The command that a client starts
hands them over with a spec, and lives as long as the server does.

    python -m tests.contract.forks SOCKET
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio

from mcpactors.transports.stdio.server import serve_stdio
from tests.contract.served import Spec, opened

__all__ = ["command", "forking"]

ROOT: Final = Path(__file__).parent.parent.parent
CONNECT: Final = """
import os, socket, sys
wire = socket.socket(socket.AF_UNIX)
wire.connect(sys.argv[1])
socket.send_fds(wire, [sys.argv[2].encode()], [0, 1, 2])
nothing = os.open(os.devnull, os.O_RDWR)
os.dup2(nothing, 0)
os.dup2(nothing, 1)
wire.recv(1)
"""


def command(forks: str, spec: Spec) -> dict[str, Any]:
    """The entry of a config for a program that serves `spec` over stdio."""
    return {"command": sys.executable, "args": ["-I", "-S", "-c", CONNECT, forks, json.dumps(spec)]}


@contextmanager
def forking() -> Iterator[str]:
    """The process that the servers fork from; yields the path of its socket."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/forks"
        words = [sys.executable, "-m", "tests.contract.forks", path]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == b"ready\n"
                yield path
            finally:
                process.kill()


async def _serve(spec: Spec) -> None:
    async with opened(spec) as server:
        await serve_stdio(server, drain=1.0)


def main(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            wire, _ = listener.accept()
            spec, descriptors, *_ = socket.recv_fds(wire, 65536, 3)
            if os.fork() == 0:
                listener.close()
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                try:
                    trio.run(_serve, json.loads(spec))
                finally:
                    os._exit(0)
            wire.close()
            for descriptor in descriptors:
                os.close(descriptor)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


if __name__ == "__main__":
    main(sys.argv[1])

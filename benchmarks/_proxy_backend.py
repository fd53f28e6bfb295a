"""The backend that benchmarks/proxy.py puts behind every gateway: an ordinary server of the SDK with 20 tools.

Rule: nothing of ours is in it, and it is the same program whoever stands before it. `http` serves on a free port of
the loopback (as `MCPServer.run` does, with uvicorn) and says on stderr where; `stdio` serves stdin and stdout.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn
from mcp.server import MCPServer

TOOLS = 20
KEEP_ALIVE = 300
"""Seconds. Cases wait for their turn for longer than uvicorn's 5 s, and nobody's calls should fail for that."""


def backend() -> MCPServer[Any]:
    """Tools `add0` to `add19`."""
    server: MCPServer[Any] = MCPServer("backend", log_level="ERROR")

    def add(a: int, b: int) -> int:
        """Add two numbers, both of them whole, and give their sum, which is whole too."""
        return a + b

    for number in range(TOOLS):
        server.add_tool(add, name=f"add{number}")
    return server


def main() -> None:
    """Serve until stdin ends or a signal comes."""
    server = backend()
    if sys.argv[1] == "stdio":
        server.run("stdio")
        return
    # Its protocol named, as where uvicorn is given a port: else asyncio leaves Nagle on, and each reply takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    print(f"serving http://127.0.0.1:{listener.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error", timeout_keep_alive=KEEP_ALIVE)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

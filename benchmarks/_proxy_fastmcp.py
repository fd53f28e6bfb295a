"""FastMCP's proxy as benchmarks/proxy.py measures it, run by a Python that has FastMCP.

Rule: set up as FastMCP's documentation recommends, `create_proxy(target)` served with `run(transport="http")`, with
its logging turned down. `fresh` is that: a session of its own for each request to the backend (a stdio backend's
process is kept). `shared` is what it calls reuse: a client that is connected already is the backend of all requests.
Arguments: fresh|shared, then a URL or the words of a command.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

from fastmcp import Client, FastMCP  # type: ignore[import-not-found,unused-ignore]
from fastmcp.client.transports import StdioTransport  # type: ignore[import-not-found,unused-ignore]
from fastmcp.server import create_proxy  # type: ignore[import-not-found,unused-ignore]

HOST = "127.0.0.1"


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def serve(proxy: FastMCP) -> None:
    """Serve on a free port of the loopback, which it says on stderr."""
    port = _free_port()
    print(f"serving http://{HOST}:{port}/mcp", file=sys.stderr, flush=True)
    quiet = {"log_level": "error", "access_log": False}
    await proxy.run_async(
        transport="http", host=HOST, port=port, show_banner=False, log_level="ERROR", uvicorn_config=quiet
    )


async def main() -> None:
    """Serve until a signal comes."""
    strategy, *target = sys.argv[1:]
    backend: Any = target[0] if len(target) == 1 else StdioTransport(target[0], target[1:])
    if strategy == "fresh":
        await serve(create_proxy(backend))
    else:
        async with Client(backend) as client:
            await serve(create_proxy(client))


if __name__ == "__main__":
    asyncio.run(main())

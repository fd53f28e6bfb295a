"""FastMCP's gateway as benchmarks/isolation.py measures it, run by a Python that has FastMCP.

Rule: set up as FastMCP's documentation recommends: each server `mcp.mount(create_proxy(...), namespace=...)`, served
with `run(transport="http")`, with its logging turned down. The argument is a config file of the `mcpServers` format; an
entry with neither a URL nor a command is a server of this process, with the same tools as ours has there.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from fastmcp import FastMCP  # type: ignore[import-not-found,unused-ignore]
from fastmcp.client.transports import StdioTransport  # type: ignore[import-not-found,unused-ignore]
from fastmcp.server import create_proxy  # type: ignore[import-not-found,unused-ignore]

from benchmarks._proxy_fastmcp import serve

TOOLS = 20


def near() -> FastMCP:
    """Tools `add0` to `add19`, as those of `_proxy_backend.py`."""
    server = FastMCP("near")

    def add(a: int, b: int) -> int:
        """Add two numbers, both of them whole, and give their sum, which is whole too."""
        return a + b

    for number in range(TOOLS):
        server.tool(add, name=f"add{number}")
    return server


def gateway(servers: Mapping[str, Any]) -> FastMCP:
    """Every server under its name."""
    main = FastMCP("gateway")
    for name, entry in servers.items():
        main.mount(mounted(entry), namespace=name)
    return main


def mounted(entry: Mapping[str, Any]) -> FastMCP:
    """The server of an entry."""
    if "url" in entry:
        return create_proxy(entry["url"])
    return create_proxy(StdioTransport(entry["command"], entry["args"])) if "command" in entry else near()


if __name__ == "__main__":
    asyncio.run(serve(gateway(json.loads(Path(sys.argv[1]).read_text())["mcpServers"])))

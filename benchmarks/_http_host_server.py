"""What benchmarks/http_host.py measures: one application on one host. `python _http_host_server.py HOST APP`

HOST: `ours`, `hypercorn` (on trio) or `uvicorn` (on asyncio, with uvloop where that is installed). APP: `echo` answers
a POST with its body, read as JSON and written anew; `mcp` is the SDK's whole server with two tools.

Rule: the applications are the same objects on each host, and hosts are set up as their documentation says.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

KEEP_ALIVE = 300
"""Seconds: cases wait for their turn."""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The lifespan as well, as hypercorn and uvicorn ask for it."""
    if scope["type"] == "lifespan":
        for word in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{word}.complete"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = json.dumps(json.loads(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def mcp() -> Any:
    """A server with the tools `add7` and `count`."""
    server: MCPServer[Any] = MCPServer("backend", log_level="ERROR")

    @server.tool()
    def add7(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    async def count(to: int, ctx: Context) -> str:
        """Count, and tell of each number."""
        for number in range(to):
            await ctx.report_progress(number, to)
        return "counted"

    return server.streamable_http_app()


def on_ours(app: Any, listener: socket.socket) -> None:
    """On the host of this project."""
    import trio

    from mcpactors.transports.asgi import lifespan, serve

    async def run() -> None:
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
        async with lifespan(app) as state, serve(app, listeners, state=state):
            await trio.sleep_forever()

    trio.run(run)


def on_hypercorn(app: Any, listener: socket.socket) -> None:
    """On hypercorn's trio worker."""
    import trio
    from hypercorn.config import Config  # type: ignore[import-not-found,unused-ignore]
    from hypercorn.trio import serve  # type: ignore[import-not-found,unused-ignore]

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = KEEP_ALIVE
    trio.run(serve, app, config)


def on_uvicorn(app: Any, listener: socket.socket) -> None:
    """On uvicorn, which takes httptools and uvloop where they are installed."""
    import uvicorn

    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_keep_alive=KEEP_ALIVE)
    uvicorn.Server(config).run(sockets=[listener])


HOSTS: dict[str, Callable[[Any, socket.socket], None]] = {
    "ours": on_ours,
    "hypercorn": on_hypercorn,
    "uvicorn": on_uvicorn,
}


def main() -> None:
    """Serve until a signal comes."""
    host, app = sys.argv[1:]
    # Its protocol named, as where a host is given a port: else asyncio leaves Nagle on, and each reply takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    print(f"serving http://127.0.0.1:{listener.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    HOSTS[host](echo if app == "echo" else mcp(), listener)


if __name__ == "__main__":
    main()

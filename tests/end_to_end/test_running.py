"""`server.run()`, the last line of a program: all that is mounted is served, by our runtime on trio."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import mcp_types as types
import pytest
import trio
from mcp.client import Client as SDKClient

from mcpactors import Client, MCPActorsError, Server, open_runtime
from tests.processes import PATIENCE, Served

PROGRAM = """
import trio
from mcpactors import Server, create_proxy

inner, main = Server("inner"), Server("main")

@inner.tool
def add(a: int, b: int) -> int:
    return a + b

main.mount(inner, namespace="in")
main.mount(create_proxy(inner), namespace="proxied")
"""


def text_of(result: types.CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))


def written(folder: Path, last: str) -> Path:
    """The program, with this as its last line."""
    path = folder / "program.py"
    path.write_text(f"{PROGRAM}{last}\n")
    return path


@pytest.mark.parametrize("last", ["main.run()", "trio.run(main.run_stdio_async)"])
async def test_run_serves_what_is_mounted_over_stdio(tmp_path: Path, last: str) -> None:
    program = written(tmp_path, last)
    with trio.fail_after(PATIENCE):
        async with Client(str(program)) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == ["in_add", "proxied_add"]
            assert text_of(await client.call_tool("proxied_add", {"a": 1, "b": 2})) == "3"


async def test_run_serves_what_is_mounted_over_http_until_ctrl_c(tmp_path: Path) -> None:
    program = written(tmp_path, "main.run('streamable-http', port=0); print('went on', flush=True)")
    process = await trio.lowlevel.open_process(
        [sys.executable, str(program)], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    served = Served(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.read)
            await served.said("serving http://127.0.0.1:")
            async with SDKClient(served.url) as client:
                assert text_of(await client.call_tool("in_add", {"a": 1, "b": 2})) == "3"
            served.send(signal.SIGINT)
            with trio.fail_after(PATIENCE):
                assert await process.wait() == 0
        assert process.stdout is not None
        assert await process.stdout.receive_some() == b"went on\n"
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("transport", "options", "said"),
    [
        ("carrier-pigeon", {}, "known are stdio, http, streamable-http, sse"),
        ("stdio", {"port": 1}, "has no port"),
        ("http", {"stateless_http": True}, "has no stateless_http.* host, port"),
    ],
)
def test_what_run_cannot_do_is_said_at_once(transport: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(MCPActorsError, match=said):
        Server("main").run(transport, **options)


def test_an_app_of_the_server_alone_is_refused_with_what_serves_all() -> None:
    for app in (Server("main").streamable_http_app, Server("main").sse_app):
        with pytest.raises(MCPActorsError, match="open_runtime"):
            app()


def test_asyncio_is_told_that_this_needs_trio() -> None:
    async def opened() -> None:
        async with open_runtime():
            pass

    async def connected() -> None:
        async with Client(Server("main")):
            pass

    for main in (opened, connected, Server("main").run_stdio_async):
        with pytest.raises(RuntimeError, match=r"trio\.run\(main\)"):
            asyncio.run(main())

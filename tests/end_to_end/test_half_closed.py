"""F20: a client that has sent its call and closed its own end, as `nc -N` does, gets its answer; one
that has left is seen to have left at once, though no more is seen of it.

A real gateway before a real process, and a client that knows no more than sockets.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import trio

from mcpactors import StdioTransport, create_proxy, open_runtime
from tests.processes import EVERYTHING, PATIENCE
from tests.transports.http_raw import post


def call(tool: str, **arguments: Any) -> bytes:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "nc", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    said = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    fields = (
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        "MCP-Protocol-Version: 2026-07-28",
        "Mcp-Method: tools/call",
        f"Mcp-Name: {tool}",
    )
    return post(json.dumps(said).encode(), "/mcp", *fields).replace(b"Host: a\r\n", b"Host: localhost\r\n")


@pytest.mark.parametrize("tool", ["echo", "count"])
async def test_f20_who_closes_only_its_own_end_is_answered(tool: str) -> None:
    async with open_runtime() as runtime:
        await runtime.mount(create_proxy(StdioTransport(sys.executable, [EVERYTHING])))
        async with runtime.serve_http(port=0) as url:
            with trio.fail_after(PATIENCE):
                port = int(url.rpartition(":")[2].removesuffix("/mcp"))
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(call(tool, **({"text": "there"} if tool == "echo" else {"to": 3})))
                    await stream.send_eof()
                    said = b"".join([bytes(data) async for data in stream])
    assert b"HTTP/1.1 200 OK\r\n" in said
    assert b'"result":{' in said
    assert (b"there" if tool == "echo" else b"complete") in said


async def test_f20_who_has_left_is_told_apart_and_its_call_is_cancelled() -> None:
    async with open_runtime() as runtime:
        await runtime.mount(create_proxy(StdioTransport(sys.executable, [EVERYTHING])))
        async with runtime.serve_http(port=0) as url, runtime.client() as client:

            async def history() -> list[str]:
                result = await client.call_tool("history", {})
                assert result.structured_content is not None
                found: list[str] = result.structured_content["result"]
                return found

            with trio.fail_after(PATIENCE):
                port = int(url.rpartition(":")[2].removesuffix("/mcp"))
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                await stream.send_all(call("hang"))
                while "hang" not in await history():
                    pass
                await stream.aclose()
            with trio.fail_after(PATIENCE):
                while "hang ended" not in await history():
                    pass

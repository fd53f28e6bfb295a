"""Arguments of a call that stand in headers, too (`Mcp-Param-*`): they agree, and looking for them is done once a list.

Rule: real sockets; what a call costs is counted in functions of the SDK's `shared/inbound.py`, and no clock.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import pytest
import trio
from attrs import define
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.shared import inbound
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool

from mcpactors import open_runtime
from tests.processes import PATIENCE
from tests.simulation.peers import ENVELOPE
from tests.transports.http_raw import RawClient, post

HEADER_MISMATCH = -32020


def with_header(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": name}}}


def large(properties: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(properties)}}


@define(eq=False)
class Gateway:
    """One that serves a backend with one tool, `t`, and a client of it."""

    client: RawClient
    schema: dict[str, Any]

    async def say(self, method: str, params: dict[str, Any], *fields: str) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": ENVELOPE}}
        accepted = ("Content-Type: application/json", "Accept: application/json, text/event-stream")
        era = ("MCP-Protocol-Version: 2026-07-28", f"Mcp-Method: {method}")
        await self.client.write(post(json.dumps(body).encode(), "/mcp", *accepted, *era, *fields))
        reply = await self.client.reply()
        said: dict[str, Any] = json.loads(reply.body)
        return said

    async def call(self, region: str, *fields: str) -> dict[str, Any]:
        return await self.say("tools/call", {"name": "t", "arguments": {"region": region}}, "Mcp-Name: t", *fields)


@asynccontextmanager
async def gateway(schema: dict[str, Any]) -> AsyncIterator[Gateway]:
    async def listed(*_: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="t", input_schema=there.schema)])

    async def called(_: Any, params: Any) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text=params.arguments["region"])])

    async with open_runtime() as runtime:
        server = LowLevelServer("backend", on_list_tools=listed, on_call_tool=called)
        async with runtime.serve_http(port=0, allowed_hosts=["a"]) as url:
            with trio.fail_after(PATIENCE):
                stream = await trio.open_tcp_stream("127.0.0.1", int(url.split(":")[2].split("/")[0]))
                there = Gateway(RawClient(stream), schema)
                await runtime.mount(server)
                await there.say("tools/list", {})
                yield there
            await stream.aclose()


async def test_a_call_whose_header_and_argument_differ_is_refused() -> None:
    async with gateway(with_header("Region")) as there:
        assert (await there.call("eu", "Mcp-Param-Region: eu"))["result"]["content"][0]["text"] == "eu"
        for fields in ((), ("Mcp-Param-Region: us",)):
            assert (await there.call("eu", *fields))["error"]["code"] == HEADER_MISMATCH


@pytest.mark.parametrize("schema", [large, lambda size: {"anyOf": [large(1)] * size, **large(1)}])
async def test_p6_a_call_of_a_tool_with_a_large_schema_looks_through_it_no_more(schema: Any) -> None:
    counts = []
    for size in (1, 1_000):
        async with gateway(schema(size)) as there:
            await there.call("first")
            count = 0

            def profile(frame: FrameType, event: str, _: object) -> None:
                nonlocal count
                count += event == "call" and frame.f_code.co_filename == inbound.__file__

            before = sys.getprofile()
            sys.setprofile(profile)
            try:
                await there.call("second")
            finally:
                sys.setprofile(before)
            counts.append(count)
    assert counts[0] == counts[1] > 0

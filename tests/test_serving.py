"""What a process that serves does for itself, so that nobody waits while its garbage is collected."""

from __future__ import annotations

import gc
import json
from functools import partial
from typing import Any

import trio
import trio.testing
from mcp.server import MCPServer

from mcpactors import Server, open_runtime
from tests.simulation.peers import ENVELOPE
from tests.transports.http_raw import RawClient, post

MODERN, LEGACY = "2026-07-28", "2025-11-25"
HELLO = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "peer", "version": "1"}}


async def test_p6_what_was_imported_before_serving_is_not_looked_at_by_each_full_collection() -> None:
    gc.unfreeze()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(Server("root").run_async, "streamable-http", port=0))
            await trio.testing.wait_all_tasks_blocked()
            looked_at = len(gc.get_objects())
            assert gc.get_freeze_count() > looked_at
            nursery.cancel_scope.cancel()
    finally:
        gc.unfreeze()


async def asked(client: RawClient, method: str, params: dict[str, Any], *fields: str) -> tuple[dict[str, str], bytes]:
    """The fields and the body of the response to a request."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    said = ("Content-Type: application/json", "Accept: application/json, text/event-stream", *fields)
    await client.write(post(body, "/mcp", *said))
    reply = await client.reply()
    assert reply.status == 200
    return reply.fields, reply.body


async def test_p6_requests_of_either_era_leave_no_circles_for_a_collection_of_garbage() -> None:
    plain = MCPServer[Any]("plain")
    plain.add_tool(lambda: "done", name="do")
    call: dict[str, Any] = {"name": "plain_do", "arguments": {}}
    async with open_runtime() as runtime:
        await runtime.mount(plain, "plain")
        async with runtime.serve_http(port=0, allowed_hosts=["a"]) as url:
            client = RawClient(await trio.open_tcp_stream("127.0.0.1", int(url.split(":")[2].split("/")[0])))
            fields, _ = await asked(client, "initialize", HELLO)
            session = (f"Mcp-Session-Id: {fields['mcp-session-id']}", f"MCP-Protocol-Version: {LEGACY}")

            async def each() -> None:
                for method, params in (("tools/list", {}), ("tools/call", call)):
                    name = [f"Mcp-Name: {params['name']}"] if params else []
                    modern = (f"MCP-Protocol-Version: {MODERN}", f"Mcp-Method: {method}", *name)
                    for more, era in ((params, session), ({**params, "_meta": ENVELOPE}, modern)):
                        _, body = await asked(client, method, more, *era)
                        assert b"plain_do" in body or b"done" in body

            await each()
            for _ in range(3):  # what finalizers leave, too
                gc.collect()
            gc.disable()
            try:
                for _ in range(10):
                    await each()
                assert gc.collect() < 10
            finally:
                gc.enable()
            await client.stream.aclose()

"""The limits that a runtime is set, where the bytes are: a real socket, a real process (P5, F8, F10)."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from subprocess import PIPE
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio
from mcp.shared.exceptions import MCPError

from mcpactors import BackendLimits, ClientLimits, RuntimeSettings, Server, create_proxy, open_runtime

HEAD = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
CLIENTS = ClientLimits(body=2000, depth=10, id=40, sessions=1)


INFO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
HELLO = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INFO}).encode()


def ping(identity: str = "1", depth: int = 2, size: int = 0) -> bytes:
    inside = '{"x":' * (depth - 2) + "1" + "}" * (depth - 2)
    text = f'{{"jsonrpc":"2.0","id":"{identity}","method":"ping","params":{{"x":{inside},"y":"%s"}}}}'
    return (text % ("." * max(0, size - len(text) + 2))).encode()


async def test_a_body_a_depth_and_an_id_are_taken_at_their_limits_and_not_beyond() -> None:
    async with open_runtime(Server("main"), settings=RuntimeSettings(clients=CLIENTS)) as runtime:
        async with runtime.serve_http(port=0) as url, httpx.AsyncClient(headers=HEAD, timeout=30) as client:
            session = {"mcp-session-id": (await client.post(url, content=HELLO)).headers["mcp-session-id"]}
            for good in (ping(size=2000), ping(depth=10), ping(identity="x" * 40)):
                answer = await client.post(url, content=good, headers=session)
                assert (answer.status_code, "result" in answer.text) == (200, True), good
            assert (await client.post(url, content=HELLO)).status_code == 503
            for bad, status in ((ping(size=2001), 413), (ping(depth=11), 400), (ping(identity="x" * 41), 400)):
                answer = await client.post(url, content=bad, headers=session)
                assert answer.status_code == status, bad


async def test_d1_a_stream_on_which_nothing_happens_has_comments_as_often_as_is_set() -> None:
    settings = RuntimeSettings(clients=ClientLimits(comment=0.05))
    async with open_runtime(Server("main"), settings=settings) as runtime:
        async with runtime.serve_http(port=0) as url, httpx.AsyncClient(headers=HEAD, timeout=30) as client:
            session = {"mcp-session-id": (await client.post(url, content=HELLO)).headers["mcp-session-id"]}
            head = "".join(f"{name}: {value}\r\n" for name, value in {**HEAD, **session, "host": "127.0.0.1"}.items())
            async with await connect(url) as stream:
                await stream.send_all(f"GET /mcp HTTP/1.1\r\n{head}\r\n".encode())
                said = b""
                with trio.fail_after(60):
                    while said.count(b": ping") < 2:
                        some = await stream.receive_some()
                        assert some
                        said += some


async def connect(url: str) -> trio.SocketStream:
    parts = urlsplit(url)
    return await trio.open_tcp_stream(str(parts.hostname), parts.port or 0)


async def test_f19_a_head_that_does_not_come_is_waited_for_as_long_as_is_set() -> None:
    async def begun(patience: float) -> trio.SocketStream:
        """A connection on which half a head has come."""
        settings = RuntimeSettings(clients=ClientLimits(head_timeout=patience))
        runtime = await stack.enter_async_context(open_runtime(Server("main"), settings=settings))
        url = await stack.enter_async_context(runtime.serve_http(port=0))
        stream = await stack.enter_async_context(await connect(url))
        await stream.send_all(b"POST /mcp HTTP/1.1\r\n")
        return stream

    async with AsyncExitStack() as stack:
        long, short = await begun(1000), await begun(0.1)
        with trio.fail_after(60):
            while await short.receive_some():
                pass
        with trio.move_on_after(0.01) as waiting:
            await long.receive_some()
        assert waiting.cancelled_caught


FRONT = """
import trio
from mcpactors import ClientLimits, RuntimeSettings, Server, open_runtime

async def main():
    async with open_runtime(Server("main"), settings=RuntimeSettings(clients=ClientLimits(line=2000))) as runtime:
        await runtime.serve_stdio()

trio.run(main)
"""


async def test_f8_a_line_of_a_client_is_taken_at_its_limit_and_not_beyond() -> None:
    lines = (HELLO, ping(size=2000), ping("2", size=2001), ping("last"))
    process = await trio.lowlevel.open_process([sys.executable, "-c", FRONT], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with trio.fail_after(60):
            await process.stdin.send_all(b"".join(line + b"\n" for line in lines))
            said = b""
            while b'"last"' not in said:
                said += await process.stdout.receive_some()
    finally:
        process.kill()
        await process.wait()
    answers = [json.loads(line) for line in said.splitlines()]
    assert sorted(str(answer["id"]) for answer in answers if "result" in answer) == ["0", "1", "last"]
    [refused] = [answer for answer in answers if "error" in answer]
    assert refused["id"] == "2"
    assert "too long (the limit is 2000)" in refused["error"]["message"]


TALKER = """
import json, sys, time

def answer(asked):
    if asked["method"] == "initialize":
        info = {"name": "talker", "version": "1"}
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    if asked["method"] == "tools/list":
        if "slow" in sys.argv:
            time.sleep(600)
        return {"tools": [{"name": "say", "inputSchema": {"type": "object"}}]}
    if asked["method"] == "tools/call":
        text = "." * asked["params"]["arguments"]["size"]
        return {"content": [{"type": "text", "text": text}]}

for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        result = answer(asked)
        said = {"result": result} if result else {"error": {"code": -32601, "message": "no such method"}}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **said}), flush=True)
"""


@pytest.fixture
def talker(tmp_path: Path) -> Path:
    path = tmp_path / "talker.py"
    path.write_text(TALKER)
    return path


async def test_f8_a_line_beyond_a_backends_limit_fails_its_call_and_a_mount_may_have_another(talker: Path) -> None:
    program: dict[str, Any] = {"command": sys.executable, "args": ["-S", str(talker)]}
    settings = RuntimeSettings(backends=BackendLimits(message=2000))
    async with open_runtime(settings=settings) as runtime:
        await runtime.mount(create_proxy(program), "a")
        await runtime.mount(create_proxy(program, limits={"message": 20_000}), "b")
        await runtime.mount(create_proxy({**program, "limits": {"message": 5000}}), "c")
        async with runtime.client() as client:
            for name, limit in ("a", 2000), ("b", 20_000), ("c", 5000):
                assert (await client.call_tool(f"{name}_say", {"size": limit - 200})).content
                with pytest.raises(MCPError, match=rf"too long \(the limit is {limit}\)"):
                    await client.call_tool(f"{name}_say", {"size": limit})
                assert (await client.call_tool(f"{name}_say", {"size": 1})).content  # it lives


async def test_b13_a_backend_of_a_file_may_have_a_list_budget_of_its_own(talker: Path, tmp_path: Path) -> None:
    program = {"command": sys.executable, "args": ["-S", str(talker), "slow"], "listBudget": 0.2}
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"slow": program, "off": {**program, "disabled": True}}}))
    async with open_runtime(settings=RuntimeSettings(list_budget=600)) as runtime:
        runtime.mount_config(file)
        async with runtime.client() as client:
            with trio.fail_after(60):
                listed = await client.list_tools()
    [missing] = (listed.meta or {})["mcpactors/missing"]
    assert missing["actor"] == "slow"

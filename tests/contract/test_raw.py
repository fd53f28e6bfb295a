"""Bytes that no client of ours would write, at the fronts that read them: refused, and what comes next is served."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from subprocess import PIPE
from typing import Any

import httpx
import trio

from tests.bridge.clients import BOTH, EVERYTHING, INFO
from tests.contract.ends import ENDS
from tests.contract.served import TOOLS
from tests.processes import PATIENCE

META: Mapping[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": EVERYTHING,
    "io.modelcontextprotocol/clientInfo": INFO,
}
HEADERS: Mapping[str, str] = {
    **BOTH,
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "echo",
}
Ask = Callable[[bytes], Awaitable[Any]]


def echo(identity: int, text: str) -> bytes:
    """The call, with `text` as it stands between the quotes of JSON."""
    params = {"name": "echo", "arguments": {"text": "..."}, "_meta": META}
    call = {"jsonrpc": "2.0", "id": identity, "method": "tools/call", "params": params}
    return json.dumps(call).replace('"..."', f'"{text}"').encode()


async def refuses_half_a_pair(ask: Ask) -> None:
    refused = await ask(echo(1, r"half \ud800 a pair"))
    assert "result" not in refused
    assert refused["error"]["code"] in (-32700, -32600), refused
    assert refused["id"] in (1, None)
    said = (await ask(echo(2, r"a pair \ud83c\udf88 and \u0000")))["result"]["content"]
    assert said == [{"type": "text", "text": "a pair \U0001f388 and \x00"}]


async def test_f12_half_a_surrogate_pair_over_stdio(forks: str) -> None:
    with trio.fail_after(PATIENCE):
        async with ENDS["stdio"].serve(TOOLS, forks) as target, trio.open_nursery() as nursery:
            assert isinstance(target, Mapping)
            words = [target["command"], *target["args"]]
            process = await nursery.start(partial(trio.run_process, words, stdin=PIPE, stdout=PIPE, check=False))

            async def ask(line: bytes) -> Any:
                await process.stdin.send_all(line + b"\n")
                said = b""
                while not said.endswith(b"\n"):
                    more = await process.stdout.receive_some()
                    assert more, "it ended"
                    said += more
                return json.loads(said)

            await refuses_half_a_pair(ask)
            await process.stdin.aclose()


async def test_f12_half_a_surrogate_pair_over_http(forks: str) -> None:
    with trio.fail_after(PATIENCE):
        async with ENDS["http"].serve(TOOLS, forks) as target, httpx.AsyncClient() as web:
            assert isinstance(target, Mapping)

            async def ask(body: bytes) -> Any:
                return (await web.post(target["url"], headers=HEADERS, content=body)).json()

            await refuses_half_a_pair(ask)

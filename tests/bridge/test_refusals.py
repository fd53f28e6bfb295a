"""What is refused of a parked call, over HTTP and stdio: a tampered token, a used one, one for other arguments, one
call too many, one that is too late. Real time; in memory and every byte of it: test_tokens.py, test_parked.py.

Rule: the backend is a process that all of its sessions share, so that its journal is one.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

from mcpactors import RuntimeSettings
from mcpactors.errors import Overloaded
from mcpactors.runtime.reply import CallDeadlines
from tests.bridge.backends import fresh, mounted
from tests.bridge.clients import ModernClient, modern
from tests.bridge.questions import form
from tests.processes import PATIENCE

ONE = form("one")
YES = {"action": "accept", "content": {"name": "yes"}}
EXPIRY = 6.0
PROGRAM = f"""
import sys, trio
from mcpactors import RuntimeSettings, create_proxy, open_runtime
from mcpactors.runtime.reply import CallDeadlines
async def main():
    settings = RuntimeSettings(parked=2, deadlines=CallDeadlines(question={EXPIRY}))
    async with open_runtime("main", settings=settings) as runtime:
        await runtime.mount(create_proxy(sys.argv[1]))
        await runtime.serve_stdio()
trio.run(main)
"""


@asynccontextmanager
async def front(kind: str, urls: Mapping[str, str]) -> AsyncIterator[Any]:
    if kind == "stdio":
        yield StdioServerParameters(command=sys.executable, args=["-c", PROGRAM, urls["legacy"]])
    else:
        settings = RuntimeSettings(parked=8, deadlines=CallDeadlines(question=EXPIRY))
        # One client has a quarter of the room.
        async with mounted("http", "legacy", urls, settings) as runtime, runtime.serve_http(port=0) as url:
            yield url


async def refused(client: ModernClient, state: str, call: Mapping[str, Any]) -> str:
    with pytest.raises(MCPError) as caught:
        await client.retry({"requestState": state}, "ask", {"q1": YES}, **call)
    assert caught.value.code == -32602
    return caught.value.message


@pytest.mark.parametrize("kind", ["http", "stdio"])
async def test_what_is_wrong_with_a_retry_is_refused_and_what_is_parked_is_bounded(
    kind: str, urls: Mapping[str, str]
) -> None:
    calls: list[dict[str, Any]] = [{"id": fresh(), "rounds": [[ONE]]} for _ in range(4)]
    first, second, third, fourth = calls
    with trio.fail_after(PATIENCE):
        async with front(kind, urls) as where, modern(where) as client:
            token = (await client.begin("ask", **first))["requestState"]
            middle = len(token) // 2
            flipped = token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]
            await refused(client, flipped, first)
            await refused(client, token, second)
            done = await client.retry({"requestState": token}, "ask", {"q1": YES}, **first)
            assert done["structuredContent"]["answers"] == [[YES]]
            await refused(client, token, first)
            late = (await client.begin("ask", **second))["requestState"]
            await client.begin("ask", **third)
            [[answer]] = (await client.begin("ask", **fourth))["structuredContent"]["answers"]
            assert answer["error"]["code"] == Overloaded.code
            while (await client.tool("told", id=second["id"]))["structuredContent"]["ended"] != ["cancelled"]:
                await trio.lowlevel.checkpoint()
            await refused(client, late, second)
            assert (await client.tool("told", id=first["id"]))["structuredContent"]["runs"] == 1


@pytest.mark.parametrize("kind", ["http", "stdio"])
async def test_a_client_that_cannot_answer_is_told_so_at_once(kind: str, urls: Mapping[str, str]) -> None:
    with trio.fail_after(PATIENCE):
        async with front(kind, urls) as where, modern(where, capabilities={}) as client:
            with pytest.raises(MCPError, match="did not declare elicitation") as caught:
                await client.begin("ask", id=fresh(), rounds=[[ONE]], strict=True)
            assert caught.value.code == -32021


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs two addresses of one machine")
async def test_one_client_has_a_quarter_of_the_room_for_parked_calls_and_the_others_have_theirs(
    urls: Mapping[str, str],
) -> None:
    with trio.fail_after(PATIENCE):
        async with front("http", urls) as url, modern(url) as greedy, modern(url, address="127.0.0.2") as other:
            calls: list[dict[str, Any]] = [{"id": fresh(), "rounds": [[ONE]]} for _ in range(2)]
            asked = [await greedy.begin("ask", **call) for call in calls]
            [[answer]] = (await greedy.begin("ask", id=fresh(), rounds=[[ONE]]))["structuredContent"]["answers"]
            assert answer["error"]["code"] == Overloaded.code
            assert (
                "as many calls of this client wait for its answers as may of one client" in answer["error"]["message"]
            )
            assert (await other.begin("ask", id=fresh(), rounds=[[ONE]]))["resultType"] == "input_required"
            await greedy.retry(asked[0], "ask", {"q1": YES}, **calls[0])
            assert (await greedy.begin("ask", id=fresh(), rounds=[[ONE]]))["resultType"] == "input_required"

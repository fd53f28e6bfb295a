"""F1: a backend dies within its reply, at every byte of it.

Rule: in memory and in virtual time, each byte once; tests/faults/test_killed.py does it to real processes, at a few.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent

from mcpactors import Server, create_proxy, open_runtime
from mcpactors.testing import ChaosTransport, Fault, Script, ScriptedBackend, assert_books_balance, simulate

CALL = {"a": 1}


def text(result: CallToolResult) -> str:
    [part] = result.content
    assert isinstance(part, TextContent)
    return part.text


def cut_short(after: int, era: Any) -> Callable[[Random], Awaitable[str]]:
    """The connection is lost after so many bytes of the reply to a call; how the call ended."""

    async def scenario(draw: Random) -> str:
        near = Server("near")
        near.add_tool(lambda: "well", name="echo")
        backend = ScriptedBackend(Script(tools=["add"], era=era))
        incoming: list[Fault] = []
        async with open_runtime() as runtime:
            await runtime.mount(create_proxy(ChaosTransport(backend, incoming), sessions="shared"), "sick")
            await runtime.mount(near, "near")
            async with runtime.client() as client:
                await client.list_tools()
                await trio.testing.wait_all_tasks_blocked()
                replies = sum("id" in said for said in backend.heard)
                incoming.append(Fault("reset", replies, after))
                began = trio.current_time()
                try:
                    ended = text(await client.call_tool("sick_add", CALL))
                except MCPError as error:
                    ended = error.message
                assert trio.current_time() == began
                assert text(await client.call_tool("near_echo", {})) == "well"
                assert trio.current_time() == began
                assert len(backend.said_of("tools/call")) == 1
            assert_books_balance(runtime.ps())
        return ended

    return scenario


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_f1_a_connection_that_is_lost_at_any_byte_of_a_reply_costs_its_call_one_error_at_once(era: str) -> None:
    for after in count():
        ended = simulate(cut_short(after, era), after).value
        if "outcome is unknown" not in ended:
            break
    assert ended == '{"a": 1}', "the reply was whole"
    assert after > 60, "these were not all bytes of it"

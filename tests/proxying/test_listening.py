"""A stream of changes that a backend does not keep open. Virtual time, memory streams."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from trio.testing import MockClock

from mcpactors import create_proxy, open_runtime


@pytest.mark.parametrize(("code", "times"), [(-32000, 6), (-32003, 6), (-32601, 1), (-32603, 1)])
async def test_it_is_opened_again_ever_more_slowly_unless_it_was_refused(
    code: int, times: int, autojump_clock: MockClock
) -> None:
    asked: list[float] = []

    async def listen(ctx: object, params: object) -> Any:
        asked.append(trio.current_time())
        raise MCPError(code, "no")

    async def tools(ctx: object, params: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[])

    server: Server[Any] = Server("b", on_list_tools=tools, on_subscriptions_listen=listen)
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(server), "b")
        await trio.sleep(60)
    assert len(asked) == times
    assert [round(later - asked[0]) for later in asked[1:]] == [1, 3, 7, 15, 31][: times - 1]

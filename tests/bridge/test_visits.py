"""A legacy backend's "URL elicitation required" (-32042), which the new era has retired: a modern client is asked to
visit the pages, and its retry is a new call, as it was in MCP 2025-11-25. In memory.
"""

from __future__ import annotations

from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from tests.bridge.backends import mounted
from tests.bridge.clients import legacy, modern

PAGE = {"mode": "url", "message": "Sign in", "url": "https://example.com/in", "elicitationId": "one"}
CALL: dict[str, Any] = {"id": "a", "pages": [PAGE, {**PAGE, "elicitationId": "two"}]}


async def test_a_modern_client_visits_the_pages_and_calls_again(autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        asked = await client.begin("visit", **CALL)
        assert asked["resultType"] == "input_required"
        page = {key: value for key, value in PAGE.items() if key != "elicitationId"}
        assert list(asked["inputRequests"].values()) == [{"method": "elicitation/create", "params": page}] * 2
        assert runtime.parked() == ()
        result = await client.retry(
            asked, "visit", {key: {"action": "accept"} for key in asked["inputRequests"]}, **CALL
        )
        assert result["content"] == [{"type": "text", "text": "visited"}]
        received = (await client.tool("told", id="a"))["structuredContent"]["received"]
        assert not received[1].keys() & {"requestState", "inputResponses"}


@pytest.mark.parametrize("answer", [{"action": "decline"}, {"action": "cancel"}, {}, 7])
async def test_a_user_who_does_not_want_to_visit_has_the_call_refused(answer: Any, autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        asked = await client.begin("visit", **CALL)
        with pytest.raises(MCPError, match="needs its user to visit a URL first, and that was declined"):
            await client.retry(asked, "visit", dict.fromkeys(asked["inputRequests"], answer), **CALL)
        assert (await client.tool("told", id="a"))["structuredContent"]["runs"] == 1


@pytest.mark.parametrize("declared", [{}, {"elicitation": {}}, {"elicitation": {"form": {}}}])
async def test_a_modern_client_that_cannot_visit_gets_the_error(declared: Any, autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime, capabilities=declared) as client:
        with pytest.raises(MCPError, match="visit these first") as caught:
            await client.begin("visit", **CALL)
        assert caught.value.code == -32042


@pytest.mark.parametrize("pages", [None, [], "https://example.com", [7], {}])
async def test_a_need_for_no_page_is_passed_on_as_the_error_that_it_is(pages: Any, autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        with pytest.raises(MCPError, match="visit these first") as caught:
            await client.begin("visit", id="a", pages=pages)
        assert caught.value.code == -32042


async def test_a_legacy_client_gets_the_error_as_it_is(autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, legacy(runtime) as client:
        with pytest.raises(MCPError, match="visit these first") as caught:
            await client.tool("visit", **CALL)
        assert (caught.value.code, caught.value.data) == (-32042, {"elicitations": CALL["pages"]})

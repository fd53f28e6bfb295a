"""A modern client and a modern backend: nothing parks, the backend's state passes under our seal, exactly as it was."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from mcpactors import RuntimeSettings
from tests.bridge.backends import mounted
from tests.bridge.clients import modern
from tests.bridge.questions import ANSWERS, FORM

KEY = "k" * 32
OTHER = "o" * 32
DONE = {"resultType": "complete", "content": []}
STATES = ["", "s", '{"a":"\\u00e9"}', "é\u2028🎈\x00", "x" * 65536, "parked:x", "passed:x", "visited"]


def keyed(*keys: str) -> RuntimeSettings:
    return RuntimeSettings(state_keys=keys)


def wants(state: str) -> dict[str, Any]:
    return {"resultType": "input_required", "inputRequests": {"who": FORM}, "requestState": state}


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
async def test_the_backends_state_comes_back_to_it_exactly_and_the_client_cannot_read_it(
    state: str, autojump_clock
) -> None:
    call: dict[str, Any] = {"id": "a", "results": [wants(state), DONE]}
    async with mounted("memory", "modern") as runtime, modern(runtime) as client:
        asked = await client.begin("script", **call)
        assert asked["inputRequests"] == {"who": FORM}
        assert asked["requestState"].startswith("v1.")
        assert runtime.parked() == ()
        result = await client.retry(asked, "script", {"who": ANSWERS["form"]}, **call)
        assert result["resultType"] == "complete"
        received = (await client.tool("told", id="a"))["structuredContent"]["received"]
        assert received[1]["requestState"] == state
        assert received[1]["inputResponses"] == {"who": ANSWERS["form"]}


async def test_a_state_of_the_backend_is_not_taken_for_one_of_ours(autojump_clock) -> None:
    call: dict[str, Any] = {"id": "a", "rounds": [[FORM]]}
    async with mounted("memory", "modern") as runtime, modern(runtime) as client:
        with pytest.raises(MCPError, match="Invalid or expired requestState"):
            await client.retry({"requestState": '{"answers": [], "open": {}}'}, "ask", {}, **call)


async def test_an_input_required_without_a_state_passes_and_so_does_its_retry(autojump_clock) -> None:
    call: dict[str, Any] = {
        "id": "a",
        "results": [{"resultType": "input_required", "inputRequests": {"w": FORM}}, DONE],
    }
    async with mounted("memory", "modern") as runtime, modern(runtime) as client:
        asked = await client.begin("script", **call)
        assert "requestState" not in asked
        more = {"name": "script", "arguments": call, "inputResponses": {"w": {"action": "cancel"}}}
        assert (await client.request("tools/call", more))["resultType"] == "complete"
        received = (await client.tool("told", id="a"))["structuredContent"]["received"]
        assert received[1]["inputResponses"] == {"w": {"action": "cancel"}}


async def test_runtimes_with_the_same_keys_go_on_with_each_others_rounds(autojump_clock) -> None:
    call: dict[str, Any] = {"id": "a", "rounds": [[FORM], [FORM]]}
    async with (
        mounted("memory", "modern", settings=keyed(KEY)) as first,
        mounted("memory", "modern", settings=keyed(OTHER, KEY)) as second,
        modern(first) as here,
        modern(second) as there,
    ):
        asked = await here.begin("ask", **call)
        asked = await there.retry(asked, "ask", {"0/0": ANSWERS["form"]}, **call)
        assert list(asked["inputRequests"]) == ["1/0"]
        with pytest.raises(MCPError, match="Invalid or expired requestState"):  # sealed by a key that it has not
            await here.retry(asked, "ask", {"1/0": ANSWERS["form"]}, **call)
        result = await there.retry(asked, "ask", {"1/0": ANSWERS["form"]}, **call)
        assert result["structuredContent"]["answers"] == [[ANSWERS["form"]], [ANSWERS["form"]]]


@pytest.mark.parametrize("keys", [(), (OTHER,)])
async def test_runtimes_with_other_keys_cannot(keys: tuple[str, ...], autojump_clock) -> None:
    call: dict[str, Any] = {"id": "a", "rounds": [[FORM]]}
    async with (
        mounted("memory", "modern", settings=keyed(KEY)) as first,
        mounted("memory", "modern", settings=keyed(*keys)) as second,
        modern(first) as here,
        modern(second) as there,
    ):
        asked = await here.begin("ask", **call)
        with pytest.raises(MCPError, match="Invalid or expired requestState"):
            await there.retry(asked, "ask", {"0/0": ANSWERS["form"]}, **call)


async def test_a_parked_call_lives_in_its_runtime_only_whatever_the_keys(autojump_clock) -> None:
    call: dict[str, Any] = {"id": "a", "rounds": [[FORM]]}
    async with (
        mounted("memory", "legacy", settings=keyed(KEY)) as first,
        mounted("memory", "legacy", settings=keyed(KEY)) as second,
        modern(first) as here,
        modern(second) as there,
    ):
        asked = await here.begin("ask", **call)
        with pytest.raises(MCPError, match="its call has ended; begin the call anew"):
            await there.retry(asked, "ask", {"q1": ANSWERS["form"]}, **call)
        result = await here.retry(asked, "ask", {"q1": ANSWERS["form"]}, **call)
        assert result["structuredContent"]["answers"] == [[ANSWERS["form"]]]

"""Each client gets results of its own era: whatever era the backend speaks, and nothing that counts is lost.

In memory; the SDK's own legacy client, whose models are the old era's schema, accepts what comes.
"""

from __future__ import annotations

import json
from typing import Any

import mcp_types as types
import pytest

from tests.bridge.backends import mounted
from tests.bridge.clients import legacy, modern

NEW = {"resultType", "ttlMs", "cacheScope"}


def complete(structured: Any, *texts: str) -> dict[str, Any]:
    content = [{"type": "text", "text": text} for text in texts]
    return {"resultType": "complete", "content": content, "structuredContent": structured}


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_legacy_client_sees_nothing_of_the_new_era_and_a_modern_one_what_it_must(
    era: str, autojump_clock
) -> None:
    async with mounted("memory", era) as runtime, legacy(runtime) as old, modern(runtime) as new:
        for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
            assert not NEW & (await old.request(method)).keys()
            assert (await new.request(method)).keys() >= NEW
        assert not NEW & (await old.tool("told", id="a")).keys()
        result = await new.tool("told", id="a")
        assert result["resultType"] == "complete"
        assert not NEW & result.keys() - {"resultType"}


@pytest.mark.parametrize("structured", [[1, 2], [], "text", 7, 0, True, False, [{"a": "ä"}]])
async def test_structured_content_that_is_no_object_is_a_text_to_a_legacy_client(
    structured: Any, autojump_clock
) -> None:

    async with mounted("memory", "modern") as runtime, legacy(runtime) as old, modern(runtime) as new:
        result = await old.tool("script", id="a", results=[complete(structured, "a list")])
        assert "structuredContent" not in result
        assert result["content"][0]["text"] == "a list"
        assert json.loads(result["content"][1]["text"]) == structured
        assert len(result["content"]) == 2
        whole = await new.tool("script", id="b", results=[complete(structured, "a list")])
        assert whole["structuredContent"] == structured
        assert len(whole["content"]) == 1


@pytest.mark.parametrize(
    ("structured", "text"), [([1, 2], "[1,2]"), ([1, 2], "[ 1,\n2 ]"), ("plain", "plain"), ("plain", '"plain"')]
)
async def test_a_text_that_says_the_same_is_not_said_twice(structured: Any, text: str, autojump_clock) -> None:
    async with mounted("memory", "modern") as runtime, legacy(runtime) as old:
        result = await old.tool("script", id="a", results=[complete(structured, text)])
        assert result["content"] == [{"type": "text", "text": text}]


@pytest.mark.parametrize("structured", [{}, {"a": [1]}])
async def test_structured_content_that_is_an_object_stays(structured: Any, autojump_clock) -> None:
    async with mounted("memory", "modern") as runtime, legacy(runtime) as old:
        result = await old.tool("script", id="a", results=[complete(structured, "text")])
        assert result == {"content": [{"type": "text", "text": "text"}], "structuredContent": structured}


async def test_an_output_schema_that_is_no_objects_is_not_listed_to_a_legacy_client(autojump_clock) -> None:
    async with mounted("memory", "modern") as runtime, legacy(runtime) as old, modern(runtime) as new:
        listed = {tool["name"]: tool for tool in (await old.request("tools/list"))["tools"]}
        whole = {tool["name"]: tool for tool in (await new.request("tools/list"))["tools"]}
    assert whole["script"]["outputSchema"]["type"] == "array"
    assert listed["script"] == {key: value for key, value in whole["script"].items() if key != "outputSchema"}
    assert listed["told"] == whole["told"]


async def test_the_sdks_legacy_client_takes_it(autojump_clock) -> None:
    async with mounted("memory", "modern") as runtime, runtime.client(mode="legacy") as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert "script" in names
        result = await client.call_tool("script", {"id": "a", "results": [complete([1, 2])]})
        assert isinstance(result.content[0], types.TextContent)
        assert result.content[0].text == "[1, 2]"

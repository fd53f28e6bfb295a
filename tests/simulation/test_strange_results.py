"""F11: well-formed answers of a backend that are no results of the call. Each is an error of its own call only.

Rule: 10^5 answers are held against the SDK's models and shaped for clients, as functions; 900 go the whole way.
"""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types.methods import validate_server_result
from pydantic import ValidationError

from mcpactors import create_proxy, open_runtime
from mcpactors.runtime.methods import fault_of, outward_result
from mcpactors.runtime.naming import Namespace
from mcpactors.testing import Expect, Reply, Script, ScriptedBackend, simulate_many
from mcpactors.transports.shaping import for_legacy

CALLS = 150
SEEDS = range(6)
GOOD = {"content": [{"type": "text", "text": "fine"}]}
_WORDS = ("content", "type", "text", "isError", "structuredContent", "_meta", "resultType", "task", "complete", "x")


def some_json(draw: Random, depth: int = 3) -> Any:
    """A JSON value, with the words of a result in it often enough."""
    pick = draw.randrange(9 if depth else 6)
    if pick < 6:
        return (None, True, draw.randint(-3, 10**30), draw.random(), "", draw.choice(_WORDS))[pick]
    if pick == 6:
        return [some_json(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    return {draw.choice(_WORDS): some_json(draw, depth - 1) for _ in range(draw.randint(0, 4))}


def some_result(draw: Random) -> dict[str, Any]:
    result = {draw.choice(_WORDS): some_json(draw) for _ in range(draw.randint(0, 4))}
    return result | {"content": some_json(draw)} if draw.random() < 0.7 else result


async def call(client: Client) -> str:
    try:
        result = await client.call_tool("odd_add", {})
    except MCPError as error:
        return error.message
    except (ValidationError, RuntimeError) as error:  # what the client's own models do not take
        return type(error).__name__
    return "answered" if [block.type for block in result.content] == ["text"] else "passed on"


async def odd_answers(draw: Random) -> tuple[str, ...]:
    """How the calls ended."""
    results = [some_result(draw) for _ in range(CALLS)]
    backend = ScriptedBackend(Script(_steps(results), tools=["add"]))
    async with open_runtime() as runtime:
        await runtime.mount(create_proxy(backend, sessions="shared"), "odd")
        async with runtime.client() as client:
            ended = [await call(client) for _ in results]
            assert await call(client) == "answered"
            assert backend.begun == 1
    return tuple(ended)


def _steps(results: list[dict[str, Any]]) -> list[Any]:
    return [step for result in [*results, GOOD] for step in (Expect(tool="add"), Reply(result=result))]


def test_f11_an_answer_of_another_shape_is_an_error_of_its_call_and_the_session_lives() -> None:
    endings = [said for run in simulate_many(odd_answers, SEEDS) for said in run.value]
    named = [said for said in endings if "sent a result of tools/call that is none" in said]
    assert len(endings) == len(SEEDS) * CALLS
    assert len(named) > len(endings) / 2


# --- A hundred thousand ----------------------------------------------------------------------------------------------

ANSWERS = 100_000
_LINK = {"type": "resource_link", "uri": "data://there", "name": "there"}
_READ = {"uri": "data://there", "text": "here", "mimeType": "text/plain"}
_BLOCKS = [{"type": "text", "text": "fine"}, _LINK, {"type": "resource", "resource": _READ}]
_WHOLE: dict[str, dict[str, Any]] = {
    "tools/call": {"content": _BLOCKS, "structuredContent": {"result": 1}, "isError": False, "_meta": {"x": 1}},
    "resources/read": {"contents": [_READ, {"uri": "data://b", "blob": "AAAA"}], "ttlMs": 0, "cacheScope": "private"},
    "prompts/get": {"messages": [{"role": "user", "content": block} for block in _BLOCKS], "description": "x"},
}
"""A result of each method that there is something to be looked at in."""
_LIST = {"tools/call": ("content", "type"), "resources/read": ("contents", "uri"), "prompts/get": ("messages", "role")}
"""What every revision's schema asks for: a list, and in each of its items a string."""


def changed(draw: Random, value: Any) -> Any:
    """The value with something else at a place in it, or without what is there."""
    if not value or not isinstance(value, dict | list) or draw.random() < 0.15:
        return some_json(draw, 2)
    key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
    copy: Any = value.copy()
    if draw.random() < 0.1:
        del copy[key]
    else:
        copy[key] = changed(draw, value[key])
    return copy


def some_answer(draw: Random) -> tuple[str, dict[str, Any]]:
    """A method, and what came as its result: one that it has, changed in a place or two, or anything."""
    method = draw.choice(list(_WHOLE))
    if draw.random() < 0.3:
        return method, some_result(draw)
    answer: Any = _WHOLE[method]
    for _ in range(draw.randint(0, 2)):
        answer = changed(draw, answer)
    return method, answer if isinstance(answer, dict) else {}


def has_the_shape(method: str, answer: dict[str, Any]) -> bool:
    key, word = _LIST[method]
    meta, items = answer.get("_meta"), answer.get(key)
    fine = isinstance(items, list) and all(isinstance(item, dict) and type(item.get(word)) is str for item in items)
    return (meta is None or isinstance(meta, dict)) and fine


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_f11_of_a_hundred_thousand_answers_each_is_refused_or_can_be_shaped_and_none_that_is_a_result_is_refused(
    revision: str,
) -> None:
    draw, seen = Random(f"answers {revision}"), Counter[str]()
    namespace = Namespace(("odd",))
    for _ in range(ANSWERS // 2):
        method, answer = some_answer(draw)
        if answer.get("resultType", "complete") != "complete" or "task" in answer:
            seen["not a result yet"] += 1
            continue
        fault = fault_of(method, answer)
        assert (fault is None) == has_the_shape(method, answer), (method, answer)
        if fault is not None:
            seen["refused"] += 1
            with pytest.raises(ValidationError):  # of 2026-07-28 the SDK takes anything for questions to the client
                validate_server_result(method, "2025-11-25", answer)
            continue
        before = json.dumps(answer)
        json.dumps(for_legacy(method, outward_result(method, answer, namespace)))
        assert json.dumps(answer) == before, "what was kept of it is not what came"
        try:
            validate_server_result(method, revision, {"resultType": "complete", **answer})
            seen["passed on"] += 1
        except ValidationError:
            seen["passed on, and not what its client's schema says"] += 1
    assert seen.total() == ANSWERS // 2
    assert min(seen.values()) > 500, seen

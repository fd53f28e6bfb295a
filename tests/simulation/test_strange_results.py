"""F11: well-formed answers of a backend that are no results of the call. Each is an error of its own call only."""

from __future__ import annotations

from random import Random
from typing import Any

from mcp.client import Client
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from mcpactors import create_proxy, open_runtime
from mcpactors.testing import Expect, Reply, Script, ScriptedBackend, simulate_many

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

"""A legacy client, a modern backend: `input_required` becomes real requests, and the retry is what the backend wants.

Virtual time, memory; one test over HTTP, where a state travels through JSON twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from mcp.shared.exceptions import MCPError

from tests.bridge.backends import fresh, mounted
from tests.bridge.clients import LegacyClient, legacy
from tests.bridge.questions import FORM, ROOTS, SAMPLING, accepting, form

ONE, TWO = form("one"), form("two")
DONE = {"resultType": "complete", "content": [{"type": "text", "text": "done"}]}
YES = {"action": "accept", "content": {"name": "yes"}}


def wants(state: Any = None, **requests: Any) -> dict[str, Any]:
    """An `input_required` result."""
    result: dict[str, Any] = {"resultType": "input_required"}
    if requests:
        result["inputRequests"] = requests
    if state is not None:
        result["requestState"] = state
    return result


async def journal(client: LegacyClient, identity: str) -> Any:
    return (await client.tool("told", id=identity))["structuredContent"]


async def hanging(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    await trio.sleep_forever()
    raise AssertionError


STATES = ["", "s", " \t\n", '{"a":"\\u00e9"}', "é\u2028🎈\x00\x7f", "x" * 65536]


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
async def test_the_state_goes_back_exactly_and_the_answers_under_the_backends_own_keys(
    state: str, autojump_clock
) -> None:
    async with mounted("memory", "modern") as runtime, legacy(runtime, accepting) as client:
        asked = {"a key: ä": ONE, "": ROOTS, "z" * 500: SAMPLING}
        result = await client.tool("script", id="a", results=[wants(state, **asked), DONE])
        assert result["content"] == DONE["content"]
        first, second = (await journal(client, "a"))["received"]
        assert not first.keys() & {"requestState", "inputResponses"}
        assert second["requestState"] == state
        assert second["inputResponses"] == {
            key: await accepting(question["method"], question["params"]) for key, question in asked.items()
        }


async def test_the_state_goes_back_exactly_over_http_too(urls: Mapping[str, str]) -> None:
    mine = fresh()
    async with mounted("http", "modern", urls) as runtime, legacy(runtime, accepting) as client:
        await client.tool("script", id=mine, results=[*[wants(state, one=ONE) for state in STATES], DONE])
        received = (await journal(client, mine))["received"]
    assert [params.get("requestState") for params in received] == [None, *STATES]


async def test_each_retry_has_the_state_and_the_answers_of_its_round_only(autojump_clock) -> None:
    rounds = [wants("first", one=ONE), wants(two=TWO), wants("third"), DONE]
    async with mounted("memory", "modern") as runtime, legacy(runtime, accepting) as client:
        await client.tool("script", id="a", results=rounds)
        received = (await journal(client, "a"))["received"]
    seen = [(params.get("requestState"), list(params.get("inputResponses", ()))) for params in received]
    assert seen == [(None, []), ("first", ["one"]), (None, ["two"]), ("third", [])]


async def test_a_state_without_questions_is_retried_after_a_pause_that_doubles(autojump_clock) -> None:
    async with mounted("memory", "modern") as runtime, legacy(runtime) as client:
        began = trio.current_time()
        await client.tool("script", id="a", results=[wants("1"), wants("2"), wants("3"), DONE])
        assert trio.current_time() - began == pytest.approx(0.05 + 0.1 + 0.2, abs=0.01)
        assert client.asked == []


async def test_a_backend_that_never_has_enough_is_given_up_after_ten_rounds(autojump_clock) -> None:
    async with mounted("memory", "modern") as runtime, legacy(runtime, accepting) as client:
        with pytest.raises(MCPError, match="asking asked for more input after 10 rounds; the call was given up"):
            await client.tool("script", id="a", results=[wants("s", one=ONE)])
        assert (await journal(client, "a"))["runs"] == 11
        result = await client.tool("script", id="b", results=[wants("s", one=ONE)] * 10 + [DONE])
        assert result["content"] == DONE["content"]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (wants(), "says that input is required and not which"),
        (wants(7), "sent a requestState that is no string"),
        (wants({"a": 1}), "sent a requestState that is no string"),
        (wants("x" * 65537), "sent a requestState of 65537 characters; 65536 are taken"),
        ({"resultType": "input_required", "inputRequests": [ONE]}, "says that input is required and not which"),
        (wants(one="elicitation/create"), "asks its client for something that is no question of MCP"),
        (wants(one={"method": "tools/call"}), "asks its client for something that is no question of MCP"),
        (wants(one={"method": ["roots/list"]}), "asks its client for something that is no question of MCP"),
        (wants(one={"method": {}}), "asks its client for something that is no question of MCP"),
        (wants(one={"method": "roots/list", "params": [1]}), "asks its client for roots/list with params that are no"),
        (wants(one={"method": "roots/list", "params": None}), "asks its client for roots/list with params that are no"),
    ],
    ids=range(11),
)
async def test_what_cannot_be_asked_ends_the_call_with_an_error_that_says_so(
    result: Any, said: str, autojump_clock
) -> None:
    async with mounted("memory", "modern") as runtime, legacy(runtime, accepting) as client:
        with pytest.raises(MCPError, match=f"asking {said}"):
            await client.tool("script", id="a", results=[result])
        assert client.asked == []
        assert (await client.tool("script", id="b", results=[DONE]))["content"] == DONE["content"]


async def test_strange_values_inside_of_a_question_reach_the_client_as_they_are_but_no_strange_meta(
    autojump_clock,
) -> None:
    strange: dict[str, Any] = {"mode": 7, "message": None, "requestedSchema": []}
    async with mounted("memory", "modern") as runtime, legacy(runtime, accepting) as client:
        result = await client.tool(
            "script",
            id="a",
            results=[wants(one={"method": "elicitation/create", "params": {**strange, "_meta": "none"}}), DONE],
        )
        assert result["content"] == DONE["content"]
        assert client.asked == [("elicitation/create", strange)]


async def test_a_client_that_cancels_while_it_is_asked_has_the_call_ended_and_no_retry_made(autojump_clock) -> None:
    async with mounted("memory", "modern") as runtime, legacy(runtime, hanging) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.tool("script", id="a", results=[wants("s", one=FORM), DONE]))
            await client.until(lambda: bool(client.asked))
            nursery.cancel_scope.cancel()
        await client.until(lambda: bool(client.withdrawn))
        assert client.withdrawn == ["elicitation/create"]
        assert (await journal(client, "a"))["runs"] == 1
        assert sum(row.asking for row in runtime.ps().children) == 0


async def test_a_refused_question_withdraws_those_that_were_asked_with_it(autojump_clock) -> None:
    async def answers(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        if method == "roots/list":
            await client.until(lambda: len(client.asked) == 2)
            raise MCPError(-1, "no")
        return await hanging(method, params)

    async with mounted("memory", "modern") as runtime, legacy(runtime, answers) as client:
        with pytest.raises(MCPError) as caught:
            await client.tool("script", id="a", results=[wants("s", one=FORM, two=ROOTS), DONE])
        assert (caught.value.code, caught.value.message) == (-1, "no")
        await client.until(lambda: bool(client.withdrawn))
        assert client.withdrawn == ["elicitation/create"]


async def test_a_question_that_a_legacy_backend_withdraws_is_withdrawn_at_the_client(autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, legacy(runtime, hanging) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.tool("hold", id="a", question=ONE, stays=True))
            await client.until(lambda: bool(client.asked))
            await client.tool("release", id="a")
            with trio.fail_after(10):
                await client.until(lambda: bool(client.withdrawn))
            assert client.withdrawn == ["elicitation/create"]
            assert (await journal(client, "a"))["ended"] == []
            nursery.cancel_scope.cancel()


async def test_a_client_that_does_not_answer_has_its_call_ended_at_the_questions_deadline(autojump_clock) -> None:
    async with mounted("memory", "modern") as runtime, legacy(runtime, hanging) as client:
        began = trio.current_time()
        with pytest.raises(MCPError, match="the client did not answer a question within 600 s"):
            await client.tool("script", id="a", results=[wants("s", one=FORM), DONE])
        assert trio.current_time() - began == pytest.approx(600, abs=1)
        assert (await journal(client, "a"))["runs"] == 1

"""Several questions in one call: one after another, at once, and answered piece by piece.

A modern client of a legacy backend: what it retries is the very same running call. In memory time is virtual, so that
"at once" is exact.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from mcpactors import Runtime
from tests.bridge.backends import mounted
from tests.bridge.clients import ModernClient, legacy, modern
from tests.bridge.questions import ROOTS, SAMPLING, accepting, form

ONE, TWO, THREE = form("one"), form("two"), form("three")


def yes(name: str) -> dict[str, Any]:
    return {"action": "accept", "content": {"name": name}}


def messages(asked: Mapping[str, Any]) -> dict[str, str]:
    """The message of each question that an `input_required` result asks, by its key."""
    assert asked["resultType"] == "input_required"
    return {key: question["params"]["message"] for key, question in asked["inputRequests"].items()}


def key_of(asked: Mapping[str, Any], message: str) -> str:
    [key] = [key for key, said in messages(asked).items() if said == message]
    return key


@asynccontextmanager
async def crossed() -> AsyncIterator[tuple[Runtime, ModernClient]]:
    """A modern client of a legacy backend."""
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        yield runtime, client


async def runs(client: ModernClient) -> int:
    told = await client.tool("told", id="call")
    count: int = told["structuredContent"]["runs"]
    return count


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("connect", [legacy, modern])
async def test_questions_one_after_another_and_at_once_are_answered_in_their_places(
    era: str, connect: Any, autojump_clock
) -> None:
    rounds = [[ONE], [TWO, SAMPLING, THREE], [ROOTS], [ONE, TWO]]
    async with mounted("memory", era) as runtime, connect(runtime, accepting) as client:
        result = await client.tool("ask", id="call", rounds=rounds)
    expected = [[await accepting(question["method"], question["params"]) for question in one] for one in rounds]
    assert result["structuredContent"]["answers"] == expected


async def test_questions_asked_at_once_are_in_one_result_and_later_ones_in_the_next(autojump_clock) -> None:
    async with crossed() as (_, client):
        first = await client.begin("ask", id="call", rounds=[[ONE, TWO], [THREE]])
        assert sorted(messages(first).values()) == ["one", "two"]
        answers = {key: yes(said) for key, said in messages(first).items()}
        second = await client.retry(first, "ask", answers, id="call", rounds=[[ONE, TWO], [THREE]])
        assert list(messages(second).values()) == ["three"]
        assert not messages(first).keys() & messages(second).keys()
        assert second["requestState"] != first["requestState"]
        answers = {key_of(second, "three"): yes("3")}
        result = await client.retry(second, "ask", answers, id="call", rounds=[[ONE, TWO], [THREE]])
        assert result["structuredContent"]["answers"] == [[yes("one"), yes("two")], [yes("3")]]
        assert await runs(client) == 1


async def test_a_partial_answer_has_the_rest_asked_again_under_the_same_key(autojump_clock) -> None:
    call: dict[str, Any] = {"id": "call", "rounds": [[ONE, TWO]]}
    async with crossed() as (_, client):
        first = await client.begin("ask", **call)
        second = await client.retry(first, "ask", {key_of(first, "two"): yes("2")}, **call)
        assert messages(second) == {key_of(first, "one"): "one"}
        result = await client.retry(second, "ask", {key_of(first, "one"): yes("1")}, **call)
        assert result["structuredContent"]["answers"] == [[yes("1"), yes("2")]]
        assert await runs(client) == 1


async def test_an_answer_to_an_answered_question_changes_nothing(autojump_clock) -> None:
    call: dict[str, Any] = {"id": "call", "rounds": [[ONE, TWO]]}
    async with crossed() as (_, client):
        first = await client.begin("ask", **call)
        second = await client.retry(first, "ask", {key_of(first, "two"): yes("2")}, **call)
        both = {key_of(first, "one"): yes("1"), key_of(first, "two"): yes("changed")}
        result = await client.retry(second, "ask", both, **call)
        assert result["structuredContent"]["answers"] == [[yes("1"), yes("2")]]


@pytest.mark.parametrize("answers", [None, {}, {"no such key": {"action": "accept"}}])
async def test_a_retry_without_an_answer_is_asked_the_same_again(answers: Any, autojump_clock) -> None:
    call: dict[str, Any] = {"id": "call", "rounds": [[ONE, TWO]]}
    async with crossed() as (_, client):
        first = await client.begin("ask", **call)
        second = await client.retry(first, "ask", answers, **call)
        assert second["inputRequests"] == first["inputRequests"]
        full = {key: yes(said) for key, said in messages(second).items()} | {"other": yes("ignored")}
        result = await client.retry(second, "ask", full, **call)
        assert result["structuredContent"]["answers"] == [[yes("one"), yes("two")]]
        assert await runs(client) == 1


@pytest.mark.parametrize("answer", ["yes", None, 1, [{"action": "accept"}]])
async def test_an_answer_that_is_no_object_is_refused_and_the_call_stays_parked(answer: Any, autojump_clock) -> None:
    call: dict[str, Any] = {"id": "call", "rounds": [[ONE, TWO]]}
    async with crossed() as (runtime, client):
        asked = await client.begin("ask", **call)
        for answers in (
            {key_of(asked, "one"): answer, key_of(asked, "two"): yes("2")},
            [answer],
            "q1",
        ):
            with pytest.raises(MCPError, match="inputResponses is an object that has an object for each") as caught:
                await client.retry(asked, "ask", answers, **call)
            assert caught.value.code == -32602
            assert len(runtime.parked()) == 1
        full = {key: yes(said) for key, said in messages(asked).items()}
        result = await client.retry(asked, "ask", full, **call)
        assert result["structuredContent"]["answers"] == [[yes("one"), yes("two")]]


async def test_notices_go_to_the_request_that_is_open_with_its_own_token_and_in_order(autojump_clock) -> None:
    call: dict[str, Any] = {"id": "call", "rounds": [[ONE], [TWO]], "notices": True}
    async with mounted("memory", "legacy") as runtime, modern(runtime, log_level="info") as client:
        asked = await client.begin("ask", token="first", **call)
        assert client.progress() == [("first", 0)]
        asked = await client.retry(asked, "ask", {key_of(asked, "one"): yes("1")}, token=2, **call)
        assert client.progress() == [("first", 0), (2, 1)]
        result = await client.retry(asked, "ask", {key_of(asked, "two"): yes("2")}, token="third", **call)
        assert result["resultType"] == "complete"
        assert client.progress() == [("first", 0), (2, 1), ("third", 2)]
        assert client.logged() == [{"step": 0}, {"step": 1}, {"step": 2}]


async def test_a_retry_without_a_token_or_a_log_level_hears_no_log(autojump_clock) -> None:
    call: dict[str, Any] = {"id": "call", "rounds": [[ONE]], "notices": True}
    async with mounted("memory", "legacy") as runtime, modern(runtime, log_level="info") as client:
        asked = await client.begin("ask", token="first", **call)
        client.log_level = None
        await client.retry(asked, "ask", {key_of(asked, "one"): yes("1")}, **call)
        assert client.progress() == [("first", 0)]
        assert client.logged() == [{"step": 0}]


async def test_the_retry_brings_the_error_that_the_call_ends_with(autojump_clock) -> None:
    call: dict[str, Any] = {"id": "call", "rounds": [[ONE]], "strict": True}
    async with crossed() as (_, client):
        asked = await client.begin("ask", **call)
        answer = {"action": "decline", "error": {"code": -5, "message": "not like that", "data": [1]}}
        with pytest.raises(MCPError, match="not like that") as caught:
            await client.retry(asked, "ask", {key_of(asked, "one"): answer}, **call)
        assert (caught.value.code, caught.value.data) == (-5, [1])

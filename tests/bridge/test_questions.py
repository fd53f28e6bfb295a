"""A question of each kind crosses the bridge whole, and so does its answer; the tool that asked runs once.

Both crossings, and the two that cross nothing: client and backend of either era, the backend by every route. Real
processes, real time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from tests.bridge.backends import ROUTES, fresh, mounted
from tests.bridge.clients import legacy, modern
from tests.bridge.questions import ANSWERS, FORM, ROOTS, SAMPLING, URL, as_asked, questions_of

SEVERAL = ("memory", "http")
"""Without stdio: a process a test. What is special there is in the first test of this module and in test_fronts.py."""
CLIENTS: dict[str, Any] = {"legacy": legacy, "modern": modern}
CROSSED = [("modern", "legacy"), ("legacy", "modern")]
SAME = [("modern", "modern"), ("legacy", "legacy")]


def cells(routes: tuple[str, ...]) -> pytest.MarkDecorator:
    """Both crossings by each of these routes, and what crosses nothing in memory."""
    crossed = [pytest.param(*cell, route, id=f"{cell[0]}-to-{cell[1]}-{route}") for cell in CROSSED for route in routes]
    same = [pytest.param(*cell, "memory", id=f"{cell[0]}-to-{cell[1]}") for cell in SAME]
    return pytest.mark.parametrize(("client", "backend", "route"), [*crossed, *same])


def kind_of(method: str, params: Mapping[str, Any] | None) -> str:
    if method == "elicitation/create":
        return "url" if (params or {}).get("mode") == "url" else "form"
    return {"sampling/createMessage": "sampling", "roots/list": "roots"}[method]


async def whole(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(ANSWERS[kind_of(method, params)])


@cells(ROUTES)
async def test_every_kind_of_question_and_its_answer_pass_whole(
    client: str, backend: str, route: str, urls: Mapping[str, str]
) -> None:
    async with mounted(route, backend, urls) as runtime, CLIENTS[client](runtime, whole) as caller:
        for kind, question in questions_of(backend).items():
            mine = fresh()
            caller.asked.clear()
            result = await caller.tool("ask", id=mine, rounds=[[question]])
            assert result["structuredContent"]["answers"] == [[ANSWERS[kind]]]
            [(method, params)] = caller.asked
            assert method == question["method"]
            assert as_asked(question, params) == question["params"]
            if kind == "url":  # the old era must have an id, the new one has none
                assert ("elicitationId" in (params or {})) == (client == "legacy")
            told = await caller.tool("told", id=mine)
            assert told["structuredContent"]["runs"] == (1 if backend == "legacy" else 2)


@cells(SEVERAL)
async def test_a_question_without_params_gets_none(
    client: str, backend: str, route: str, urls: Mapping[str, str]
) -> None:
    async with mounted(route, backend, urls) as runtime, CLIENTS[client](runtime, whole) as caller:
        result = await caller.tool("ask", id=fresh(), rounds=[[{"method": "roots/list"}]])
    assert result["structuredContent"]["answers"] == [[ANSWERS["roots"]]]
    assert not caller.asked[0][1]


@cells(SEVERAL)
async def test_the_user_may_decline_or_cancel(client: str, backend: str, route: str, urls: Mapping[str, str]) -> None:
    action = ""

    async def answers(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"action": action}

    async with mounted(route, backend, urls) as runtime, CLIENTS[client](runtime, answers) as caller:
        for action in ("decline", "cancel"):
            result = await caller.tool("ask", id=fresh(), rounds=[[FORM], [URL]])
            assert result["structuredContent"]["answers"] == [[{"action": action}], [{"action": action}]]


@pytest.mark.parametrize("route", SEVERAL)
async def test_an_error_that_a_legacy_client_answers_ends_the_call_of_a_modern_backend(
    route: str, urls: Mapping[str, str]
) -> None:
    async def answers(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        raise MCPError(-1, "User rejected sampling request", {"why": ["no"]})

    mine = fresh()
    async with mounted(route, "modern", urls) as runtime, legacy(runtime, answers) as caller:
        with pytest.raises(MCPError, match="User rejected sampling request") as caught:
            await caller.tool("ask", id=mine, rounds=[[SAMPLING]])
        assert (caught.value.code, caught.value.data) == (-1, {"why": ["no"]})
        told = await caller.tool("told", id=mine)
        assert told["structuredContent"]["runs"] == 1


async def test_an_error_that_a_legacy_client_answers_is_the_answer_that_a_legacy_backend_gets() -> None:
    async def answers(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        raise MCPError(-1, "User rejected sampling request", {"why": ["no"]})

    async with mounted("memory", "legacy") as runtime, legacy(runtime, answers) as caller:
        result = await caller.tool("ask", id=fresh(), rounds=[[ROOTS], [SAMPLING]])
    error = {"error": {"code": -1, "message": "User rejected sampling request", "data": {"why": ["no"]}}}
    assert result["structuredContent"]["answers"] == [[error], [error]]

"""A modern backend's `input_required`, for a client of the legacy era: asked by real requests, then the retry.

Rule: the backend gets its own state back as it was, and the client's answers under the backend's own keys; nothing
else of the call changes from round to round (MCP 2026-07-28, "Multi Round-Trip Requests"; design.md section 6).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import trio

from mcpactors.actors.backend import mapping
from mcpactors.errors import BackendMisbehaved, QuestionRefused
from mcpactors.runtime.methods import QUESTIONS
from mcpactors.runtime.policy import DEFAULT_BACKEND, BackendLimits, Forwarding
from mcpactors.runtime.reply import Failure, Outcome, Result

__all__ = ["INPUT_REQUIRED", "answer_rounds", "check_state", "could_not_ask", "refuse_switched_off"]

INPUT_REQUIRED: Final = "input_required"
PAUSE: Final = 0.05
"""Seconds before the retry of a call that has a state and asks nothing; doubles each time."""

CANNOT_ASK: Final = ("server-initiated requests", "Server-to-client requests are not available")
"""In the words of the SDKs for Python and TypeScript, and of FastMCP, when legacy code asks in the modern era."""


class Asks(Protocol):
    """Whoever is asked: the caller, by its reply channel, or a client that answers for itself."""

    async def question(self, method: str, params: Mapping[str, Any] | None) -> Outcome: ...


Again = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]


async def answer_rounds(
    name: str, first: Mapping[str, Any], again: Again, reply: Asks, limits: BackendLimits = DEFAULT_BACKEND
) -> Outcome:
    """Put what the backend `name` asks to the caller, and retry with the answers until the call is complete.

    `again(more)` sends the call anew with `more` among its params. A question that the client refuses or fails ends
    the call with that failure: the protocol has no answer that says so.
    """
    result, pause = first, PAUSE
    for _ in range(limits.rounds):
        wanted = result.get("inputRequests") or {}
        state = result.get("requestState")
        check_state(name, result, limits)
        _check(name, wanted, state)
        more: dict[str, Any] = {}
        if wanted:
            answers = await _ask_all(wanted, reply)
            if isinstance(answers, Failure):
                return answers
            more["inputResponses"] = answers
        else:
            await trio.sleep(pause)
            pause *= 2
        if state is not None:
            more["requestState"] = state
        result = await again(more)
        if result.get("resultType") != INPUT_REQUIRED:
            return Result(result)
    raise BackendMisbehaved(f"{name} asked for more input after {limits.rounds} rounds; the call was given up")


def refuse_switched_off(name: str, result: Mapping[str, Any], forward: Forwarding) -> Mapping[str, Any]:
    """The result itself; raises `QuestionRefused` where it asks for what is switched off for the backend `name`."""
    wanted = result.get("inputRequests")
    for asked in wanted.values() if isinstance(wanted, Mapping) else ():
        method = asked.get("method") if isinstance(asked, Mapping) else None
        if isinstance(method, str) and not forward.passes(method):
            raise QuestionRefused(f"{method} is switched off for {name}, by forward= of its mount")
    return result


def could_not_ask(outcome: Outcome) -> bool:
    """Whether a modern call failed as its code asks by a request (`await ctx.elicit`), which its era does not have."""
    if isinstance(outcome, Failure):
        said: object = outcome.message
    elif outcome.value.get("isError") is True:
        content = outcome.value.get("content")
        said = mapping(content[0] if isinstance(content, list) and content else None).get("text")
    else:
        return False
    return isinstance(said, str) and any(words in said for words in CANNOT_ASK)


def check_state(name: str, result: Mapping[str, Any], limits: BackendLimits) -> None:
    """Raise `BackendMisbehaved` for a `requestState` that nobody is to keep: it is no string, or too long."""
    state = result.get("requestState")
    if state is not None and not isinstance(state, str):
        raise BackendMisbehaved(f"{name} sent a requestState that is no string")
    if state is not None and len(state) > limits.state:
        raise BackendMisbehaved(f"{name} sent a requestState of {len(state)} characters; {limits.state} are taken")


def _check(name: str, wanted: object, state: object) -> None:
    if not isinstance(wanted, Mapping) or not (wanted or state is not None):
        raise BackendMisbehaved(f"{name} says that input is required and not which")
    for asked in wanted.values():
        method = asked.get("method") if isinstance(asked, Mapping) else None
        if not isinstance(method, str) or method not in QUESTIONS:
            raise BackendMisbehaved(f"{name} asks its client for something that is no question of MCP")
        if not isinstance(asked.get("params", {}), Mapping):
            raise BackendMisbehaved(f"{name} asks its client for {method} with params that are no object")


async def _ask_all(wanted: Mapping[str, Mapping[str, Any]], reply: Asks) -> dict[str, Any] | Failure:
    """The answer to each, asked at once; or the first failure, for which the others are withdrawn."""
    answers: dict[str, Any] = {}
    failures: list[Failure] = []
    async with trio.open_nursery() as nursery:

        async def ask(key: str, question: Mapping[str, Any]) -> None:
            outcome = await reply.question(question["method"], question.get("params"))
            if isinstance(outcome, Result):
                answers[key] = outcome.value
            else:
                failures.append(outcome)
                nursery.cancel_scope.cancel()

        for key, question in wanted.items():
            nursery.start_soon(ask, key, question)
    return failures[0] if failures else answers

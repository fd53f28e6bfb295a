"""The client of one call, for as long as a request of it is open: takes its notices and is asked its questions.

Rule: how a question reaches a client is decided here and nowhere else. A legacy client is asked on the stream of its
call; a modern one gets the question as an input request, in the result that ends this request (design.md section 6).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Any, Final

import trio
from mcp.server.connection import Connection
from mcp.shared.dispatcher import DispatchContext
from mcp.shared.exceptions import MCPError
from mcp.shared.transport_context import TransportContext
from mcp_types import URL_ELICITATION_REQUIRED
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpactors.errors import CapabilityMissing, InvalidParams, Overloaded, QuestionRefused
from mcpactors.runtime.clients import ClientLine
from mcpactors.runtime.mailbox import Caller
from mcpactors.runtime.methods import capability_for, reworded_question
from mcpactors.runtime.reply import CLOSE_STREAM, PROGRESS, Failure, Notice, Outcome, Question, Replies, Result
from mcpactors.transports.parking import OpenCall
from mcpactors.transports.turns import Turn

__all__ = [
    "INPUT_REQUIRED",
    "LOG_LEVELS",
    "CallClient",
    "cannot_answer",
    "input_requests",
    "line_to",
    "refuse_all",
    "visits_needed",
    "without_visits",
]

INPUT_REQUIRED: Final = "input_required"

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
ELICIT: Final = "elicitation/create"
GATHER: Final = 0.01
"""Seconds that further questions of the same call are waited for: those asked at once go out in one result."""


class CallClient:
    """The client, behind the request that is open now."""

    __slots__ = ("_caller", "_channel", "_close", "_log_level", "_token", "_turn", "refused")

    def __init__(
        self,
        channel: DispatchContext[TransportContext],
        caller: Caller,
        params: Mapping[str, Any],
        log_level: Callable[[], str | None],
        close: Callable[[], Awaitable[None]] | None = None,
        turn: Turn | None = None,
    ) -> None:
        self._channel = channel
        self._turn = turn
        self._close = close
        self._caller = caller
        self._log_level = log_level
        self._token = (params.get("_meta") or {}).get("progressToken")
        self.refused: Failure | None = None
        """Why a question was refused for which this client lacks a capability."""

    # --- Legacy: asked while the call runs --------------------------------------------------------------------------

    async def converse(self, replies: Replies) -> None:
        """Carry notices and questions until the call has its outcome. The usual call has none and opens no nursery."""
        async for event in replies:
            if isinstance(event, Question):
                break
            await self._tell(event)
        else:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, event)
            async for event in replies:
                if isinstance(event, Question):
                    nursery.start_soon(self._ask, event)
                else:
                    await self._tell(event)
            nursery.cancel_scope.cancel()

    async def _ask(self, question: Question) -> None:
        """Ask; when nobody wants to know any more, the client is told so by the cancellation of the request."""
        async with trio.open_nursery() as nursery:

            async def withdrawn() -> None:
                await question.outcome()
                nursery.cancel_scope.cancel()

            nursery.start_soon(withdrawn)
            question.answer(await self._answer(question))

    async def _answer(self, question: Question) -> Outcome:
        if refusal := self._lacks(question):
            return refusal
        if self._caller.revision in MODERN_PROTOCOL_VERSIONS:
            said = "a client of the new era is asked by the results of tools/call, prompts/get and resources/read only"
            return Failure.of(QuestionRefused(f"{question.method} cannot be asked: {said}"))
        params = reworded_question(question.method, question.params, modern=False)
        if params is not None and params.get("mode") == "url":
            params.setdefault("elicitationId", secrets.token_urlsafe(16))  # MCP 2025-11-25 must have one
        try:
            with self._turn.lent() if self._turn is not None else nullcontext():
                return Result(await self._channel.send_raw_request(question.method, params))
        except MCPError as error:
            return Failure(error.code, error.message, error.data)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return Failure.of(QuestionRefused("the client has gone"))

    # --- Modern: asked by the result --------------------------------------------------------------------------------

    async def gather(self, call: OpenCall) -> bool:
        """Carry notices until the call has its outcome (False), or has questions for its client (True)."""
        while not call.still_asked():
            event = await anext(call.replies, None)
            if event is None:
                return False
            await self._noted(call, event)
        deadline = trio.current_time() + GATHER
        while True:
            more: Notice | Question | None = None
            with trio.CancelScope(deadline=math.inf if call.replies.channel.finished else deadline) as scope:
                more = await anext(call.replies, None)
            if more is not None:
                await self._noted(call, more)
            elif not scope.cancelled_caught:
                return False
            elif call.still_asked():
                return True
            else:
                return await self.gather(call)  # they were withdrawn meanwhile

    async def _noted(self, call: OpenCall, event: Notice | Question) -> None:
        """Take one event of a call: tell the client at once, keep what it is to be asked, refuse what it cannot do."""
        if not isinstance(event, Question):
            await self._tell(event)
        elif (refusal := self._lacks(event)) is not None:
            self.refused = refusal
            event.answer(refusal)
        else:
            call.note(event)

    # --- Both -------------------------------------------------------------------------------------------------------

    def _lacks(self, question: Question) -> Failure | None:
        """The refusal of a question for which this client has not declared what it takes."""
        return _lacking(self._caller, question.method, question.params)

    async def _tell(self, notice: Notice) -> None:
        if notice.method == CLOSE_STREAM:
            if self._close is not None:
                await self._close()
        elif notice.method == PROGRESS:
            if self._token is not None:
                await self._channel.notify(PROGRESS, {**notice.params, "progressToken": self._token})
            else:  # a client in memory has a callback and no token
                said = notice.params
                await self._channel.progress(said.get("progress", 0), said.get("total"), said.get("message"))
        elif notice.method != "notifications/message" or self._wants(notice.params.get("level")):
            await self._channel.notify(notice.method, notice.params)

    def _wants(self, level: object) -> bool:
        least = self._log_level()
        if least is None:
            return self._caller.revision not in MODERN_PROTOCOL_VERSIONS
        return level in LOG_LEVELS and LOG_LEVELS.index(str(level)) >= LOG_LEVELS.index(least)


def line_to(connection: Connection, caller: Caller, log_level: Callable[[], str | None]) -> ClientLine:
    """The way to a legacy client while none of its calls is running: its session's own stream."""
    outside: Any = connection  # asks and tells as a call's channel does; progress, which it cannot tell, has a call
    client = CallClient(outside, caller, {}, log_level)

    async def ask(method: str, params: Mapping[str, Any] | None) -> Outcome:
        return await client._answer(Question(method, params))

    async def tell(method: str, params: Mapping[str, Any]) -> None:
        await client._tell(Notice(method, params))

    return ClientLine(ask, tell)


def input_requests(call: OpenCall) -> dict[str, Any]:
    """The questions of a call in the words of `InputRequiredResult.inputRequests`."""
    requests: dict[str, Any] = {}
    for key, question in call.asked.items():
        params = reworded_question(question.method, question.params, modern=True)
        requests[key] = {"method": question.method} if params is None else {"method": question.method, "params": params}
    return requests


def cannot_answer(result: Mapping[str, Any], caller: Caller) -> Failure | None:
    """The refusal of an `input_required` result of a modern server that asks its client for what this cannot do."""
    wanted = result.get("inputRequests")
    for asked in wanted.values() if isinstance(wanted, Mapping) else ():
        method, params = (asked.get("method"), asked.get("params")) if isinstance(asked, Mapping) else (None, None)
        if isinstance(method, str):
            refusal = _lacking(caller, method, params if isinstance(params, Mapping) else None)
            if refusal is not None:
                return refusal
    return None


def _lacking(caller: Caller, method: str, params: Mapping[str, Any] | None) -> Failure | None:
    needed = capability_for(method, params, caller.capabilities)
    if not needed:
        return None
    said = f"the client of this call did not declare {next(iter(needed))}, which {method} needs"
    return Failure.of(CapabilityMissing(said, {"requiredCapabilities": needed}))


def refuse_all(call: OpenCall, why: str) -> None:
    """Answer every question of a call that there is no room to park."""
    for question in call.asked.values():
        question.answer(Failure.of(Overloaded(f"{question.method} cannot be asked now: {why}; retry later")))


def visits_needed(failure: Failure, caller: Caller) -> dict[str, Any] | None:
    """A legacy server's "URL elicitation required" (-32042), as a modern client is asked to visit a URL.

    The call has ended there; what the client retries is a new call, as it was in MCP 2025-11-25. The modern era has
    retired that code. None for any other failure, and for a client that cannot be sent to a URL.
    """
    if failure.code != URL_ELICITATION_REQUIRED or caller.revision not in MODERN_PROTOCOL_VERSIONS:
        return None
    wanted = failure.data.get("elicitations") if isinstance(failure.data, Mapping) else None
    pages = [page for page in wanted if isinstance(page, Mapping)] if isinstance(wanted, list) else []
    if not pages or capability_for(ELICIT, {"mode": "url"}, caller.capabilities):
        return None
    asked = {
        f"url{number}": {"method": ELICIT, "params": reworded_question(ELICIT, {"mode": "url", **page}, modern=True)}
        for number, page in enumerate(pages, 1)
    }
    return {"resultType": INPUT_REQUIRED, "inputRequests": asked}


def without_visits(params: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a call that is made anew after its user has visited what the server wanted visited."""
    answers = params.get("inputResponses")
    for answer in answers.values() if isinstance(answers, Mapping) else ():
        if not isinstance(answer, Mapping) or answer.get("action") != "accept":
            raise MCPError(InvalidParams.code, "the call needs its user to visit a URL first, and that was declined")
    return {key: value for key, value in params.items() if key not in ("requestState", "inputResponses")}

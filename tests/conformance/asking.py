"""How a tool of the fixture asks its user something, by the means of whoever calls it.

Rule: everything about eras that a tool would have to know is here, so a tool is written once. A caller of 2025-11-25
gets a request; to one of 2026-07-28 the call ends with `input_required` and comes again with the answers (SEP-2322).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any, Final

import mcp_types as types
import trio
from attrs import define, field
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

__all__ = ["Asker", "Question", "Unanswered", "Unsealed", "form", "prompted", "roots"]

Question = types.ElicitRequest | types.CreateMessageRequest | types.ListRootsRequest
Answer = types.ElicitResult | types.CreateMessageResult | types.ListRootsResult

ANSWERS: Final[Mapping[type[Question], type[Answer]]] = {
    types.ElicitRequest: types.ElicitResult,
    types.CreateMessageRequest: types.CreateMessageResult,
    types.ListRootsRequest: types.ListRootsResult,
}
SECRET: Final = secrets.token_bytes(32)


class Unanswered(Exception):
    """Ends a call of the new era: `result` is what the client is asked; it calls again with the answers."""

    def __init__(self, result: types.InputRequiredResult) -> None:
        super().__init__("the client is asked first")
        self.result = result


class Unsealed(MCPError):
    """The `requestState` that came back is not one that we gave."""

    def __init__(self) -> None:
        super().__init__(types.INVALID_PARAMS, "requestState was not made by this server; start the call anew")


@define(eq=False)
class Asker:
    """The questions of one call. `responses` and `state` are what its retry brought."""

    context: ServerRequestContext[Any, Any]
    responses: Mapping[str, object]
    state: str | None
    _known: dict[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.state is not None:
            self._known.update(unseal(self.state))

    @property
    def modern(self) -> bool:
        return self.context.protocol_version in MODERN_PROTOCOL_VERSIONS

    @property
    def declared(self) -> Mapping[str, Any]:
        """The capabilities of the caller, as the wire has them."""
        said = self.context.session.client_capabilities
        return {} if said is None else said.model_dump(by_alias=True, mode="json", exclude_none=True)

    async def ask(self, questions: Mapping[str, Question], *, keep: bool = False) -> dict[str, Answer]:
        """The answers, by the keys of the questions, which are asked all at once.

        `keep`: what was answered before goes into the `requestState`, for a call that asks more than once.

        Raises:
            Unanswered: the caller is of the new era, and has not brought all the answers yet.
            MCPError: the caller refused a question.
        """
        if self.modern:
            return self._brought(questions, keep)
        answers, refused = await self._requested(questions)
        if refused:
            raise refused[0]
        return answers

    async def ask_whom_it_may(self, questions: Mapping[str, Question]) -> dict[str, Answer]:
        """The answers to the questions that are not refused: who relays for others may have declared more than the
        client of this very call can do."""
        return self._brought(questions, keep=False) if self.modern else (await self._requested(questions))[0]

    async def _requested(self, questions: Mapping[str, Question]) -> tuple[dict[str, Answer], list[MCPError]]:
        answers: dict[str, Answer] = {}
        refused: list[MCPError] = []

        async def one(key: str, question: Question) -> None:
            try:
                answers[key] = await self._request(question)
            except MCPError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for key, question in questions.items():
                nursery.start_soon(one, key, question)
        return answers, refused

    async def _request(self, question: Question) -> Answer:
        related = ServerMessageMetadata(related_request_id=self.context.request_id)
        return await self.context.session.send_request(question, ANSWERS[type(question)], metadata=related)

    def _brought(self, questions: Mapping[str, Question], keep: bool) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        for key, question in questions.items():
            expected = ANSWERS[type(question)]
            if isinstance(response := self.responses.get(key), expected):
                answers[key] = response
            elif key in self._known:
                answers[key] = expected.model_validate(self._known[key])
        self._known |= {
            key: answer.model_dump(by_alias=True, mode="json", exclude_none=True) for key, answer in answers.items()
        }
        missing = {key: question for key, question in questions.items() if key not in answers}
        if missing:
            state = seal(self._known) if keep else None
            raise Unanswered(types.InputRequiredResult(input_requests=missing, request_state=state))
        return answers


def form(message: str, **properties: Any) -> types.ElicitRequest:
    """A form with these fields, each a JSON schema, all of them required."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def prompted(text: str, max_tokens: int = 100) -> types.CreateMessageRequest:
    """A text for the client's model."""
    message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=text))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


def roots() -> types.ListRootsRequest:
    return types.ListRootsRequest()


def seal(known: Mapping[str, Any]) -> str:
    """`known` as a text that only this process can have made."""
    body = base64.urlsafe_b64encode(json.dumps(known).encode()).decode()
    return f"{body}.{_mark(body)}"


def unseal(text: str) -> dict[str, Any]:
    """What `seal` was given. Raises `Unsealed`."""
    body, _, mark = text.rpartition(".")
    if not hmac.compare_digest(mark.encode(), _mark(body).encode()):
        raise Unsealed
    known: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body))
    return known


def _mark(body: str) -> str:
    return hmac.new(SECRET, body.encode(), hashlib.sha256).hexdigest()

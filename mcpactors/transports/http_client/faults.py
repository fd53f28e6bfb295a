"""What an HTTP answer that is no answer to an MCP request becomes: an error that names the backend and the cause.

Rule: functions of what came; nothing is sent. A JSON-RPC error in a body is the backend's own and passed on, whatever
the status; of other bodies nothing is repeated but the kind, as a page may hold what is not the caller's to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import time
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, RequestId
from pydantic_core import from_json

from mcpactors.errors import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    OVERLOADED,
    UNAVAILABLE,
    SessionForgotten,
    SessionInDoubt,
)
from mcpactors.runtime.policy import DEFAULT_BACKEND, BackendLimits
from mcpactors.transports.http_client.pool import Answer, AnswerLost
from mcpactors.transports.lines.framing import WHY
from mcpactors.transports.lines.room import LARGE, Room
from mcpactors.transports.lines.shape import too_deep, too_many
from mcpactors.transports.lines.strict import fault, long_id

__all__ = [
    "ADVICE",
    "PARTS",
    "Unreadable",
    "body_of",
    "error_in",
    "error_of",
    "kind_of",
    "lost",
    "read_message",
    "refusal",
    "refuse_compressed",
    "refused_in_session",
    "result_in",
    "retry_after",
    "said_in",
    "strange",
]

PARTS: Final = 250_000
"""Of one reply, and of one event, as `too_many` counts them."""
ERROR_LIMIT: Final = 64 * 1024
"""Bytes that are read of what comes with a refusal."""
MAX_WAIT: Final = 86_400.0
ADVICE: Final = {
    401: "it wants credentials, or others than it was given; give them in its headers",
    403: "it does not allow this; check the credentials in its headers",
    404: "nothing is served there; check its URL",
    405: "nothing takes messages there; check its URL",
}
"""What to do about a status."""


class Unreadable(ValueError):
    """Bytes that are no JSON-RPC message; the message completes "it sent ..."."""


async def body_of(name: str, answer: Answer, limit: int, room: Room | None = None) -> bytes:
    """All of a body, for which there may have to be `room` first. Raises `Unreadable`: it has more than `limit` bytes;
    `MCPError`: it is compressed."""
    refuse_compressed(name, answer)
    body = await answer.receive()
    pieces, size = [body], len(body)
    try:
        while body and (body := await answer.receive()):
            pieces.append(body)
            size += len(body)
            if size > limit:
                raise Unreadable(f"more than {limit} bytes")
            if size > LARGE and room is not None:
                await room.hold(answer, size)
        return b"".join(pieces)
    finally:
        if room is not None:
            room.leave(answer)


async def error_of(answer: Answer) -> MCPError | None:
    """The JSON-RPC error that a refusal brings in its body, if it brings one."""
    return error_in(await said_in(answer))


async def said_in(answer: Answer) -> Mapping[str, Any]:
    """The JSON-RPC message that a refusal brings in its body; empty where it brings none."""
    if kind_of(answer.fields) != "application/json":
        return {}
    try:
        return read_message(await body_of("", answer, ERROR_LIMIT))
    except (Unreadable, AnswerLost, MCPError):
        return {}


def refuse_compressed(name: str, answer: Answer) -> None:
    """Nothing is unpacked here, so that few bytes are never many. Raises `MCPError`."""
    if answer.fields.get("content-encoding", "identity").lower() != "identity":
        raise strange(name, "compressed its reply, although identity was asked for")


def kind_of(fields: Mapping[str, str]) -> str:
    """The media type of a body, without its parameters, in lower case; empty where nothing says it."""
    return fields.get("content-type", "").partition(";")[0].strip().lower()


def read_message(data: bytes, taken: BackendLimits = DEFAULT_BACKEND) -> dict[str, Any]:
    """The JSON object that a body or an event is: one that all parsers read alike (F62). Raises `Unreadable`."""
    if too_many(data, PARTS):
        raise Unreadable(f"JSON of more than {PARTS} parts")
    if too_deep(data, taken.depth):
        raise Unreadable(f"JSON that nests deeper than {taken.depth}")
    try:
        said = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Unreadable(f"what is not JSON: {error}" if data.strip() else "nothing") from None
    if not isinstance(said, dict) or said.get("jsonrpc") != "2.0":
        raise Unreadable("JSON that is no JSON-RPC 2.0 message")
    identity = said.get("id")
    wrong = "long_id" if isinstance(identity, int | str) and long_id(identity, taken.id) else fault(data)
    if wrong is not None:
        raise Unreadable(f"a message that cannot be taken: {WHY[wrong]}")
    return said


def error_in(said: Mapping[str, Any]) -> MCPError | None:
    """The error that a JSON-RPC response carries, if it carries a good one."""
    error = said.get("error")
    if not isinstance(error, dict):
        return None
    code, message = error.get("code"), error.get("message")
    if not isinstance(code, int) or isinstance(code, bool) or not isinstance(message, str):
        return None
    return MCPError(code, message, error.get("data"))


def result_in(name: str, identity: RequestId, said: Mapping[str, Any]) -> dict[str, Any]:
    """The result in the response to the request `identity`. Raises `MCPError`: what the response says, or is not."""
    error, theirs = said.get("error"), said.get("id")
    unnamed = theirs is None and error is not None  # as where the request could not be read
    if theirs != identity and str(theirs) != str(identity) and not unnamed:
        raise strange(name, "replied with the id of another request")
    if error is not None:
        raise error_in(said) or strange(name, "sent an error without a code and a message")
    result = said.get("result")
    if not isinstance(result, dict):
        raise strange(name, "sent a reply that is neither a result nor an error")
    return result


def refusal(name: str, status: int, fields: Mapping[str, str]) -> MCPError:
    """The error of a status that is none of success, where the body does not say more."""
    try:
        phrase = f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = f"HTTP {status}"
    data: dict[str, Any] = {"actor": name, "status": status}
    advice = f"; {ADVICE[status]}" if status in ADVICE else ""
    if (seconds := retry_after(fields)) is not None:
        data["retryAfter"] = seconds
        advice = f"; it wants to be asked again in {seconds:g} s"
    if status in (301, 302, 303, 307, 308):
        advice = "; it was not followed: only redirects that keep the method and the origin are"
    html = "; what came with it is a web page" if kind_of(fields) == "text/html" and status not in ADVICE else ""
    return MCPError(_code_of(status), f"{name} answered {phrase}{advice}{html}", data)


def _code_of(status: int) -> int:
    if status == 429:
        return OVERLOADED
    if status in (502, 503, 504):
        return UNAVAILABLE
    return METHOD_NOT_FOUND if status == 404 else INTERNAL_ERROR


class _Forgotten(MCPError, SessionForgotten):
    """Made here and from no body: only this may send a request again."""


class _InDoubt(MCPError, SessionInDoubt):
    """As the body says."""


def refused_in_session(identity: RequestId, status: int, said: Mapping[str, Any]) -> MCPError | None:
    """The error of a request that was refused because its session is not known (any more), or maybe for that.

    A 404 says so (2025-11-25, "Session Management"), unless it is about the method. So does a 400 in the words of the
    TypeScript SDK and of its examples, which many servers were made from. A body that is the reply to this very request
    leaves it open: some give the errors of their tools such a status, and a tool that has run is not run again.
    """
    error = error_in(said)
    if status == 404:
        reads_so = error is None or error.code != METHOD_NOT_FOUND
    else:
        text = error.message.lower() if error is not None else ""
        reads_so = status == 400 and ("session id" in text or "server not initialized" in text)
    if not reads_so:
        return None
    if said.get("id") is not None and str(said["id"]) == str(identity):
        return None if error is None else _InDoubt(error.code, error.message, error.data)
    return _Forgotten(INVALID_REQUEST, "Session terminated")


def retry_after(fields: Mapping[str, str]) -> float | None:
    """Seconds, out of a `Retry-After` of either form (RFC 9110 10.2.3); None where there is none that makes sense."""
    text = fields.get("retry-after", "").strip()
    if text.isdecimal() and len(text) < 10:
        return min(float(text), MAX_WAIT)
    try:
        return min(max(0.0, round(parsedate_to_datetime(text).timestamp() - time())), MAX_WAIT)
    except (ValueError, TypeError, OverflowError):
        return None


def strange(name: str, what: str) -> MCPError:
    """It answered in a way that the protocol does not have; `what` completes "it ..."."""
    return MCPError(INTERNAL_ERROR, f"{name} {what}", {"actor": name})


def lost(name: str, why: str) -> MCPError:
    """The call was sent and its answer did not come; `why` completes "it ..."."""
    return MCPError(
        CONNECTION_CLOSED, f"{name} {why}: the outcome is unknown, and nothing was retried", {"actor": name}
    )

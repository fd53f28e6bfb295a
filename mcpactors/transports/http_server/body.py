"""What a POST to the endpoint says, judged before anything acts on it: the same for both eras.

Rule: pure, and no second opinion. The SDK reads the body again with parsers of its own, which let pass what a relay
must not (half a surrogate pair, a key twice, UTF-16); so what is refused here is refused for good. F7 to F12, F62.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen
from mcp_types import INVALID_REQUEST, PARSE_ERROR
from pydantic_core import from_json, to_json

from mcpactors.runtime.policy import DEFAULT_CLIENTS, ClientLimits
from mcpactors.transports.lines.salvage import salvage_id
from mcpactors.transports.lines.shape import too_deep, too_many
from mcpactors.transports.lines.strict import Fault, fault, long_id

__all__ = ["PARTS", "BadBody", "error_body", "read_body"]

PARTS: Final = 100_000
"""Of what a client says, whichever transport it comes by, as `too_many` counts them."""
_WHY: Final[Mapping[Fault, tuple[int, str]]] = {
    "repeated_key": (INVALID_REQUEST, "the message has a key twice"),
    "not_a_number": (PARSE_ERROR, "the message has a number that no double can hold"),
    "ambiguous": (INVALID_REQUEST, "the message is neither a request nor a notification nor a response"),
    "long_id": (INVALID_REQUEST, "the id is longer than {} bytes"),
}


@frozen
class BadBody(Exception):
    """A body that is not acted on: the JSON-RPC error that says so, with the id where one is known."""

    code: int
    message: str
    id: int | str | None = None


def read_body(body: bytes, limits: ClientLimits = DEFAULT_CLIENTS) -> Any:
    """The JSON value that a body is; what it has to be, the SDK says.

    Raises:
        BadBody: it cannot be read, or not by everybody alike.
    """
    if too_many(body, PARTS):
        raise BadBody(PARSE_ERROR, f"Parse error: JSON of more than {PARTS} parts", salvage_id(body, "request"))
    if too_deep(body, limits.depth):
        said = f"Parse error: JSON that nests deeper than {limits.depth}"
        raise BadBody(PARSE_ERROR, said, salvage_id(body, "request"))
    try:
        said = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadBody(PARSE_ERROR, f"Parse error: {error}") from None
    if isinstance(said, dict):
        identity: Any = said.get("id")
        known = isinstance(identity, int | str) and not isinstance(identity, bool)
        wrong = "long_id" if known and long_id(identity, limits.id) else fault(body)
        if wrong is not None:
            code, message = _WHY[wrong]
            named = known and wrong not in ("long_id", "repeated_key")
            raise BadBody(code, message.format(limits.id), identity if named else None)
    return said


def error_body(code: int, message: str, identity: int | str | None = None) -> bytes:
    """A JSON-RPC error as the body of a refusal."""
    return to_json({"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": message}})

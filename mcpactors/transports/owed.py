"""Who owes whom a reply on one connection: our requests that the peer has not answered, and its that we have not.

Rule: it counts and decides, nothing waits. Both tables are bounded by what is in flight. Promises F13, F15 to F17, P4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

from attrs import define, field
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import RequestId
from mcp_types.jsonrpc import ErrorData, JSONRPCError, JSONRPCMessage, JSONRPCNotification, JSONRPCRequest

from mcpactors.errors import INVALID_REQUEST, OVERLOADED
from mcpactors.runtime.methods import CANCELLED

__all__ = ["Owed", "Refusal", "Unwanted", "refusal"]

Unwanted = Literal["duplicate_reply", "late_reply", "unknown_reply"]
Refusal = Literal["id_in_use", "too_many_requests"]

REMEMBERED: Final = 256
"""Requests of ours that are over, at most, of which it is known why a reply to them is not wanted."""


@define(eq=False)
class Owed:
    """The ledger of one connection. `requests` and `size` bound what the peer may ask before it has been answered."""

    requests: int
    size: int
    """Bytes of their lines. One request more may be held than it allows."""
    late: Callable[[RequestId], None] = lambda reply_to: None
    """Called with the id of each reply that nobody waits for, or not any more."""
    _waiting: dict[RequestId, None] = field(factory=dict, init=False)  # a set takes four times the memory while empty
    _over: OrderedDict[RequestId, Unwanted] = field(factory=OrderedDict, init=False)
    _asked: dict[RequestId, int] = field(factory=dict, init=False)
    _held: int = field(default=0, init=False)

    @property
    def open(self) -> int:
        """How many requests of the peer are unanswered."""
        return len(self._asked)

    @property
    def waiting(self) -> int:
        """How many requests of ours are."""
        return len(self._waiting)

    # --- What we asked --------------------------------------------------------------------------------------------

    def sent(self, message: JSONRPCMessage) -> None:
        """Takes note of a message of ours that is accepted for sending."""
        if isinstance(message, JSONRPCRequest):
            self._waiting[coerce_request_id(message.id)] = None
        elif isinstance(message, JSONRPCNotification):
            if (
                message.method == CANCELLED
                and (given_up := cancelled_request_id_from_params(message.params)) is not None
            ):
                self._end(coerce_request_id(given_up), "late_reply")
        elif message.id is not None:
            self._settle(message.id)

    def unwanted(self, reply_to: RequestId | None) -> Unwanted | None:
        """Why a reply is to be dropped; None: somebody waits for it, and from now on nobody does."""
        if reply_to is None:
            return "unknown_reply"
        key = coerce_request_id(reply_to)
        if key in self._waiting:
            self._end(key, "duplicate_reply")
            return None
        self.late(key)
        return self._over.get(key, "unknown_reply")

    def _end(self, key: RequestId, why: Unwanted) -> None:
        self._waiting.pop(key, None)
        self._over[key] = why
        self._over.move_to_end(key)
        if len(self._over) > REMEMBERED:
            self._over.popitem(last=False)

    # --- What we are asked ----------------------------------------------------------------------------------------

    def asked(self, request: RequestId, size: int) -> Refusal | None:
        """Takes note of the peer's request, or says why it is refused. Of ids, 1 and "1" are two."""
        if request in self._asked:
            return "id_in_use"
        if len(self._asked) >= self.requests or self._held >= self.size:
            return "too_many_requests"
        self._asked[request] = size
        self._held += size
        return None

    def cancelled(self, message: JSONRPCNotification) -> None:
        """Takes note of the peer's notification: what it has given up is not answered."""
        if message.method == CANCELLED and (given_up := cancelled_request_id_from_params(message.params)) is not None:
            self._settle(given_up)

    def _settle(self, request: RequestId) -> None:
        self._held -= self._asked.pop(request, 0)


def refusal(request: RequestId, why: Refusal) -> JSONRPCError:
    """What the peer is answered whose request is refused."""
    code, message = (
        (INVALID_REQUEST, f"the id {request!r} is that of a request in flight; the first goes on")
        if why == "id_in_use"
        else (OVERLOADED, "more requests are unanswered than are taken on one connection; ask again later")
    )
    return JSONRPCError(jsonrpc="2.0", id=request, error=ErrorData(code=code, message=message))

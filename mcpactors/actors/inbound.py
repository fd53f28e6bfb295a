"""What a backend sends by itself over one session: its questions and notifications, given to those they are meant for.

Rule: to the call that a message belongs to, else to the client that the session belongs to, else to nobody: never to
one of several (design.md section 7).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, Final

import trio
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND

from mcpactors.actors.backend import Backend, mapping
from mcpactors.actors.inflight import CallsInFlight, current
from mcpactors.errors import QuestionRefused
from mcpactors.runtime.methods import QUESTIONS
from mcpactors.runtime.reply import PROGRESS, Failure, Outcome

__all__ = ["Hears", "Inbound"]

OUTSIDE_TIMEOUT: Final = 600.0
"""Seconds a client may take to answer what a backend asks while no call runs."""
COMPLETED: Final = "notifications/elicitation/complete"
SENT_AWAY: Final = 256
"""Elicitations by URL, at most, of which it is remembered whose they are."""

Hears = Callable[[str, Mapping[str, Any]], None]
"""Takes a notification that belongs to no call: method and params."""


class Inbound:
    """Of the session of the client `session`, or of one that is no client's own.

    `hears` takes what is about the backend as a whole; `sender` is the context of the request on whose stream the last
    message came.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        session: str | None,
        calls: CallsInFlight,
        hears: Hears,
        sender: Callable[[], Context | None],
    ) -> None:
        self._name = name
        self._backend = backend
        self._session = session
        self._calls = calls
        self._hears = hears
        self._sender = sender
        self._asked = 0
        self._sent_away: OrderedDict[str, str] = OrderedDict()
        self.asking: Callable[[bool], None] = lambda begins: None
        """Called when calls begin to wait for their client's answer, and when they do not any more."""
        self.knows_roots = False
        """Whether the backend has asked for roots: what it does afterwards may depend on whose they were."""

    async def on_request(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Answer a request of the backend. Raises `MCPError`."""
        if method == "ping":
            return {}
        if method not in QUESTIONS:
            raise MCPError(METHOD_NOT_FOUND, f"{method} is not a method of this client", method)
        if not self._backend.forward.passes(method):
            raise MCPError(QuestionRefused.code, f"{method} is switched off for {self._name}, by forward= of its mount")
        self.knows_roots = self.knows_roots or method == "roots/list"
        call = current.get() or self._calls.only()
        if call is not None:
            self.remember(params, call.caller.session)
            self._asked += 1
            if self._asked == 1:
                self.asking(True)
            try:
                outcome = await call.reply.question(method, params)
            finally:
                self._asked -= 1
                if not self._asked:
                    self.asking(False)
            if call.reply.finished:  # given up: the backend is to hear that first, and not to go on with a refusal
                await call.ended.wait()
                if method == "roots/list" and self._session is not None:  # it was about the session
                    return await self._ask_outside(self._session, method, params)
            return _answer(outcome)
        if not self._calls and self._session is not None:
            return await self._ask_outside(self._session, method, params)
        refused = QuestionRefused(
            f"{method} cannot be given to a client: calls of several clients are running on this connection and "
            'nothing says which of them asks; mount this backend with sessions="per_client"'
            if self._calls
            else f"{method} cannot be given to a client: no call is running"
        )
        raise MCPError(refused.code, refused.message)

    async def _ask_outside(self, session: str, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask the client that this session belongs to, while none of its calls is running."""
        with trio.move_on_after(OUTSIDE_TIMEOUT):
            self.remember(params, session)
            return _answer(await self._backend.ask_client(session, method, params))
        raise MCPError(QuestionRefused.code, f"the client did not answer {method} within {OUTSIDE_TIMEOUT:g} s")

    def on_notification(self, method: str, params: Mapping[str, Any] | None) -> bool:
        """Take a notification in the order of the wire; sync, so none overtakes another or the result."""
        said = params or {}
        if not self._backend.forward.passes(method):
            return True
        if method == PROGRESS:
            call = self._calls.of_token(said.get("progressToken"))
            if call is not None:
                call.reply.notice(method, {key: value for key, value in said.items() if key != "progressToken"})
        elif method == "notifications/message":
            context = self._sender()
            call = (context.get(current) if context is not None else None) or self._calls.only()
            if call is not None:
                call.reply.notice(method, said)
            elif not self._calls and self._session is not None:
                self._backend.tell_client(self._session, method, said)
        elif method == COMPLETED:
            self._completed(said)
        else:
            self._hears(method, said)
        return True

    # --- Who was sent to a URL ------------------------------------------------------------------------------------

    def remember(self, params: object, session: str | None) -> None:
        """Note who was sent to a URL, so that the same client is told when it is done there."""
        said = mapping(params)
        key = said.get("elicitationId")
        if session is not None and isinstance(key, str) and said.get("mode", "url") == "url":
            self._sent_away[key] = session
            if len(self._sent_away) > SENT_AWAY:
                self._sent_away.popitem(last=False)

    def _completed(self, said: Mapping[str, Any]) -> None:
        """A client has done what it was sent to a URL for: it alone is told, by a call of its own if one is running."""
        session = self._sent_away.pop(str(said.get("elicitationId")), None)
        if session is None:
            return
        call = self._calls.running_of(session)
        if call is not None:
            call.reply.notice(COMPLETED, said)
        else:
            self._backend.tell_client(session, COMPLETED, said)


def _answer(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        raise MCPError(outcome.code, outcome.message, outcome.data)
    return dict(outcome.value)

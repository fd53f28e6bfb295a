"""The client sessions of the old era that are connected: how to reach one while none of its calls is running.

Rule: this is for what belongs to a client and to no call of it: a backend of its own that asks for roots after these
have changed, a log line between two calls. Whoever has a call at hand uses the reply of that call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from attrs import frozen

from mcpactors.errors import QuestionRefused
from mcpactors.runtime.reply import Failure, Outcome

__all__ = ["ClientLine", "Clients"]

TOLD_AT_ONCE: Final = 64
"""Notifications, at most, that wait to be sent to one client; more are dropped."""

Spawn = Callable[[Callable[[], Awaitable[None]]], None]


@frozen(eq=False)
class ClientLine:
    """The way to one client."""

    ask: Callable[[str, Mapping[str, Any] | None], Awaitable[Outcome]]
    tell: Callable[[str, Mapping[str, Any]], Awaitable[None]]


class Clients:
    """Who is connected, by the name of its session."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._lines: dict[str, ClientLine] = {}
        self._waiting: Counter[str] = Counter()

    def came(self, session: str, line: ClientLine) -> None:
        """This session begins."""
        self._lines[session] = line

    def left(self, session: str) -> None:
        """This session is over."""
        self._lines.pop(session, None)

    async def ask(self, session: str, method: str, params: Mapping[str, Any] | None) -> Outcome:
        """Put a question to a client. How long to wait is the caller's to say."""
        line = self._lines.get(session)
        if line is None:
            return Failure.of(QuestionRefused(f"{method} cannot be asked: its client has gone"))
        return await line.ask(method, params)

    def tell(self, session: str, method: str, params: Mapping[str, Any]) -> None:
        """Send a client a notification, in a task of its own; dropped when too many wait for that client."""
        if session in self._lines and self._waiting[session] < TOLD_AT_ONCE:
            self._waiting[session] += 1
            self._spawn(partial(self._tell, session, method, params))

    async def _tell(self, session: str, method: str, params: Mapping[str, Any]) -> None:
        try:
            line = self._lines.get(session)
            if line is not None:
                await line.tell(method, params)
        finally:
            self._waiting[session] -= 1
            if not self._waiting[session]:
                del self._waiting[session]

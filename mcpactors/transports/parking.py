"""Calls of modern clients that wait for their client's answers, between one request and its retry.

Rule: a parked call goes on running; only its way back waits here. A key is good for one retry. Each call that nobody
comes back for ends at its expiry, with the runtime, or with its callee, whichever is first to matter; their number
is bounded (design.md section 6; MCP 2026-07-28, "Multi Round-Trip Requests").
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator
from functools import partial
from itertools import count
from typing import Final

import trio
from attrs import define, field, frozen

from mcpactors.errors import CallTimeout
from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.reply import Failure, Question, Replies

__all__ = ["OpenCall", "ParkedCall", "Parking", "Spawn"]

Spawn = Callable[[Callable[[], Awaitable[None]]], None]

KEY_BYTES: Final = 16
SHARE: Final = 4
"""One client has a quarter of the room: the others' users are asked, too, whatever it does."""


@define(eq=False)
class OpenCall:
    """A call that may outlive the request that began it."""

    request: Request
    replies: Replies
    asked: dict[str, Question] = field(factory=dict)
    """The questions that the client was given, each under the key that its answer must have."""
    _noted_at: dict[Question, float] = field(factory=dict)
    _numbers: Iterator[int] = field(factory=lambda: count(1))

    def note(self, question: Question) -> None:
        """This question is to be answered by the client's retry."""
        self.asked[f"q{next(self._numbers)}"] = question
        self._noted_at[question] = trio.current_time()

    def asked_since(self) -> float:
        """When the oldest of its questions was asked: asking it again gives it no more time."""
        return min(self._noted_at[question] for question in self.asked.values())

    def still_asked(self) -> bool:
        """Whether any question waits for its answer; those that were withdrawn are forgotten."""
        self.asked = {key: question for key, question in self.asked.items() if not question.answered}
        return bool(self.asked)


@frozen
class ParkedCall:
    """One row of `Runtime.parked()`: which call waits, for answers to what, and for how many seconds still."""

    method: str
    name: str
    """The tool, prompt or URI that was called, as the client names it."""
    questions: tuple[str, ...]
    """What is asked; nothing when all was withdrawn: then its outcome waits for the client."""
    since: float
    """Seconds it has waited."""
    expires: float
    """Seconds until it is given up."""


@define(eq=False)
class _Entry:
    call: OpenCall
    client: Hashable
    at: float
    until: float
    taken: trio.Event = field(factory=trio.Event)


class Parking:
    """Where calls wait. `spawn` runs a task for as long as the runtime lives; `expiry` is in seconds."""

    def __init__(self, spawn: Spawn, expiry: float, capacity: int) -> None:
        self._spawn = spawn
        self._expiry = expiry
        self._capacity = capacity
        self._entries: dict[str, _Entry] = {}
        self._of: Counter[Hashable] = Counter()

    def refusal(self, client: Hashable) -> str | None:
        """Why no further call of this client can wait; None when one can. A client that is None has all the room."""
        if len(self._entries) >= self._capacity:
            return "as many calls wait for their clients' answers as may"
        if client is not None and self._of[client] >= max(1, self._capacity // SHARE):
            return "as many calls of this client wait for its answers as may of one client"
        return None

    def park(self, call: OpenCall, client: Hashable) -> str:
        """Keep a call until its key is handed back; from now on nobody else is to leave its replies."""
        key = secrets.token_urlsafe(KEY_BYTES)
        entry = self._entries[key] = _Entry(call, client, trio.current_time(), call.asked_since() + self._expiry)
        self._of[client] += 1
        self._spawn(partial(self._keep, key, entry))
        return key

    def take(self, key: str) -> OpenCall | None:
        """Give a call back to the request that goes on with it. None when it was taken already, or is gone."""
        entry = self._pop(key)
        if entry is None:
            return None
        entry.taken.set()
        return entry.call

    def _pop(self, key: str) -> _Entry | None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._of[entry.client] -= 1
            if not self._of[entry.client]:
                del self._of[entry.client]
        return entry

    def __iter__(self) -> Iterator[ParkedCall]:
        now = trio.current_time()
        for entry in self._entries.values():
            params, asked = entry.call.request.params, entry.call.asked.values()
            yield ParkedCall(
                entry.call.request.method,
                str(params.get("name") or params.get("uri")),
                tuple(question.method for question in asked if not question.answered),
                now - entry.at,
                entry.until - now,
            )

    async def _keep(self, key: str, entry: _Entry) -> None:
        try:
            with trio.move_on_at(entry.until):
                await entry.taken.wait()
        finally:
            if self._pop(key) is not None:
                said = (
                    f"the client did not come back with its answers within {self._expiry:g} s; the call was cancelled"
                )
                entry.call.replies.leave(Failure.of(CallTimeout(said)))

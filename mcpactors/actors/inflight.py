"""The calls that a backend is working on over one session, and which of them a message is about that does not say so.

Rule: nothing is sent or awaited here. Over HTTP the stream on which a message comes says whose it is, by `current`;
over stdio nothing on the wire does (building-blocks.md), and it is guessed only where nobody else can be meant.
"""

from __future__ import annotations

from contextvars import ContextVar
from itertools import count
from typing import Final

import trio
from attrs import field, frozen

from mcpactors.runtime.mailbox import Caller
from mcpactors.runtime.reply import ReplyChannel

__all__ = ["Call", "CallsInFlight", "current"]

GIVEN_UP: Final = 256
"""Calls, at most, of which it is remembered whose they were until the backend has read that they were given up."""


@frozen(eq=False)
class Call:
    """One call that the backend is working on, as far as it knows."""

    token: int
    """Of its progress: ours, never a client's."""
    reply: ReplyChannel
    caller: Caller
    ended: trio.Event = field(factory=trio.Event)


current: ContextVar[Call | None] = ContextVar("mcpactors.call", default=None)
"""The call on whose HTTP stream a message came."""


class CallsInFlight:
    """Of one session; `owned` says whether it is one client's own."""

    def __init__(self, *, owned: bool) -> None:
        self._owned = owned
        self._tokens = count(1)
        self._calls: dict[int, Call] = {}
        self._outlived = set[Call]()
        self._lost_count = False  # whose calls were given up: nothing is guessed any more

    def __bool__(self) -> bool:
        """Whether there are any, be it such as the backend alone does not know to be over."""
        return bool(self._calls)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for one of them."""
        return any(not call.ended.is_set() for call in self._calls.values())

    def begin(self, reply: ReplyChannel, caller: Caller) -> Call:
        """A call, which the task that carries it begins."""
        call = Call(next(self._tokens), reply, caller)
        self._calls[call.token] = call
        current.set(call)
        return call

    def forget(self, call: Call) -> None:
        """It is over, and its backend knows so."""
        self._outlived.discard(call)
        del self._calls[call.token]

    def outlives(self, call: Call) -> bool:
        """It is over, and its backend may ask for it all the same: True where it counts, until it is forgotten."""
        if len(self._outlived) < GIVEN_UP:
            self._outlived.add(call)
            return True
        self._lost_count = True
        self.forget(call)
        return False

    def of_token(self, token: object) -> Call | None:
        """The call whose progress this is."""
        return self._calls.get(token) if isinstance(token, int) else None

    def running_of(self, session: str) -> Call | None:
        """A call that this client waits for."""
        return next((c for c in self._calls.values() if c.caller.session == session and not c.ended.is_set()), None)

    def only(self) -> Call | None:
        """The call that a message belongs to which does not say so: the only one, or any of one client's only."""
        calls = list(self._calls.values())
        if self._lost_count and not self._owned:
            return None
        if len(calls) == 1:
            return calls[0]
        sessions = {call.caller.session for call in calls}
        running = [call for call in calls if not call.ended.is_set()]
        return (running or calls)[-1] if len(sessions) == 1 and None not in sessions else None

"""The sessions that a backend has besides its main one, and who has which.

Rule: bounded, and decided at once. Whose turn it is to wait is the only thing that is waited for here; sessions open
and close in tasks of the actor (`start`), never in the task of a call.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import trio

from mcpactors.actors.backend import OUR_INFO, OURS, Introduction
from mcpactors.actors.session import BackendSession
from mcpactors.errors import MailboxFull
from mcpactors.runtime.mailbox import Caller
from mcpactors.runtime.policy import PoolLimits

__all__ = ["SessionPool"]

Start = Callable[[Introduction], BackendSession]
"""Makes a session that is about to open in a task of its own."""


class SessionPool:
    """Sessions of clients, which stay theirs, and sessions that are lent for a call or made for one."""

    def __init__(self, name: str, limits: PoolLimits, start: Start) -> None:
        self._name = name
        self._limits = limits
        self._start = start
        self._clients: OrderedDict[str, BackendSession] = OrderedDict()  # the least recently used first
        self._turns = trio.Semaphore(limits.borrowed, max_value=limits.borrowed)
        self._with_turn: set[BackendSession] = set()
        self._lent = 0
        self._idle: list[BackendSession] = []  # to be lent; the least recently used first
        self._spares: list[BackendSession] = []
        self._changed = trio.Event()

    # --- Sessions of clients --------------------------------------------------------------------------------------

    def of_client(self, caller: Caller) -> BackendSession:
        """The session of a client that has one with us; a new one where it has none here yet.

        Raises:
            MailboxFull: as many as may be are open, and all of them are working.
        """
        assert caller.session is not None
        session = self._clients.get(caller.session)
        if session is None or session.ended:
            if session is not None:
                session.let_go()  # of use to nobody, and its connection may last
            elif len(self._clients) >= self._limits.clients:
                self._evict_idle_client()
            told = Introduction(caller.capabilities, caller.info or OUR_INFO, caller.session)
            session = self._clients[caller.session] = self._start(told)
        self._clients.move_to_end(caller.session)
        return session

    def known_client(self, session: str) -> BackendSession | None:
        """The session of this client, if it has one."""
        return self._clients.get(session)

    def client_left(self, session: str) -> None:
        """Close the session of a client that is gone."""
        gone = self._clients.pop(session, None)
        if gone is not None:
            gone.let_go()

    def _evict_idle_client(self) -> None:
        idle = next((name for name, session in self._clients.items() if not session.busy), None)
        if idle is None:
            raise MailboxFull(
                f"{self._name} has {self._limits.clients} client sessions open and all of them are working; retry in a "
                "second, or raise pool.clients of its mount",
                {"actor": self._name, "retryAfter": 1.0},
            )
        self._clients.pop(idle).let_go()

    # --- Sessions for one call ------------------------------------------------------------------------------------

    async def borrow(self, caller: Caller) -> BackendSession:
        """A session for one call of a client that has none with us; waits while as many as may be are lent.

        It has introduced itself as that very client: no other client's call has been, or will be, on it.

        Raises:
            MailboxFull: as many calls as may be wait for their clients' answers.
        """
        await self._turn()
        told = Introduction(_without_changes(caller.capabilities), caller.info or OUR_INFO, None, _key(caller))
        for session in reversed(self._idle):
            if session.introduction.key == told.key:
                self._idle.remove(session)
                return self._lend(session)
        if self._idle and self._lent + len(self._idle) > self._limits.borrowed:
            self._idle.pop(0).let_go()
        return self._lend(self._start(told))

    async def fresh(self) -> BackendSession:
        """A session that nobody has used, for one call; the next one is opened meanwhile. Raises as `borrow` does."""
        await self._turn()
        session = self._spares.pop(0) if self._spares else self._start(OURS)
        self.prepare()
        return self._lend(session)

    async def _turn(self) -> None:
        self._refuse_too_many()
        await self._turns.acquire()
        try:
            self._refuse_too_many()  # of those that waited with it some ask their clients by now, and have no turn
        except MailboxFull:
            self._turns.release()
            raise
        self._lent += 1

    def _refuse_too_many(self) -> None:
        if self._lent >= self._limits.borrowed + self._limits.asking:
            raise MailboxFull(
                f"{self._name} has {self._lent} calls, most of which wait for their clients' answers; retry later, or "
                "raise pool.asking of its mount",
                {"actor": self._name, "retryAfter": 1.0},
            )

    def _lend(self, session: BackendSession) -> BackendSession:
        """A call that waits for its client's answer keeps nobody else waiting: it has no turn meanwhile."""
        self._with_turn.add(session)

        def asking(begins: bool) -> None:
            if begins:
                self._end_turn(session)
            else:
                with suppress(trio.WouldBlock):  # none is free: it goes on without one
                    self._turns.acquire_nowait()
                    self._with_turn.add(session)

        session.inbound.asking = asking
        return session

    def _end_turn(self, session: BackendSession) -> None:
        if session in self._with_turn:
            self._with_turn.remove(session)
            self._turns.release()

    def prepare(self) -> None:
        """Have as many spares as are wanted."""
        while len(self._spares) < self._limits.spares:
            self._spares.append(self._start(OURS))

    def give_back(self, session: BackendSession, *, reusable: bool) -> None:
        """The call is over, however it ended."""
        self._lent -= 1
        self._end_turn(session)
        session.inbound.asking = lambda begins: None
        if not reusable or session.ended or session.inbound.knows_roots:
            session.let_go()
        else:
            self._idle.append(session)
            self._changed.set()

    # --- All of them ----------------------------------------------------------------------------------------------

    def forget(self, session: BackendSession) -> None:
        """This session is closed, or could not be opened."""
        owner = session.introduction.session
        if owner is not None and self._clients.get(owner) is session:
            del self._clients[owner]
        for kept in (self._idle, self._spares):
            if session in kept:
                kept.remove(session)

    def used(self) -> None:
        """Somebody's session is idle now."""
        self._changed.set()

    async def close_idle(self) -> None:
        """Close, for as long as this runs, the sessions that nobody has used for a while."""
        while True:
            now, soonest = trio.current_time(), float("inf")
            self._changed = trio.Event()
            for session in [*self._clients.values(), *self._idle]:
                due = session.used_at + self._limits.idle
                if session.busy:
                    continue
                if due <= now:
                    self.forget(session)
                    session.let_go()
                else:
                    soonest = min(soonest, due)
            with trio.CancelScope(deadline=soonest):
                if soonest < float("inf"):
                    await trio.sleep_forever()
                await self._changed.wait()

    def let_all_go(self) -> None:
        """Close everything."""
        for session in [*self._clients.values(), *self._idle, *self._spares]:
            session.let_go()


def _key(caller: Caller) -> str:
    """The same for two calls that a backend may take for one client's."""
    return json.dumps([caller.principal, caller.info, caller.capabilities], sort_keys=True, default=str)


def _without_changes(capabilities: Mapping[str, Any]) -> Mapping[str, Any]:
    """A client without a session cannot say that its roots have changed."""
    roots = capabilities.get("roots")
    if not isinstance(roots, Mapping) or "listChanged" not in roots:
        return capabilities
    return {**capabilities, "roots": {key: value for key, value in roots.items() if key != "listChanged"}}

"""The actor that maps names to actors: what it learns of them, and the names that its table does not have yet.

Rule: nothing comes here that can be answered at the router's address (`router_ref.py`). What needs waiting (a list, a
name that is not in the table yet) runs in a task of that one request; the router's own loop never waits for a child.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from attrs import evolve

from mcpactors.actors.router_ref import NOTHING, REMEMBERED, ROUTER, RouterRef, forward, others
from mcpactors.actors.uris import matches
from mcpactors.errors import ActorUnavailable, MCPActorsError, MethodNotFound, NotFound
from mcpactors.runtime.actor import Actor, Forwarded
from mcpactors.runtime.circles import asked_for_gateways, with_gateways
from mcpactors.runtime.listing import page_of
from mcpactors.runtime.mailbox import ActorRef, Envelope, Request
from mcpactors.runtime.methods import CATALOG, FIELDS, LISTS, Address, address_of
from mcpactors.runtime.naming import KINDS, WORDS, Kind, nearest, unknown
from mcpactors.runtime.offers import Route
from mcpactors.runtime.reply import CallDeadlines, Failure, Outcome, ReplyChannel, Result
from mcpactors.runtime.routing import Listing

__all__ = ["MISSING", "RouterActor"]

MISSING: Final = "mcpactors/missing"
CHANGE_WINDOW: Final = 0.25
"""Seconds in which any number of changes of one actor are one refresh (promise F5)."""

_Answers = dict[ActorRef, tuple[int, Listing]]
"""What actors answered, with how many changes they had told when they were asked."""
AT_ONCE: Final = 200
"""Tools that are looked at before others have their turn; a millisecond or so."""


class RouterActor(Actor):
    """Answers lists, and finds the names that the table does not have yet."""

    kind = ROUTER

    def __init__(
        self, ref: RouterRef, list_budget: float = 2.0, page_size: int | None = None, start_timeout: float = 15.0
    ) -> None:
        self._ref = ref
        self._page_size = page_size
        ref.versions = 1 if page_size is None else REMEMBERED
        self._budget = CallDeadlines(idle=list_budget, total=list_budget)
        start = max(list_budget, start_timeout)
        self._start = CallDeadlines(idle=start, total=start)
        """A list does without who is still starting; a call that may be for it waits."""
        self._nursery: trio.Nursery | None = None
        self._refreshing: set[ActorRef] = set()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            yield
            nursery.cancel_scope.cancel()

    def receive_cast(self, message: object) -> None:
        assert self._nursery is not None, "the loop runs inside the lifespan"
        for ref in self._ref.take_changed():
            if ref not in self._refreshing:
                self._refreshing.add(ref)
                self._nursery.start_soon(self._refresh, ref)

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome | Forwarded:
        kind = LISTS.get(request.method)
        if kind is not None:
            return await self._list(kind, request)
        address = address_of(request.method, request.params)
        if address is None:
            raise MethodNotFound(f"{request.method} is not a method of this server", {"method": request.method})
        forward(Envelope(request, reply), await self._find_again(address))
        return Forwarded()

    async def _list(self, kind: Kind, request: Request) -> Result:
        cursor = request.params.get("cursor")
        missing: list[dict[str, Any]] = []
        if cursor is None:
            targets = dict.fromkeys(place.target for place in self._ref.table.places)
            missing = await self._gather(kind, targets)
        version = self._ref.version(kind)
        page = page_of(kind, cursor, version, lambda of: self._ref.recall(kind, of), self._page_size, self._ref.key)
        result: dict[str, Any] = {FIELDS[kind]: list(page.items)}
        if page.next_cursor is not None:
            result["nextCursor"] = page.next_cursor
        if missing:
            result["_meta"] = {MISSING: missing}
        if asked_for_gateways(request.params):
            result = with_gateways(result, self._ref.gateway, self._ref.through())
        return Result(result)

    async def _gather(self, kind: Kind, refs: Iterable[ActorRef], *, for_call: bool = False) -> list[dict[str, Any]]:
        """Learn what is not known fresh; see `_ask`. Returns who is missing."""
        answers, missing = await self._ask(kind, refs, for_call=for_call)
        await self._look_ahead(kind, answers)
        self._learn(kind, answers)
        return missing

    async def _ask(
        self, kind: Kind, refs: Iterable[ActorRef], *, for_call: bool = False
    ) -> tuple[_Answers, list[dict[str, Any]]]:
        """Ask all of whom it is not known fresh, at once, each within the list budget. Returns who is missing, too."""
        asked = [ref for ref in refs if ref is not self._ref and not self._is_fresh(ref, kind)]
        answers: _Answers = {}
        missing: list[dict[str, Any]] = []

        async def ask(ref: ActorRef) -> None:
            before = self._ref.changes(ref, kind)
            try:
                if ref.down is not None and self._ref.listing(ref, kind) is not None:
                    raise ref.unavailable()  # what it had stands in for it, and nobody waits
                patient = for_call and ref.state == "starting" and ref.down is None
                outcome = await ref.ask(
                    Request(CATALOG, {"kind": kind}), self._start if patient else self._budget_of(ref)
                )
            except MCPActorsError as error:
                outcome = Failure.of(error)
            if isinstance(outcome, Result):
                answers[ref] = (before, outcome.value["listing"])
            else:
                missing.append(self._missing(ref, kind, outcome))

        if len(asked) == 1:
            await ask(asked[0])
        elif asked:
            async with trio.open_nursery() as nursery:
                for ref in asked:
                    nursery.start_soon(ask, ref)
        return answers, sorted(missing, key=lambda row: str(row["actor"]))

    def _budget_of(self, ref: ActorRef) -> CallDeadlines:
        own = self._ref.budget_of(ref)
        return self._budget if own is None else CallDeadlines(idle=own, total=own)

    def _missing(self, ref: ActorRef, kind: Kind, why: Failure) -> dict[str, Any]:
        """A row of `mcpactors/missing`: who, why, what stands in the list instead; and seconds, where there are any.

        `since`: for how long it has been down. `age`: how long ago what is listed of it was learnt.
        """
        now, listing = trio.current_time(), self._ref.listing(ref, kind)
        starting = ref.state == "starting" and ref.down is None
        row: dict[str, Any] = {
            "actor": ref.name,
            "reason": "it is still starting" if starting else why.message,
            "listed": "no" if listing is None else "stale",
        }
        if ref.down is not None:
            row["since"] = round(now - ref.down.at, 3)
        if listing is not None:
            row["age"] = round(now - listing.learnt_at, 3)
        return row

    async def _look_ahead(self, kind: Kind, answers: _Answers) -> None:
        """Do what takes long of learning a long list, a part at a time: others have their turns."""
        for ref, (_, listing) in answers.items() if kind == "tools" else ():
            known = self._ref.listing(ref, kind) or NOTHING
            if len(listing.items) > AT_ONCE and (new := others(known.items, listing.items)):
                for first in range(0, len(new), AT_ONCE):
                    self._ref.look_ahead(ref, new[first : first + AT_ONCE])
                    await trio.lowlevel.checkpoint()

    def _learn(self, kind: Kind, answers: _Answers) -> None:
        """Publish answers; one that may be from before a change is not kept as fresh."""
        learnt = {
            ref: listing if before == self._ref.changes(ref, kind) else evolve(listing, fresh=False)
            for ref, (before, listing) in answers.items()
        }
        self._ref.learn(kind, learnt)

    def _is_fresh(self, ref: ActorRef, kind: Kind) -> bool:
        known = self._ref.listing(ref, kind)
        return known is not None and known.fresh

    async def _find_again(self, address: Address) -> Route[ActorRef]:
        """Where a name leads that the table does not have: ask those that could have it what they have now."""
        kinds: tuple[Kind, ...] = ("resources", "templates") if address.kind == "resources" else (address.kind,)
        routes = self._ref.table.candidates(address.kind, address.name)
        candidates = [route for route in routes if route.target is not self._ref]
        missing: list[dict[str, Any]] = []
        for depth in sorted({len(route.namespace.parts) for route in candidates}, reverse=True):
            asked = dict.fromkeys(route.target for route in candidates if len(route.namespace.parts) == depth)
            for kind in kinds:
                missing += await self._gather(kind, asked, for_call=True)
            route = self._ref.find(address)
            if route is not None:
                return route  # whoever hangs in a shallower namespace is not waited for
        if missing:
            who = missing[0]
            raise ActorUnavailable(
                f"no mount that is up has the {WORDS[address.kind]} {address.name!r}, and {who['actor']}, which may "
                f"have it, cannot be asked: {who['reason']}",
                {key: who[key] for key in ("actor", "reason", "since") if key in who},
            )
        if address.kind == "resources":
            for route in candidates:
                if self._ref.table.hides(route, address.name, matches):
                    continue
                if route.namespace or self._lists_any(route.target, kinds):
                    return route  # servers read URIs that they do not list: links in their results
        raise _not_found(address, self._ref.table.of(address.kind).routes)

    def _lists_any(self, ref: ActorRef, kinds: Iterable[Kind]) -> bool:
        return any((known := self._ref.listing(ref, kind)) and known.items for kind in kinds)

    async def _refresh(self, ref: ActorRef) -> None:
        """Learn anew what an actor offers, a moment after it said that this changed."""
        try:
            await trio.sleep(CHANGE_WINDOW if self._ref.listing(ref, "tools") is not None else 0)
        finally:
            self._refreshing.discard(ref)
        answers = [(kind, (await self._ask(kind, [ref]))[0]) for kind in KINDS]
        for kind, answer in answers:
            await self._look_ahead(kind, answer)
        for kind, answer in answers:  # all at once, so that clients are told of resources and templates together
            self._learn(kind, answer)


def _not_found(address: Address, known: Iterable[str]) -> NotFound:
    near = nearest(address.name, known)
    hint = f" (did you mean {near}?)" if near is not None else ""
    return unknown(address.kind, address.name, hint)

"""The actor that maps names to actors.

Rule: a name that is in the table is looked up by a pure function in the caller's own task and the envelope goes
straight to its actor, with the caller's own reply channel, so the answer does not come back through here. What needs
waiting (a list, a name that is not in the table yet) runs in a task of that one request; the router's own loop never
waits for a child.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from difflib import get_close_matches
from secrets import token_bytes, token_hex
from typing import Any, Final

import trio
from attrs import evolve

from mcpactors.actors.uris import matches
from mcpactors.errors import ActorUnavailable, MCPActorsError, MethodNotFound, NotFound
from mcpactors.runtime.actor import Actor, Forwarded
from mcpactors.runtime.circles import asked_for_gateways, with_gateways
from mcpactors.runtime.listing import page_of
from mcpactors.runtime.mailbox import ActorRef, Envelope, Mailbox, Request
from mcpactors.runtime.methods import CATALOG, FIELDS, LISTS, Address, address_of, readdressed
from mcpactors.runtime.naming import KINDS, NAME_LENGTH, WORDS, Kind, Namespace, UriFormat, unknown
from mcpactors.runtime.remarks import remarks
from mcpactors.runtime.reply import CallDeadlines, Failure, Outcome, ReplyChannel, Result
from mcpactors.runtime.routing import (
    Change,
    ConflictPolicy,
    KindTable,
    ListChanged,
    Listing,
    Mount,
    ResourceUpdated,
    Route,
    RoutingTable,
)

logger = logging.getLogger("mcpactors")

__all__ = ["MISSING", "RouterActor", "RouterRef"]

MISSING: Final = "mcpactors/missing"
CHANGE_WINDOW: Final = 0.25
"""Seconds in which any number of changes of one actor are one refresh (promise F5)."""

_Listings = Mapping[ActorRef, Listing]
_Answers = dict[ActorRef, tuple[int, Listing]]
"""What actors answered, with how many changes they had told when they were asked."""
_NOTHING: Final = Listing()
_LOOK: Final = "some actors have changed"
AT_ONCE: Final = 200
"""Tools that are looked at before others have their turn; a millisecond or so."""
REMEMBERED: Final = 16
"""Versions of a list that are kept for clients that are between two pages of it."""


class RouterRef(ActorRef):
    """The router's address. It holds the published table: an immutable value, swapped when something changes."""

    __slots__ = (
        "_changed",
        "_changes",
        "_listeners",
        "_listings",
        "_policy",
        "_recent",
        "_root",
        "_there",
        "_version",
        "budget_of",
        "examine",
        "gateway",
        "key",
        "look_ahead",
        "table",
        "tree",
    )

    def __init__(self, name: str, policy: ConflictPolicy = "newest", uri_format: UriFormat = "path") -> None:
        super().__init__(name, RouterActor.kind, Mailbox(name))
        self.tree: Mount[ActorRef] = Mount(self)
        self._policy = policy
        self._root = Namespace((), uri_format)
        self.table: RoutingTable[ActorRef] = RoutingTable(tuple(self.tree.flatten(policy, self._root)))
        self._there: set[ActorRef] = {self}
        self._listings: dict[Kind, _Listings] = {kind: {} for kind in KINDS}
        self._changed: dict[ActorRef, None] = {}
        self._changes: Counter[tuple[ActorRef, Kind]] = Counter()
        self._listeners: dict[Callable[[Change], None], None] = {}
        self._recent: dict[Kind, dict[int, Sequence[Mapping[str, Any]]]] = {kind: {0: ()} for kind in KINDS}
        self._version = 0
        self.examine: Callable[[ActorRef, Sequence[Mapping[str, Any]]], None] = lambda ref, tools: None
        """Shown those tools of an actor that are not what they were, before they are published; may remount."""
        self.look_ahead: Callable[[ActorRef, Sequence[Mapping[str, Any]]], None] = lambda ref, tools: None
        """Shown some of those before, to do what takes long."""
        self.budget_of: Callable[[ActorRef], float | None] = lambda ref: None
        """Seconds that a list waits for an actor which has a budget of its own."""
        self.key = token_bytes(16)
        """Seals the cursors of this run."""
        self.gateway = token_hex(8)
        """The id of the gateway that it is: runtime/circles.py."""

    def offer(self, envelope: Envelope) -> None:
        """Hand a request to the actor that its name leads to; what has no name in the table is the router's own.

        Raises:
            InvalidParams: the params have no usable name.
            MailboxFull, ActorStopped, ActorUnavailable: what that actor's mailbox says.
        """
        request = envelope.request
        address = address_of(request.method, request.params)
        route = self.find(address) if address is not None else None
        if route is None:
            super().offer(envelope)
        else:
            forward(envelope, route)

    def find(self, address: Address) -> Route[ActorRef] | None:
        """Where the name leads, by the table as it is now."""
        return self.table.find(address.kind, address.name, matches)

    def listing(self, ref: ActorRef, kind: Kind) -> Listing | None:
        """What was last learnt of one actor, if anything."""
        return self._listings[kind].get(ref)

    def through(self) -> frozenset[str]:
        """The ids of the gateways that something in this table has come through."""
        return frozenset().union(
            *(it.through for known in self._listings.values() for it in known.values() if it.items)
        )

    def remount(self, tree: Mount[ActorRef]) -> None:
        """Put another tree in the place of the one there is. Conflicts are resolved; who refuses them asks `table`."""
        places = tuple(tree.flatten(self._policy, self._root))
        self._there = there = {place.target for place in places}
        kept = {kind: {ref: it for ref, it in self._listings[kind].items() if ref in there} for kind in KINDS}
        tables = [KindTable.build(kind, places, kept[kind]) for kind in KINDS]
        self.tree, self._listings = tree, dict(kept)
        self._changes = Counter({key: number for key, number in self._changes.items() if key[0] in there})
        before, self.table = self.table, RoutingTable(places, *tables)
        for kind in KINDS:
            self._publish(kind, before.of(kind))

    def learn(self, kind: Kind, learnt: Mapping[ActorRef, Listing]) -> None:
        """Publish what was learnt; the table is made anew only when something in it is different."""
        known = self._listings[kind]
        news = {
            ref: listing
            for ref, listing in learnt.items()
            if ref in self._there and (ref not in known or known[ref].learnt_at <= listing.learnt_at)
        }
        if not news:
            return
        if kind == "tools":
            for ref, listing in news.items():
                if others := _others(known.get(ref, _NOTHING).items, listing.items):
                    self.examine(ref, others)
        listings = {**known, **news}
        if any(known.get(ref, _NOTHING).items != listing.items for ref, listing in news.items()):
            before = self.table.of(kind)
            changes: dict[str, Any] = {kind: KindTable.build(kind, self.table.places, listings)}
            self.table = evolve(self.table, **changes)
            self._publish(kind, before)
        self._listings[kind] = listings

    def forget(self, ref: ActorRef) -> None:
        """List nothing of this actor, until it is learnt anew: what it had does not stand in for it."""
        for kind in KINDS:
            self.learn(kind, {ref: Listing(learnt_at=trio.current_time())})

    def changed(self, ref: ActorRef, kinds: Iterable[Kind] = KINDS, *, ask: bool = True) -> None:
        """What this actor offers is not what it was: never list it again without asking, and ask soon.

        However many actors say so at once, the router's mailbox gets one message.
        """
        for kind in kinds:
            self._changes[ref, kind] += 1
            known = self._listings[kind].get(ref)
            if known is not None and known.fresh:
                self._listings[kind] = {**self._listings[kind], ref: evolve(known, fresh=False)}
        if ask:
            if not self._changed:
                self.cast(_LOOK)
            self._changed[ref] = None

    def changes(self, ref: ActorRef, kind: Kind) -> int:
        """How often this actor has said that what it offers of a kind is not what it was."""
        return self._changes[ref, kind]

    def take_changed(self) -> list[ActorRef]:
        """Who changed since this was last called."""
        taken = list(self._changed)
        self._changed.clear()
        return taken

    def updated(self, ref: ActorRef, own_uri: str) -> None:
        """What this actor has at one of its URIs has changed: tell whoever listens, by every name that it has here."""
        for uri in self.uris(ref, own_uri):
            self._tell(ResourceUpdated(uri))

    def uris(self, ref: ActorRef, own_uri: str) -> Iterator[str]:
        """Every name that one of this actor's URIs has here."""
        for place in self.table.places:
            if place.target is ref:
                yield place.namespace.outward("resources", own_uri)

    def listen(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Have `listener(change)` called, at once and in no task of its own, at every change.

        Returns what ends that.
        """
        self._listeners[listener] = None
        return lambda: self._listeners.pop(listener, None) and None

    def version(self, kind: Kind) -> int:
        """The number of the list of a kind as it is now."""
        return max(self._recent[kind])

    def recall(self, kind: Kind, version: int) -> Sequence[Mapping[str, Any]] | None:
        """The list of a kind as it was at a version; None when that is forgotten."""
        return self._recent[kind].get(version)

    def _publish(self, kind: Kind, before: KindTable[ActorRef]) -> None:
        after = self.table.of(kind)
        for remark in remarks(before, after):
            logger.warning("%s: %s", self.name, remark)
        items = after.items
        if items == before.items:
            return
        self._version += 1
        recent = self._recent[kind]
        recent[self._version] = items
        if len(recent) > REMEMBERED:
            del recent[next(iter(recent))]
        self._tell(ListChanged(kind))

    def _tell(self, change: Change) -> None:
        for listener in list(self._listeners):
            listener(change)


def forward(envelope: Envelope, route: Route[ActorRef]) -> None:
    """Offer the envelope to the actor it is for, under that actor's own name for what is asked.

    Where parents have middleware it goes through them first, outermost first.
    """
    request, reply = envelope.request, envelope.reply
    if not (route.namespace or route.overrides or route.through):
        route.target.offer(envelope)
        return
    reply.namespace = reply.namespace.around(route.namespace)  # an import's source is a tree within the tree
    method, params = request.method, request.params
    if route.overrides and method == "tools/call":
        params = {**params, "arguments": route.arguments(params.get("arguments") or {})}
    stops = [*_stops(route, method, request.params), (route.target, route.own)]
    (first, name), *onward = stops
    first.offer(Envelope(Request(method, readdressed(method, params, name), request.caller, tuple(onward)), reply))


def _stops(route: Route[ActorRef], method: str, params: Mapping[str, Any]) -> Iterator[tuple[ActorRef, str]]:
    """The parents whose middleware is passed, each with the name that it would list the target's by."""
    if not route.through:
        return
    address = address_of(method, params)
    assert address is not None
    for passed in route.through:
        yield passed.target, route.name_in(address.kind, passed)


class RouterActor(Actor):
    """Answers lists, and finds the names that the table does not have yet."""

    kind = "router"

    def __init__(
        self, ref: RouterRef, list_budget: float = 2.0, page_size: int | None = None, start_timeout: float = 15.0
    ) -> None:
        self._ref = ref
        self._page_size = page_size
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
            known = self._ref.listing(ref, kind) or _NOTHING
            if len(listing.items) > AT_ONCE and (others := _others(known.items, listing.items)):
                for first in range(0, len(others), AT_ONCE):
                    self._ref.look_ahead(ref, others[first : first + AT_ONCE])
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


def _others(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """What is listed now, and was not, or not so."""
    if not before or before == now:
        return () if before else now
    known = {str(item.get("name")): item for item in before}
    return [item for item in now if known.get(str(item.get("name"))) != item]


def _not_found(address: Address, known: Iterable[str]) -> NotFound:
    near = get_close_matches(address.name, known, n=1, cutoff=0.8) if len(address.name) <= NAME_LENGTH else []
    hint = f" (did you mean {near[0]}?)" if near else ""
    return unknown(address.kind, address.name, hint)

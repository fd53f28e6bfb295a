"""The router's address, which has the published table: where a name leads is found here, before any actor is asked.

Rule: nothing here waits. A name that is in the table is looked up by a pure function in the caller's own task and the
envelope goes straight to its actor, with the caller's own reply channel, so the answer does not come back through the
router. The table is an immutable value, swapped when something changes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from secrets import token_bytes, token_hex
from typing import Any, Final

import trio
from attrs import evolve

from mcpactors.actors.uris import matches
from mcpactors.runtime.mailbox import ActorRef, Envelope, Mailbox, Request
from mcpactors.runtime.methods import Address, address_of, readdressed
from mcpactors.runtime.naming import KINDS, Kind, Namespace, UriFormat
from mcpactors.runtime.offers import Route
from mcpactors.runtime.remarks import remarks, strays, tell_strays
from mcpactors.runtime.routing import (
    Change,
    ConflictPolicy,
    KindTable,
    ListChanged,
    Listing,
    Mount,
    ResourceUpdated,
    RoutingTable,
)

logger = logging.getLogger("mcpactors")

__all__ = ["HELD", "NOTHING", "REMEMBERED", "ROUTER", "RouterRef", "forward", "others"]

ROUTER: Final = "router"
"""The kind of the actor."""
NOTHING: Final = Listing()
_Listings = Mapping[ActorRef, Listing]
_Version = tuple[Sequence[Mapping[str, Any]], int]
"""A list as clients see it, and its parts."""
_LOOK: Final = "some actors have changed"
REMEMBERED: Final = 16
"""Versions of a list that comes in pages, kept for clients that are between two of them."""
HELD: Final = 1_000_000
"""Parts of them, arrays, objects and members of them, above which older ones are forgotten: a hundred MB or so."""


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
        "_strays",
        "_there",
        "_version",
        "budget_of",
        "examine",
        "gateway",
        "key",
        "look_ahead",
        "table",
        "tree",
        "versions",
    )

    def __init__(self, name: str, policy: ConflictPolicy = "newest", uri_format: UriFormat = "path") -> None:
        super().__init__(name, ROUTER, Mailbox(name))
        self.tree: Mount[ActorRef] = Mount(self)
        self._policy = policy
        self._root = Namespace((), uri_format)
        self.table: RoutingTable[ActorRef] = RoutingTable(tuple(self.tree.flatten(policy, self._root)))
        self._there: set[ActorRef] = {self}
        self._listings: dict[Kind, _Listings] = {kind: {} for kind in KINDS}
        self._changed: dict[ActorRef, None] = {}
        self._changes: Counter[tuple[ActorRef, Kind]] = Counter()
        self._listeners: dict[Callable[[Change], None], None] = {}
        self._recent: dict[Kind, dict[int, _Version]] = {kind: {0: ((), 0)} for kind in KINDS}
        self._version = 0
        self._strays: frozenset[tuple[str, str]] = frozenset()
        self.versions = 1
        """Of a list that are kept: older ones are only for who has a cursor."""
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
        tables = [KindTable.build(kind, places, kept[kind], before=self.table.of(kind)) for kind in KINDS]
        self.tree, self._listings = tree, dict(kept)
        self._changes = Counter({key: number for key, number in self._changes.items() if key[0] in there})
        before, self.table = self.table, RoutingTable(places, *tables)
        for kind in KINDS:
            self._publish(kind, before.of(kind))
        self._look_for_strays()

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
                if new := others(known.get(ref, NOTHING).items, listing.items):
                    self.examine(ref, new)
        self._listings[kind] = listings = {**known, **news}
        if any(known.get(ref, NOTHING).items != listing.items for ref, listing in news.items()):
            before = self.table.of(kind)
            changes: dict[str, Any] = {kind: KindTable.build(kind, self.table.places, listings, before=before)}
            self.table = evolve(self.table, **changes)
            self._publish(kind, before)
        if kind == "tools" and any(ref not in known or known[ref].items != it.items for ref, it in news.items()):
            self._look_for_strays()

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
        return self._recent[kind].get(version, (None, 0))[0]

    def parts(self, kind: Kind) -> int:
        """Arrays, objects and members of them, in what is listed of a kind."""
        return sum(listing.parts for listing in self._listings[kind].values())

    def _publish(self, kind: Kind, before: KindTable[ActorRef]) -> None:
        after = self.table.of(kind)
        for remark in remarks(before, after):
            logger.warning("%s: %s", self.name, remark)
        items = after.items
        if items == before.items:
            return
        self._version += 1
        recent = self._recent[kind]
        recent[self._version] = (items, self.parts(kind))
        while len(recent) > self.versions or (len(recent) > 1 and sum(held for _, held in recent.values()) > HELD):
            del recent[next(iter(recent))]
        self._tell(ListChanged(kind))

    def _look_for_strays(self) -> None:
        before, self._strays = self._strays, strays(self.table.places, self._listings["tools"])
        if fresh := self._strays - before:
            logger.warning("%s: %s", self.name, tell_strays(fresh))

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


def others(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """What is listed now, and was not, or not so."""
    if not before or before == now:
        return () if before else now
    known = {str(item.get("name")): item for item in before}
    return [item for item in now if known.get(str(item.get("name"))) != item]

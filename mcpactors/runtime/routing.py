"""Which actor answers for which name: mounts, and the one table that lists and calls both read.

Rule: everything in this file is a pure function or an immutable value; no trio, no MCP types, no I/O. The law it
keeps (design.md section 5): *every listed name, when called, reaches the actor that listed it, under the name it uses
itself*. What a name is in a namespace, `naming` says; what one place of the tree offers, `offers`.

An unlisted URI is first taken back to what a namespace that it could be in calls it, and the templates are held
against that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Final, Generic, Literal, TypeVar

from attrs import define, evolve, field, frozen

from mcpactors.errors import NameConflict
from mcpactors.runtime.naming import (
    BETWEEN,
    KEYS,
    TOLD,
    Kind,
    Namespace,
    UriFormat,
    has_literals,
    literals,
    prefixes,
    remove_resource_prefix,
)
from mcpactors.runtime.offers import Offer, Passed, Place, Route, Step
from mcpactors.runtime.visibility import ToolOverride, Visibility

__all__ = [
    "Change",
    "Conflict",
    "ConflictPolicy",
    "KindTable",
    "ListChanged",
    "Listing",
    "Mount",
    "ResourceUpdated",
    "RoutingTable",
    "tell_conflicts",
]

T = TypeVar("T", bound=Hashable)

ConflictPolicy = Literal["newest", "oldest", "error"]


# --- The tree of mounts -------------------------------------------------------------------------------------------


@frozen
class Mount(Generic[T]):
    """One place in the tree: who answers there, under which namespace, and what is mounted below, oldest first."""

    target: T
    namespace: str | None = None
    children: tuple[Mount[T], ...] = ()
    filters: tuple[Visibility, ...] = ()
    """Who may see what of this mount and of all below it; names are as seen inside this mount."""
    tools: Mapping[str, ToolOverride] = field(factory=dict)
    """How tools of this mount, and of all below it, are shown; names are as seen inside this mount."""
    wraps: bool = False
    """Whether the target's middleware goes around calls to what is mounted below it."""

    def flatten(self, policy: ConflictPolicy = "newest", root: Namespace | None = None) -> Iterator[Place[T]]:
        """Every place of the tree with its whole namespace, those that win a conflict first.

        A parent's own components come before its children's; among children the newest (or the oldest) first. `root`
        is the namespace of the root, which says the URI format.
        """
        return self._flatten(policy, Place(self.target, root if root is not None else Namespace()))

    def _flatten(self, policy: ConflictPolicy, above: Place[T]) -> Iterator[Place[T]]:
        namespace = above.namespace.within(self.namespace)
        steps = (Step(self.namespace, self.filters, self.tools), *above.steps)
        yield Place(self.target, namespace, above.rank, steps, above.through)
        wraps = (Passed(self.target, len(namespace.parts), len(steps)),) if self.wraps else ()
        children = list(enumerate(self.children))
        for index, child in children if policy == "oldest" else reversed(children):
            rank, through = (*above.rank, index), (*above.through, *wraps)
            yield from child._flatten(policy, Place(self.target, namespace, rank, steps, through))


@frozen
class Conflict:
    """A name that several mounts offer: `winner` and `shadowed` are names of actors."""

    kind: Kind
    name: str
    winner: str
    shadowed: str


@frozen
class Listing:
    """What one actor offers of one kind, as it lists it.

    `fresh` means: need not be asked for again until the actor says that it changed. `learnt_at` is on the clock of
    the run, in seconds.
    """

    items: tuple[Mapping[str, Any], ...] = ()
    fresh: bool = False
    learnt_at: float = 0.0
    through: frozenset[str] = frozenset()
    """The ids of the gateways that the items have come through: circles.py."""
    parts: int = 0
    """Arrays, objects and members of them in its items, where they were counted: what it takes of memory."""


# --- The table ----------------------------------------------------------------------------------------------------


@define(eq=False)
class KindTable(Generic[T]):
    """The names of one kind: where each leads and how it is listed. Built once, never changed."""

    kind: Kind
    routes: Mapping[str, Route[T]] = field(factory=dict)
    items: tuple[Mapping[str, Any], ...] = ()
    """The list as clients see it: in the order of mounting, each actor's items in its own order."""
    conflicts: tuple[Conflict, ...] = ()
    hidden: Mapping[str, frozenset[T]] = field(factory=dict)
    """Names that a filter hides, and of whom: neither listed nor served."""
    offers: Mapping[tuple[int, ...], Offer[T]] = field(factory=dict, repr=False)
    """What it was made of, by the rank of the place: for the table that comes after it."""

    @classmethod
    def build(
        cls,
        kind: Kind,
        places: Sequence[Place[T]],
        listings: Mapping[T, Listing],
        policy: ConflictPolicy = "newest",
        before: KindTable[T] | None = None,
    ) -> KindTable[T]:
        """Make the table from places in order of precedence and what their actors list.

        What is as it was in the table `before` is taken from there.

        An item without a name of its own is left out (an empty name cannot be called); so is the second of two
        with one name from one actor.

        Raises:
            NameConflict: two mounts offer one name and the policy is "error".
        """
        routes: dict[str, Route[T]] = {}
        conflicts: dict[Conflict, None] = {}
        hidden: dict[str, frozenset[T]] = {}
        kept: list[tuple[tuple[int, ...], Iterable[Mapping[str, Any]]]] = []
        offers: dict[tuple[int, ...], Offer[T]] = {}
        for place in places:
            items, known = listings.get(place.target, _NOTHING).items, before.offers.get(place.rank) if before else None
            offer = known if known is not None and known.is_of(place, items) else Offer.of(kind, place, items)
            offers[place.rank] = offer
            free, others = offer.beside(routes)
            routes.update(free)
            for name, other in others:
                if not routes[name].is_that_of(other):
                    conflicts[Conflict(kind, name, str(routes[name].target), str(place.target))] = None
            kept.append((place.rank, map(offer.items.__getitem__, free)))
            for name in offer.hidden:
                hidden[name] = hidden.get(name, frozenset()) | {place.target}
        if conflicts and policy == "error":
            raise NameConflict(tell_conflicts(tuple(conflicts)))
        kept.sort(key=lambda row: row[0])
        return cls(kind, routes, tuple(chain.from_iterable(mine for _, mine in kept)), tuple(conflicts), hidden, offers)

    @cached_property
    def _by_name(self) -> dict[str, Mapping[str, Any]]:
        key = KEYS[self.kind]
        return {item[key]: item for item in self.items}

    def item(self, name: str) -> Mapping[str, Any] | None:
        """What is listed under this name."""
        return self._by_name.get(name)

    @cached_property
    def _by_prefix(self) -> tuple[UriFormat, int, Mapping[str, list[tuple[Sequence[str], Route[T]]]]]:
        """The URI format, the most namespaces one within another, and per prefix (literals, route) of each."""
        found: dict[str, list[tuple[Sequence[str], Route[T]]]] = {}
        uri_format: UriFormat = "path"
        for route in self.routes.values():
            uri_format = route.namespace.uri_format
            found.setdefault(route.namespace.uri_prefix, []).append((literals(route.own), route))
        depth = max((prefix.count(BETWEEN[uri_format]) + 1 for prefix in found if prefix), default=0)
        return uri_format, depth, found

    def matching(self, uri: str, matches: Callable[[str, str], bool], but: Collection[T] = ()) -> Route[T] | None:
        """Where a URI leads that a template here stands for: to the deepest namespace, then by precedence.

        Not to one of `but`: they hide it.
        """
        uri_format, depth, by_prefix = self._by_prefix
        for prefix in prefixes(uri, uri_format, depth):
            rows = by_prefix.get(prefix, ())
            own = remove_resource_prefix(uri, prefix, uri_format) if prefix else uri
            for fixed, route in rows:
                if has_literals(fixed, own) and matches(route.own, own) and route.target not in but:
                    return evolve(route, own=own)
        return None


_NOTHING: Final = Listing()


def tell_conflicts(conflicts: Sequence[Conflict]) -> str:
    """The conflicts, in a line for people."""
    said = "; ".join(f"{c.kind} {c.name!r}: {c.winner} and {c.shadowed}" for c in conflicts[:TOLD])
    more = f" and {len(conflicts) - TOLD} more" if len(conflicts) > TOLD else ""
    return f"mounts offer the same names: {said}{more}; give one of them another namespace"


@frozen
class RoutingTable(Generic[T]):
    """The whole table: one `KindTable` a kind, and the places in order of precedence."""

    places: tuple[Place[T], ...] = ()
    tools: KindTable[T] = KindTable("tools")
    prompts: KindTable[T] = KindTable("prompts")
    resources: KindTable[T] = KindTable("resources")
    templates: KindTable[T] = KindTable("templates")

    def of(self, kind: Kind) -> KindTable[T]:
        """The table of one kind."""
        found: KindTable[T] = getattr(self, kind)
        return found

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        """Every name that is shadowed."""
        return (*self.tools.conflicts, *self.prompts.conflicts, *self.resources.conflicts, *self.templates.conflicts)

    def find(self, kind: Kind, name: str, matches: Callable[[str, str], bool]) -> Route[T] | None:
        """Where a name leads, or None. Costs the same at any depth and with any number of mounts.

        A resource's URI that is not listed is looked for among the templates of the namespaces it could be in:
        `matches(template, uri)` decides, given both as the template's actor knows them.
        """
        route = self.of(kind).routes.get(name)
        if route is not None or kind != "resources":
            return route
        return self.templates.matching(name, matches, self.resources.hidden.get(name, ()))

    def hides(self, route: Route[T], uri: str, matches: Callable[[str, str], bool]) -> bool:
        """Whether a filter on the way to an actor hides a URI that it does not list, or lists and hides."""
        return (
            route.target in self.resources.hidden.get(uri, ())
            or any(
                route.target in of
                and (own := route.namespace.inward("templates", template)) is not None
                and matches(own, route.own)  # as the actor knows both: a namespace may stand elsewhere in each
                for template, of in self.templates.hidden.items()
            )
            or not any(
                place.shown("resources", route.own, {"uri": route.own}).visible
                for place in self.places
                if (place.target, place.namespace) == (route.target, route.namespace)
            )
        )

    def candidates(self, kind: Kind, name: str) -> list[Route[T]]:
        """Who could know an unlisted name, by namespaces and renames: the deepest first, then by precedence."""
        found = [
            Route(place.target, own, place.namespace, through=place.through)
            for place in self.places
            if (own := place.inward(kind, name)) is not None
        ]
        return sorted(found, key=lambda route: -len(route.namespace.parts))


# --- Changes ------------------------------------------------------------------------------------------------------


@frozen
class ListChanged:
    """The list of a kind is not what it was."""

    kind: Kind


@frozen
class ResourceUpdated:
    """What is at this URI, as the root lists it, has changed."""

    uri: str


Change = ListChanged | ResourceUpdated

"""One place in the tree of mounts: what its actor offers there, and where the names for that lead.

Rule: everything in this file is a pure function or an immutable value; no trio, no MCP types, no I/O. Nothing here
knows of other places: who wins where several offer one name, `routing` says. So what a place offers is found once, and
stays as it is while others change.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from attrs import evolve, field, frozen

from mcpactors.runtime.naming import KEYS, Kind, Namespace
from mcpactors.runtime.visibility import ToolOverride, Visibility

__all__ = ["Offer", "Passed", "Place", "Route", "Step"]

T = TypeVar("T", bound=Hashable)


@frozen
class Step:
    """What one mount on the way from an actor to the root does to the names that come through it."""

    namespace: str | None
    filters: tuple[Visibility, ...] = ()
    tools: Mapping[str, ToolOverride] = field(factory=dict)


@frozen
class Passed(Generic[T]):
    """A parent whose middleware a call passes."""

    target: T
    parts: int
    """How many parts of the whole namespace lie outside of it."""
    steps: int
    """How many mounts there are from the root to it, both counted."""


@frozen
class Place(Generic[T]):
    """One entry of the flattened tree; `rank` sorts places as lists show them: parents first, then oldest first."""

    target: T
    namespace: Namespace
    rank: tuple[int, ...] = ()
    steps: tuple[Step, ...] = ()
    """The mounts between the actor and the root, innermost first."""
    through: tuple[Passed[T], ...] = ()
    """Whose middleware a call passes, outermost first."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the namespace stands between the actor and the root."""
        return not any(step.filters or step.tools for step in self.steps)

    def inward(self, kind: Kind, name: str) -> str | None:
        """What the actor may call what the root calls `name`; None when nothing of it can have that name."""
        if kind != "tools" or self.is_plain:
            return self.namespace.inward(kind, name)
        for step in reversed(self.steps):
            found = Namespace(() if step.namespace is None else (step.namespace,)).inward(kind, name)
            if found is None:
                return None
            name = next((old for old, override in step.tools.items() if override.name == found), found)
        return name

    def shown(self, kind: Kind, own: str, item: Mapping[str, Any]) -> Shown:
        """How the root lists what the actor calls `own`."""
        name, overrides, visible, names = own, [], True, []
        for step in self.steps:
            visible = visible and all(rules.shows(kind, name, item) for rules in step.filters)
            override = step.tools.get(name) if kind == "tools" else None
            if override is not None:
                item, name = override.shown(item), override.name or name
                overrides.append(override)
            if step.namespace is not None:
                name = Namespace((step.namespace,), self.namespace.uri_format).outward(kind, name)
            names.append(name)
        return Shown(name, item, visible, tuple(overrides), tuple(names) if overrides else ())


@frozen
class Shown:
    """An item on its way out: its name at the root, what is listed, whether it is, and which overrides it passed."""

    name: str
    item: Mapping[str, Any]
    visible: bool = True
    overrides: tuple[ToolOverride, ...] = ()
    names: tuple[str, ...] = ()
    """Its name after each step, innermost first, where overrides have a say in it."""


@frozen
class Route(Generic[T]):
    """Where a name leads: the actor, its own name for it, and the namespace that lies between."""

    target: T
    own: str
    namespace: Namespace
    overrides: tuple[ToolOverride, ...] = ()
    """What happens to a tool's arguments on the way in; innermost first."""
    through: tuple[Passed[T], ...] = ()
    names: tuple[str, ...] = ()
    """Its name after each step, innermost first, where overrides have a say in it."""

    def is_that_of(self, other: Route[T]) -> bool:
        """Whether both lead to the same: an actor may be mounted twice in one place."""
        return (self.target, self.own, self.namespace) == (other.target, other.own, other.namespace)

    def name_in(self, kind: Kind, passed: Passed[T]) -> str:
        """The name under which a parent on the way would list it."""
        if self.names:
            return self.names[-passed.steps - 1]
        return evolve(self.namespace, parts=self.namespace.parts[passed.parts :]).outward(kind, self.own)

    def arguments(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments as the actor gets them."""
        for override in reversed(self.overrides):
            given = override.arguments(given)
        return given


@frozen(eq=False)
class Offer(Generic[T]):
    """What a place offers of one kind, under the names that the root has for it."""

    place: Place[T]
    source: Sequence[Mapping[str, Any]]
    """What its actor lists."""
    routes: Mapping[str, Route[T]]
    items: Mapping[str, Mapping[str, Any]]
    """What the root lists, in the actor's own order."""
    second: Sequence[tuple[str, Route[T]]]
    """What else of it would have one of these names."""
    hidden: frozenset[str]
    """Names that a filter hides."""

    @classmethod
    def of(cls, kind: Kind, place: Place[T], source: Sequence[Mapping[str, Any]]) -> Offer[T]:
        """Find it, from what the place's actor lists. What has no name of its own is left out: it cannot be called."""
        key, plain = KEYS[kind], place.is_plain
        routes: dict[str, Route[T]] = {}
        items: dict[str, Mapping[str, Any]] = {}
        second: list[tuple[str, Route[T]]] = []
        hidden: set[str] = set()
        for item in source:
            own = item.get(key)
            if not isinstance(own, str) or not own:
                continue
            if plain:
                full = place.namespace.outward(kind, own)
                route = Route(place.target, own, place.namespace, (), place.through)
            else:
                shown = place.shown(kind, own, item)
                full, item = shown.name, shown.item
                if not shown.visible:
                    hidden.add(full)
                    continue
                route = Route(place.target, own, place.namespace, shown.overrides, place.through, shown.names)
            if full in routes:
                second.append((full, route))
            else:
                routes[full] = route
                items[full] = item if full == own else {**item, key: full}
        return cls(place, source, routes, items, second, frozenset(hidden))

    def is_of(self, place: Place[T], source: Sequence[Mapping[str, Any]]) -> bool:
        """Whether it is what this place offers when its actor lists that."""
        return self.source is source and self.place == place

    def beside(self, taken: Mapping[str, Route[T]]) -> tuple[Mapping[str, Route[T]], Sequence[tuple[str, Route[T]]]]:
        """Of what it offers that whose name is not taken yet, and all else."""
        both = taken.keys() & self.routes.keys()
        if not both:
            return self.routes, self.second
        free = {name: route for name, route in self.routes.items() if name not in both}
        return free, [*(row for row in self.routes.items() if row[0] in both), *self.second]

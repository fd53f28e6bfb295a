"""Which actor answers for which name: namespaces, mounts and the one table that lists and calls both read.

Rule: everything in this file is a pure function or an immutable value; no trio, no MCP types, no I/O. The law it
keeps (design.md section 5): *every listed name, when called, reaches the actor that listed it, under the name it uses
itself*. Names come from seeds 001 and 003: `{namespace}_{name}` for tools and prompts, `scheme://{namespace}/rest`
("path") or `{namespace}+scheme://rest` ("protocol") for resources and templates; nesting accumulates.

How every URI round-trips: a URI is its head (`scheme://`, else `scheme:`, else nothing) and the rest, and the path
format puts the namespace between the two. So `file:///x` becomes `file://ns//x`, `urn:isbn:1` becomes `urn:ns/isbn:1`
and `{+any}` becomes `ns/{+any}`; taking it out again needs no guess.
An unlisted URI is first taken back to what a namespace that it could be in calls it, and the templates are held
against that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Generic, Literal, TypeVar

from attrs import define, evolve, field, frozen

from mcpactors.errors import InvalidParams, NameConflict, NamespaceError, NotFound
from mcpactors.runtime.visibility import ToolOverride, Visibility

__all__ = [
    "KEYS",
    "KINDS",
    "NAME_LENGTH",
    "WORDS",
    "Change",
    "Conflict",
    "ConflictPolicy",
    "Kind",
    "KindTable",
    "ListChanged",
    "Listing",
    "Mount",
    "Namespace",
    "Place",
    "ResourceUpdated",
    "Route",
    "RoutingTable",
    "UriFormat",
    "add_resource_prefix",
    "has_resource_prefix",
    "remove_resource_prefix",
    "shape_of",
    "tell_conflicts",
    "unknown",
    "validate_name",
    "validate_namespace",
]

T = TypeVar("T", bound=Hashable)

Kind = Literal["tools", "prompts", "resources", "templates"]
UriFormat = Literal["path", "protocol"]
ConflictPolicy = Literal["newest", "oldest", "error"]

KINDS: Final[tuple[Kind, ...]] = ("tools", "prompts", "resources", "templates")
KEYS: Final[Mapping[Kind, str]] = {"tools": "name", "prompts": "name", "resources": "uri", "templates": "uriTemplate"}
"""Which field of a listed item is its name."""
WORDS: Final[Mapping[Kind, str]] = {
    "tools": "tool",
    "prompts": "prompt",
    "resources": "resource",
    "templates": "resource template",
}
"""What one of a kind is called, for people."""

NAME_LENGTH: Final = 128
"""The longest name of a tool or prompt that MCP allows (2025-11-25, server/tools "Tool Names")."""
NAMESPACE_LENGTH: Final = 64
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SCHEME_NAMESPACE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.-]*")
_BETWEEN: Final[Mapping[UriFormat, str]] = {"path": "/", "protocol": "+"}
"""What stands between two namespaces, and after the last, in a URI."""
_VARIABLES: Final = re.compile(r"\{([+#./]?)([^{}?&;+#./][^{}]*)\}")
_HEAD: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//)?")


# --- Names --------------------------------------------------------------------------------------------------------


def validate_namespace(namespace: str, uri_format: UriFormat = "path") -> str:
    """The namespace itself when it can stand in a tool name and in a URI.

    Raises:
        NamespaceError: it cannot; the message says what is allowed.
    """
    allowed = _NAMESPACE if uri_format == "path" else _SCHEME_NAMESPACE
    if not isinstance(namespace, str) or not allowed.fullmatch(namespace) or len(namespace) > NAMESPACE_LENGTH:
        first, rest = (
            ("a letter or digit", "letters, digits, '_', '.', '-'")
            if uri_format == "path"
            else ("a letter", "letters, digits, '.', '-' (the URI format 'protocol' puts it in a URI scheme)")
        )
        raise NamespaceError(
            f"namespace {namespace!r:.80} cannot be used: it must start with {first} and consist of {rest}, at most "
            f"{NAMESPACE_LENGTH} characters; leave it out (None) to keep names unchanged"
        )
    return namespace


def validate_name(what: str, name: str) -> str:
    """The name of a tool or prompt itself when it has a length that MCP allows. Raises `InvalidParams`."""
    if not name or len(name) > NAME_LENGTH:
        raise InvalidParams(
            f"{what} name {name[:40] + '...' if name else name!r} cannot be used: it must have 1 to {NAME_LENGTH} "
            f"characters, it has {len(name)}"
        )
    return name


def shape_of(template: str) -> str:
    """A URI template without the names of its variables: two of one shape stand for the same URIs.

    Names in a query are part of the URI, and stay.
    """
    return _VARIABLES.sub(_without_names, template)


def _without_names(expression: re.Match[str]) -> str:
    operator, names = expression.groups()
    return "{" + operator + ",".join(re.sub(r"^[^:*]*", "", name) for name in names.split(",")) + "}"


def unknown(kind: Kind, name: str, hint: str = "") -> NotFound:
    """The error for a name that nobody has: the same words and `data` whoever finds it out."""
    return NotFound(
        f"Unknown {WORDS[kind]}: {name}{hint}", {"uri" if kind in ("resources", "templates") else "name": name}
    )


def _split(uri: str) -> tuple[str, str]:
    head = _HEAD.match(uri)
    return (head.group(), uri[head.end() :]) if head else ("", uri)


def add_resource_prefix(uri: str, prefix: str, prefix_format: UriFormat = "path") -> str:
    """The URI or URI template with a namespace in it: `data://x` and `ns` give `data://ns/x` (or `ns+data://x`)."""
    if prefix_format == "protocol":
        return f"{prefix}+{uri}"
    head, rest = _split(uri)
    return f"{head}{prefix}/{rest}"


def has_resource_prefix(uri: str, prefix: str, prefix_format: UriFormat = "path") -> bool:
    """Whether `remove_resource_prefix` would take anything out."""
    if prefix_format == "protocol":
        return uri.startswith(f"{prefix}+")
    return _split(uri)[1].startswith(f"{prefix}/")


def remove_resource_prefix(uri: str, prefix: str, prefix_format: UriFormat = "path") -> str:
    """The URI without the namespace; unchanged when it is not there."""
    if not has_resource_prefix(uri, prefix, prefix_format):
        return uri
    if prefix_format == "protocol":
        return uri[len(prefix) + 1 :]
    head, rest = _split(uri)
    return head + rest[len(prefix) + 1 :]


def _prefixes(uri: str, prefix_format: UriFormat, most: int) -> Iterator[str]:
    """What stands where the prefixes of up to `most` namespaces stand, the longest first, the empty one last."""
    between = _BETWEEN[prefix_format]
    parts = (_split(uri)[1] if prefix_format == "path" else uri).split(between, most)[:-1]
    for count in range(len(parts), -1, -1):
        yield between.join(parts[:count])


@frozen
class Namespace:
    """The namespaces on the way from the root to one mount, outermost first. The empty one changes nothing."""

    parts: tuple[str, ...] = ()
    uri_format: UriFormat = "path"
    _name_prefix: str = field(init=False, repr=False, eq=False)
    uri_prefix: str = field(init=False, repr=False, eq=False)

    @_name_prefix.default
    def _make_name_prefix(self) -> str:
        return "".join(part + "_" for part in self.parts)

    @uri_prefix.default
    def _make_uri_prefix(self) -> str:
        return _BETWEEN[self.uri_format].join(self.parts)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __str__(self) -> str:
        return "/".join(self.parts)

    def within(self, part: str | None) -> Namespace:
        """The namespace of a mount below this one."""
        return self if part is None else Namespace((*self.parts, part), self.uri_format)

    def around(self, inner: Namespace) -> Namespace:
        """This namespace with another one inside it."""
        return Namespace((*self.parts, *inner.parts), inner.uri_format) if self.parts else inner

    def outward(self, kind: Kind, own: str) -> str:
        """The name under which the root lists what the mount itself calls `own`."""
        if not self.parts:
            return own
        if kind in ("tools", "prompts"):
            return self._name_prefix + own
        return add_resource_prefix(own, self.uri_prefix, self.uri_format)

    def inward(self, kind: Kind, full: str) -> str | None:
        """The mount's own name for `full`; None when `full` cannot be one of its names."""
        if not self.parts:
            return full
        if kind in ("tools", "prompts"):
            return full[len(self._name_prefix) :] if full.startswith(self._name_prefix) else None
        if not has_resource_prefix(full, self.uri_prefix, self.uri_format):
            return None
        return remove_resource_prefix(full, self.uri_prefix, self.uri_format)


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

    @classmethod
    def build(
        cls,
        kind: Kind,
        places: Sequence[Place[T]],
        listings: Mapping[T, Listing],
        policy: ConflictPolicy = "newest",
    ) -> KindTable[T]:
        """Make the table from places in order of precedence and what their actors list.

        An item without a name of its own is left out (an empty name cannot be called); so is the second of two
        with one name from one actor.

        Raises:
            NameConflict: two mounts offer one name and the policy is "error".
        """
        key = KEYS[kind]
        routes: dict[str, Route[T]] = {}
        conflicts: dict[Conflict, None] = {}
        hidden: dict[str, frozenset[T]] = {}
        kept: list[tuple[tuple[int, ...], list[Mapping[str, Any]]]] = []
        for place in places:
            mine: list[Mapping[str, Any]] = []
            plain = place.is_plain
            for item in listings.get(place.target, _NOTHING).items:
                own = item.get(key)
                if not isinstance(own, str) or not own:
                    continue
                shown = Shown(place.namespace.outward(kind, own), item) if plain else place.shown(kind, own, item)
                full, taken = shown.name, routes.get(shown.name)
                if not shown.visible:
                    hidden[full] = hidden.get(full, frozenset()) | {place.target}
                elif taken is None:
                    routes[full] = Route(
                        place.target, own, place.namespace, shown.overrides, place.through, shown.names
                    )
                    mine.append(shown.item if full == own else {**shown.item, key: full})
                elif (taken.target, taken.own, taken.namespace) != (place.target, own, place.namespace):
                    conflicts[Conflict(kind, full, str(taken.target), str(place.target))] = None
            kept.append((place.rank, mine))
        if conflicts and policy == "error":
            raise NameConflict(tell_conflicts(tuple(conflicts)))
        kept.sort(key=lambda row: row[0])
        items = tuple(item for _, mine in kept for item in mine)
        return cls(kind, routes, items, tuple(conflicts), hidden)

    @cached_property
    def _by_name(self) -> dict[str, Mapping[str, Any]]:
        key = KEYS[self.kind]
        return {item[key]: item for item in self.items}

    def item(self, name: str) -> Mapping[str, Any] | None:
        """What is listed under this name."""
        return self._by_name.get(name)

    @cached_property
    def _by_prefix(self) -> tuple[UriFormat, int, Mapping[str, list[tuple[str, Route[T]]]]]:
        """The URI format, the most namespaces one within another, and per prefix (literal start, route) of each."""
        found: dict[str, list[tuple[str, Route[T]]]] = {}
        uri_format: UriFormat = "path"
        for route in self.routes.values():
            uri_format = route.namespace.uri_format
            found.setdefault(route.namespace.uri_prefix, []).append((route.own.partition("{")[0], route))
        depth = max((prefix.count(_BETWEEN[uri_format]) + 1 for prefix in found if prefix), default=0)
        return uri_format, depth, found

    def matching(self, uri: str, matches: Callable[[str, str], bool], but: Collection[T] = ()) -> Route[T] | None:
        """Where a URI leads that a template here stands for: to the deepest namespace, then by precedence.

        Not to one of `but`: they hide it.
        """
        uri_format, depth, by_prefix = self._by_prefix
        for prefix in _prefixes(uri, uri_format, depth):
            rows = by_prefix.get(prefix, ())
            own = remove_resource_prefix(uri, prefix, uri_format) if prefix else uri
            for start, route in rows:
                if own.startswith(start) and matches(route.own, own) and route.target not in but:
                    return evolve(route, own=own)
        return None


_NOTHING: Final = Listing()


def tell_conflicts(conflicts: Sequence[Conflict]) -> str:
    """The conflicts, in a line for people."""
    said = "; ".join(f"{c.kind} {c.name!r}: {c.winner} and {c.shadowed}" for c in conflicts[:5])
    more = f" and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""
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

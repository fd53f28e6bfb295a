"""Hypothesis strategies that several test files share: those of `mcpactors.testing`, and for the pure tables JSON,
trees of mounts and catalogs.

Rule: alphabets are small ("ab_"), so that what is drawn collides; what an attacker would send is mixed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen
from hypothesis import strategies as st

from mcpactors.runtime.naming import KEYS, Kind, Namespace, UriFormat
from mcpactors.runtime.offers import Place
from mcpactors.runtime.routing import ConflictPolicy, KindTable, Listing, Mount, RoutingTable
from mcpactors.testing import strategies as testing
from mcpactors.testing.strategies import HEADS, HOSTILE, LITERALS, PARTS, SHORT

__all__ = [
    "HEADS",
    "HOSTILE",
    "KINDS",
    "LITERALS",
    "POLICIES",
    "SHORT",
    "World",
    "json_values",
    "namespaces",
    "own_names",
    "uri_formats",
    "uris",
    "worlds",
]

KINDS: tuple[Kind, ...] = ("tools", "prompts", "resources", "templates")
POLICIES: tuple[ConflictPolicy, ...] = ("newest", "oldest")

# --- Names, URIs and templates -------------------------------------------------------------------------------------

names = testing.names(hostile=True)
uris = testing.uris()
templates = testing.templates(understood=False)
parts: Mapping[UriFormat, st.SearchStrategy[str]] = {form: testing.namespaces(form) for form in PARTS}
"""One namespace, legal in the format."""

uri_formats: st.SearchStrategy[UriFormat] = st.sampled_from(["path", "protocol"])


def namespaces(uri_format: UriFormat) -> st.SearchStrategy[Namespace]:
    return st.lists(parts[uri_format], max_size=3).map(lambda found: Namespace(tuple(found), uri_format))


own_names: Mapping[Kind, st.SearchStrategy[str]] = {
    "tools": names,
    "prompts": names,
    "resources": uris,
    "templates": templates,
}

# --- JSON ---------------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(2**200), st.floats(allow_nan=False), st.text(max_size=4)
)
json_values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("aburi", max_size=3), inner, max_size=3),
    max_leaves=6,
)

# --- Trees and what their actors offer ------------------------------------------------------------------------------

TARGETS = ["p", "q", "r"]
targets = st.sampled_from(TARGETS)
"""Few, so that one is often mounted twice."""


def trees(uri_format: UriFormat = "path") -> st.SearchStrategy[Mount[str]]:
    below = st.recursive(
        st.builds(Mount, targets, st.none() | parts[uri_format]),
        lambda inner: st.builds(Mount, targets, st.none() | parts[uri_format], st.lists(inner, max_size=3).map(tuple)),
        max_leaves=5,
    )
    return st.builds(lambda target, found: Mount(target, None, tuple(found)), targets, st.lists(below, max_size=4))


@frozen
class World:
    """A tree of mounts and what the actors in it list."""

    tree: Mount[str]
    listings: Mapping[Kind, Mapping[str, Listing]]
    uri_format: UriFormat = "path"

    def places(self, policy: ConflictPolicy = "newest") -> tuple[Place[str], ...]:
        return tuple(self.tree.flatten(policy, Namespace((), self.uri_format)))

    def table(self, policy: ConflictPolicy = "newest") -> RoutingTable[str]:
        places = self.places(policy)
        made = {kind: KindTable.build(kind, places, self.listings[kind], policy) for kind in KINDS}
        return RoutingTable(places, made["tools"], made["prompts"], made["resources"], made["templates"])

    def offered(self, kind: Kind, target: str) -> list[str]:
        """The names that this actor lists, as it lists them."""
        listed = [item.get(KEYS[kind]) for item in self.listings[kind].get(target, Listing()).items]
        return [name for name in listed if isinstance(name, str) and name]


def _offers(kind: Kind) -> st.SearchStrategy[Mapping[str, Listing]]:
    """What each actor lists: its name in every item, and now and then an item that names nothing."""
    key = KEYS[kind]
    nameless: list[dict[str, Any]] = [{}, {key: None}, {key: 1}, {key: [key]}, {key: ""}]
    good = own_names[kind].map(lambda name: {key: name, "last": 2**70})
    rows = st.lists(st.tuples(targets, good | good | good | st.sampled_from(nameless)), max_size=8)
    return rows.map(
        lambda found: {
            owner: Listing(tuple({"first": owner, **item} for by, item in found if by == owner)) for owner in TARGETS
        }
    )


_tools, _resources, _templates = _offers("tools"), _offers("resources"), _offers("templates")
_trees = {uri_format: trees(uri_format) for uri_format in PARTS}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Prompts are what tools are, so one draw is both."""
    uri_format = draw(uri_formats)
    tools = draw(_tools)
    listings: Mapping[Kind, Mapping[str, Listing]] = {
        "tools": tools,
        "prompts": tools,
        "resources": draw(_resources),
        "templates": draw(_templates),
    }
    return World(draw(_trees[uri_format]), listings, uri_format)

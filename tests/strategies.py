"""Hypothesis strategies that several test files share: names, URIs, templates, JSON, trees of mounts and catalogs.

Rule: alphabets are small ("ab_"), so that what is drawn collides; what an attacker would send is mixed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen
from hypothesis import strategies as st

from mcpactors.runtime.routing import (
    KEYS,
    ConflictPolicy,
    Kind,
    KindTable,
    Listing,
    Mount,
    Namespace,
    Place,
    RoutingTable,
    UriFormat,
)

KINDS: tuple[Kind, ...] = ("tools", "prompts", "resources", "templates")
POLICIES: tuple[ConflictPolicy, ...] = ("newest", "oldest")

# --- Names --------------------------------------------------------------------------------------------------------

hostile_names = st.sampled_from(["a" * 300, "_", "__", "a/b", "é", "e\u0301", "日本", "A", "a b", "a\n", "\ud800", "%61", ":"])
names = st.one_of(st.text("ab_", min_size=1, max_size=4), hostile_names)

parts: Mapping[UriFormat, st.SearchStrategy[str]] = {
    "path": st.from_regex(r"[ab][ab_]{0,2}", fullmatch=True) | st.sampled_from(["a.", "a-", "0", "A", "a" * 64]),
    "protocol": st.from_regex(r"[ab][ab-]{0,2}", fullmatch=True) | st.sampled_from(["a.", "A", "a" * 64]),
}
"""One namespace, legal in the format."""

uri_formats: st.SearchStrategy[UriFormat] = st.sampled_from(["path", "protocol"])


def namespaces(uri_format: UriFormat) -> st.SearchStrategy[Namespace]:
    return st.lists(parts[uri_format], max_size=3).map(lambda found: Namespace(tuple(found), uri_format))


# --- URIs and templates -------------------------------------------------------------------------------------------

heads = st.sampled_from(["data://", "data://", "DATA://", "file:///", "http://a/", "urn:", "mailto:", "a:", "a+data://", "b+a+x:", ""])
"""A scheme with an authority, an empty one, a namespace's look-alike; opaque; of the look of a prefix; none."""

literals = st.text("ab_/", max_size=5) | st.sampled_from(["a/a/b", "//a", "%61", "a%2Fb", "é", "a?b=a", "a#b", "a+b", "a:b"])
expressions = st.sampled_from(["{x}", "{+path}", "{?q}", "{/x*}", "{#x}", "{.x}", "{x,y}", "{x:3}", "{?x*}"])
"""The last two are not understood by the SDK's parser, but other servers may list them."""

uris = st.builds(str.__add__, heads, literals).filter(bool)
templates = st.builds(
    lambda head, pieces: head + "".join(pieces), heads | expressions, st.lists(literals | expressions, max_size=3)
).filter(bool)

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
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aburi", max_size=3), inner, max_size=3),
    max_leaves=6,
)

# --- Trees and what their actors offer ------------------------------------------------------------------------------

targets = st.sampled_from(["p", "q", "r", "s"])
"""Few, so that one is often mounted twice."""


def trees(uri_format: UriFormat = "path") -> st.SearchStrategy[Mount[str]]:
    below = st.recursive(
        st.builds(Mount, targets, st.none() | parts[uri_format]),
        lambda inner: st.builds(
            Mount, targets, st.none() | parts[uri_format], st.lists(inner, max_size=3).map(tuple)
        ),
        max_leaves=5,
    )
    return st.builds(lambda target, found: Mount(target, None, tuple(found)), targets, st.lists(below, max_size=4))


def items(kind: Kind, owner: str) -> st.SearchStrategy[tuple[Mapping[str, Any], ...]]:
    """What an actor lists: its name in each item, and now and then an item that names nothing."""
    key = KEYS[kind]
    good = own_names[kind].map(lambda name: {"first": owner, key: name, "last": 2**70})
    nameless = st.sampled_from([{}, {key: None}, {key: 1}, {key: [key]}, {key: ""}, {"first": owner}])
    return st.lists(st.one_of(good, good, good, nameless), max_size=4).map(tuple)


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


@st.composite
def worlds(draw: st.DrawFn) -> World:
    uri_format = draw(uri_formats)
    listings = {
        kind: {owner: Listing(draw(items(kind, owner))) for owner in draw(st.sets(targets, min_size=1))}
        for kind in KINDS
    }
    return World(draw(trees(uri_format)), listings, uri_format)

"""Hypothesis strategies for compositions: names, namespaces, URIs, templates, servers, trees of them, and changes.

Rule: alphabets are small ("ab_"), so that what is drawn collides: `a` + `b_c` is `a_b` + `c`. What an attacker or a
careless author would write is mixed in. Everything drawn is a value that prints as the code that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

from hypothesis import strategies as st
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

from mcpactors.runtime.naming import Kind, UriFormat
from mcpactors.runtime.visibility import Rule, Visibility
from mcpactors.testing.changes import (
    Add,
    Change,
    Filter,
    Import,
    MountBelow,
    MountOn,
    Refresh,
    Remove,
    Rename,
    Unmount,
)
from mcpactors.testing.servers import MountSpec, Offer, ServerSpec, Tree

__all__ = [
    "EXPRESSIONS",
    "HEADS",
    "HOSTILE",
    "LITERALS",
    "PARTS",
    "SHORT",
    "change_of",
    "changes",
    "filters",
    "names",
    "namespaces",
    "offers",
    "rules",
    "server_specs",
    "tags",
    "templates",
    "tool_sets",
    "trees",
    "uris",
]

# Pools rather than `text()`: a tree takes some fifty draws, and these are the cheapest.
FEW = ["a", "b", "a_b", "b_a", "a_a"]
SHORT = ["".join(letters) for length in (1, 2, 3) for letters in product("ab_", repeat=length)]

# --- Names --------------------------------------------------------------------------------------------------------

LEGAL = ["A", "0", "a.b", "a-b", "a" * 64]
HOSTILE = ["a" * 300, "a/b", "é", "e\u0301", "日本", "A", "a b", "a\n", "\ud800", "%61", ":", "a+a", "__proto__"]
"""What other servers may list, and `Server` refuses or the SDK warns of."""

PARTS: Mapping[UriFormat, list[str]] = {
    "path": [*(name for name in SHORT if name[0] != "_"), "a.", "a-", "0", "A", "a" * 64],
    "protocol": ["a", "b", "a-", "b-", "a.b", "A", "a" * 64],
}
"""Legal namespaces in each format of URIs."""


def names(*, hostile: bool = False) -> st.SearchStrategy[str]:
    """Names of tools and prompts. `hostile` ones too: too long, not ASCII, with what separates names elsewhere."""
    return st.sampled_from([*SHORT, *SHORT, *HOSTILE] if hostile else [*FEW * 20, *SHORT, *LEGAL])


def namespaces(uri_format: UriFormat = "path") -> st.SearchStrategy[str]:
    """One namespace, legal in the format."""
    often = [part for part in FEW if part in PARTS[uri_format]]
    return st.sampled_from([*often * 4, *PARTS[uri_format]])


def tags() -> st.SearchStrategy[tuple[str, ...]]:
    """The tags of one component; often none."""
    return st.sampled_from([(), (), ("x",), ("y",), ("x", "y")])


# --- URIs and templates -------------------------------------------------------------------------------------------

HEADS = ["data://", "data://a/", "DATA://", "file:///", "http://b/", "urn:", "mailto:", "a:", "a+data://", "b+a+x:", ""]
"""A scheme with an authority, a namespace's look-alike, an empty one; opaque; of the look of a prefix; none."""

LITERALS = [*SHORT, "", "/", "a/", "a/b", "b/a", "a/a/b", "//a", "%61", "a%2Fb", "é", "a?b=a", "a#b", "a+b", "a:b"]
EXPRESSIONS = ["{x}", "{+path}", "{?q}", "{/x*}", "{#x}", "{.x}", "{x,y}", "{x:3}", "{?x*}"]
"""The last two are not understood by the SDK's parser, but other servers may list them."""

_UNDERSTOOD = EXPRESSIONS[:-2]
_OFTEN = ["data://a", "data://b", "data://a/b", "data://a/a", "a", "b", "a/b", "data://", "urn:a", "urn:b"]
_OFTEN_TEMPLATES = ["data://{x}", "data://a/{x}", "data://{+path}", "{+path}", "a/{x}", "urn:{x}", "data://{x}/b"]


def uris() -> st.SearchStrategy[str]:
    """URIs of resources, with and without an authority, and some that are none."""
    return st.sampled_from(_OFTEN) | st.tuples(st.sampled_from(HEADS), st.sampled_from(LITERALS)).map("".join).filter(
        bool
    )


def templates(*, understood: bool = True) -> st.SearchStrategy[str]:
    """URI templates. Those that the SDK's servers take; or, not `understood`, all that a backend may list."""
    if not understood:
        return st.tuples(
            st.sampled_from([*HEADS, *HEADS, *EXPRESSIONS]),
            st.sampled_from([*SHORT[:3], "", "", "a/", "//"]),
            st.sampled_from(EXPRESSIONS),
            st.sampled_from([*SHORT[:3], "", "", "/a", "{y}", "{?z}"]),
        ).map("".join)
    return st.sampled_from(_OFTEN_TEMPLATES) | st.tuples(
        st.sampled_from(HEADS),
        st.sampled_from(["", "", "a/", "b/", "a", "//"]),
        st.sampled_from(_UNDERSTOOD),
        st.sampled_from(["", "", "/a", "/b{y}", "{?z}"]),
    ).map("".join).filter(_is_understood)


@cache
def _is_understood(template: str) -> bool:
    try:
        UriTemplate.parse(template)
    except InvalidUriTemplate:
        return False
    return True


# --- Servers ------------------------------------------------------------------------------------------------------


def offers(*kinds: Kind) -> st.SearchStrategy[Offer]:
    """One component; of these kinds, or of any."""
    links = st.lists(uris(), max_size=1).map(tuple)
    of: dict[Kind, st.SearchStrategy[Offer]] = {
        "tools": st.builds(Offer, st.just("tools"), names(), tags(), links),
        "prompts": st.builds(Offer, st.just("prompts"), names(), tags(), links),
        "resources": st.builds(Offer, st.just("resources"), uris(), tags()),
        "templates": st.builds(Offer, st.just("templates"), templates(), tags()),
    }
    return st.one_of(*(of[kind] for kind in kinds or of))


def _sets(strategy: st.SearchStrategy[Offer], most: int) -> st.SearchStrategy[tuple[Offer, ...]]:
    return st.lists(strategy, max_size=most, unique_by=lambda offer: (offer.kind, offer.name)).map(tuple)


def tool_sets(most: int = 4) -> st.SearchStrategy[tuple[Offer, ...]]:
    """Up to so many tools of one server."""
    return _sets(offers("tools"), most)


def rules(*, show: bool | None = None) -> st.SearchStrategy[Rule]:
    """One call of `enable` (`show`) or `disable` (not), or of either: by name, tag, kind or several of these."""
    some_names = st.lists(st.one_of(names(), uris()), min_size=1, max_size=2).map(frozenset)
    some_tags = st.sampled_from([frozenset("x"), frozenset("y"), frozenset("xy")])
    kinds = st.sampled_from([frozenset([one]) for one in ("tool", "prompt", "resource", "template")])
    about: list[dict[str, Any]] = [
        {"names": some_names},
        {"tags": some_tags},
        {"components": kinds},
        {"components": kinds, "names": some_names},
        {"components": kinds, "tags": some_tags},
    ]
    hides = [st.builds(Rule, st.just(False), **each) for each in about]
    shows = [st.builds(Rule, st.just(True), **each, only=st.booleans()) for each in about]
    return st.one_of(*(hides if show is not True else ()), *(shows if show is not False else ()))


def filters(most: int = 3) -> st.SearchStrategy[Visibility]:
    """Rules in the order in which they were given; often none."""
    return st.lists(rules(), max_size=most).map(lambda found: Visibility(tuple(found)))


def server_specs(name: str = "server", *, filtered: bool = True) -> st.SearchStrategy[ServerSpec]:
    """One server with some components, and rules if it is `filtered`."""
    given = st.one_of(st.just(()), filters(2).map(lambda found: found.rules)) if filtered else st.just(())
    return st.builds(ServerSpec, st.just(name), _sets(offers(), 5), given)


# --- Trees --------------------------------------------------------------------------------------------------------


def _renames(least: int = 0) -> st.SearchStrategy[dict[str, str]]:
    return st.lists(st.tuples(st.sampled_from(FEW), st.sampled_from(FEW)), min_size=least, max_size=2).map(dict)


@st.composite
def trees(
    draw: st.DrawFn, most: int = 4, *, uri_format: UriFormat = "path", filtered: bool = True, renamed: bool = True
) -> Tree:
    """Servers s0 (the root) to at most s`most`-1, each mounted on one or two of those before it, or on none."""
    count = draw(st.integers(1, most))
    specs = tuple(draw(server_specs(f"s{number}", filtered=filtered)) for number in range(count))
    mounts: list[MountSpec] = []
    for child in range(1, count):
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 0]))):
            mounts.append(
                MountSpec(
                    draw(st.integers(0, child - 1)),
                    child,
                    draw(st.none() | namespaces(uri_format)),
                    draw(_renames()) if renamed else {},
                    *((draw(_few_tags()), draw(_few_tags())) if filtered else ()),
                )
            )
    return Tree(specs, tuple(draw(st.permutations(mounts))))


def _few_tags() -> st.SearchStrategy[tuple[str, ...]]:
    """A mount's `include_tags` or `exclude_tags`; mostly none."""
    return st.sampled_from([(), (), (), (), (), ("x",), ("y",), ("x", "y")])


# --- Changes ------------------------------------------------------------------------------------------------------

_number = st.integers(0, 7)


def change_of(kind: type[Change], uri_format: UriFormat = "path") -> st.SearchStrategy[Any]:
    """One change of a kind: `Add`, `Remove`, `Filter`, `MountOn`, `MountBelow`, `Import`, ..."""
    part = st.none() | namespaces(uri_format)
    of: Mapping[type[Change], st.SearchStrategy[Any]] = {
        MountOn: st.builds(
            MountOn, _number, _number, part, _renames(), _few_tags(), _few_tags(), by_runtime=st.booleans()
        ),
        Add: st.builds(Add, _number, offers()),
        Remove: st.builds(Remove, _number, _number),
        Filter: st.builds(Filter, _number, rules()),
        MountBelow: st.builds(MountBelow, _number, _number, part),
        Import: st.builds(Import, _number, _number, part, st.booleans()),
        Refresh: st.builds(Refresh, _number),
        Unmount: st.builds(Unmount, _number),
        Rename: st.builds(Rename, _number, _renames(1)),
    }
    return of[kind]


def changes(
    uri_format: UriFormat = "path",
    kinds: Sequence[type[Change]] = (Add, Remove, Filter, MountOn, MountBelow, Import, Refresh, Unmount, Rename),
) -> st.SearchStrategy[Change]:
    """One change of any of these kinds, for `change.make(world)`."""
    return st.one_of(*(change_of(kind, uri_format) for kind in kinds))

"""The names that the seeds document, what may be a namespace, and precedence by example.

The law itself, over random trees, is in tests/properties/test_routing.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpactors.actors.uris import matches
from mcpactors.errors import NameConflict, NamespaceError
from mcpactors.runtime.routing import (
    KEYS,
    Conflict,
    ConflictPolicy,
    Kind,
    KindTable,
    Listing,
    Mount,
    Namespace,
    Route,
    RoutingTable,
    UriFormat,
    add_resource_prefix,
    has_resource_prefix,
    remove_resource_prefix,
    validate_namespace,
)
from mcpactors.runtime.visibility import ToolOverride
from tests.strategies import parts, uri_formats, uris

Offers = dict[str, dict[Kind, list[str]]]


def listing(kind: Kind, names: Iterable[str]) -> Listing:
    return Listing(tuple({KEYS[kind]: name} for name in names))


def table_of(tree: Mount[str], offers: Offers, policy: ConflictPolicy = "newest") -> RoutingTable[str]:
    """The table of a tree whose actors list these names."""
    places = tuple(tree.flatten(policy))

    def of(kind: Kind) -> KindTable[str]:
        listings = {owner: listing(kind, offered.get(kind, [])) for owner, offered in offers.items()}
        return KindTable.build(kind, places, listings, policy)

    return RoutingTable(places, of("tools"), of("prompts"), of("resources"), of("templates"))


def listed(table: RoutingTable[str], kind: Kind) -> list[str]:
    return [item[KEYS[kind]] for item in table.of(kind).items]


# --- The documented names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "namespace", "own", "full"),
    [
        ("tools", "weather", "get_data", "weather_get_data"),
        ("tools", "api", "my_tool", "api_my_tool"),
        ("prompts", "api", "my_prompt", "api_my_prompt"),
        ("resources", "api", "data://info", "data://api/info"),
        ("resources", "weather", "data://cities", "data://weather/cities"),
        ("templates", "api", "data://{id}", "data://api/{id}"),
        ("resources", "ns", "file:///etc/x", "file://ns//etc/x"),
        ("resources", "ns", "urn:isbn:1", "urn:ns/isbn:1"),
        ("resources", "ns", "mailto:a@b", "mailto:ns/a@b"),
        ("resources", "ns", "plain", "ns/plain"),
        ("resources", "ns", "/a:b", "ns//a:b"),
        ("resources", "ns", "git+ssh://a", "git+ssh://ns/a"),
        ("templates", "ns", "{+any}", "ns/{+any}"),
        ("templates", "ns", "{scheme}://x", "ns/{scheme}://x"),
        ("templates", "ns", "data:{x}", "data:ns/{x}"),
        ("templates", "ns", "data://x{?q}", "data://ns/x{?q}"),
    ],
)
def test_names_are_those_that_the_seeds_document(kind: Kind, namespace: str, own: str, full: str):
    assert Namespace((namespace,)).outward(kind, own) == full
    assert Namespace((namespace,)).inward(kind, full) == own


@pytest.mark.parametrize(
    ("own", "full"),
    [
        ("data://info", "a+b+data://info"),
        ("file:///x", "a+b+file:///x"),
        ("urn:x", "a+b+urn:x"),
        ("plain", "a+b+plain"),
        ("{scheme}://x", "a+b+{scheme}://x"),
    ],
)
def test_protocol_format_puts_namespaces_before_the_scheme(own: str, full: str):
    namespace = Namespace(("a", "b"), "protocol")
    assert namespace.outward("resources", own) == full
    assert namespace.inward("resources", full) == own
    assert namespace.outward("tools", "x") == "a_b_x"


def test_namespaces_add_up_through_the_levels():
    inner = Namespace().within("a").within(None).within("b")
    assert (str(inner), inner.parts, bool(inner), bool(Namespace())) == ("a/b", ("a", "b"), True, False)
    assert inner.outward("tools", "x") == "a_b_x"
    assert inner.outward("resources", "data://x") == "data://a/b/x"
    assert Namespace((), "protocol").within("a").uri_format == "protocol"


@pytest.mark.parametrize("kind", ["tools", "resources"])
@pytest.mark.parametrize(
    "name", ["", "x", "A_x", "nsx", "data://ns", "data://NS/x", "data:///ns/x", "NS+data://x", "%6es_x"]
)
def test_a_name_outside_the_namespace_is_none_of_its_names(kind: Kind, name: str):
    for uri_format in ("path", "protocol"):
        assert Namespace(("ns",), uri_format).inward(kind, name) is None


@given(st.data(), uri_formats, uris)
def test_the_prefix_functions_are_one_anothers_inverse(data: st.DataObject, uri_format: UriFormat, uri: str):
    prefix = data.draw(parts[uri_format])
    full = add_resource_prefix(uri, prefix, uri_format)
    assert has_resource_prefix(full, prefix, uri_format)
    assert remove_resource_prefix(full, prefix, uri_format) == uri
    assert not has_resource_prefix(full, "other", uri_format)
    assert remove_resource_prefix(full, "other", uri_format) == full


# --- What may be a namespace --------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["a", "0", "A", "a_", "a__b", "a.b-c", "a" * 64])
def test_a_namespace_of_safe_characters_is_taken_as_it_is(namespace: str):
    assert validate_namespace(namespace) == namespace


BAD: list[Any] = [
    "",
    "_a",
    ".a",
    "-a",
    "..",
    "a/b",
    "a b",
    "a+b",
    "a:b",
    "a{x}",
    "a%61",
    "é",
    "٣",
    "a\n",
    "\ud800",
    "a" * 65,
    7,
    None,
]


@pytest.mark.parametrize("namespace", BAD)
def test_a_bad_namespace_is_refused_with_what_is_allowed(namespace: Any):
    for uri_format in ("path", "protocol"):
        with pytest.raises(NamespaceError):
            validate_namespace(namespace, uri_format)
    with pytest.raises(NamespaceError) as caught:
        validate_namespace(namespace)
    assert caught.value.message == (
        f"namespace {namespace!r} cannot be used: it must start with a letter or digit and consist of letters, digits, "
        "'_', '.', '-', at most 64 characters; leave it out (None) to keep names unchanged"
    )


@pytest.mark.parametrize("namespace", ["a_b", "0a", "a_"])
def test_a_namespace_that_cannot_be_in_a_scheme_is_refused_for_protocol_format_alone(namespace: str):
    assert validate_namespace(namespace, "path") == namespace
    with pytest.raises(NamespaceError) as caught:
        validate_namespace(namespace, "protocol")
    assert caught.value.message == (
        f"namespace {namespace!r} cannot be used: it must start with a letter and consist of letters, digits, '.', '-' "
        "(the URI format 'protocol' puts it in a URI scheme), at most 64 characters; leave it out (None) to keep names "
        "unchanged"
    )


def test_a_refused_namespace_is_not_repeated_at_any_length():
    with pytest.raises(NamespaceError) as caught:
        validate_namespace("a" * 10_000)
    assert len(caught.value.message) < 300


# --- Who wins -----------------------------------------------------------------------------------------------------

BOTH: Offers = {"old": {"tools": ["x", "y"]}, "new": {"tools": ["x", "z"]}}
OLD_AND_NEW = Mount("root", None, (Mount("old"), Mount("new")))


@pytest.mark.parametrize(("policy", "winner", "shadowed"), [("newest", "new", "old"), ("oldest", "old", "new")])
def test_the_policy_says_which_of_two_mounts_wins(policy: ConflictPolicy, winner: str, shadowed: str):
    table = table_of(OLD_AND_NEW, BOTH, policy)
    assert table.find("tools", "x", matches) == Route(winner, "x", Namespace())
    assert table.conflicts == (Conflict("tools", "x", winner, shadowed),)


def test_the_list_has_the_order_of_mounting_whoever_wins():
    assert listed(table_of(OLD_AND_NEW, BOTH, "newest"), "tools") == ["y", "x", "z"]
    assert listed(table_of(OLD_AND_NEW, BOTH, "oldest"), "tools") == ["x", "y", "z"]


def test_policy_error_names_both_mounts_and_what_to_do():
    with pytest.raises(NameConflict) as caught:
        table_of(OLD_AND_NEW, BOTH, "error")
    assert caught.value.message == (
        "mounts offer the same names: tools 'x': new and old; give one of them another namespace"
    )


def test_policy_error_names_five_conflicts_and_counts_the_rest():
    names = list("abcdefg")
    with pytest.raises(NameConflict, match=r"tools 'e': new and old and 2 more; give one"):
        table_of(OLD_AND_NEW, {"old": {"tools": names}, "new": {"tools": names}}, "error")


@pytest.mark.parametrize("policy", ["newest", "oldest"])
def test_own_components_win_over_those_of_children(policy: ConflictPolicy):
    tree = Mount("root", None, (Mount("old", None, (Mount("below"),)), Mount("new", None, (Mount("under"),))))
    everybody: Offers = {who: {"tools": ["x"]} for who in ("root", "old", "new", "below", "under")}
    table = table_of(tree, everybody, policy)
    order = ["new", "under", "old", "below"] if policy == "newest" else ["old", "below", "new", "under"]
    assert table.conflicts == tuple(Conflict("tools", "x", "root", who) for who in order)
    del everybody["root"]
    assert table_of(tree, everybody, policy).find("tools", "x", matches) == Route(order[0], "x", Namespace())


@pytest.mark.parametrize(
    ("one", "its", "other", "others"),
    [("a", "b_c", "a_b", "c"), ("a", "_x", "a_", "x"), ("a_", "_x", "a__", "x"), (None, "a_x", "a", "x")],
)
def test_a_name_that_two_namespaces_spell_alike_is_a_conflict(one: str | None, its: str, other: str, others: str):
    tree = Mount("root", None, (Mount("p", one), Mount("q", other)))
    table = table_of(tree, {"p": {"tools": [its, "own"]}, "q": {"tools": [others]}})
    assert table.conflicts == (Conflict("tools", f"{other}_{others}", "q", "p"),)
    assert table.find("tools", f"{other}_{others}", matches) == Route("q", others, Namespace((other,)))


def test_one_target_under_two_namespaces_that_spell_a_name_alike_is_in_conflict_with_itself():
    tree = Mount("root", None, (Mount("p", "a"), Mount("p", "a_b")))
    table = table_of(tree, {"p": {"tools": ["b_c", "c"]}})
    assert table.conflicts == (Conflict("tools", "a_b_c", "p", "p"),)
    assert table.find("tools", "a_b_c", matches) == Route("p", "c", Namespace(("a_b",)))


def test_a_uri_whose_authority_is_a_namespace_is_a_conflict():
    tree = Mount("root", None, (Mount("p", "a"),))
    table = table_of(tree, {"root": {"resources": ["data://a/x"]}, "p": {"resources": ["data://x", "data://a/x"]}})
    assert table.conflicts == (Conflict("resources", "data://a/x", "root", "p"),)
    assert table.find("resources", "data://a/a/x", matches) == Route("p", "data://a/x", Namespace(("a",)))


def test_a_shadowed_name_listed_twice_is_one_conflict():
    tree = Mount("root", None, (Mount("old"), Mount("old"), Mount("new")))
    table = table_of(tree, {"old": {"tools": ["x", "x"]}, "new": {"tools": ["x"]}})
    assert table.conflicts == (Conflict("tools", "x", "new", "old"),)


def test_one_target_mounted_twice_answers_under_both_namespaces():
    tree = Mount("root", None, (Mount("p", "a"), Mount("p", "b"), Mount("p", "b")))
    table = table_of(tree, {"p": {"tools": ["x"], "templates": ["data://{x}"]}})
    assert listed(table, "tools") == ["a_x", "b_x"]
    assert listed(table, "templates") == ["data://a/{x}", "data://b/{x}"]
    assert table.conflicts == ()
    for part in "ab":
        assert table.find("tools", f"{part}_x", matches) == Route("p", "x", Namespace((part,)))
        assert table.find("resources", f"data://{part}/1", matches) == Route("p", "data://1", Namespace((part,)))


# --- What is in the table -----------------------------------------------------------------------------------------


def test_an_item_without_a_name_is_left_out_and_the_others_stay():
    tree = Mount("p", None, (Mount("q", "a"),))
    items: tuple[dict[str, Any], ...] = (
        {},
        {"name": None},
        {"name": 7},
        {"name": ["x"]},
        {"name": ""},
        {"name": "x", "more": 1},
        {"name": "x"},
    )
    table = KindTable.build("tools", tuple(tree.flatten()), {"p": Listing(items), "q": Listing(items)})
    assert table.items == ({"name": "x", "more": 1}, {"name": "a_x", "more": 1})
    assert table.items[0] is items[5]
    assert items[5] == {"name": "x", "more": 1}
    assert table.item("a_x") is table.items[1]
    assert table.item("nobody") is None


def test_a_listed_resource_comes_before_any_template():
    tree = Mount("root", None, (Mount("p", "a"),))
    table = table_of(tree, {"root": {"resources": ["data://a/x"]}, "p": {"templates": ["data://{x}"]}})
    assert table.find("resources", "data://a/x", matches) == Route("root", "data://a/x", Namespace())
    assert table.find("resources", "data://a/y", matches) == Route("p", "data://y", Namespace(("a",)))


def test_the_template_in_the_deepest_namespace_comes_first():
    tree = Mount("root", None, (Mount("p", "a", (Mount("q", "b"),)),))
    anything: dict[Kind, list[str]] = {"templates": ["data://{+x}"]}
    table = table_of(tree, {"root": anything, "p": anything, "q": anything})
    assert table.find("resources", "data://a/b/x", matches) == Route("q", "data://x", Namespace(("a", "b")))
    assert table.find("resources", "data://a/x", matches) == Route("p", "data://x", Namespace(("a",)))
    assert table.find("resources", "data://x", matches) == Route("root", "data://x", Namespace())
    assert table.find("resources", "else://x", matches) is None


def test_templates_are_for_resources_alone():
    table = table_of(Mount("root"), {"root": {"templates": ["{+x}"]}})
    assert table.find("resources", "x", matches) is not None
    assert [table.find(kind, "x", matches) for kind in ("tools", "prompts", "templates")] == [None] * 3


@pytest.mark.parametrize("template", ["{+any}", "{scheme}://{x}", "a{x}", "data:{+rest}", "{/x*}", "{x:3}"])
def test_a_template_that_starts_with_an_expression_stays_in_its_namespace(template: str):
    table = table_of(Mount("root", None, (Mount("p", "a"),)), {"p": {"templates": [template]}})
    for uri in ("a", "b/x", "data://a", "data://x", "data://A/x", "data:///a/x", "data://%61/x", "data://ax/x"):
        assert table.find("resources", uri, matches) is None


def test_candidates_are_those_whose_namespace_the_name_is_in_the_deepest_first():
    tree = Mount(
        "root", None, (Mount("p", "a"), Mount("q", "a_b"), Mount("r", "a", (Mount("s", "b"),)), Mount("t", "b"))
    )
    found = table_of(tree, {}).candidates("tools", "a_b_x")
    assert [(route.target, route.own) for route in found] == [
        ("s", "x"),
        ("r", "b_x"),
        ("q", "x"),
        ("p", "b_x"),
        ("root", "a_b_x"),
    ]


def test_candidates_for_a_tool_are_those_who_would_list_it_by_that_name_after_renames():
    below = Mount("q", "b", tools={"old": ToolOverride(name="new")})
    renamed = Mount("p", "a", (below,), tools={"b_new": ToolOverride(name="newest")})
    table = table_of(Mount("root", None, (renamed, Mount("r", "c"))), {})
    assert [(route.target, route.own) for route in table.candidates("tools", "a_newest")] == [
        ("q", "old"),
        ("p", "b_new"),
        ("root", "a_newest"),
    ]
    assert [route.target for route in table.candidates("prompts", "a_newest")] == ["p", "root"]


def test_a_place_nobody_has_learnt_of_yet_is_empty():
    assert table_of(OLD_AND_NEW, {}).tools.items == ()
    assert RoutingTable[str]().find("tools", "x", matches) is None
    assert RoutingTable[str]().find("resources", "data://a/x", matches) is None

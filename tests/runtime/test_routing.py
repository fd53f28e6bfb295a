"""Who wins, and what is in the table, by example.

The law itself, over random trees, is in tests/properties/test_routing.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from mcpactors.actors.uris import matches
from mcpactors.errors import NameConflict
from mcpactors.runtime.naming import KEYS, Kind, Namespace
from mcpactors.runtime.offers import Route
from mcpactors.runtime.routing import Conflict, ConflictPolicy, KindTable, Listing, Mount, RoutingTable
from mcpactors.runtime.visibility import ToolOverride

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

"""What a look-up and a change cost: the lines of routing.py, offers.py and naming.py that they run, and no clock."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from mcpactors.actors.uris import matches
from mcpactors.runtime import naming, offers, routing
from mcpactors.runtime.naming import KINDS, Kind, Namespace
from mcpactors.runtime.offers import Route
from mcpactors.runtime.routing import KindTable, Listing, Mount, RoutingTable
from tests.strategies import World


def steps(call: Callable[[], object]) -> int:
    """How many lines of them run in this call."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in (naming.__file__, offers.__file__, routing.__file__):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


EVERYTHING: dict[Kind, Listing] = {
    "tools": Listing(({"name": "x"},)),
    "prompts": Listing(),
    "resources": Listing(({"uri": "data://x"},)),
    "templates": Listing(({"uriTemplate": "data://{x}/t"}, {"uriTemplate": "data://t/{x}"})),
}


def wide(mounts: int) -> RoutingTable[str]:
    targets = [f"m{number}" for number in range(mounts)]
    tree = Mount("root", None, tuple(Mount(target, target) for target in targets))
    return World(tree, {kind: dict.fromkeys(targets, listing) for kind, listing in EVERYTHING.items()}).table()


def deep(levels: int) -> RoutingTable[str]:
    tree = Mount("bottom", "m0")
    for _ in range(levels):
        tree = Mount("m", "m0", (tree,))
    listings = {kind: {"m": listing, "bottom": listing} for kind, listing in EVERYTHING.items()}
    return World(Mount("root", None, (tree,)), listings).table()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tools", "m0_x"),
        ("tools", "m0_unknown"),
        ("resources", "data://m0/x"),
        ("resources", "data://m0/1/t"),
        ("resources", "data://m0/unknown"),
        ("resources", "data://nobody/unknown"),
    ],
)
def test_a_look_up_costs_the_same_with_any_number_of_mounts_at_any_depth(kind: Kind, name: str):
    cost = []
    for table in (wide(2), wide(200), deep(3), deep(20)):
        table.find(kind, name, matches)  # what is made once
        cost.append(steps(lambda table=table: table.find(kind, name, matches)))  # type: ignore[misc]
    assert cost[0] == cost[1] > 0
    assert cost[2] == cost[3] > 0
    assert max(cost) < 60


def test_a_template_is_only_held_against_uris_that_its_namespace_could_have():
    asked: list[tuple[str, str]] = []

    def asking(template: str, uri: str) -> bool:
        asked.append((template, uri))
        return matches(template, uri)

    assert wide(200).find("resources", "data://m7/t/1", asking) == Route("m7", "data://t/1", Namespace(("m7",)))
    assert asked == [("data://t/{x}", "data://t/1")]  # the other one ends as no expansion could


def test_p6_of_many_templates_only_those_are_parsed_whose_literals_a_uri_has():
    asked: list[str] = []

    def asking(template: str, uri: str) -> bool:
        asked.append(template)
        return matches(template, uri)

    offered = Listing(tuple({"uriTemplate": f"data://{{x}}/t{number}/{{y}}"} for number in range(1_000)))
    table = World(
        Mount("root"), {kind: {"root": offered if kind == "templates" else Listing()} for kind in KINDS}
    ).table()
    route = table.find("resources", "data://1/t999/2", asking)
    assert route is not None
    assert route.target == "root"
    assert asked == ["data://{x}/t999/{y}"]
    assert table.find("resources", "data://1/u/2", asking) is None
    assert len(asked) == 1


def test_a_uri_of_nothing_but_slashes_costs_no_more_than_the_tree_is_deep():
    table = deep(3)
    table.find("resources", "data://x", matches)
    assert steps(lambda: table.find("resources", "data://" + "/" * 100_000, matches)) < 100


def test_p6_a_change_costs_what_has_changed_and_not_what_others_offer():
    def cost(others: int) -> int:
        places = tuple(Mount("root", None, (Mount("many", "m"), Mount("few", "f"))).flatten())
        many = Listing(tuple({"name": f"t{number}"} for number in range(others)))
        before = KindTable.build("tools", places, {"many": many, "few": Listing(({"name": "x"},))})
        after: list[KindTable[str]] = []

        def change() -> None:
            now = {"many": many, "few": Listing(({"name": "x"}, {"name": "y"}))}
            after.append(KindTable.build("tools", places, now, before=before))

        lines = steps(change)
        assert [*after[0].routes] == ["f_x", "f_y", *(f"m_t{number}" for number in range(others))]
        return lines

    assert cost(10) == cost(1_000)

"""The law of routing (design.md section 5): every listed name, when called, reaches the actor that listed it, under
the name it uses itself; and what the law rests on: names round-trip, conflicts are found, what is handed out
leads back.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pytest
from attrs import frozen
from hypothesis import assume, example, given
from hypothesis import strategies as st
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

from mcpactors.actors.uris import matches
from mcpactors.errors import NameConflict
from mcpactors.runtime.methods import Address, address_of, outward_result, readdressed
from mcpactors.runtime.naming import KEYS, Kind, Namespace
from mcpactors.runtime.offers import Route
from mcpactors.runtime.routing import ConflictPolicy, KindTable, Listing, Mount
from tests.strategies import (
    HEADS,
    HOSTILE,
    KINDS,
    LITERALS,
    POLICIES,
    SHORT,
    TARGETS,
    World,
    json_values,
    namespaces,
    own_names,
    uri_formats,
    uris,
    worlds,
)

policies = st.sampled_from(POLICIES)
kinds = st.sampled_from(KINDS)
METHODS: Mapping[Kind, str] = {
    "tools": "tools/call",
    "prompts": "prompts/get",
    "resources": "resources/read",
    "templates": "completion/complete",
}

# --- The law ------------------------------------------------------------------------------------------------------


@given(worlds(), policies)
def test_every_listed_name_leads_to_the_actor_that_listed_it_under_its_own_name(world: World, policy: ConflictPolicy):
    table = world.table(policy)
    for kind in KINDS:
        key = KEYS[kind]
        for item in table.of(kind).items:
            method = METHODS[kind]
            params = {"ref": {"type": "ref/resource", "uri": item[key]}} if kind == "templates" else {key: item[key]}
            address = address_of(method, params)
            assert address == Address(kind, item[key])
            route = table.find(address.kind, address.name, matches)
            assert route is not None
            listed = world.listings[kind][route.target].items
            assert list({**item, key: route.own}.items()) in [list(own.items()) for own in listed]
            assert address_of(method, readdressed(method, params, route.own)) == Address(kind, route.own)


@given(worlds(), policies)
def test_the_list_and_the_table_have_the_same_names_each_once(world: World, policy: ConflictPolicy):
    table = world.table(policy)
    for kind in KINDS:
        listed = [item[KEYS[kind]] for item in table.of(kind).items]
        assert sorted(listed) == sorted(table.of(kind).routes)
        assert [table.of(kind).item(name) for name in listed] == list(table.of(kind).items)


def expanded(template: str, value: str) -> str:
    """The template with `value` for every variable; for one that the SDK does not parse, in place of the braces."""
    try:
        parsed = UriTemplate.parse(template)
    except InvalidUriTemplate:
        return re.sub(r"\{[^{}]*\}", value, template)
    return parsed.expand(dict.fromkeys(parsed.variable_names, value))


@given(worlds(), policies, st.text("ab/", max_size=3))
def test_an_expansion_of_a_listed_template_leads_to_an_actor_that_has_it(
    world: World, policy: ConflictPolicy, value: str
):
    table = world.table(policy)
    for template in table.templates.routes:
        uri = expanded(template, value)
        if not uri or not matches(template, uri):
            continue  # the SDK does not promise to match all that it expands
        route = table.find("resources", uri, matches)
        assert route is not None
        has_it = route.own in world.offered("resources", route.target)
        assert has_it or any(matches(own, route.own) for own in world.offered("templates", route.target))


@given(worlds(), policies, uris)
def test_a_uri_leads_to_the_deepest_namespace_that_has_a_template_for_it(
    world: World, policy: ConflictPolicy, uri: str
):
    table = world.table(policy)
    assume(uri not in table.resources.routes)
    fitting = [
        Route(route.target, own, route.namespace)
        for route in table.templates.routes.values()
        if (own := route.namespace.inward("resources", uri)) is not None and matches(route.own, own)
    ]
    deepest = max(fitting, key=lambda route: len(route.namespace.parts), default=None)
    assert table.find("resources", uri, matches) == deepest


# --- Names there and back -----------------------------------------------------------------------------------------


@given(st.data(), uri_formats, kinds)
def test_the_own_name_comes_back_out_of_the_listed_one(data: st.DataObject, uri_format: Any, kind: Kind):
    namespace, own = data.draw(namespaces(uri_format)), data.draw(own_names[kind] | st.text(max_size=8))
    assert namespace.inward(kind, namespace.outward(kind, own)) == own


@given(st.data(), uri_formats, kinds)
def test_two_names_of_one_mount_never_become_one(data: st.DataObject, uri_format: Any, kind: Kind):
    namespace = data.draw(namespaces(uri_format))
    own = {*SHORT, *HOSTILE, *map("".join, product(HEADS, LITERALS))}
    assert len({namespace.outward(kind, name) for name in own}) == len(own)


@given(st.data(), uri_formats, kinds)
def test_namespaces_add_up_from_the_inside_out(data: st.DataObject, uri_format: Any, kind: Kind):
    outer, inner = data.draw(namespaces(uri_format)), data.draw(namespaces(uri_format))
    own = data.draw(own_names[kind])
    both = Namespace(outer.parts + inner.parts, uri_format)
    assert both.outward(kind, own) == outer.outward(kind, inner.outward(kind, own))


# --- Who wins, against a reference --------------------------------------------------------------------------------


def renamed(kind: Kind, name: str, part: str | None, uri_format: str) -> str:
    """One namespace in a name, by another road than routing.py's."""
    if part is None:
        return name
    if kind in ("tools", "prompts"):
        return f"{part}_{name}"
    if uri_format == "protocol":
        return f"{part}+{name}"
    scheme, colon, rest = name.partition(":")
    if not (colon and scheme.isascii() and scheme[:1].isalpha() and all(c.isalnum() or c in "+-." for c in scheme)):
        return f"{part}/{name}"
    return f"{scheme}://{part}/{rest[2:]}" if rest.startswith("//") else f"{scheme}:{part}/{rest}"


def merged(world: World, mount: Mount[str], kind: Kind, policy: ConflictPolicy) -> dict[str, tuple[str, str]]:
    """Full name -> (actor, own name): bottom up, each parent merging what its children have already merged."""
    found = {own: (mount.target, own) for own in world.offered(kind, mount.target)}
    for child in mount.children if policy == "oldest" else mount.children[::-1]:
        found = {**merged(world, child, kind, policy), **found}
    return {renamed(kind, name, mount.namespace, world.uri_format): leads for name, leads in found.items()}


@frozen
class Offer:
    way: tuple[int, ...]
    """From the root: which child of which."""
    full: str
    target: str
    parts: tuple[str, ...]


def offers(
    world: World, mount: Mount[str], kind: Kind, way: tuple[int, ...] = (), parts: tuple[str, ...] = ()
) -> Iterator[Offer]:
    """All that is offered, whether shadowed or not."""
    parts = parts if mount.namespace is None else (*parts, mount.namespace)
    for full in world.offered(kind, mount.target):
        for part in reversed(parts):
            full = renamed(kind, full, part, world.uri_format)
        yield Offer(way, full, mount.target, parts)
    for index, child in enumerate(mount.children):
        yield from offers(world, child, kind, (*way, index), parts)


def by_precedence(world: World, kind: Kind, policy: ConflictPolicy) -> list[Offer]:
    sign = 1 if policy == "oldest" else -1
    return sorted(offers(world, world.tree, kind), key=lambda offer: [sign * step for step in offer.way])


@given(worlds(), policies)
def test_the_table_is_the_one_that_merging_parent_by_parent_makes(world: World, policy: ConflictPolicy):
    table = world.table(policy)
    for kind in KINDS:
        routes = {full: (route.target, route.own) for full, route in table.of(kind).routes.items()}
        assert routes == merged(world, world.tree, kind, policy)


@given(worlds(), policies)
def test_every_conflict_is_reported_once_and_nothing_else(world: World, policy: ConflictPolicy):
    table = world.table(policy)
    for kind in KINDS:
        winners: dict[str, Offer] = {}
        expected = set()
        for offer in by_precedence(world, kind, policy):
            winner = winners.setdefault(offer.full, offer)
            if (winner.target, winner.parts) != (offer.target, offer.parts):
                expected.add((kind, offer.full, winner.target, offer.target))
        reported = [(c.kind, c.name, c.winner, c.shadowed) for c in table.of(kind).conflicts]
        assert sorted(reported) == sorted(expected)
        if expected:
            with pytest.raises(NameConflict) as caught:
                KindTable.build(kind, table.places, world.listings[kind], "error")
            assert all(repr(conflict.name) in caught.value.message for conflict in table.of(kind).conflicts[:5])
        else:
            assert KindTable.build(kind, table.places, world.listings[kind], "error").routes == table.of(kind).routes
    assert len(table.conflicts) == sum(len(table.of(kind).conflicts) for kind in KINDS)


@given(worlds(), worlds(), policies, st.data())
def test_a_table_made_from_the_one_before_it_is_the_one_made_anew(
    was: World, other: World, policy: ConflictPolicy, data: st.DataObject
):
    before = was.table(policy)
    mounts = data.draw(st.sampled_from((was, other)))
    world = World(mounts.tree, {}, mounts.uri_format)
    for kind in KINDS:
        listings = {who: data.draw(st.sampled_from((was, other))).listings[kind][who] for who in TARGETS}
        anew = KindTable.build(kind, world.places(policy), listings)
        found = KindTable.build(kind, world.places(policy), listings, before=before.of(kind))
        assert [*found.routes.items()] == [*anew.routes.items()]
        assert (found.items, found.conflicts, found.hidden) == (anew.items, anew.conflicts, anew.hidden)


@given(worlds(), policies)
def test_lists_show_parents_first_then_the_oldest_mount_whoever_wins(world: World, policy: ConflictPolicy):
    table = world.table(policy)
    for kind in KINDS:
        won: dict[str, Offer] = {}
        for offer in by_precedence(world, kind, policy):
            won.setdefault(offer.full, offer)
        expected = dict.fromkeys(
            offer.full
            for offer in sorted(offers(world, world.tree, kind), key=lambda offer: offer.way)
            if won[offer.full].way == offer.way
        )
        assert [item[KEYS[kind]] for item in table.of(kind).items] == list(expected)


@given(worlds(), policies)
def test_a_nested_tree_is_the_flat_one_with_joined_namespaces(world: World, policy: ConflictPolicy):
    places = world.places(policy)
    oldest_first = places[1:] if policy == "oldest" else places[:0:-1]
    for kind in KINDS:
        between = "_" if kind in ("tools", "prompts") else "/" if world.uri_format == "path" else "+"
        flat = Mount(
            world.tree.target,
            None,
            tuple(Mount(place.target, between.join(place.namespace.parts) or None) for place in oldest_first),
        )
        nested = world.table(policy).of(kind)
        flattened = World(flat, world.listings, world.uri_format).table(policy).of(kind)
        assert {full: (route.target, route.own) for full, route in flattened.routes.items()} == {
            full: (route.target, route.own) for full, route in nested.routes.items()
        }
        assert {c.name for c in flattened.conflicts} <= {c.name for c in nested.conflicts}
        assert sorted(map(repr, flattened.items)) == sorted(map(repr, nested.items))


# --- What is handed out can be handed back --------------------------------------------------------------------------

blocks = st.one_of(
    json_values,
    st.builds(lambda more, uri: {"z": more, "type": "resource_link", "uri": uri, "name": "a"}, json_values, uris),
    st.builds(
        lambda more, uri: {"type": "resource", "resource": {"text": "a", "uri": uri, "x": more}}, json_values, uris
    ),
    st.builds(lambda more: {"type": "resource", "resource": more}, json_values),
    st.builds(
        lambda more: {"type": "resource_link", "uri": more}, json_values.filter(lambda v: not isinstance(v, str))
    ),
    st.builds(lambda uri: {"type": "text", "text": uri, "uri": uri}, uris),
)
contents = st.one_of(json_values, st.builds(lambda uri, more: {"uri": uri, "text": more}, uris, json_values))
results: Mapping[str, st.SearchStrategy[Any]] = {
    "tools/call": st.lists(blocks, max_size=3).map(lambda found: {"_meta": {"b": 2**90}, "content": found, "x": {}}),
    "prompts/get": st.lists(
        json_values | blocks.map(lambda block: {"role": "user", "content": block, "a": 1}), max_size=3
    ).map(lambda found: {"messages": found, "description": "d"}),
    "resources/read": st.lists(contents, max_size=3).map(lambda found: {"ttlMs": 1, "contents": found}),
    "completion/complete": json_values.map(lambda found: {"completion": found}),
}
any_result = st.sampled_from(sorted(results)).flatmap(
    lambda method: st.tuples(
        st.just(method),
        results[method] | st.dictionaries(st.sampled_from(["content", "messages", "contents"]), json_values),
    )
)


def places_of_uris(method: str, result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every object of the result whose `uri` the client may hand back."""
    if method == "resources/read":
        yield from (row for row in _rows(result, "contents") if isinstance(row.get("uri"), str))
    found = _rows(result, "content") if method == "tools/call" else []
    if method == "prompts/get":
        found = [row["content"] for row in _rows(result, "messages") if isinstance(row.get("content"), dict)]
    for block in found:
        holder = {"resource_link": block, "resource": block.get("resource")}.get(str(block.get("type")))
        if isinstance(holder, dict) and isinstance(holder.get("uri"), str):
            yield holder


def _rows(result: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    rows = result.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


@given(any_result, st.data(), uri_formats)
def test_a_result_differs_only_in_the_uris_and_the_input_not_at_all(
    given_result: Any, data: st.DataObject, uri_format: Any
):
    method, result = given_result
    namespace = data.draw(namespaces(uri_format))
    before = copy.deepcopy(result)
    after = copy.deepcopy(changed := outward_result(method, result, namespace))
    assert json.dumps(result) == json.dumps(before)
    own = [holder["uri"] for holder in places_of_uris(method, result)]
    assert [holder["uri"] for holder in places_of_uris(method, after)] == [
        namespace.outward("resources", uri) for uri in own
    ]
    for holder, uri in zip(places_of_uris(method, after), own, strict=True):
        holder["uri"] = uri
    assert json.dumps(after) == json.dumps(before)
    if not namespace:
        assert changed is result


@given(worlds(), policies, uris)
def test_a_uri_that_is_handed_out_leads_back_to_who_handed_it_out(world: World, policy: ConflictPolicy, unlisted: str):
    table = world.table(policy)
    for route in table.resources.routes.values():
        assert table.find("resources", handed_out(route.own, route.namespace), matches) == route
    for place in table.places:
        assert Route(place.target, unlisted, place.namespace) in table.candidates(
            "resources", handed_out(unlisted, place.namespace)
        )


def handed_out(own: str, namespace: Namespace) -> str:
    link = {"type": "resource_link", "uri": own}
    (block,) = outward_result("tools/call", {"content": [link]}, namespace)["content"]
    return str(block["uri"])


@given(worlds(), uris)
@example(World(Mount("p", None, (Mount("q", "a"),)), {k: {"q": Listing(({KEYS[k]: "a{x}"},))} for k in KINDS}), "aq:b")
@example(
    World(Mount("p", None, (Mount("q", "a"),)), {k: {"q": Listing(({KEYS[k]: "d:{+x}"},))} for k in KINDS}), "d://b"
)
def test_a_link_to_what_only_a_template_stands_for_leads_back_to_the_one_mount(world: World, uri: str):
    """With one mount, so that nobody else can have it: whatever the template and the URI look like."""
    for place in world.places():
        alone = World(Mount("nobody", None, (Mount(place.target, "a"),)), world.listings, world.uri_format)
        table = alone.table()
        if any(matches(own, uri) for own in alone.offered("templates", place.target)):
            namespace = Namespace(("a",), world.uri_format)
            assert table.find("resources", handed_out(uri, namespace), matches) == Route(place.target, uri, namespace)

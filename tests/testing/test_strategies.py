"""What users draw: legal where a real server must take it, colliding, and printing as the code that makes it."""

from __future__ import annotations

import subprocess
import sys

import mcp_types as types
import pytest
import trio
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from mcp.client import Client

from mcpactors import Server, open_runtime
from mcpactors.errors import MountCycle
from mcpactors.runtime.naming import KEYS, UriFormat, validate_namespace
from mcpactors.runtime.visibility import Rule, Visibility
from mcpactors.testing import (
    Add,
    Change,
    Filter,
    Import,
    MountBelow,
    MountOn,
    MountSpec,
    Offer,
    Refresh,
    Remove,
    Rename,
    ServerSpec,
    Tree,
    Unmount,
    World,
    changes,
    filters,
    names,
    namespaces,
    offers,
    rules,
    templates,
    tool_sets,
    trees,
    uris,
)
from mcpactors.testing.machine import read_list
from mcpactors.testing.model import KINDS
from mcpactors.testing.servers import label

FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
formats: st.SearchStrategy[UriFormat] = st.sampled_from(["path", "protocol"])
PRINTED = {
    it.__name__: it
    for it in (Add, Filter, Import, MountBelow, MountOn, MountSpec, Offer, Refresh, Remove, Rename, Rule)
} | {it.__name__: it for it in (ServerSpec, Tree, Unmount, frozenset)}


@given(st.data(), formats)
def test_every_drawn_namespace_is_legal_in_its_format(data: st.DataObject, uri_format: UriFormat) -> None:
    namespace = data.draw(namespaces(uri_format))
    assert validate_namespace(namespace, uri_format) == namespace


@FEW
@given(st.lists(offers(), max_size=6, unique_by=lambda offer: (offer.kind, offer.name)).map(tuple))
def test_a_server_lists_what_was_drawn_and_every_answer_says_whose_it_is(drawn: tuple[Offer, ...]) -> None:
    async def look() -> None:
        async with Client(ServerSpec("me", drawn).build()) as client:
            for kind in KINDS:
                mine = [offer for offer in drawn if offer.kind == kind]
                listed = await read_list(client, kind)
                assert [item[KEYS[kind]] for item in listed] == [offer.name for offer in mine]
                assert [item["description"] for item in listed] == [label("me", kind, offer.name) for offer in mine]
            for offer in drawn:
                if offer.kind == "tools":
                    text, *links = (await client.call_tool(offer.name)).content
                    assert isinstance(text, types.TextContent)
                    assert text.text == label("me", "tools", offer.name)
                    assert tuple(link.uri for link in links if isinstance(link, types.ResourceLink)) == offer.links

    trio.run(look)


@FEW
@given(tool_sets(3), filters(), rules(show=False))
def test_tool_sets_and_filters_are_what_they_say(tools: tuple[Offer, ...], rules: Visibility, hiding: Rule) -> None:
    assert len(tools) <= 3
    assert {offer.kind for offer in tools} <= {"tools"}
    assert len({offer.name for offer in tools}) == len(tools)
    assert not hiding.show
    assert all(not rule.only or rule.show for rule in rules.rules)


@FEW
@given(trees())
def test_a_tree_is_built_anew_each_time_and_prints_as_the_code_that_makes_it(tree: Tree) -> None:
    assert eval(repr(tree), PRINTED) == tree
    first, second = tree.build(), tree.build()
    assert [server.name for server in first] == [server.name for server in second] == [s.name for s in tree.servers]
    assert not {id(server) for server in first} & {id(server) for server in second}
    assert sum(len(server.mounts) for server in first) == len(tree.mounts)


@FEW
@given(trees(), st.lists(changes(), max_size=6))
def test_any_change_can_be_made_in_any_world_or_is_a_cycle(tree: Tree, drawn: list[Change]) -> None:
    assert eval(repr(drawn), PRINTED) == drawn

    async def make() -> None:
        servers: list[object] = [*tree.build()]
        async with open_runtime(servers[0]) as runtime:
            world = World.of(runtime, servers)
            assert len(world.handles) == len(tree.mounts)
            for change in drawn:
                try:
                    await change.make(world)
                except MountCycle:
                    continue

    trio.run(make)


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        (names(), "a_b"),
        (names(hostile=True), "\ud800"),
        (uris(), "file:///a"),
        (templates(), "{+path}"),
        (templates(understood=False), "data://{x:3}"),
    ],
)
def test_what_matters_is_drawn(strategy: st.SearchStrategy[str], wanted: str) -> None:
    assert find(strategy, lambda it: it == wanted, settings=settings(max_examples=20_000, database=None)) == wanted


@pytest.mark.parametrize(
    "kind", [Add, Remove, Filter, MountOn, MountBelow, Import, Refresh, Unmount, Rename], ids=lambda kind: kind.__name__
)
def test_every_kind_of_change_is_drawn(kind: type[Change]) -> None:
    looking = settings(max_examples=20_000, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    assert isinstance(find(changes(), lambda it: isinstance(it, kind), settings=looking), kind)


def test_mounts_collide() -> None:
    """One name that two mounts offer, through different namespaces: `a` + `b_c` and `a_b` + `c`."""

    def collides(drawn: tuple[str, str, str, str]) -> bool:
        namespace, name, other_namespace, other_name = drawn
        return namespace != other_namespace and f"{namespace}_{name}" == f"{other_namespace}_{other_name}"

    pairs = st.tuples(namespaces(), names(), namespaces(), names())
    assert collides(find(pairs, collides, settings=settings(max_examples=20_000, database=None)))


def test_without_hypothesis_the_import_says_what_to_install() -> None:
    program = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'hypothesis' else find(name, *rest)\n"
        "import mcpactors.testing"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: mcpactors.testing needs Hypothesis; install it with: pip install 'mcpactors[testing]'" in (
        ended.stderr
    )


def test_a_server_that_is_built_is_a_real_one() -> None:
    [server] = Tree((ServerSpec("s"),)).build()
    assert type(server) is Server

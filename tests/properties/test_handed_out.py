"""What is handed out can be handed back: over random trees of mounts, everything that any list or any result names can
be read, called or completed by that name, by clients of both eras.

Rule: nothing here knows how names are made. Every component says of itself, in the description that is listed, what
it answers; so the answer to a name is compared with what stands beside that name in the list.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.client import Client
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

from mcpactors import RuntimeSettings, open_runtime
from mcpactors.runtime.naming import UriFormat
from mcpactors.testing import GuestRun, MountSpec, Offer, ServerSpec, Tree, trees

BOTH_ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
BOTH_FORMATS = pytest.mark.parametrize("uri_format", ["path", "protocol"])
SOME = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def linked(tree: Tree) -> Tree:
    """The same tree, where every tool and prompt hands out all that its server can read."""

    def with_links(spec: ServerSpec) -> ServerSpec:
        readable = tuple(
            uri
            for offer in spec.offers
            for uri in ([offer.name] if offer.kind == "resources" else expansions(offer.name, "v"))
            if offer.kind in ("resources", "templates")
        )
        return evolve(spec, offers=tuple(evolve(it, links=readable) if _answers(it) else it for it in spec.offers))

    return evolve(tree, servers=tuple(with_links(spec) for spec in tree.servers))


def _answers(offer: Offer) -> bool:
    return offer.kind in ("tools", "prompts")


def expansions(template: str, *values: str) -> Iterator[str]:
    """URIs that the template stands for, where the SDK parses it."""
    try:
        parsed = UriTemplate.parse(template)
    except InvalidUriTemplate:
        return
    for value in values:
        uri = parsed.expand(dict.fromkeys(parsed.variable_names, value))
        if uri and parsed.match(uri) is not None:  # the SDK does not promise to match all that it expands
            yield uri


def texts(blocks: list[Any]) -> list[str]:
    return [block.text for block in blocks if isinstance(block, types.TextContent | types.TextResourceContents)]


def links(blocks: list[Any]) -> list[str]:
    return [block.uri for block in blocks if isinstance(block, types.ResourceLink)]


async def hand_back(client: Client) -> int:
    """Use every name that a list or an answer has; returns how many were."""
    used, handed_out = 0, []
    for tool in (await client.list_tools()).tools:
        blocks = (await client.call_tool(tool.name)).content
        assert texts(blocks) == [tool.description], tool.name
        handed_out += links(blocks)
        used += 1
    for prompt in (await client.list_prompts()).prompts:
        blocks = [message.content for message in (await client.get_prompt(prompt.name)).messages]
        assert texts(blocks) == [prompt.description], prompt.name
        handed_out += links(blocks)
        await completed(client, types.PromptReference(type="ref/prompt", name=prompt.name), prompt.description)
        used += 1
    resources = {it.uri: it.description for it in (await client.list_resources()).resources}
    for uri, description in resources.items():
        assert await read(client, uri) == [description], uri
        used += 1
    for template in (await client.list_resource_templates()).resource_templates:
        ref = types.ResourceTemplateReference(type="ref/resource", uri=template.uri_template)
        await completed(client, ref, template.description)
        for uri in expansions(template.uri_template, "v", "a"):
            assert await read(client, uri), uri
        used += 1
    for uri in handed_out:
        said = await read(client, uri)
        assert said == [resources[uri]] if uri in resources else said, uri
        used += 1
    return used


async def read(client: Client, uri: str) -> list[str]:
    contents = (await client.read_resource(uri)).contents
    assert {it.uri for it in contents} == {uri}
    return texts(list(contents))


async def completed(client: Client, ref: Any, description: str | None) -> None:
    assert (await client.complete(ref, {"name": "x", "value": ""})).completion.values == [description]


def play(tree: Tree, mode: str, uri_format: UriFormat, *, imported: bool = False) -> int:
    @asynccontextmanager
    async def connected() -> AsyncIterator[Client]:
        root, *others = tree.build()
        configured = RuntimeSettings(resource_prefix_format=uri_format)
        async with open_runtime(root, settings=configured) as runtime:
            for number, server in enumerate(others if imported else ()):
                await runtime.import_server(server, f"i{number}" if number else None)
            async with runtime.client(mode=mode) as client:
                yield client

    run = GuestRun(connected)  # its virtual time waits for the thread in which the SDK reads from a template
    try:
        return run.step(hand_back)
    finally:
        run.close()


@BOTH_ERAS
@BOTH_FORMATS
@SOME
@given(data=st.data())
def test_everything_that_a_list_or_a_result_names_can_be_used_by_that_name(
    mode: str, uri_format: UriFormat, data: st.DataObject
) -> None:
    play(linked(data.draw(trees(uri_format=uri_format, filtered=False))), mode, uri_format)


@BOTH_ERAS
@SOME
@given(tree=trees())
def test_so_it_can_where_filters_hide_some_of_it(mode: str, tree: Tree) -> None:
    """But for links to what is hidden: nothing is handed out here."""
    unlinked = tuple(evolve(s, offers=tuple(evolve(it, links=()) for it in s.offers)) for s in tree.servers)
    play(evolve(tree, servers=unlinked), mode, "path")


@BOTH_ERAS
@SOME
@given(tree=trees(filtered=False))
def test_so_it_can_where_trees_are_imported(mode: str, tree: Tree) -> None:
    play(linked(tree), mode, "path", imported=True)


@BOTH_ERAS
def test_the_property_looks_at_something(mode: str) -> None:
    """Through three mounts, each kind: four names, and two of them hand out two URIs each."""
    offers = (
        Offer("tools", "a"),
        Offer("prompts", "a"),
        Offer("resources", "file:///a"),
        Offer("templates", "urn:{x}"),
    )
    tree = Tree(
        (ServerSpec("s0"), ServerSpec("s1"), ServerSpec("s2", offers)),
        (MountSpec(0, 1, "a"), MountSpec(1, 2, "b"), MountSpec(0, 2)),
    )
    assert play(linked(tree), mode, "path") == 2 * (4 + 2 * 2)

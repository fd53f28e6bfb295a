"""Filters by tag, name and kind (feature B11)."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.client import Client

from mcpactors import Server, create_proxy
from mcpactors.errors import InvalidParams
from tests.composition.helpers import (
    ABSENT,
    BOTH_ERAS,
    named,
    prompts_of,
    read,
    refused,
    resources_of,
    said,
    saying,
    serving,
    templates_of,
    tools_of,
)


def _tagged(name: str = "tagged") -> Server:
    """One component of each kind that is tagged "a", one that is tagged "b", and one tool without a tag."""
    server = Server(name)
    for tag in "ab":
        server.tool(f"tool_{tag}", tags={tag})(saying(f"tool {tag}"))
        server.resource(f"data://{tag}", tags={tag})(saying(f"resource {tag}"))
        server.resource(f"{tag}://{{x}}", tags={tag})(_template)
        server.prompt(f"prompt_{tag}", tags={tag})(saying(f"prompt {tag}"))
    server.tool("plain")(saying("plain"))
    return server


async def _template(x: str) -> str:
    return f"template {x}"


async def everything(client: Client) -> list[str]:
    return [name for listed in (tools_of, resources_of, templates_of, prompts_of) for name in await listed(client)]


ALL = [
    "tool_a",
    "tool_b",
    "plain",
    "data://a",
    "data://b",
    "a://{x}",
    "b://{x}",
    "prompt_a",
    "prompt_b",
]


@BOTH_ERAS
@pytest.mark.parametrize(
    ("rules", "hidden"),
    [
        ([], ""),
        ([("disable", {"tags": {"a"}})], "tool_a data://a a://{x} prompt_a"),
        ([("disable", {"tags": ["a", "b"]})], " ".join(name for name in ALL if name != "plain")),
        ([("disable", {"names": {"tool_a", "data://b"}})], "tool_a data://b"),
        ([("disable", {"components": {"tool"}})], "tool_a tool_b plain"),
        ([("disable", {"components": {"template"}, "tags": {"b"}})], "b://{x}"),
        ([("disable", {})], " ".join(ALL)),
        ([("disable", {}), ("enable", {"names": {"plain"}})], " ".join(name for name in ALL if name != "plain")),
        ([("enable", {"tags": {"a"}, "only": True})], "tool_b plain data://b b://{x} prompt_b"),
        (
            [("enable", {"tags": {"a"}, "only": True}), ("disable", {"names": {"tool_a"}})],
            "tool_a tool_b plain data://b b://{x} prompt_b",
        ),
        ([("disable", {"tags": {"a"}}), ("enable", {"tags": {"a"}})], ""),
        ([("disable", {"tags": "a"})], "tool_a data://a a://{x} prompt_a"),
        ([("disable", {"tags": {"nobody has this"}})], ""),
    ],
)
async def test_b11_rules_hide_by_tag_name_and_kind_and_later_ones_win(mode: str, rules: Any, hidden: str) -> None:
    server = _tagged()
    for what, arguments in rules:
        getattr(server, what)(**arguments)
    async with serving(server, mode) as (_, client):
        assert await everything(client) == [name for name in ALL if name not in hidden.split()]


@BOTH_ERAS
async def test_b11_what_is_hidden_cannot_be_called_read_got_or_completed(mode: str) -> None:
    server = _tagged()

    @server.completion
    async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
        return types.Completion(values=["x"])

    main = named("main")
    main.mount(server, "c")
    server.disable(tags={"a"})
    async with serving(main, mode) as (_, client):
        for _ in range(2):  # before and after the table is known
            with refused(-32602, "Unknown tool: c_tool_a"):
                await client.call_tool("c_tool_a", {})
            for uri in ("data://c/a", "a://c/7"):
                with refused(ABSENT[mode], f"Unknown resource: {uri}"):
                    await client.read_resource(uri)
            with refused(-32602, "Unknown prompt: c_prompt_a"):
                await client.get_prompt("c_prompt_a")
            with refused(-32602, "Unknown prompt: c_prompt_a"):
                await client.complete(types.PromptReference(name="c_prompt_a"), {"name": "x", "value": ""})
            with refused(-32602, "Unknown resource template"):
                await client.complete(types.ResourceTemplateReference(uri="a://c/{x}"), {"name": "x", "value": ""})
            await everything(client)
        assert await said(client, "c_tool_b") == "tool b"
        assert await read(client, "b://c/7") == "template 7"


async def test_b11_a_hidden_resource_is_not_read_through_a_template_that_stands_for_it() -> None:
    server = Server("secrets")
    server.resource("data://secret")(saying("secret"))
    server.resource("data://{x}")(_template)
    server.disable(names={"data://secret"})
    main = named("main")
    main.mount(server, "c")
    async with serving(main) as (_, client):
        for _ in range(2):
            with refused(-32602, "Unknown resource: data://c/secret"):
                await client.read_resource("data://c/secret")
            assert await read(client, "data://c/open") == "template open"


async def test_b11_a_resource_that_one_mount_hides_is_read_of_another_that_shows_it() -> None:
    hiding, showing = Server("hiding"), Server("showing")
    hiding.resource("data://x")(saying("hidden"))
    showing.resource("data://{x}")(_template)
    hiding.disable()
    main = named("main")
    main.mount(showing)
    main.mount(hiding)
    async with serving(main) as (_, client):
        assert await resources_of(client) == []
        assert await read(client, "data://x") == "template x"


async def test_b11_a_filter_over_resources_hides_those_that_are_not_listed_too() -> None:
    from mcp.server.lowlevel import Server as LowLevelServer

    async def listed(ctx: Any, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=[types.Resource(uri="data://listed", name="listed")])

    async def answer(ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        return types.ReadResourceResult(contents=[types.TextResourceContents(uri=params.uri, text="read")])

    low = LowLevelServer("low", on_list_resources=listed, on_read_resource=answer)
    main = named("main")
    main.mount(low, "c")
    async with serving(main) as (_, client):
        assert await read(client, "data://c/unlisted") == "read"
        for hide in ({"components": {"resource"}}, {"names": {"data://c/unlisted"}}):
            main.disable(**hide)
            with refused(-32602, "Unknown resource: data://c/unlisted"):
                await client.read_resource("data://c/unlisted")
            main.enable()
            assert await read(client, "data://c/unlisted") == "read"
        main.enable(tags={"public"}, only=True)
        with refused(-32602, "Unknown resource: data://c/unlisted"):
            await client.read_resource("data://c/unlisted")


@BOTH_ERAS
async def test_b11_a_parents_filter_applies_to_all_below_by_the_names_that_it_lists(mode: str) -> None:
    main, middle = named("main"), named("middle")
    middle.mount(_tagged(), "b")
    main.mount(middle, "a")
    main.enable(tags={"a"}, only=True)
    main.disable(names={"a_b_prompt_a"})
    async with serving(main, mode) as (_, client):
        assert await everything(client) == ["a_b_tool_a", "data://a/b/a", "a://a/b/{x}"]
        middle.disable(names={"b_tool_a"})
        assert await everything(client) == ["data://a/b/a", "a://a/b/{x}"]
        main.enable()
        assert "a_b_tool_a" not in await everything(client)
        with refused(-32602, "Unknown tool: a_b_tool_a"):
            await client.call_tool("a_b_tool_a", {})


@BOTH_ERAS
async def test_b11_a_mount_includes_and_excludes_by_tags_and_excluding_wins(mode: str) -> None:
    child = _tagged()
    child.tool("both", tags={"a", "b"})(saying("both"))
    main = named("main")
    main.mount(child, "i", include_tags={"a"})
    main.mount(child, "e", exclude_tags={"a"})
    main.mount(child, "ie", include_tags={"a"}, exclude_tags={"b"})
    async with serving(main, mode) as (_, client):
        assert await tools_of(client) == ["i_tool_a", "i_both", "e_tool_b", "e_plain", "ie_tool_a"]
        assert await prompts_of(client) == ["i_prompt_a", "e_prompt_b", "ie_prompt_a"]
        with refused(-32602, "Unknown tool: e_both"):
            await client.call_tool("e_both", {})
        assert await said(client, "i_both") == "both"


@BOTH_ERAS
async def test_b11_tags_survive_a_proxy(mode: str) -> None:
    main, middle = named("main"), named("middle")
    middle.mount(create_proxy(_tagged()), "p")
    main.mount(middle, "m", as_proxy=True, include_tags={"a"})
    async with serving(main, mode) as (_, client):
        assert await everything(client) == ["m_p_tool_a", "data://m/p/a", "a://m/p/{x}", "m_p_prompt_a"]
        [tool] = (await client.list_tools()).tools
        assert tool.meta is not None
        assert tool.meta["mcpactors/tags"] == ["a"]


async def test_b11_the_tags_of_fastmcp_are_read_too() -> None:
    server = Server("theirs")
    server.tool("new", meta={"fastmcp": {"tags": ["x"]}})(saying("new"))
    server.tool("old", meta={"_fastmcp": {"tags": ["x", "y"]}})(saying("old"))
    server.tool("none", meta={"fastmcp": {"tags": "x"}, "_fastmcp": 5})(saying("none"))
    async with serving(server) as (_, client):
        server.enable(tags={"x"}, only=True)
        assert await tools_of(client) == ["new", "old"]
        server.disable(tags={"y"})
        assert await tools_of(client) == ["new"]


async def test_b11_a_hidden_component_gives_its_name_to_another_mounts() -> None:
    main, old, new = named("main"), named("old", "x"), named("new", "x")
    main.mount(old)
    main.mount(new)
    async with serving(main) as (runtime, client):
        assert await said(client, "x") == "new.x"
        new.disable(names={"x"})
        assert await said(client, "x") == "old.x"
        assert runtime.conflicts() == ()
        new.enable(names={"x"})
        assert await said(client, "x") == "new.x"


@BOTH_ERAS
async def test_b11_a_filter_that_hides_everything_leaves_empty_lists_and_clear_refusals(mode: str) -> None:
    main = named("main", "own")
    main.mount(_tagged(), "c")
    async with serving(main, mode) as (_, client):
        assert await said(client, "own") == "main.own"
        main.disable()
        assert await everything(client) == []
        with refused(-32602, "Unknown tool: own"):
            await client.call_tool("own", {})
        main.enable(tags={"nobody has this"}, only=True)
        assert await everything(client) == []
        main.enable()
        assert len(await everything(client)) == 1 + len(ALL)


@pytest.mark.parametrize("components", [{"tools"}, "tol", {"tool", 5}, []])
async def test_b11_a_kind_that_does_not_exist_is_refused_and_changes_nothing(components: Any) -> None:
    server = named("x", "tool")
    async with serving(server) as (_, client):
        for change in (server.enable, server.disable):
            if components:
                with pytest.raises(InvalidParams, match="components"):
                    change(components=components)
        assert await tools_of(client) == ["tool"]
    assert server.visibility.rules == ()


@pytest.mark.parametrize("change", ["enable", "disable"])
async def test_b11_names_and_tags_that_are_no_words_are_refused(change: str) -> None:
    server = named("x", "tool")
    for wrong in ({"names": 5}, {"names": [5]}, {"tags": 5}, {"tags": {None}}):
        with pytest.raises((InvalidParams, TypeError), match=r"words|iterable"):
            getattr(server, change)(**wrong)
    assert server.visibility.rules == ()


async def test_b11_a_change_of_a_filter_tells_clients_once_which_lists_changed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told: list[str] = []

    async def on_message(message: Any) -> None:
        told.append(message.method)

    main = named("main")
    main.mount(_tagged(), "c")
    async with serving(main, "legacy", message_handler=on_message) as (_, client):
        await everything(client)
        await trio.sleep(5)
        told.clear()
        main.disable(components={"tool"})
        await trio.sleep(5)
        assert told == ["notifications/tools/list_changed"]
        told.clear()
        main.disable(components={"tool"})
        main.disable(tags={"nobody has this"})
        await trio.sleep(5)
        assert told == []
        main.enable()
        main.disable(tags={"a"})
        await trio.sleep(5)
        assert sorted(told) == [f"notifications/{kind}/list_changed" for kind in ("prompts", "resources", "tools")]

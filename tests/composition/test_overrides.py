"""Tools under another face, at the mount (feature B12)."""

from __future__ import annotations

import pytest

from mcpactors import Server, ToolOverride, create_proxy, open_runtime
from mcpactors.errors import InvalidParams
from tests.composition.helpers import BOTH_ERAS, named, refused, said, serving, tools_of


def _search() -> Server:
    server = Server("search")

    @server.tool
    async def find(text: str, limit: int = 10, key: str = "none") -> str:
        """Finds."""
        return f"{text} {limit} {key}"

    return server


@BOTH_ERAS
@pytest.mark.parametrize("proxied", [False, True])
async def test_b12_a_mount_renames_tools_and_the_old_names_are_gone(mode: str, proxied: bool) -> None:
    main = named("main")
    child = named("child", "old", "kept")
    main.mount(create_proxy(child) if proxied else child, "c", tool_names={"old": "new", "no such tool": "x"})
    async with serving(main, mode) as (_, client):
        assert await tools_of(client) == ["c_new", "c_kept"]
        assert await said(client, "c_new") == "child.old"
        assert await said(client, "c_kept") == "child.kept"
        with refused(-32602, "Unknown tool: c_old"):
            await client.call_tool("c_old", {})


async def test_b12_runtimes_and_handles_rename_as_servers_do() -> None:
    async with serving("main") as (runtime, client):
        outer = await runtime.mount(named("outer", "old"), "o", tool_names={"old": "new"})
        await outer.mount(named("inner", "old"), "i", tool_names={"old": "newer"})
        assert await tools_of(client) == ["o_new", "o_i_newer"]
        assert await said(client, "o_i_newer") == "inner.old"


@BOTH_ERAS
async def test_b12_renames_of_several_levels_follow_one_another(mode: str) -> None:
    main, middle = named("main"), named("middle")
    middle.mount(named("inner", "one"), "i", tool_names={"one": "two"})
    main.mount(middle, "m", tool_names={"i_two": "three"})
    async with serving(main, mode) as (_, client):
        assert await tools_of(client) == ["m_three"]
        assert await said(client, "m_three") == "inner.one"


async def test_b12_two_tools_may_swap_their_names() -> None:
    main = named("main")
    main.mount(named("child", "a", "b"), tool_names={"a": "b", "b": "a"})
    async with serving(main) as (runtime, client):
        assert await tools_of(client) == ["b", "a"]
        assert await said(client, "a") == "child.b"
        assert await said(client, "b") == "child.a"
        assert runtime.conflicts() == ()


async def test_b12_a_rename_that_takes_another_tools_name_is_a_conflict() -> None:
    main = named("main")
    main.mount(named("child", "a", "b"), tool_names={"a": "b"})
    async with serving(main) as (runtime, client):
        assert await tools_of(client) == ["b"]
        assert await said(client, "b") == "child.a"
        assert [(c.name, c.winner, c.shadowed) for c in runtime.conflicts()] == [("b", "child", "child")]


@BOTH_ERAS
async def test_b12_title_and_description_are_changed_and_the_rest_stays(mode: str) -> None:
    main = named("main")
    main.mount(_search(), "s", tools={"find": ToolOverride(title="Look", description="Looks.")})
    async with serving(main, mode) as (_, client):
        [tool] = (await client.list_tools()).tools
        assert (tool.name, tool.title, tool.description) == ("s_find", "Look", "Looks.")
        assert set(tool.input_schema["properties"]) == {"text", "limit", "key"}


@BOTH_ERAS
@pytest.mark.parametrize("proxied", [False, True])
async def test_b12_arguments_are_fixed_or_dropped_and_no_longer_shown(mode: str, proxied: bool) -> None:
    main, child = named("main"), _search()
    override = ToolOverride(name="look", fixed={"key": "secret"}, dropped={"limit"})
    main.mount(create_proxy(child) if proxied else child, "s", tools={"find": override})
    async with serving(main, mode) as (_, client):
        [tool] = (await client.list_tools()).tools
        assert tool.name == "s_look"
        assert set(tool.input_schema["properties"]) == {"text"}
        assert tool.input_schema["required"] == ["text"]
        assert await said(client, "s_look", text="x") == "x 10 secret"
        assert await said(client, "s_look", text="x", limit=3, key="mine") == "x 10 secret"


async def test_b12_a_tool_whose_only_argument_is_fixed_is_called_without_any() -> None:
    main = named("main")
    main.mount(_search(), tools={"find": ToolOverride(fixed={"text": "all"}, dropped={"limit", "key"})})
    async with serving(main) as (_, client):
        [tool] = (await client.list_tools()).tools
        assert tool.input_schema["properties"] == {}
        assert "required" not in tool.input_schema
        assert await said(client, "find") == "all 10 none"


async def test_b12_inner_overrides_are_the_last_to_touch_the_arguments() -> None:
    main, middle = named("main"), named("middle")
    middle.mount(_search(), tools={"find": ToolOverride(fixed={"key": "inner"})})
    main.mount(middle, tools={"find": ToolOverride(fixed={"key": "outer", "limit": 1})})
    async with serving(main) as (_, client):
        assert await said(client, "find", text="x") == "x 1 inner"


async def test_b12_filters_see_the_name_before_and_parents_the_name_after_the_rename() -> None:
    main, child = named("main"), named("child", "old", "other")
    main.mount(child, "c", tool_names={"old": "new"})
    async with serving(main) as (_, client):
        child.disable(names={"new"})
        assert await tools_of(client) == ["c_new", "c_other"]
        main.disable(names={"c_old"})
        assert await tools_of(client) == ["c_new", "c_other"]
        main.disable(names={"c_new"})
        assert await tools_of(client) == ["c_other"]
        main.enable(names={"c_new"})
        child.disable(names={"old"})
        assert await tools_of(client) == ["c_other"]


async def test_b12_one_server_may_have_different_faces_in_two_places() -> None:
    main, child = named("main"), _search()
    main.mount(child, "a", tools={"find": ToolOverride(fixed={"key": "a"})})
    main.mount(child, "b", tool_names={"find": "look"})
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["a_find", "b_look"]
        assert await said(client, "a_find", text="x") == "x 10 a"
        assert await said(client, "b_look", text="x") == "x 10 none"


@pytest.mark.parametrize("name", ["", "x" * 129])
async def test_b12_a_new_name_of_the_wrong_length_is_refused_and_nothing_is_mounted(name: str) -> None:
    main = named("main")
    with pytest.raises(InvalidParams, match="must have 1 to 128 characters"):
        main.mount(named("child", "x"), tool_names={"x": name})
    assert len(main.mounts) == 0
    async with open_runtime(main) as runtime:
        with pytest.raises(InvalidParams, match="must have 1 to 128 characters"):
            await runtime.mount(named("child", "x"), tools={"x": ToolOverride(name=name)})


async def test_b12_an_import_may_not_be_confused_with_a_mount_that_renames() -> None:
    main, source = named("main"), named("source")
    source.mount(named("child", "old"), tool_names={"old": "new"})
    await main.import_server(source, "i")
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["i_new"]
        assert await said(client, "i_new") == "child.old"


@pytest.mark.parametrize("proxied", [False, True])
async def test_b12_a_rename_of_a_tool_that_is_not_there_is_a_line_in_the_log(
    proxied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    main, middle, child = named("main"), named("middle"), named("child", "old", "kept")
    middle.mount(child, "c", tool_names={"old": "new"})
    middle.disable(names={"c_kept"})  # there, though nobody sees it
    wrong = {"nope": ToolOverride(title="x"), "c_old": ToolOverride(title="y")}
    main.mount(
        create_proxy(middle) if proxied else middle, "m", tool_names={"c_new": "a"} | {"c_kept": "b"}, tools=wrong
    )
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["m_a"]
        begins = "tools that a mount renames or says more of, and that are not there: "
        told = [f"'{name}' of m" for name in (["c_kept"] if proxied else []) + ["c_old", "nope"]]
        line = f"{begins}{', '.join(told)}; correct tool_names= or tools= of the mount"
        assert [said for said in caplog.messages if "not there" in said] == [f"main: {line}"]
        main.mount(named("other", "x"), "o")
        assert await tools_of(client) == ["m_a", "o_x"]
        assert len(caplog.messages) == 1


async def test_b12_a_renamed_tool_that_goes_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    main, child = named("main"), named("child", "old", "kept")
    main.mount(child, "c", tool_names={"old": "new"})
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["c_new", "c_kept"]
        assert caplog.messages == []
        child.remove_tool("old")
        assert await tools_of(client) == ["c_kept"]
        assert ["'old' of c; correct" in said for said in caplog.messages] == [True]


async def test_b12_of_what_is_not_up_nobody_knows_which_tools_are_not_there(
    caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    main = named("main")
    main.mount(create_proxy({"url": "http://127.0.0.1:9/mcp"}), "down", tool_names={"nope": "x"})
    async with serving(main) as (_, client):
        assert await tools_of(client) == []
        assert "not there" not in caplog.text

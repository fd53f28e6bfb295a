"""What is mounted and what it is called: names and URIs (features B4, B6), and who wins a name (B7)."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.server.mcpserver.resources import FunctionResource

from mcpactors import RuntimeSettings, Server, open_runtime
from mcpactors.errors import NameConflict, NamespaceError
from tests.composition.helpers import (
    BOTH_ERAS,
    innermost,
    living,
    named,
    prompted,
    prompts_of,
    read,
    resources_of,
    said,
    saying,
    serving,
    templates_of,
    tools_of,
)

# --- B4, B6: names and URIs -----------------------------------------------------------------------------------------

URIS = ["data://one", "data:///two", "file:///x/y", "urn:isbn:1", "mailto:a@b.c", "plain", "data://a/b?c=d#e"]
TEMPLATES = ["data://t/{a}", "files://{+path}", "search://find{?q}", "{+any}", "urn:x:{a}"]


def _rich() -> Server:
    server = named("rich", "tool")
    for number, uri in enumerate(URIS):
        server.add_resource(FunctionResource(uri=uri, name=f"r{number}", fn=saying(uri)))
    server.prompt("prompt")(saying("prompted"))
    return server


@BOTH_ERAS
@pytest.mark.parametrize("uri_format", ["path", "protocol"])
async def test_b4_every_kind_carries_all_namespaces_and_can_be_used_by_the_listed_name(
    mode: str, uri_format: Any
) -> None:
    main, middle = named("main"), named("middle")
    middle.mount(_rich(), "b")
    main.mount(middle, "a")
    async with serving(main, mode, RuntimeSettings(resource_prefix_format=uri_format)) as (_, client):
        assert await tools_of(client) == ["a_b_tool"]
        assert await said(client, "a_b_tool") == "rich.tool"
        assert await prompts_of(client) == ["a_b_prompt"]
        assert await prompted(client, "a_b_prompt") == "prompted"
        listed = await resources_of(client)
        assert listed[0] == {"path": "data://a/b/one", "protocol": "a+b+data://one"}[uri_format]
        assert [await read(client, uri) for uri in listed] == URIS


@BOTH_ERAS
@pytest.mark.parametrize("uri_format", ["path", "protocol"])
async def test_b4_templates_with_paths_and_queries_are_read_through_their_namespaces(
    mode: str, uri_format: Any
) -> None:
    server = Server("templates")

    @server.resource("data://t/{a}")
    async def one(a: str) -> str:
        return f"one {a}"

    @server.resource("files://{+path}")
    async def path(path: str) -> str:
        return f"path {path}"

    @server.resource("search://find{?q}")
    async def query(q: str = "nothing") -> str:
        return f"query {q}"

    main, middle = named("main"), named("middle")
    middle.mount(server, "b")
    main.mount(middle, "a")
    async with serving(main, mode, RuntimeSettings(resource_prefix_format=uri_format)) as (_, client):
        t, files, search = await templates_of(client)
        assert await read(client, t.replace("{a}", "7")) == "one 7"
        assert await read(client, files.replace("{+path}", "x/y/z.txt")) == "path x/y/z.txt"
        assert await read(client, search.replace("{?q}", "?q=fish")) == "query fish"
        assert await read(client, search.replace("{?q}", "")) == "query nothing"


@BOTH_ERAS
async def test_b4_a_uri_that_templates_of_two_depths_stand_for_leads_to_the_deeper_one(mode: str) -> None:
    main, outer, inner = named("main"), Server("outer"), Server("inner")

    @outer.resource("data://{+path}")
    async def any_path(path: str) -> str:
        return f"outer {path}"

    @inner.resource("data://{name}")
    async def one(name: str) -> str:
        return f"inner {name}"

    outer.mount(inner, "b")
    main.mount(outer, "a")
    async with serving(main, mode) as (_, client):
        assert await read(client, "data://a/b/7") == "inner 7"
        assert await read(client, "data://a/b/7/8") == "outer b/7/8"
        assert await read(client, "data://a/7") == "outer 7"


async def test_b4_without_a_namespace_names_are_unchanged() -> None:
    main = named("main")
    main.mount(_rich())
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["tool"]
        assert await resources_of(client) == URIS


@pytest.mark.parametrize("namespace", ["", "_x", "a b", "a/b", "ä", "a" * 65, "-", "a\n", 5])
async def test_b6_an_illegal_namespace_is_refused_and_changes_nothing(namespace: Any) -> None:
    main, child = named("main", "own"), named("child", "x")
    async with serving(main) as (runtime, client):
        for mount in (main.mount, runtime.mount, main.import_server, runtime.import_server):
            with pytest.raises(NamespaceError, match="cannot be used: it must start with a letter or digit"):
                await mount(child, namespace)  # type: ignore[misc]
        assert await tools_of(client) == ["own"]
        assert len(runtime.ps().children) == 1


async def test_b6_a_namespace_that_cannot_stand_in_a_scheme_is_refused_in_the_protocol_format() -> None:
    settings = RuntimeSettings(resource_prefix_format="protocol")
    main, child = named("main", "own"), named("child", "x")
    async with serving(main, settings=settings) as (runtime, client):
        for namespace in ("a_b", "1a"):
            with pytest.raises(NamespaceError, match="'protocol' puts it in a URI scheme"):
                await runtime.mount(child, namespace)
            with pytest.raises(NamespaceError, match="'protocol' puts it in a URI scheme"):
                main.mount(child, namespace)
        assert await tools_of(client) == ["own"]


@BOTH_ERAS
async def test_b6_a_name_that_namespaces_make_long_is_still_whole_and_leads_back_and_the_log_says_it_once(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    main, middle, child = named("main"), named("middle"), named("child", "x" * 128)
    middle.mount(child, "b" * 64)
    main.mount(middle, "a" * 64)
    async with serving(main, mode) as (_, client):
        [name] = await tools_of(client)
        assert name == "_".join(("a" * 64, "b" * 64, "x" * 128))
        assert await said(client, name) == "child." + "x" * 128
        main.add_tool(saying("another"), name="short")
        assert len(await tools_of(client)) == 2
    [remark] = [record.getMessage() for record in caplog.records if record.name == "mcpactors"]
    assert remark == (
        "main: tool names of more than 128 characters, which some clients refuse: "
        f"'{'a' * 40}'... (258); choose shorter namespaces"
    )


# --- B7: conflicts --------------------------------------------------------------------------------------------------


@BOTH_ERAS
@pytest.mark.parametrize(("policy", "winner"), [("newest", "new"), ("oldest", "old")])
async def test_b7_a_conflict_is_won_by_policy_and_listed_with_both_names(mode: str, policy: Any, winner: str) -> None:
    main = named("main")
    main.mount(named("old", "x"))
    main.mount(named("new", "x"))
    async with serving(main, mode, RuntimeSettings(on_conflict=policy)) as (runtime, client):
        assert await tools_of(client) == ["x"]
        assert await said(client, "x") == f"{winner}.x"
        [conflict] = runtime.conflicts()
        assert (conflict.kind, conflict.name, conflict.winner) == ("tools", "x", winner)


@pytest.mark.parametrize("policy", ["newest", "oldest"])
async def test_b7_a_parents_own_component_wins_over_its_childrens(policy: Any) -> None:
    main = named("main", "x")
    main.mount(named("child", "x", "y"))
    async with serving(main, settings=RuntimeSettings(on_conflict=policy)) as (_, client):
        assert await tools_of(client) == ["x", "y"]
        assert await said(client, "x") == "main.x"


async def test_b7_the_policy_error_refuses_the_mount_and_changes_nothing() -> None:
    lives: list[str] = []
    main = named("main", "c_whose")
    async with serving(main, settings=RuntimeSettings(on_conflict="error")) as (runtime, client):
        with pytest.raises(NameConflict, match="tools 'c_whose'"):
            await runtime.mount(living("child", lives), "c")
        await runtime.mount(living("other", lives), "d")
        assert await tools_of(client) == ["c_whose", "d_whose"]
        assert runtime.conflicts() == ()
    assert lives == ["child began", "child ended", "other began", "other ended"]


async def test_b7_under_the_policy_error_a_description_with_a_conflict_does_not_start() -> None:
    main = named("main")
    main.mount(named("a", "b_c"), "a")
    main.mount(named("b", "c"), "a_b")
    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_runtime(main, settings=RuntimeSettings(on_conflict="error")):
            raise AssertionError("it started")
    assert isinstance(innermost(caught.value), NameConflict)


async def test_b7_different_namespaces_that_make_one_name_are_found_as_a_conflict() -> None:
    main = named("main")
    main.mount(named("first", "b_c"), "a")
    main.mount(named("second", "c"), "a_b")
    async with serving(main) as (runtime, client):
        assert await tools_of(client) == ["a_b_c"]
        assert await said(client, "a_b_c") == "second.c"
        assert [(c.name, c.shadowed) for c in runtime.conflicts()] == [("a_b_c", "a")]


async def test_b7_a_shadowed_name_is_a_line_in_the_log_each_time_it_becomes_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    main = named("main", *(f"t{number}" for number in range(7)))
    main.mount(named("old", "x"), "a")
    async with serving(main) as (_, client):
        await tools_of(client)
        assert caplog.messages == []
        newer = main.mount(named("new", "x", "y"), "a")
        await tools_of(client)
        line = "main: tool names that are shadowed: 'a_x' of a by that of a#2; give one of them another namespace"
        assert caplog.messages == [line]
        main.add_tool(saying("more"), name="more")
        await tools_of(client)
        assert caplog.messages == [line]
        await newer.unmount()
        main.mount(named("many", *(f"t{number}" for number in range(7))))
        await tools_of(client)
        assert caplog.messages[1].endswith("and 2 more; give one of them another namespace")
        assert len(caplog.messages) == 2


@BOTH_ERAS
async def test_b7_templates_that_stand_for_the_same_uris_are_a_line_in_the_log_and_the_newer_one_answers(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    main, older, newer = named("main"), Server("older"), Server("newer")

    @older.resource("data://{a}")
    async def of_older(a: str) -> str:
        return f"older {a}"

    @newer.resource("data://{b}")
    async def of_newer(b: str) -> str:
        return f"newer {b}"

    main.mount(older, "n")
    main.mount(newer, "n")
    async with serving(main, mode) as (_, client):
        assert await templates_of(client) == ["data://n/{a}", "data://n/{b}"]
        assert await read(client, "data://n/7") == "newer 7"
        main.resource("data://more/{c}")(of_older_anywhere)
        assert len(await templates_of(client)) == 3
    assert caplog.messages == [
        "main: URIs of templates that others answer: 'data://n/{a}' of n by 'data://n/{b}' of n#2; choose another "
        "namespace"
    ]


async def of_older_anywhere(c: str) -> str:
    return c


async def test_b7_a_shadowed_component_is_back_when_the_winner_goes() -> None:
    main = named("main")
    main.mount(named("old", "x"))
    winner = main.mount(named("new", "x"))
    async with serving(main) as (runtime, client):
        assert await said(client, "x") == "new.x"
        await winner.unmount()
        assert await said(client, "x") == "old.x"
        assert runtime.conflicts() == ()

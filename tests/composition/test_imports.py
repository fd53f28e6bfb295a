"""Imports: static copies (feature B3)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.server.mcpserver import Context

from mcpactors import Server, StdioServer, create_proxy, load_snapshot, open_runtime, save_snapshot
from mcpactors.errors import BackendStartError, ConfigError, MountError, NamespaceError
from tests.backends.everything import make
from tests.composition.helpers import (
    ABSENT,
    BOTH_ERAS,
    living,
    named,
    prompted,
    prompts_of,
    read,
    refused,
    resources_of,
    said,
    saying,
    serving,
    templates_of,
    text_of,
    tools_of,
)

EVERYTHING = Path(__file__).parents[1] / "backends" / "everything.py"


def _rich(name: str = "rich") -> Server:
    server = named(name, "x")
    server.resource("data://r")(saying("r"))

    @server.resource("data://t/{a}")
    async def template(a: str) -> str:
        return f"t {a}"

    server.prompt("ask")(saying("asked"))
    return server


@BOTH_ERAS
@pytest.mark.parametrize("late", [False, True])
async def test_b3_an_import_is_a_copy_of_every_kind_under_its_namespace(mode: str, late: bool) -> None:
    main, source = named("main", "own"), _rich()
    if not late:
        await main.import_server(source, "i")
    async with serving(main, mode) as (_, client):
        if late:
            await main.import_server(source, "i")
        assert await tools_of(client) == ["own", "i_x"]
        assert await resources_of(client) == ["data://i/r"]
        assert await templates_of(client) == ["data://i/t/{a}"]
        assert await prompts_of(client) == ["i_ask"]
        assert await said(client, "i_x") == "rich.x"
        assert await read(client, "data://i/r") == "r"
        assert await read(client, "data://i/t/7") == "t 7"
        assert await prompted(client, "i_ask") == "asked"


@BOTH_ERAS
async def test_b3_what_is_read_of_an_import_has_the_uri_that_was_asked_for(mode: str) -> None:
    main, middle = named("main"), named("middle")
    middle.mount(_rich(), "b")
    await main.import_server(middle, "a")
    async with serving(main, mode) as (_, client):
        for uri in (*await resources_of(client), "data://a/b/t/7"):
            [contents] = (await client.read_resource(uri)).contents
            assert contents.uri == uri


@BOTH_ERAS
async def test_b3_later_changes_of_the_source_are_not_seen(mode: str) -> None:
    main, source = named("main"), _rich()
    async with serving(main, mode) as (_, client):
        await main.import_server(source, "i")
        source.add_tool(saying("later"), name="later")
        source.resource("data://later")(saying("later"))
        source.prompt("later")(saying("later"))
        source.mount(named("mounted", "x"), "m")
        assert await tools_of(client) == ["i_x"]
        assert await resources_of(client) == ["data://i/r"]
        assert await prompts_of(client) == ["i_ask"]
        for name in ("i_later", "i_m_x"):
            with refused(-32602, f"Unknown tool: {name}"):
                await client.call_tool(name, {})
        with refused(ABSENT[mode], "was not there when this snapshot was taken"):
            await client.read_resource("data://i/later")
        with refused(-32602, "Unknown prompt: i_later"):
            await client.get_prompt("i_later")


async def test_b3_what_the_source_took_away_is_still_listed_and_calling_it_says_that_it_is_gone() -> None:
    main, source = named("main"), named("source", "gone", "kept")
    async with serving(main) as (_, client):
        await main.import_server(source, "i")
        source.remove_tool("gone")
        assert await tools_of(client) == ["i_gone", "i_kept"]
        result = await client.call_tool("i_gone", {})  # the words are those of the source, an SDK server
        assert (result.is_error, text_of(result)) == (True, "Unknown tool: gone")
        assert await said(client, "i_kept") == "source.kept"


@BOTH_ERAS
async def test_b3_the_copied_components_keep_working_when_the_source_has_a_lifespan_of_its_own(mode: str) -> None:
    lives: list[str] = []
    main, source = named("main"), living("source", lives)
    await main.import_server(source, "i")
    assert lives == ["source began", "source ended"]
    lives.clear()
    async with serving(main, mode) as (runtime, client):
        assert await said(client, "i_whose") == "source"
        assert lives == ["source began"]
        kinds = {row.name: row.kind for row in runtime.ps().children}
        assert kinds["i"] == "snapshot"
    assert lives == ["source began", "source ended"]


async def test_b3_a_source_that_is_mounted_too_has_one_lifespan() -> None:
    lives: list[str] = []
    main, source = named("main"), living("source", lives)
    async with serving(main) as (_, client):
        main.mount(source, "m")
        imported = await main.import_server(source, "i")
        assert await said(client, "m_whose") == await said(client, "i_whose") == "source"
        assert lives == ["source began"]
        await imported.unmount()
        assert await said(client, "m_whose") == "source"
        assert lives == ["source began"]
    assert lives == ["source began", "source ended"]


async def test_b3_a_server_imports_whether_or_not_a_runtime_still_runs_it() -> None:
    main, other = named("main"), named("other")
    async with open_runtime(main) as runtime:
        handle = main.mount(other, "o")
        await handle.unmount()
        await other.import_server(named("first", "x"), "a")
        assert len(runtime.ps().children) == 1
    await main.import_server(named("second", "x"), "b")
    main.mount(other, "o")
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["b_x", "o_a_x"]
        assert [await said(client, name) for name in ("b_x", "o_a_x")] == ["second.x", "first.x"]


async def test_b3_unmounting_an_import_ends_its_source() -> None:
    lives: list[str] = []
    main = named("main")
    async with serving(main) as (_, client):
        handle = await main.import_server(living("source", lives), "i")
        assert lives == ["source began"]
        await handle.unmount()
        await trio.testing.wait_all_tasks_blocked()
        assert lives == ["source began", "source ended"]
        assert await tools_of(client) == []


async def test_b3_a_copy_has_what_was_mounted_on_the_source_and_not_what_it_hides() -> None:
    main, source = named("main"), named("source", "shown", "hidden")
    source.mount(named("inner", "x"), "in")
    source.disable(names={"hidden"})
    async with serving(main) as (_, client):
        await main.import_server(source, "i")
        assert await tools_of(client) == ["i_shown", "i_in_x"]
        assert await said(client, "i_in_x") == "inner.x"
        source.enable(names={"hidden"})
        with refused(-32602, "Unknown tool"):
            await client.call_tool("i_hidden", {})


async def test_b3_what_the_source_hides_later_is_still_listed_and_calling_it_says_that_it_is_gone() -> None:
    main, source = named("main"), named("source", "hidden", "kept")
    async with serving(main) as (_, client):
        await main.import_server(source, "i")
        source.disable(names={"hidden"})
        assert await tools_of(client) == ["i_hidden", "i_kept"]
        with refused(-32602, "Unknown tool: hidden"):  # the words are the source's, which uses that name
            await client.call_tool("i_hidden", {})
        assert await said(client, "i_kept") == "source.kept"


async def test_b3_the_sources_middleware_runs_for_calls_of_the_copy() -> None:
    seen: list[str] = []

    async def note(ctx: Any, call_next: Any) -> Any:
        seen.append(ctx.method)
        return await call_next(ctx)

    main = named("main")
    await main.import_server(named("source", "x", middleware=[note]), "i")
    async with serving(main) as (_, client):
        assert await said(client, "i_x") == "source.x"
    assert seen.count("tools/call") == 1


# --- refresh --------------------------------------------------------------------------------------------------------


@BOTH_ERAS
async def test_b3_refresh_takes_the_copy_anew_and_returns_what_is_different(mode: str) -> None:
    main, source = named("main"), _rich()
    source.add_tool(saying("old"), name="changed", description="old")
    async with serving(main, mode) as (_, client):
        handle = await main.import_server(source, "i")
        assert not await handle.refresh()
        assert await said(client, "i_x") == "rich.x"
        source.remove_tool("x")
        source.remove_tool("changed")
        source.add_tool(saying("new"), name="changed", description="new")
        source.add_tool(saying("added"), name="added")
        source.remove_prompt("ask")
        source.resource("data://more")(saying("more"))
        assert await tools_of(client) == ["i_x", "i_changed"]
        diff = await handle.refresh()
        assert diff
        assert diff.added == {"tools": ("added",), "resources": ("data://more",)}
        assert diff.removed == {"tools": ("x",), "prompts": ("ask",)}
        assert diff.changed == {"tools": ("changed",)}
        assert await tools_of(client) == ["i_changed", "i_added"]
        assert await said(client, "i_added") == "added"
        assert await prompts_of(client) == []
        assert await read(client, "data://i/more") == "more"
        assert not await handle.refresh()


async def test_b3_refresh_of_what_is_no_import_or_is_not_running_says_so() -> None:
    main = named("main")
    live = main.mount(named("child"), "c")
    imported = await main.import_server(named("source", "x"), "i")
    with pytest.raises(MountError, match="no runtime runs this mount"):
        await imported.refresh()
    async with open_runtime(main):
        with pytest.raises(MountError, match="only an import can be refreshed"):
            await live.refresh()


async def test_b3_a_refresh_that_fails_leaves_the_last_copy(autojump_clock: trio.testing.MockClock) -> None:
    up = True

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[None]:
        if not up:
            raise OSError("the source is away")
        yield

    source = Server("source", lifespan=lifespan)
    source.add_tool(saying("x"), name="x")

    main = named("main")
    await main.import_server(source, "i")
    [handle] = main.mounts
    up = False
    async with serving(main) as (_, client):
        with pytest.raises(BackendStartError, match="the source is away"):
            await handle.refresh()
        assert await tools_of(client) == ["i_x"]
        with refused(-32003, "the source is away"):
            await client.call_tool("i_x", {})
        up = True
        await trio.sleep(10)
        assert await said(client, "i_x") == "x"


# --- Backends, and files --------------------------------------------------------------------------------------------


@BOTH_ERAS
async def test_b3_a_backend_is_imported_as_a_server_is(mode: str) -> None:
    main = named("main")
    async with serving(main, mode) as (_, client):
        await main.import_server(create_proxy(make()), "i")
        assert "i_echo" in await tools_of(client)
        assert await said(client, "i_echo", text="hello") == "hello"
        await client.call_tool("i_learn", {"name": "learnt"})
        assert "i_learnt" not in await tools_of(client)
        assert await read(client, "doc://i/page/7") == "page 7"


@pytest.mark.parametrize("late", [False, True])
async def test_b3_a_source_that_does_not_start_is_refused_and_nothing_changes(late: bool) -> None:
    broken = create_proxy(StdioServer("/no/such/program"))
    main = named("main", "own")
    if not late:
        with pytest.raises(BackendStartError):
            await main.import_server(broken, "i")
    async with serving(main) as (runtime, client):
        if late:
            for importer in (main, runtime):
                with pytest.raises(BackendStartError):
                    await importer.import_server(broken, "i")
        assert await tools_of(client) == ["own"]
        await trio.testing.wait_all_tasks_blocked()
        assert [row.name for row in runtime.ps().children] == ["main.own"]
    assert len(main.mounts) == 0


async def test_b3_an_import_refuses_what_a_mount_refuses() -> None:
    main = named("main")
    with pytest.raises(NamespaceError):
        await main.import_server(named("x"), "a b")
    with pytest.raises(MountError, match="cannot be mounted"):
        await main.import_server(object())
    assert len(main.mounts) == 0


async def test_b3_a_copy_is_kept_in_a_file_and_listed_before_its_source_has_started(tmp_path: Path) -> None:
    file = tmp_path / "everything.json"
    lives: list[str] = []
    gate = trio.Event()
    gate.set()

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[dict[str, str]]:
        await gate.wait()
        lives.append("began")
        yield {}

    def source() -> Server:
        server = Server("source", lifespan=lifespan)

        @server.tool
        async def echo(ctx: Context, text: str) -> str:
            return text

        server.resource("data://r")(saying("r"))
        return server

    async with open_runtime("main") as runtime:
        save_snapshot(await runtime.import_server(source(), "i"), file)
    assert lives == ["began"]
    gate = trio.Event()
    async with serving("main") as (runtime, client):
        handle = runtime.mount_snapshot(file, create_proxy(source()), "i")
        assert await tools_of(client) == ["i_echo"]
        assert await resources_of(client) == ["data://i/r"]
        assert lives == ["began"]
        gate.set()
        assert await said(client, "i_echo", text="hello") == "hello"
        assert lives == ["began", "began"]
        assert not await handle.refresh()


async def test_b3_a_backend_that_is_away_is_listed_from_its_file_and_calls_say_why(tmp_path: Path) -> None:
    file = tmp_path / "everything.json"
    backend = create_proxy(StdioServer(sys.executable, (str(EVERYTHING),)))
    async with open_runtime("main") as runtime:
        save_snapshot(await runtime.import_server(backend, "i"), file)
    async with serving("main") as (runtime, client):
        runtime.mount_snapshot(file, create_proxy(StdioServer("/no/such/program")), "i")
        assert "i_echo" in await tools_of(client)
        with refused(-32003, "/no/such/program"):
            await client.call_tool("i_echo", {"text": "x"})
    async with serving("main") as (runtime, client):
        runtime.mount_snapshot(file, backend, "i")
        assert await said(client, "i_echo", text="hello") == "hello"


async def test_b3_a_file_that_is_no_snapshot_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    good = {"mcpactorsSnapshot": 1, "tools": [], "prompts": [], "resources": [], "templates": []}
    async with serving(named("main", "own")) as (runtime, client):
        for text, why in (
            (None, "cannot be read as a snapshot"),
            ("{", "cannot be read as a snapshot"),
            ("[]", "is no snapshot"),
            ('{"mcpServers": {}}', "is no snapshot"),
            (json.dumps(good | {"tools": {}}), "tools: expected a list of objects that each have a name"),
            (json.dumps(good | {"templates": [{"uri": "x"}]}), "templates: expected .* a uriTemplate"),
            ("\udcff".encode("utf-8", "surrogateescape"), "cannot be read as a snapshot"),
        ):
            if text is not None:
                file.write_bytes(text if isinstance(text, bytes) else text.encode())
            with pytest.raises(ConfigError, match=f"x.json: .*{why}"):
                load_snapshot(file)
            with pytest.raises(ConfigError, match=f"x.json: .*{why}"):
                runtime.mount_snapshot(file, named("source"), "i")
        assert await tools_of(client) == ["own"]


async def test_b3_only_an_import_can_be_saved(tmp_path: Path) -> None:
    handle = named("main").mount(named("child"), "c")
    with pytest.raises(MountError, match="only an import has a copy to keep"):
        save_snapshot(handle, tmp_path / "x.json")
    assert os.listdir(tmp_path) == []

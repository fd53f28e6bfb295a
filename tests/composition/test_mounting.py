"""Mounting, live (features B1, B2, B4, B6 to B9, B16)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resources import FunctionResource

from mcpactors import MountHandle, RuntimeSettings, Server, create_proxy, open_runtime
from mcpactors.errors import MountCycle, MountError, NameConflict, NamespaceError
from tests.backends.everything import make
from tests.composition.helpers import (
    BOTH_ERAS,
    innermost,
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
    tools_of,
)


class Slow:
    """A server with a tool that is held until it is let go."""

    def __init__(self, lives: list[str]) -> None:
        self.begun = trio.Event()
        self.go = trio.Event()
        self.server = living("slow", lives)
        lives_of = lives

        @self.server.tool
        async def hold(ctx: Context) -> str:
            self.begun.set()
            await self.go.wait()
            lives_of.append("held call ended")
            return "let go"


# --- B1, B2: mount, unmount, replace --------------------------------------------------------------------------------


@BOTH_ERAS
@pytest.mark.parametrize("late", [False, True])
async def test_b1_a_mount_means_the_same_before_and_after_the_start(mode: str, late: bool) -> None:
    main, child = named("main", "own"), named("child", "x")
    if not late:
        main.mount(child, "c")
    async with serving(main, mode) as (_, client):
        if late:
            main.mount(child, "c")
        assert await said(client, "c_x") == "child.x"
        assert await tools_of(client) == ["own", "c_x"]
        child.add_tool(saying("later"), name="later")
        assert await said(client, "c_later") == "later"
        assert await tools_of(client) == ["own", "c_x", "c_later"]


async def test_b1_a_handle_tells_the_state_of_its_mount() -> None:
    main = named("main")
    handle = main.mount(named("child", "x"), "c")
    states = [handle.state]
    assert handle.stderr() == []
    with pytest.raises(MountError, match="no runtime runs this mount"):
        handle.info()
    async with open_runtime(main):
        states.append(handle.state)
        assert (handle.info().name, handle.info().kind) == ("c", "local")
        assert await handle.offers() == {"tools": 1, "prompts": 0, "resources": 0, "templates": 0}
    assert [*states, handle.state] == ["stopped", "running", "stopped"]


async def test_b1_a_handle_that_is_done_says_so() -> None:
    main = named("main")
    async with open_runtime(main) as runtime:
        for handle in (main.mount(named("a", "x"), "a"), await runtime.mount(named("b", "x"), "b")):
            assert await handle.settled() == "running"
            await handle.unmount()
            await handle.unmount()
            assert handle.state == "stopped"
            for ask in (handle.settled, handle.offers, handle.refresh):
                with pytest.raises(MountError, match="no runtime runs this mount"):
                    await ask()
            with pytest.raises(MountError, match="no runtime runs this mount"):
                handle.info()
            with pytest.raises(MountError, match="not mounted"):
                await handle.replace(named("c"))
            with pytest.raises(MountError, match="not mounted"):
                await handle.mount(named("c"))


async def test_b1_a_description_outlives_its_runtime_and_can_be_run_again() -> None:
    main = named("main", "own")
    main.mount(named("child", "x"), "c")
    for _ in range(2):
        async with serving(main) as (_, client):
            assert await tools_of(client) == ["own", "c_x"]
    main.mount(named("more", "x"), "m")
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["own", "c_x", "m_x"]


async def test_b1_what_a_runtime_mounts_is_not_part_of_the_servers_description() -> None:
    main = named("main", "own")
    async with serving(main) as (runtime, client):
        await runtime.mount(named("child", "x"), "c")
        assert await tools_of(client) == ["own", "c_x"]
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["own"]


@BOTH_ERAS
async def test_b2_a_late_mount_starts_the_childs_lifespan_and_unmount_ends_it(mode: str) -> None:
    lives: list[str] = []
    main = named("main")
    async with serving(main, mode) as (_, client):
        assert await tools_of(client) == []
        handle = main.mount(living("child", lives), "c")
        assert await handle.settled() == "running"
        assert lives == ["child began"]
        assert await said(client, "c_whose") == "child"
        await handle.unmount()
        assert lives == ["child began", "child ended"]
        assert await tools_of(client) == []
        with refused(-32602, "Unknown tool: c_whose"):
            await client.call_tool("c_whose", {})


@BOTH_ERAS
async def test_b2_unmount_lets_calls_in_flight_end_and_takes_no_new_ones(mode: str) -> None:
    lives: list[str] = []
    slow = Slow(lives)
    main = named("main", "own")
    handle = main.mount(slow.server, "s")
    async with serving(main, mode) as (_, client), trio.open_nursery() as nursery:

        async def call() -> None:
            assert await said(client, "s_hold") == "let go"

        async def unmount() -> None:
            await handle.unmount()
            lives.append("unmounted")

        nursery.start_soon(call)
        await slow.begun.wait()
        nursery.start_soon(unmount)
        await trio.testing.wait_all_tasks_blocked()
        assert lives == ["slow began"]
        assert await tools_of(client) == ["own"]
        with refused(-32602, "Unknown tool: s_hold"):
            await client.call_tool("s_hold", {})
        slow.go.set()
    assert lives == ["slow began", "held call ended", "slow ended", "unmounted"]


async def test_b2_a_call_that_outlasts_the_drain_time_is_failed_and_its_outcome_is_unknown(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lives: list[str] = []
    slow = Slow(lives)
    main = named("main")
    handle = main.mount(slow.server, "s")
    async with serving(main, settings=RuntimeSettings(drain=7)) as (_, client), trio.open_nursery() as nursery:

        async def call() -> None:
            with refused(-32000, "slow|went down while it held the call: the outcome is unknown"):
                await client.call_tool("s_hold", {})

        nursery.start_soon(call)
        await slow.begun.wait()
        before = trio.current_time()
        await handle.unmount()
        assert trio.current_time() - before == pytest.approx(7)
    assert lives == ["slow began", "slow ended"]


async def test_b2_a_server_that_is_mounted_again_while_it_still_ends_has_one_lifespan_at_a_time() -> None:
    lives: list[str] = []
    slow = Slow(lives)
    main = named("main")
    handle = main.mount(slow.server, "s")
    async with serving(main) as (_, client), trio.open_nursery() as nursery:
        nursery.start_soon(said, client, "s_hold")
        await slow.begun.wait()
        nursery.start_soon(handle.unmount)
        await trio.testing.wait_all_tasks_blocked()
        again = main.mount(slow.server, "again")
        await trio.testing.wait_all_tasks_blocked()
        assert (again.state, lives) == ("starting", ["slow began"])
        slow.go.set()
        assert await again.settled() == "running"
        assert lives == ["slow began", "held call ended", "slow ended", "slow began"]
        assert await said(client, "again_whose") == "slow"


async def test_b2_unmounting_one_of_two_mounts_of_a_server_ends_nothing() -> None:
    lives: list[str] = []
    main, child = named("main"), living("child", lives)
    first, second = main.mount(child, "a"), main.mount(child, "b")
    async with serving(main) as (_, client):
        await first.unmount()
        assert lives == ["child began"]
        assert await said(client, "b_whose") == "child"
        with refused(-32602, "Unknown tool: a_whose"):
            await client.call_tool("a_whose", {})
        await second.unmount()
        assert lives == ["child began", "child ended"]


async def test_b2_unmount_takes_out_all_below_it() -> None:
    lives: list[str] = []
    main, middle, inner = named("main"), living("middle", lives), living("inner", lives)
    middle.mount(inner, "i")
    handle = main.mount(middle, "m")
    async with serving(main) as (_, client):
        assert await tools_of(client) == ["m_whose", "m_i_whose"]
        await handle.unmount()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(lives) == ["inner began", "inner ended", "middle began", "middle ended"]
        assert await tools_of(client) == []
    assert [row.target for row in middle.mounts] == [inner]


@BOTH_ERAS
async def test_b1_replace_puts_another_server_in_the_same_place(mode: str) -> None:
    lives: list[str] = []
    main = named("main")
    async with serving(main, mode) as (_, client):
        old = main.mount(living("old", lives), "c", tool_names={"whose": "who"})
        newer = main.mount(named("newer", "x"), "n")
        assert await said(client, "c_who") == "old"
        fresh = await old.replace(living("new", lives))
        assert await said(client, "c_who") == "new"
        assert await tools_of(client) == ["c_who", "n_x"]
        assert lives == ["old began", "new began", "old ended"]
        assert (old.state, fresh.state, newer.state) == ("stopped", "running", "running")
        await fresh.unmount()
        assert await tools_of(client) == ["n_x"]


@BOTH_ERAS
async def test_b1_calls_wait_for_a_replacement_that_starts_and_those_in_flight_end_at_the_old_one(mode: str) -> None:
    lives: list[str] = []
    main, slow, may_start, texts = named("main"), Slow(lives), trio.Event(), list[str]()
    old = main.mount(slow.server, "c")
    async with serving(main, mode) as (_, client), trio.open_nursery() as nursery:

        async def call(tool: str) -> None:
            texts.append(await said(client, tool))

        async def replace() -> None:
            fresh = await old.replace(living("new", lives, may_start))
            assert fresh.state == "running"
            texts.append("replaced")

        nursery.start_soon(call, "c_hold")
        await slow.begun.wait()
        nursery.start_soon(replace)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call, "c_whose")
        await trio.testing.wait_all_tasks_blocked()
        assert texts == []
        may_start.set()
        await trio.testing.wait_all_tasks_blocked()
        assert texts == ["new"]
        slow.go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(texts) == ["let go", "new", "replaced"]
    assert lives == ["slow began", "new began", "held call ended", "slow ended", "new ended"]


async def test_b1_replace_returns_once_the_new_one_has_started() -> None:
    may_start, main = trio.Event(), named("main")
    old = main.mount(named("old", "x"), "c")
    async with serving(main):

        async def replace() -> None:
            fresh = await old.replace(living("new", [], may_start))
            assert (fresh.state, may_start.is_set()) == ("running", True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(replace)
            await trio.testing.wait_all_tasks_blocked()
            may_start.set()


async def test_b1_replace_keeps_precedence_and_refuses_what_cannot_be_mounted() -> None:
    main = named("main")
    async with serving(main) as (_, client):
        old = main.mount(named("old", "x"))
        main.mount(named("newest", "x"))
        fresh = await old.replace(named("fresh", "x", "y"))
        assert await said(client, "x") == "newest.x"
        assert await said(client, "y") == "fresh.y"
        with pytest.raises(MountError, match="cannot be mounted"):
            await fresh.replace(object())
        with pytest.raises(MountCycle, match="into itself: main -> main"):
            await fresh.replace(main)
        assert await said(client, "y") == "fresh.y"
    with pytest.raises(MountError, match="cannot be mounted"):
        await fresh.replace(object())
    with pytest.raises(MountCycle, match="into itself: main -> main"):
        await fresh.replace(main)


async def test_b1_replace_before_the_start_is_part_of_the_description() -> None:
    main = named("main")
    old = main.mount(named("old", "x"), "c")
    await old.replace(named("new", "x"))
    async with serving(main) as (_, client):
        assert await said(client, "c_x") == "new.x"


async def test_b1_two_mounts_and_unmounts_at_once_leave_what_they_should() -> None:
    main = named("main")
    async with serving(main) as (_, client):
        handles: list[MountHandle] = [main.mount(named(f"s{n}", "x"), f"n{n}") for n in range(20)]
        async with trio.open_nursery() as nursery:
            for handle in handles[::2]:
                nursery.start_soon(handle.unmount)
            for handle in handles[::2]:
                nursery.start_soon(handle.unmount)
        assert await tools_of(client) == [f"n{n}_x" for n in range(1, 20, 2)]


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


# --- B8: cycles, and one server in two places -------------------------------------------------------------------------


def _chain(*names: str) -> list[Server]:
    servers = [named(name, "x") for name in names]
    for parent, child in pairwise(servers):
        parent.mount(child, child.name)
    return servers


@pytest.mark.parametrize("depth", [1, 2, 5, 30])
@pytest.mark.parametrize("started", [False, True])
async def test_b8_a_cycle_of_any_depth_is_refused_with_its_path(depth: int, started: bool) -> None:
    names = [f"s{number}" for number in range(depth)]
    servers = _chain(*names)
    path = " -> ".join([names[-1], *names])

    def close() -> None:
        with pytest.raises(MountCycle, match=f"into itself: {path};"):
            servers[-1].mount(servers[0], "again")

    if not started:
        close()
    async with serving(servers[0]) as (_, client):
        if started:
            close()
        assert len(await tools_of(client)) == depth


@pytest.mark.parametrize("as_proxy", [False, True])
async def test_b8_a_cycle_through_a_proxy_of_a_server_is_refused_too(as_proxy: bool) -> None:
    a, b = named("a", "x"), named("b", "x")
    a.mount(b, "b", as_proxy=True)
    with pytest.raises(MountCycle, match="into itself: b -> a -> b"):
        b.mount(a, "a", as_proxy=as_proxy)
    with pytest.raises(MountCycle, match="into itself: b -> b"):
        b.mount(create_proxy(b))
    async with serving(a) as (_, client):
        assert await tools_of(client) == ["x", "b_x"]


async def test_b8_a_cycle_by_import_is_refused() -> None:
    a, b = named("a", "x"), named("b", "x")
    a.mount(b, "b")
    with pytest.raises(MountCycle, match="into itself: b -> a -> b"):
        await b.import_server(a)


async def test_b8_a_cycle_by_handles_is_refused_before_and_after_the_start() -> None:
    main, a, b = named("main"), named("a"), named("b")
    outer = main.mount(a, "a")
    async with open_runtime(main) as runtime:
        inner = await outer.mount(b, "b")
        for target, path in ((main, "main -> a -> b -> main"), (a, "a -> b -> a"), (b, "b -> b")):
            with pytest.raises(MountCycle, match=f"into itself: .*{path}"):
                await inner.mount(target, "again")
        with pytest.raises(MountCycle):
            await runtime.mount(main)
        with pytest.raises(MountCycle):
            await runtime.mount(runtime.server)
        assert len(runtime.ps().children) == 2


@BOTH_ERAS
async def test_b8_one_server_under_two_namespaces_has_one_lifespan(mode: str) -> None:
    lives: list[str] = []
    main, other, child = named("main"), named("other"), living("child", lives)
    main.mount(child, "a")
    main.mount(child, "b")
    other.mount(child, "deep")
    main.mount(other, "o")
    async with serving(main, mode) as (_, client):
        assert await tools_of(client) == ["a_whose", "b_whose", "o_deep_whose"]
        for name in ("a_whose", "b_whose", "o_deep_whose"):
            assert await said(client, name) == "child"
    assert lives == ["child began", "child ended"]


async def test_b8_one_sdk_server_and_a_wrapper_of_it_are_one_actor() -> None:
    plain: MCPServer[Any] = MCPServer("plain", log_level="CRITICAL")
    plain.add_tool(saying("x"), name="x")

    class Wrapped:
        _mcp_server = plain._lowlevel_server

    async with serving("main") as (runtime, client):
        await runtime.mount(Wrapped(), "a")
        await runtime.mount(Wrapped(), "b")
        assert await tools_of(client) == ["a_x", "b_x"]
        assert len({row.name for row in runtime.ps().children}) == 1


# --- B9, B16: all ways together ---------------------------------------------------------------------------------------


@BOTH_ERAS
async def test_b9_a_parent_mixes_its_own_mounted_imported_and_proxied_components(mode: str) -> None:
    main, mounted, imported = named("main", "own"), named("mounted", "x"), named("imported", "x")
    main.mount(mounted, "m")
    await main.import_server(imported, "i")
    main.mount(create_proxy(make()), "p")
    async with serving(main, mode) as (_, client):
        assert [name for name in await tools_of(client) if not name.startswith("p_")] == ["own", "m_x", "i_x"]
        assert await said(client, "own") == "main.own"
        assert await said(client, "m_x") == "mounted.x"
        assert await said(client, "i_x") == "imported.x"
        assert await said(client, "p_echo", text="hello") == "hello"
        assert await read(client, "doc://p/readme") == "read me"


@BOTH_ERAS
async def test_b16_a_child_has_its_lifespan_and_middleware_mounted_directly_or_as_a_proxy(mode: str) -> None:
    for as_proxy in (False, True):
        lives: list[str] = []
        seen: list[str] = []

        async def note(ctx: Any, call_next: Any, seen: list[str] = seen) -> Any:
            seen.append(ctx.method)
            return await call_next(ctx)

        child = living("child", lives)
        child.middleware.append(note)
        main = named("main")
        handle = main.mount(child, "c", as_proxy=as_proxy)
        async with serving(main, mode) as (_, client):
            assert await said(client, "c_whose") == "child"
            assert handle.info().kind == ("proxy" if as_proxy else "local")
        assert lives == ["child began", "child ended"]
        assert seen.count("tools/call") == 1


@BOTH_ERAS
@pytest.mark.parametrize("way", ["as_proxy", "create_proxy", "Server.as_proxy"])
async def test_b16_a_composed_server_mounted_as_a_proxy_shows_all_that_is_mounted_on_it(
    autojump_clock: trio.testing.MockClock, mode: str, way: str
) -> None:
    main, middle = named("main"), named("middle", "own", "hidden")
    middle.mount(named("inner", "x"), "i")
    middle.disable(names={"hidden"})
    if way == "as_proxy":
        main.mount(middle, "m", as_proxy=True)
    elif way == "create_proxy":
        main.mount(create_proxy(middle), "m")
    else:
        main.mount(Server.as_proxy(middle), "m")
    async with serving(main, mode) as (_, client):
        assert await tools_of(client) == ["m_own", "m_i_x"]
        assert await said(client, "m_i_x") == "inner.x"
        with refused(-32602, "Unknown tool"):
            await client.call_tool("m_hidden", {})
        middle.mount(named("late", "x"), "l")
        await trio.sleep(5)
        assert await tools_of(client) == ["m_own", "m_i_x", "m_l_x"]
        assert await said(client, "m_l_x") == "late.x"

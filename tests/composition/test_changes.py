"""Changes reach clients of both eras, through any depth (features A3, B15)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.client.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts import Prompt

from mcpactors import Runtime, Server, create_proxy, open_runtime
from tests.composition.helpers import (
    BOTH_ERAS,
    OLD_MEANS,
    named,
    read,
    refused,
    said,
    saying,
    serving,
    tools_of,
)

pytestmark = OLD_MEANS

TOOLS, PROMPTS, RESOURCES = (f"{kind} list changed" for kind in ("tools", "prompts", "resources"))


class Told:
    """What a client is told, whichever its era."""

    def __init__(self) -> None:
        self.all: list[str] = []

    async def on_message(self, message: Any) -> None:
        self.take(message)

    def take(self, message: Any) -> None:
        match message:
            case ToolsListChanged() | types.ToolListChangedNotification():
                self.all.append(TOOLS)
            case PromptsListChanged() | types.PromptListChangedNotification():
                self.all.append(PROMPTS)
            case ResourcesListChanged() | types.ResourceListChangedNotification():
                self.all.append(RESOURCES)
            case ResourceUpdated(uri=uri):
                self.all.append(f"{uri} updated")
            case types.ResourceUpdatedNotification():
                self.all.append(f"{message.params.uri} updated")

    def taken(self) -> list[str]:
        """All since the last time, in order of the alphabet."""
        found = sorted(self.all)
        self.all.clear()
        return found


@asynccontextmanager
async def told_by(runtime: Runtime, mode: str, *uris: str) -> AsyncIterator[tuple[Client, Told]]:
    """A client that is told of every list, and of the resources at `uris`."""
    told = Told()
    if mode == "legacy":
        async with runtime.client(mode="legacy", message_handler=told.on_message) as client:
            for uri in uris:
                await client.subscribe_resource(uri)
            yield client, told
        return
    async with runtime.client() as client, trio.open_nursery() as nursery:

        async def follow(task_status: trio.TaskStatus[None]) -> None:
            lists = {"tools_list_changed": True, "prompts_list_changed": True, "resources_list_changed": True}
            async with client.listen(**lists, resource_subscriptions=uris) as changes:
                task_status.started()
                async for change in changes:
                    told.take(change)

        await nursery.start(follow)
        yield client, told
        nursery.cancel_scope.cancel()


async def settle() -> None:
    """Let everything that is due be told: on virtual time only."""
    await trio.sleep(5)


def _live() -> Server:
    """A server whose tools tell of changes."""
    server = named("live", "x")

    @server.tool
    async def touch(ctx: Context, uri: str, times: int = 1) -> str:
        for _ in range(times):
            await ctx.notify_resource_updated(uri)
        return "touched"

    @server.resource("data://r")
    async def r() -> str:
        return "r"

    @server.resource("data://t/{a}")
    async def t(a: str) -> str:
        return a

    return server


# --- A3, B15: lists -------------------------------------------------------------------------------------------------


async def _about(a: str) -> str:
    return a


@BOTH_ERAS
@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("proxied", [False, True])
async def test_a3_whatever_is_added_or_removed_is_told_at_any_depth(
    autojump_clock: trio.testing.MockClock, mode: str, depth: int, proxied: bool
) -> None:
    server = named("live", "x")
    main = server
    for level in range(depth):
        parent = named(f"parent{level}")
        parent.mount(create_proxy(main) if proxied and level == 0 else main, f"n{level}")
        main = parent
    async with open_runtime(main) as runtime, told_by(runtime, mode) as (client, told):
        await tools_of(client)
        await settle()
        told.taken()
        changes: list[tuple[Callable[[], Any], str]] = [
            (lambda: server.add_tool(saying("y"), name="y"), TOOLS),
            (lambda: server.remove_tool("y"), TOOLS),
            (lambda: server.add_prompt(Prompt.from_function(saying("p"), name="p")), PROMPTS),
            (lambda: server.remove_prompt("p"), PROMPTS),
            (lambda: server.resource("data://new")(saying("new")), RESOURCES),
            (lambda: server.remove_resource("data://new"), RESOURCES),
            (lambda: server.resource("data://new/{a}")(_about), RESOURCES),
            (lambda: server.remove_resource("data://new/{a}"), RESOURCES),
        ]
        for change, expected in changes:
            change()
            await settle()
            assert told.taken() == [expected]


@BOTH_ERAS
async def test_b2_mounts_and_unmounts_are_told_once_with_the_kinds_that_they_change(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    main = named("main")
    async with open_runtime(main) as runtime, told_by(runtime, mode) as (client, told):
        await settle()
        told.taken()
        handle = main.mount(_live(), "c")
        await settle()
        assert told.taken() == [RESOURCES, TOOLS]
        fresh = await handle.replace(named("other", "x"))
        await settle()
        assert sorted(set(told.taken())) == [RESOURCES, TOOLS]
        await fresh.unmount()
        await settle()
        assert told.taken() == [TOOLS]
        assert await tools_of(client) == []


@BOTH_ERAS
async def test_b15_many_changes_in_a_moment_are_told_once(autojump_clock: trio.testing.MockClock, mode: str) -> None:
    main, child = named("main"), named("child")
    main.mount(child, "c")
    async with open_runtime(main) as runtime, told_by(runtime, mode) as (client, told):
        await settle()
        told.taken()
        for number in range(200):
            child.add_tool(saying("x"), name=f"t{number}")
        await settle()
        assert told.taken() == [TOOLS]
        assert len(await tools_of(client)) == 200


@BOTH_ERAS
async def test_b15_changes_that_follow_one_another_are_told_together(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    main, child = named("main"), named("child", "x")
    main.mount(child, "c")
    async with open_runtime(main) as runtime, told_by(runtime, mode) as (client, told):
        await settle()
        told.taken()
        for number in range(20):
            child.add_tool(saying("x"), name=f"t{number}")
            await trio.sleep(0.01)
        await settle()
        assert told.taken() == [TOOLS]
        assert len(await tools_of(client)) == 21


@BOTH_ERAS
async def test_b15_a_change_that_changes_nothing_that_is_listed_is_not_told(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    main, child = named("main"), named("child", "x")
    main.mount(child, "c")
    main.disable(names={"c_hidden"})
    async with open_runtime(main) as runtime, told_by(runtime, mode) as (_, told):
        await settle()
        told.taken()
        child.add_tool(saying("x"), name="hidden")
        await settle()
        child.components_changed("tools", "prompts")
        await settle()
        assert told.taken() == []


@BOTH_ERAS
@pytest.mark.parametrize("proxied", [False, True])
async def test_b15_what_a_tool_of_a_plain_sdk_server_tells_reaches_the_client(
    autojump_clock: trio.testing.MockClock, mode: str, proxied: bool
) -> None:
    plain: MCPServer[Any] = MCPServer("plain", log_level="CRITICAL")

    @plain.tool()
    async def learn(ctx: Context) -> str:
        plain.add_tool(saying("learnt"), name="learnt")
        await ctx.notify_tools_changed()
        return "done"

    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(plain) if proxied else plain, "p")
        async with told_by(runtime, mode) as (client, told):
            await tools_of(client)
            await settle()
            told.taken()
            await said(client, "p_learn")
            await settle()
            assert told.taken() == [TOOLS]
            assert await said(client, "p_learnt") == "learnt"


async def test_b15_a_modern_client_is_told_only_of_what_it_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = _live()
    async with serving(server) as (_, client):
        await settle()
        async with client.listen(prompts_list_changed=True) as changes:
            assert changes.honored is not None
            assert changes.honored.prompts_list_changed
            assert not changes.honored.tools_list_changed
            server.add_tool(saying("y"), name="y")
            await settle()
            server.prompt("p")(saying("p"))
            assert await anext(aiter(changes)) == PromptsListChanged()


async def test_b15_a_listening_client_is_let_go_in_good_order_when_the_runtime_closes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended: list[str] = []

    async def listen(runtime: Runtime, task_status: trio.TaskStatus[None]) -> None:
        async with runtime.client() as client, client.listen(tools_list_changed=True) as changes:
            await settle()
            task_status.started()
            async for _ in changes:
                pass
            ended.append("in good order")

    async with trio.open_nursery() as nursery:
        async with open_runtime(named("main", "x")) as runtime:
            await nursery.start(listen, runtime)
        with trio.move_on_after(5):
            await trio.sleep_forever()
        assert ended == ["in good order"]
        nursery.cancel_scope.cancel()


# --- B15: resources -------------------------------------------------------------------------------------------------


def _through(way: str, server: Server) -> object:
    return {
        "mounted": lambda: server,
        "proxied": lambda: create_proxy(server),
        "proxied, plain": lambda: create_proxy(server._lowlevel_server),
    }[way]()


@BOTH_ERAS
@pytest.mark.parametrize("way", ["mounted", "proxied", "proxied, plain", "imported"])
async def test_b15_updates_of_a_watched_resource_come_by_its_full_name(
    autojump_clock: trio.testing.MockClock, mode: str, way: str
) -> None:
    main, middle, server = named("main"), named("middle"), _live()
    if way == "imported":
        await middle.import_server(server, "b")
    else:
        middle.mount(_through(way, server), "b")
    main.mount(middle, "a")
    async with open_runtime(main) as runtime:
        await settle()
        async with told_by(runtime, mode, "data://a/b/r") as (client, told):
            await settle()
            told.taken()
            await client.call_tool("a_b_touch", {"uri": "data://r"})
            await settle()
            assert told.taken() == ["data://a/b/r updated"]
            await client.call_tool("a_b_touch", {"uri": "data://another"})
            await settle()
            assert told.taken() == []


@BOTH_ERAS
async def test_b15_an_expansion_of_a_template_is_watched_too(autojump_clock: trio.testing.MockClock, mode: str) -> None:
    main = named("main")
    main.mount(_live(), "c")
    async with open_runtime(main) as runtime, told_by(runtime, mode, "data://c/t/7") as (client, told):
        await settle()
        told.taken()
        for uri in ("data://t/8", "data://t/7"):
            await client.call_tool("c_touch", {"uri": uri})
            await settle()
        assert told.taken() == ["data://c/t/7 updated"]


@BOTH_ERAS
async def test_b15_updates_come_to_those_who_watch_and_to_nobody_else(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    main = named("main")
    main.mount(_live(), "c")
    async with open_runtime(main) as runtime, told_by(runtime, mode, "data://c/r") as (watching, told):
        async with told_by(runtime, mode) as (_, other):
            await settle()
            told.taken()
            other.taken()
            await watching.call_tool("c_touch", {"uri": "data://r"})
            await settle()
            assert (told.taken(), other.taken()) == (["data://c/r updated"], [])


@BOTH_ERAS
async def test_b15_one_server_in_two_places_is_watched_by_either_name(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    main, server = named("main"), _live()
    main.mount(server, "a")
    main.mount(server, "b")
    async with open_runtime(main) as runtime, told_by(runtime, mode, "data://b/r") as (client, told):
        await settle()
        told.taken()
        await client.call_tool("a_touch", {"uri": "data://r"})
        await settle()
        assert told.taken() == ["data://b/r updated"]


class Watching:
    """A low-level server of the old kind that notes who watches what, and can tell of updates."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.sessions: list[Any] = []
        from mcp.server.lowlevel import Server as LowLevelServer

        async def listed(ctx: Any, params: Any) -> types.ListResourcesResult:
            return types.ListResourcesResult(resources=[types.Resource(uri="data://r", name="r")])

        async def subscribe(ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
            self.notes.append(f"watch {params.uri}")
            self.sessions.append(ctx.session)
            return types.EmptyResult()

        async def unsubscribe(ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
            self.notes.append(f"unwatch {params.uri}")
            return types.EmptyResult()

        self.server: Any = LowLevelServer(
            "watching",
            on_list_resources=listed,
            on_subscribe_resource=subscribe,
            on_unsubscribe_resource=unsubscribe,
        )


@BOTH_ERAS
async def test_b15_the_server_is_told_of_the_first_watcher_and_of_the_last_and_sessions_end_their_watching(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    watching = Watching()
    main = named("main")
    main.mount(watching.server, "w")
    async with open_runtime(main) as runtime:
        await settle()
        async with told_by(runtime, mode, "data://w/r") as (_, first):
            async with told_by(runtime, mode, "data://w/r") as (_, second):
                await settle()
                assert watching.notes == ["watch data://r"]
                first.taken(), second.taken()
                await watching.sessions[-1].send_resource_updated("data://r")
                await settle()
                assert first.taken() == second.taken() == ["data://w/r updated"]
            await settle()
            assert watching.notes == ["watch data://r"]
        await settle()
        assert watching.notes == ["watch data://r", "unwatch data://r"]


@BOTH_ERAS
async def test_b15_watching_passes_the_middleware_of_a_parent_and_is_undone_through_it(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    seen: list[str] = []

    async def note(ctx: Any, call_next: Any) -> Any:
        if "subscribe" in ctx.method:
            seen.append(f"{ctx.method} {ctx.params['uri']}")
        return await call_next(ctx)

    watching = Watching()
    main = named("main", middleware=[note])
    main.mount(watching.server, "w")
    async with open_runtime(main) as runtime:
        await settle()
        async with told_by(runtime, mode, "data://w/r") as (_, told):
            await settle()
            told.taken()
            assert watching.notes == ["watch data://r"]
            await watching.sessions[-1].send_resource_updated("data://r")
            await settle()
            assert told.taken() == ["data://w/r updated"]
        await settle()
        assert watching.notes == ["watch data://r", "unwatch data://r"]
    assert seen == ["resources/subscribe data://w/r", "resources/unsubscribe data://w/r"]


async def test_b15_an_old_session_may_watch_twice_and_stop_once(autojump_clock: trio.testing.MockClock) -> None:
    watching = Watching()
    async with open_runtime("main") as runtime:
        await runtime.mount(watching.server, "w")
        async with told_by(runtime, "legacy", "data://w/r", "data://w/r") as (client, told):
            await client.unsubscribe_resource("data://w/r")
            await settle()
            assert watching.notes == ["watch data://r", "unwatch data://r"]
            told.taken()
            await watching.sessions[-1].send_resource_updated("data://r")
            await settle()
            assert told.taken() == []
            await client.unsubscribe_resource("data://w/r")
        await settle()
        assert watching.notes == ["watch data://r", "unwatch data://r"]


async def test_b15_watching_what_nobody_has_or_what_is_hidden_is_refused_or_not_honoured() -> None:
    main = named("main")
    child = _live()
    child.resource("data://hidden", enabled=False)(saying("x"))
    main.mount(child, "c")
    async with serving(main, "legacy") as (runtime, client):
        for uri in ("nowhere://x", "data://c/hidden"):
            with refused(-32602, f"Unknown resource: {uri}"):
                await client.subscribe_resource(uri)
        async with runtime.client() as modern:
            wanted = ["nowhere://x", "data://c/r", "data://c/hidden"]
            async with modern.listen(resource_subscriptions=wanted) as changes:
                assert changes.honored is not None
                assert changes.honored.resource_subscriptions == ["data://c/r"]


@BOTH_ERAS
async def test_b15_many_updates_in_a_moment_are_told_once_or_few_times_and_the_last_one_is(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    main = named("main")
    main.mount(_live(), "c")
    async with open_runtime(main) as runtime, told_by(runtime, mode, "data://c/r") as (client, told):
        await settle()
        told.taken()
        await client.call_tool("c_touch", {"uri": "data://r", "times": 300})
        await settle()
        count = len(told.taken())
        assert 1 <= count <= 300
        await client.call_tool("c_touch", {"uri": "data://r"})
        await settle()
        assert told.taken() == ["data://c/r updated"]


# --- B15: what is handed out can be handed back -----------------------------------------------------------------------


@BOTH_ERAS
@pytest.mark.parametrize("way", ["mounted", "proxied", "imported"])
@pytest.mark.parametrize("middleware", [False, True])
async def test_b15_links_and_embedded_resources_are_followed_through_any_depth(
    mode: str, way: str, middleware: bool
) -> None:
    server = _live()

    @server.tool(structured_output=False)
    async def links() -> list[types.ContentBlock]:
        return [
            types.ResourceLink(type="resource_link", name="r", uri="data://r"),
            types.EmbeddedResource(resource=types.TextResourceContents(uri="data://t/7", text="7")),
        ]

    @server.prompt("show")
    async def show() -> list[Any]:
        from mcp.server.mcpserver.prompts.base import UserMessage

        embedded = types.EmbeddedResource(resource=types.TextResourceContents(uri="data://r", text="r"))
        return [UserMessage(content=embedded)]

    async def nothing(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    chain = [nothing] if middleware else []
    main, middle = named("main", middleware=chain), named("middle", middleware=chain)
    if way == "imported":
        await middle.import_server(server, "b")
    else:
        middle.mount(_through(way, server), "b")
    main.mount(middle, "a")
    async with serving(main, mode) as (_, client):
        link, embedded = (await client.call_tool("a_b_links", {})).content
        assert isinstance(link, types.ResourceLink)
        assert isinstance(embedded, types.EmbeddedResource)
        assert (link.uri, embedded.resource.uri) == ("data://a/b/r", "data://a/b/t/7")
        assert [await read(client, uri) for uri in (link.uri, embedded.resource.uri)] == ["r", "7"]
        [message] = (await client.get_prompt("a_b_show")).messages
        assert isinstance(message.content, types.EmbeddedResource)
        assert message.content.resource.uri == "data://a/b/r"


async def test_b15_a_link_to_an_unlisted_resource_is_followed_too() -> None:
    from mcp.server.lowlevel import Server as LowLevelServer

    async def tools(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="link", input_schema={"type": "object"})])

    async def call(ctx: Any, params: Any) -> types.CallToolResult:
        return types.CallToolResult(
            content=[types.ResourceLink(type="resource_link", name="secret", uri="made://up/7")]
        )

    async def answer(ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        return types.ReadResourceResult(contents=[types.TextResourceContents(uri=params.uri, text="unlisted")])

    low = LowLevelServer("low", on_list_tools=tools, on_call_tool=call, on_read_resource=answer)
    main = named("main")
    main.mount(low, "c")
    async with serving(main) as (_, client):
        [link] = (await client.call_tool("c_link", {})).content
        assert isinstance(link, types.ResourceLink)
        assert await read(client, link.uri) == "unlisted"


@pytest.mark.parametrize("mode", ["legacy"])
async def test_b15_a_client_that_leaves_while_it_is_told_disturbs_nobody(
    autojump_clock: trio.testing.MockClock, mode: str
) -> None:
    main, child = named("main"), _live()
    main.mount(child, "c")
    async with open_runtime(main) as runtime, told_by(runtime, mode, "data://c/r") as (staying, told):
        with anyio.move_on_after(1):
            async with told_by(runtime, mode, "data://c/r") as (leaving, _):
                for number in range(1000):
                    child.add_tool(saying("x"), name=f"t{number}")
                    await leaving.call_tool("c_touch", {"uri": "data://r"})
                    await trio.sleep(0.01)
        await settle()
        told.taken()
        child.add_tool(saying("x"), name="last")
        await settle()
        assert told.taken() == [TOOLS]
        assert await said(staying, "c_last") == "x"

"""Explicit control over sessions: a client that is connected already, and a function that gives what to connect by."""

from __future__ import annotations

from functools import partial
from typing import Any

import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, FileUrl

from mcpactors import Server, create_proxy, open_runtime
from mcpactors.errors import ConfigError
from mcpactors.targets import ProxyServer
from tests.backends.remembering import connect, make
from tests.proxying.helpers import Wire, legacy, modern

MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])


class Name(BaseModel):
    name: str


def asking() -> MCPServer[Any]:
    """A server of both eras."""
    server: MCPServer[Any] = MCPServer("asking", log_level="CRITICAL")

    @server.tool()
    async def greet(ctx: Context) -> str | types.InputRequiredResult:
        """Asks by the means of either era."""
        if ctx.request_context.protocol_version != "2026-07-28":
            answer = await ctx.elicit("Who?", Name)
            return f"Hello, {answer.data.name}!" if answer.action == "accept" else answer.action
        if ctx.input_responses is None:
            form = types.ElicitRequestFormParams(message="Who?", requested_schema=Name.model_json_schema())
            return types.InputRequiredResult(
                input_requests={"who": types.ElicitRequest(params=form)}, request_state="once"
            )
        who = ctx.input_responses["who"]
        assert isinstance(who, types.ElicitResult)
        assert who.content is not None
        return f"Hello, {who.content['name']}!"

    @server.tool()
    async def count(ctx: Context) -> str:
        await ctx.report_progress(1, 2, "half")
        return "counted"

    @server.tool()
    def null(value: int | None) -> str:
        return repr(value)

    return server


async def owner(context: object, params: object) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "owner"})


async def text(client: Wire, tool: str, token: Any = None, **arguments: Any) -> str:
    result = await client.call(tool, token, **arguments)
    said: str = result["content"][0]["text"]
    return said


@MODES
async def test_calls_go_through_a_connected_client_which_answers_for_itself(mode: Any) -> None:
    async with Client(asking(), mode=mode, elicitation_callback=owner) as connected, open_runtime("main") as runtime:
        handle = await runtime.mount(create_proxy(connected, "b"))
        async with legacy(runtime) as old, modern(runtime) as new:
            for client in (old, new):
                assert await text(client, "greet") == "Hello, owner!"
                assert await text(client, "null", value=None) == "None"
            assert await text(old, "count", "mine") == "counted"
            await old.until(lambda: bool(old.said("progress")))
        assert dict(old.said("progress")[0]) == {
            "progressToken": "mine",
            "progress": 1.0,
            "total": 2.0,
            "message": "half",
        }
        assert handle.info().restarts == 0
        assert (await connected.call_tool("null", {"value": None})).is_error is False  # it was not closed with us


@MODES
async def test_calls_through_a_client_that_is_closed_fail_and_say_so(mode: Any) -> None:
    async with open_runtime("main") as runtime, legacy(runtime) as client:
        async with Client(asking(), mode=mode) as connected:
            handle = await runtime.mount(create_proxy(connected, "b"))
            assert await text(client, "null", value=1) == "1"
        with pytest.raises(MCPError, match="the client that b was mounted with is closed"):
            await text(client, "null", value=1)
        assert (handle.state, handle.info().restarts) == ("running", 0)


async def test_a_session_of_the_sdk_is_as_good_as_its_client() -> None:
    async with Client(asking()) as connected, open_runtime("main") as runtime, modern(runtime) as client:
        await runtime.mount(create_proxy(connected.session, "b"))
        assert await text(client, "null", value=1) == "1"


async def test_a_factory_is_called_once_for_each_session() -> None:
    server, remembering = make()
    made: list[int] = []

    def factory() -> Any:
        made.append(1)
        return partial(connect, server)

    async with open_runtime("main") as runtime:
        await runtime.mount(ProxyServer(client_factory=factory), "b")
        async with legacy(runtime) as ada, legacy(runtime) as eve:
            for client in (ada, eve, ada, eve):
                await client.tool("b_who")
    assert len(made) == 3  # the catalog's, and one for each
    assert [session.calls for session in remembering.sessions] == [0, 2, 2]


async def test_a_factory_may_give_a_client_that_nobody_has_connected_or_one_that_somebody_has() -> None:
    async with Client(asking(), elicitation_callback=owner) as connected:
        for what in (lambda: Client(asking()), lambda: connected):
            async with open_runtime("main") as runtime, modern(runtime, {"elicitation": {}}) as client:
                await runtime.mount(Server.as_proxy(ProxyServer(client_factory=what, sessions="per_call")), "b")
                for _ in range(3):
                    assert await text(client, "b_null", value=2) == "2"


async def test_a_factory_that_gives_nothing_of_use_is_named_as_the_reason() -> None:
    async with open_runtime("main") as runtime:
        handle = await runtime.mount(ProxyServer(client_factory=lambda: 5, name="five"))
        assert "the client_factory of five gave nothing that can be opened" in str(handle.info().last_exit)


def test_what_is_no_policy_is_refused_at_once() -> None:
    script = {"command": "x"}
    with pytest.raises(ConfigError, match="sessions: expected one of shared, per_client, per_call, got 'mine'"):
        create_proxy(script, sessions="mine")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sampling=True is no policy of a proxy; None switches a feature off"):
        create_proxy(script, sampling=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes a target or client_factory"):
        ProxyServer()
    with pytest.raises(ConfigError, match=r"forward: .*known are roots, sampling, elicitation, logging, progress"):
        create_proxy(script, forward={"smoke": False})


async def roots(context: object) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri=FileUrl("file:///owner"))])


async def test_an_old_backend_behind_a_connected_client_asks_that_client() -> None:
    server, remembering = make()
    async with Client(connect(server), mode="legacy", list_roots_callback=roots) as connected:
        async with open_runtime("main") as runtime, legacy(runtime) as ada:
            await runtime.mount(create_proxy(connected, "b"))
            assert await ada.tool("where") == {"roots": [{"uri": "file:///owner"}]}
            await trio.testing.wait_all_tasks_blocked()
    assert len(remembering.sessions) == 1

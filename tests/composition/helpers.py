"""What the tests of composition share: small servers of ours, and short words for what a client sees.

Rule: tools are `async`, so that they may run on virtual time (sync ones run in threads, which it does not wait for).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from mcpactors import Runtime, RuntimeSettings, Server, open_runtime

ABSENT = {"auto": -32602, "legacy": -32002}
"""What each era says of a resource that is not there."""
BOTH_ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
OLD_MEANS = pytest.mark.filterwarnings("ignore:.*(deprecated|removed) as of 2026.*")
"""The SDK calls the old era's means deprecated; that era has no others."""


def named(name: str, *tools: str, **options: Any) -> Server:
    """A server whose tools say whose they are."""
    server = Server(name, **options)
    for tool in tools:
        server.add_tool(saying(f"{name}.{tool}"), name=tool)
    return server


def saying(text: str) -> Callable[[], Any]:
    async def say() -> str:
        return text

    return say


async def nothing() -> str:
    return "nothing"


def living(name: str, lives: list[str], may_start: trio.Event | None = None) -> Server:
    """A server that notes when its lifespan begins and ends, and whose tool says what the lifespan gave."""

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[dict[str, str]]:
        if may_start is not None:
            await may_start.wait()
        lives.append(f"{name} began")
        yield {"of": name}
        lives.append(f"{name} ended")

    server = Server(name, lifespan=lifespan)

    @server.tool
    async def whose(ctx: Context) -> str:
        return str(ctx.request_context.lifespan_context["of"])

    return server


class Name(BaseModel):
    name: str


def contextual() -> Server:
    """A server whose tools report, log, read, and ask their user, its model and its roots."""
    server = Server("context")

    @server.tool
    async def work(ctx: Context) -> str:
        await ctx.report_progress(1, 2, "half")
        await ctx.warning("careful")
        [contents] = await ctx.read_resource("data://x")
        return str(contents.content)

    @server.tool
    async def greet(ctx: Context) -> str:
        answer = await ctx.elicit("Who?", Name)
        return answer.data.name if answer.action == "accept" else answer.action

    @server.tool
    async def think(ctx: Context) -> str:
        message = types.SamplingMessage(role="user", content=types.TextContent(text="x"))
        result = await ctx.session.create_message([message], max_tokens=9, related_request_id=ctx.request_id)
        assert isinstance(result.content, types.TextContent)
        return result.content.text

    @server.tool
    async def where(ctx: Context) -> list[str]:
        return [str(root.uri) for root in (await ctx.session.list_roots()).roots]

    server.resource("data://x")(nothing)
    return server


def noting(notes: list[str], name: str) -> Any:
    """Middleware that notes the beginning and the end of what is neither a list nor an introduction."""

    async def middleware(ctx: Any, call_next: Any) -> Any:
        if ctx.method.endswith("/list") or ctx.method in ("initialize", "server/discover"):
            return await call_next(ctx)
        params = ctx.params or {}
        notes.append(f"{name} > {ctx.method} {params.get('name') or params.get('uri')}")
        try:
            return await call_next(ctx)
        finally:
            notes.append(f"{name} <")

    return middleware


@asynccontextmanager
async def serving(
    main: object, mode: str = "auto", settings: RuntimeSettings | None = None, **options: Any
) -> AsyncIterator[tuple[Runtime, Client]]:
    """A runtime of `main` and a client of it."""
    async with open_runtime(main, settings=settings) as runtime:
        async with runtime.client(mode=mode, **options) as client:
            yield runtime, client


async def tools_of(client: Client) -> list[str]:
    return [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]


async def resources_of(client: Client) -> list[str]:
    return [resource.uri for resource in (await client.list_resources(cache_mode="bypass")).resources]


async def templates_of(client: Client) -> list[str]:
    listed = await client.list_resource_templates(cache_mode="bypass")
    return [template.uri_template for template in listed.resource_templates]


async def prompts_of(client: Client) -> list[str]:
    return [prompt.name for prompt in (await client.list_prompts(cache_mode="bypass")).prompts]


async def said(client: Client, tool: str, **arguments: Any) -> str:
    return text_of(await client.call_tool(tool, arguments))


def text_of(result: types.CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))


async def read(client: Client, uri: str) -> str:
    [contents] = (await client.read_resource(uri, cache_mode="bypass")).contents
    assert isinstance(contents, types.TextResourceContents)
    return contents.text


async def prompted(client: Client, name: str, **arguments: str) -> str:
    [message] = (await client.get_prompt(name, arguments)).messages
    assert isinstance(message.content, types.TextContent)
    return message.content.text


@contextmanager
def refused(code: int, match: str) -> Iterator[None]:
    """The block must end in an MCP error with this code and a message that has this in it."""
    with pytest.raises(MCPError, match=match) as caught:
        yield
    assert caught.value.code == code


def innermost(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group

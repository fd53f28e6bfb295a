"""A real MCP server with one tool for each thing that a backend can do; run as a process, or imported.

    python everything.py [--legacy] [--http PORT]

`--legacy` makes it refuse `server/discover`, so that it speaks the old era only. Built with the SDK, not with ours.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import anyio
import mcp_types as types
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

warnings.filterwarnings("ignore", message=".*deprecated as of 2026.*")

PNG = b"\x89PNG\r\n\x1a\n"


class Name(BaseModel):
    name: str


def make(name: str = "everything", *, legacy: bool = False) -> MCPServer[Any]:
    """A new server; each has its own state."""
    server: MCPServer[Any] = MCPServer(name, log_level="CRITICAL", instructions="Has one tool for each thing.")
    started: list[str] = []

    @server.tool()
    def echo(text: str) -> str:
        """Says the same."""
        return text

    @server.tool()
    async def hang(ctx: Context) -> str:
        """Says that it has begun, and never ends."""
        started.append("hang")
        try:
            await ctx.report_progress(0, 1, "begun")
            await anyio.sleep_forever()
        finally:
            started.append("hang ended")
        return "never"

    @server.tool()
    async def history() -> list[str]:
        """What has begun and ended."""
        return list(started)

    @server.tool()
    async def count(ctx: Context, to: int) -> str:
        """Reports progress from 1 to `to`."""
        for step in range(1, to + 1):
            await ctx.report_progress(step, to, f"step {step}")
        return f"counted to {to}"

    @server.tool()
    async def log(ctx: Context, lines: int = 3) -> str:
        """Logs at three levels."""
        for number in range(lines):
            await ctx.debug(f"debug {number}")
            await ctx.info({"number": number})
            await ctx.warning(f"warning {number}")
        return "logged"

    @server.tool()
    async def greet(ctx: Context) -> str:
        """Asks the user for a name."""
        answer = await ctx.elicit("What is your name?", Name)
        return f"Hello, {answer.data.name}!" if answer.action == "accept" else f"{answer.action}"

    @server.tool()
    async def ask(ctx: Context) -> str | types.InputRequiredResult:
        """Asks the user for a name, as the modern era does: the call ends, and comes again with the answer."""
        if ctx.input_responses is None:
            form = types.ElicitRequestFormParams(
                message="What is your name?", requested_schema=Name.model_json_schema()
            )
            return types.InputRequiredResult(
                input_requests={"who": types.ElicitRequest(params=form)}, request_state="asked once"
            )
        answer = ctx.input_responses["who"]
        assert isinstance(answer, types.ElicitResult)
        assert answer.content is not None
        return f"Hello, {answer.content['name']}! ({ctx.request_state})"

    @server.tool()
    async def think(ctx: Context, about: str) -> str:
        """Asks the client's model."""
        message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=about))
        result = await ctx.session.create_message([message], max_tokens=10, related_request_id=ctx.request_id)
        assert isinstance(result.content, types.TextContent)
        return f"{result.model}: {result.content.text}"

    @server.tool()
    async def where(ctx: Context) -> list[str]:
        """Asks for the client's roots."""
        return [str(root.uri) for root in (await ctx.session.list_roots()).roots]

    @server.tool()
    def links() -> list[types.ContentBlock]:
        """Hands out a link and an embedded resource."""
        return [
            types.ResourceLink(type="resource_link", name="readme", uri="doc://readme"),
            types.EmbeddedResource(
                type="resource", resource=types.TextResourceContents(uri="doc://page/7", text="seven")
            ),
        ]

    @server.tool()
    def fail() -> str:
        """Raises."""
        raise ValueError("as it should")

    @server.tool()
    def die() -> str:
        """Ends the process, as a crash does."""
        os._exit(3)

    @server.tool()
    async def learn(ctx: Context, name: str) -> str:
        """Adds a tool and says that the list has changed, by the means of the era."""
        server.add_tool(lambda: f"{name} was learnt", name=name, description="learnt")
        await ctx.notify_tools_changed()
        await ctx.session.send_tool_list_changed()
        return "learnt"

    @server.resource("doc://readme")
    def readme() -> str:
        """A text."""
        return "read me"

    @server.resource("doc://page/{number}")
    def page(number: str) -> str:
        """A page."""
        return f"page {number}"

    @server.resource("file:///logo.png", mime_type="image/png")
    def logo() -> bytes:
        """Bytes, at a URI without an authority."""
        return PNG

    @server.prompt()
    def review(code: str) -> str:
        """A prompt with an argument."""
        return f"Review: {code}"

    async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
        return types.Completion(values=[f"{argument.value}-completed"])

    server.completion()(
        complete
    )  # not as a decorator: the SDK gives it no types, and it would take those of `complete`

    if legacy:

        async def old(ctx: Any, call_next: Any) -> Any:
            if ctx.method == "server/discover":
                raise MCPError(types.METHOD_NOT_FOUND, "Method not found")
            return await call_next(ctx)

        server.middleware.append(old)
    return server


async def serve_old_stdio(server: MCPServer[Any]) -> None:
    """Over stdio as servers of before 2026: the first request does not choose an era, there is only one."""
    low_level = server._lowlevel_server
    async with stdio_server() as (read, write):
        await serve_loop(low_level, read, write, lifespan_state={})


if __name__ == "__main__":
    arguments = sys.argv[1:]
    everything = make(legacy="--legacy" in arguments)
    if "--http" in arguments:
        everything.run("streamable-http", port=int(arguments[arguments.index("--http") + 1]))
    elif "--legacy" in arguments:
        anyio.run(serve_old_stdio, everything)
    else:
        everything.run("stdio")

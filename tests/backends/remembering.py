"""A real MCP server of the old era that keeps state for each session; run as a process, or served in memory.

    python remembering.py [--http PORT]

Its tools say what the server knows of the session that they are called on: who introduced itself, at which level it
logs, which roots it was told when it asked for them, how often it was called. Built with the SDK; only what
carries HTTP is ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import mcp_types as types
import trio
from attrs import define, field
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.shared.memory import create_client_server_memory_streams

from mcpactors.transports.asgi import lifespan, serve

Context = ServerRequestContext[Any, Any]

TOOLS: Final = ("who", "hang", "greet", "where", "count", "log", "send", "late", "die", "echo")
FORM: Final = {"type": "object", "properties": {"name": {"type": "string"}}}


@define(eq=False)
class Session:
    """What the server knows of one session."""

    number: int
    hello: Mapping[str, Any]
    channel: Any
    """What reaches its client outside of a call."""
    calls: int = 0
    levels: list[str] = field(factory=list)
    roots: list[list[str]] = field(factory=list)


@define(eq=False)
class Remembering:
    """The middleware that answers everything; `sessions`: all that have begun, `hanging`: calls that have not ended."""

    sessions: list[Session] = field(factory=list)
    hanging: int = 0
    cancelled: int = 0
    seen: list[dict[str, Any]] = field(factory=list)
    """The params of every call."""

    async def __call__(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        params = ctx.params or {}
        if ctx.method == "server/discover":
            raise MCPError(types.METHOD_NOT_FOUND, "Method not found")
        if ctx.method == "initialize":
            ctx.session._connection.state["hello"] = params
            return await call_next(ctx)
        if ctx.method in ("notifications/initialized", "notifications/roots/list_changed"):
            session = self._session(ctx)
            result = await call_next(ctx)
            if "roots" in session.hello.get("capabilities", {}) and "--http" not in sys.argv:
                await self._learn_roots(ctx, session)
            return result
        if ctx.method == "logging/setLevel":
            self._session(ctx).levels.append(params["level"])
            return {}
        if ctx.method == "tools/call":
            self.seen.append(dict(params))
            session = self._session(ctx)
            session.calls += 1
            tool = getattr(self, f"_{params['name']}")
            result = await tool(ctx, session, params.get("arguments") or {})
            return result if isinstance(result, Whole) else said(result)
        return await call_next(ctx)

    def _session(self, ctx: Context) -> Session:
        state = ctx.session._connection.state
        if "session" not in state:
            state["session"] = Session(len(self.sessions) + 1, state.get("hello", {}), ctx.session._connection)
            self.sessions.append(state["session"])
        session: Session = state["session"]
        return session

    async def _learn_roots(self, ctx: Context, session: Session) -> None:
        try:
            answer = await ctx.session._connection.send_raw_request("roots/list", None)
            session.roots.append([root["uri"] for root in answer["roots"]])
        except MCPError as error:
            session.roots.append([error.message])

    async def _ask(self, ctx: Context, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """A question on the stream of this call. An error answer is the answer."""
        try:
            return await ctx.session._request_outbound.send_raw_request(method, params)
        except MCPError as error:
            return {"error": error.message}

    async def _who(self, ctx: Context, session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "session": session.number,
            "sessions": len(self.sessions),
            "calls": session.calls,
            "capabilities": session.hello.get("capabilities"),
            "name": session.hello.get("clientInfo", {}).get("name"),
            "levels": session.levels,
            "roots": session.roots,
            "hanging": self.hanging,
            "cancelled": self.cancelled,
            "pid": os.getpid(),
            "headers": dict(ctx.request.headers) if ctx.request is not None else {},
        }

    async def _hang(self, ctx: Context, session: Session, arguments: Mapping[str, Any]) -> str:
        self.hanging += 1
        try:
            await self._step(ctx, 0)
            await trio.sleep_forever()
        finally:
            self.hanging -= 1
            self.cancelled += 1

    async def _greet(self, ctx: Context, session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
        question = {"message": "What is your name?", "requestedSchema": FORM}
        return await self._ask(ctx, "elicitation/create", question)

    async def _send(self, ctx: Context, session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Ask what it is told to ask, and give back the answer as it came."""
        return await self._ask(ctx, arguments["method"], arguments.get("params"))

    async def _where(self, ctx: Context, session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return await self._ask(ctx, "roots/list")

    async def _step(self, ctx: Context, step: int) -> None:
        token = ((ctx.params or {}).get("_meta") or {}).get("progressToken")
        if token is not None:
            said = {"progressToken": token, "progress": step, "total": 9, "vendor": "kept"}
            await ctx.session._request_outbound.notify("notifications/progress", said)

    async def _count(self, ctx: Context, session: Session, arguments: Mapping[str, Any]) -> str:
        for step in range(arguments["to"]):
            await self._step(ctx, step)
        return f"counted to {arguments['to']}"

    async def _log(self, ctx: Context, session: Session, arguments: Mapping[str, Any]) -> str:
        said = {"level": arguments.get("level", "info"), "logger": "here", "data": arguments["data"]}
        await ctx.session._request_outbound.notify("notifications/message", said)
        return "logged"

    async def _late(self, ctx: Context, session: Session, arguments: Mapping[str, Any]) -> str:
        """Say this to the session itself, outside of any call."""
        await ctx.session._connection.notify(arguments["method"], arguments["params"])
        return "said"

    async def _echo(self, ctx: Context, session: Session, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The params of this call as they came, and what it is told to give back."""
        return said("echo", **arguments.get("result", {}), structuredContent={"params": ctx.params})

    async def _die(self, ctx: Context, session: Session, arguments: Mapping[str, Any]) -> str:
        os._exit(3)


class Whole(dict[str, Any]):
    """A result as it is to be on the wire."""


def said(value: Any, **more: Any) -> Whole:
    content = value if isinstance(value, dict) else {"said": value}
    return Whole({"content": [], "structuredContent": content, **more})


def make() -> tuple[Server[Any], Remembering]:
    """A new server, with what it remembers."""

    async def list_tools(ctx: Context, params: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name=name, input_schema={"type": "object"}) for name in TOOLS])

    async def accept(ctx: Context, params: object) -> types.EmptyResult:
        return types.EmptyResult()

    server: Server[Any] = Server("remembering", on_list_tools=list_tools)
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, accept)
    remembering = Remembering()
    server.middleware.insert(0, remembering)
    return server, remembering


@asynccontextmanager
async def connect(server: Server[Any]) -> AsyncIterator[tuple[Any, Any]]:
    """A connection to the server in this process: the (read, write) of its client."""
    async with create_client_server_memory_streams() as (client, (read, write)), trio.open_nursery() as nursery:

        async def run() -> None:
            await serve_loop(server, read, write, lifespan_state={})
            nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        yield client
        nursery.cancel_scope.cancel()


async def _serve_stdio(server: Server[Any]) -> None:
    async with stdio_server() as (read, write):
        await serve_loop(server, read, write, lifespan_state={})


async def _serve_http(server: Server[Any], port: int) -> None:
    app = server.streamable_http_app()
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with lifespan(app) as state, serve(app, listeners, state=state):
        print(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/mcp", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    remembering_server, _ = make()
    if "--http" in sys.argv:
        trio.run(_serve_http, remembering_server, int(sys.argv[sys.argv.index("--http") + 1]))
    else:
        trio.run(_serve_stdio, remembering_server)

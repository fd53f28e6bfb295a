"""A real MCP server of one protocol era whose tools ask their client, exactly as they are told; a process, or imported.

    python asking.py --legacy | --modern [--http PORT]

Without `--http` it speaks over stdio; PORT 0 takes a free one, and the URL is said on stdout. Built with the SDK.

Rule: questions, results and errors are what the caller of a tool writes into its arguments, as plain JSON, so that a
test says what is on the wire; what came in is kept in the journal, and the tool `told` gives it back.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import mcp_types as types
import trio
from attrs import define, field
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.runner import serve_loop
from mcp.server.session import ServerSession
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp.shared.memory import create_client_server_memory_streams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpactors.transports.asgi import lifespan, serve

__all__ = ["Asking", "in_memory", "make"]

Context = ServerRequestContext[Any, Any]
Run = Callable[["Asking", Context, Mapping[str, Any]], Awaitable[dict[str, Any]]]

WATCHED: Final = "note://one"
LIST_OF_NUMBERS: Final = {"type": "array", "items": {"type": "integer"}}


def said(text: str, **more: Any) -> dict[str, Any]:
    """The result of a tool: a text, and whatever else is to be in it."""
    return {"content": [{"type": "text", "text": text}], **more}


@define(eq=False)
class Journal:
    """What happened in the calls of one `id`."""

    runs: int = 0
    ended: list[str] = field(factory=list)
    received: list[dict[str, Any]] = field(factory=list)
    released: trio.Event = field(factory=trio.Event)


@define(eq=False)
class Asking:
    """What the tools remember. A tool is an async function in `TOOLS` that returns a result as on the wire."""

    modern: bool
    journals: defaultdict[str, Journal] = field(factory=lambda: defaultdict(Journal))
    sessions: dict[ServerSession, None] = field(factory=dict)
    watching: Counter[str] = field(factory=Counter)
    levels: list[str] = field(factory=list)
    learnt: list[str] = field(factory=list)
    bus: InMemorySubscriptionBus = field(factory=InMemorySubscriptionBus)

    def journal(self, arguments: Mapping[str, Any]) -> Journal:
        return self.journals[str(arguments.get("id"))]

    async def __call__(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """The outermost middleware: refuses the other era, takes calls of tools, and notes what tests ask about."""
        if (ctx.protocol_version in MODERN_PROTOCOL_VERSIONS) != self.modern and ctx.request_id is not None:
            data = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": ctx.protocol_version}
            refused = (types.UNSUPPORTED_PROTOCOL_VERSION, data) if self.modern else (types.INVALID_REQUEST, None)
            raise MCPError(refused[0], f"Unsupported protocol version: {ctx.protocol_version}", refused[1])
        params = ctx.params or {}
        if ctx.method == "notifications/initialized":
            self.sessions[ctx.session] = None
        elif ctx.method == "logging/setLevel":
            self.levels.append(str(params.get("level")))
            return {}
        elif ctx.method in ("resources/subscribe", "resources/unsubscribe"):
            self.watching[str(params.get("uri"))] += 1 if ctx.method == "resources/subscribe" else -1
            return {}
        elif ctx.method == "tools/call" and params.get("name") in TOOLS:
            return await self._call(ctx, params)
        return await call_next(ctx)

    async def _call(self, ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        arguments = params.get("arguments") or {}
        tool, journal = TOOLS[params["name"]], self.journal(arguments)
        if tool in (told, release):
            return {"resultType": "complete", **await tool(self, ctx, arguments)}
        journal.runs += 1
        journal.received.append({key: value for key, value in params.items() if key != "arguments"})
        how = "cancelled"
        try:
            result = await tool(self, ctx, arguments)
            how = str(result.get("resultType", "complete"))
        except MCPError:
            how = "error"
            raise
        finally:
            journal.ended.append(how)
        return {"resultType": "complete", **result} if self.modern else result

    async def put(self, ctx: Context, question: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the client by a request, on the stream of this call; an error answer is `{"error": ...}`."""
        channel = ctx.session._request_outbound  # the SDK has no public way to send a question as it is
        try:
            return await channel.send_raw_request(question["method"], question.get("params"))
        except MCPError as error:
            return {"error": {"code": error.code, "message": error.message, "data": error.data}}

    async def tell(self, ctx: Context, step: float) -> None:
        """A step of progress and a log line."""
        channel = ctx.session._request_outbound
        token = ((ctx.params or {}).get("_meta") or {}).get("progressToken")
        if token is not None:
            await channel.notify("notifications/progress", {"progressToken": token, "progress": step})
        await channel.notify("notifications/message", {"level": "info", "logger": "asking", "data": {"step": step}})


# --- Tools --------------------------------------------------------------------------------------------------------


async def ask(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Ask `rounds`, lists of questions, one list after another; `notices`: tell a step before and after each.

    `strict`: an error answer is the call's own error; `sulks`: a result that says only that it failed. The answers are
    `structuredContent.answers`.
    """
    if asking.modern:
        return await _ask_by_result(asking, ctx, arguments)
    answers: list[list[Any]] = []
    for number, questions in enumerate(arguments["rounds"]):
        if arguments.get("notices"):
            await asking.tell(ctx, number)
        replies: list[Any] = [None] * len(questions)

        async def put(place: int, question: Mapping[str, Any], replies: list[Any] = replies) -> None:
            replies[place] = await asking.put(ctx, question)

        async with trio.open_nursery() as nursery:
            for place, question in enumerate(questions):
                nursery.start_soon(put, place, question)
        answers.append(replies)
        for reply in replies:
            if arguments.get("strict") and "error" in reply:
                raise MCPError(**reply["error"])
            if arguments.get("sulks") and "error" in reply:
                return said("it failed", isError=True)
    if arguments.get("notices"):
        await asking.tell(ctx, len(arguments["rounds"]))
    return said("asked", structuredContent={"answers": answers})


async def _ask_by_result(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a modern server: one list of questions a round; what is answered already stays in the state."""
    params, rounds = ctx.params or {}, arguments["rounds"]
    state = json.loads(params["requestState"]) if params.get("requestState") else {"answers": [], "open": {}}
    answers, known = state["answers"], state["open"]
    known |= {key: answer for key, answer in (params.get("inputResponses") or {}).items() if isinstance(answer, dict)}
    keys = [f"{len(answers)}/{place}" for place in range(len(rounds[len(answers)]))]
    if all(key in known for key in keys):
        answers.append([known.pop(key) for key in keys])
    if arguments.get("notices"):
        await asking.tell(ctx, len(answers))
    if len(answers) == len(rounds):
        return said("asked", structuredContent={"answers": answers})
    questions = {f"{len(answers)}/{place}": question for place, question in enumerate(rounds[len(answers)])}
    missing = {key: question for key, question in questions.items() if key not in known}
    kept = json.dumps({"answers": answers, "open": known})
    return {"resultType": "input_required", "inputRequests": missing, "requestState": kept}


async def script(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first of `results` at the first call of this `id`, and so on; the last of them ever after."""
    results = arguments["results"]
    return dict(results[min(asking.journal(arguments).runs, len(results)) - 1])


async def told(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The journal of this `id`, and what the server knows of its clients."""
    journal = asking.journal(arguments)
    kept = {"runs": journal.runs, "ended": journal.ended, "received": journal.received}
    more = {"watching": dict(+asking.watching), "levels": asking.levels}
    return said("told", structuredContent=kept | more)


async def hold(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Ask a `question`, if there is one; withdraw it as soon as `release` is called with this `id`, and end.

    `stays`: do not end.
    """
    answer: Any = None
    async with trio.open_nursery() as nursery:

        async def released() -> None:
            await asking.journal(arguments).released.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(released)
        await asking.tell(ctx, 0)
        if "question" in arguments:
            answer = await asking.put(ctx, arguments["question"])
            nursery.cancel_scope.cancel()
        else:
            await trio.sleep_forever()
    if arguments.get("stays"):
        await trio.sleep_forever()
    return said("released", structuredContent={"answer": answer})


async def release(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """End `hold`."""
    asking.journal(arguments).released.set()
    return said("done")


async def visit(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Needs its user to visit `pages` first, and says so by an error, as servers of 2025-11-25 may (-32042)."""
    if asking.journal(arguments).runs == 1:
        raise MCPError(-32042, "visit these first", {"elicitations": arguments["pages"]})
    return said("visited")


async def fail(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The error that it is told to be."""
    raise MCPError(**arguments["error"])


async def touch(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What is at a URI has changed."""
    if asking.modern:
        await asking.bus.publish(ResourceUpdated(WATCHED))
    for session in list(asking.sessions) if asking.watching[WATCHED] else ():
        await session.send_resource_updated(WATCHED)
    return said("touched")


async def learn(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A tool more, a prompt and a resource, and every list is said to be another."""
    asking.learnt.append(arguments["name"])
    if asking.modern:
        for event in (ToolsListChanged(), PromptsListChanged(), ResourcesListChanged()):
            await asking.bus.publish(event)
    for session in list(asking.sessions):
        await session.send_tool_list_changed()
        await session.send_prompt_list_changed()
        await session.send_resource_list_changed()
    return said("learnt")


async def log(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A log line at each of `levels`; of the old era those that were asked for, as a server of it does."""
    for level in arguments["levels"]:
        await ctx.session._request_outbound.notify("notifications/message", {"level": level, "data": f"at {level}"})
    return said("logged")


async def die(asking: Asking, ctx: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Ends the process, as a crash does."""
    os._exit(3)


TOOLS: Final[Mapping[str, Run]] = {
    tool.__name__: tool for tool in (ask, script, told, hold, release, visit, fail, touch, learn, log, die)
}


# --- The server ---------------------------------------------------------------------------------------------------


class _Tells(Server[Any]):
    """The SDK's server, which says to old clients, too, that it tells of changes."""

    def create_initialization_options(self, *_: Any, **__: Any) -> InitializationOptions:
        return super().create_initialization_options(NotificationOptions(True, True, True))


class _Old(_Tells):
    """A server of before 2026, for which there is only one era: it serves a connection that was asked for the other."""

    async def run(self, read_stream: Any, write_stream: Any, *_: Any, **__: Any) -> None:
        await serve_loop(self, read_stream, write_stream, lifespan_state={})


def make(*, modern: bool) -> tuple[Server[Any], Asking]:
    """A new server of one era, with what it remembers."""
    asking = Asking(modern)

    async def list_tools(ctx: Context, params: object) -> types.ListToolsResult:
        names = [*TOOLS, *asking.learnt]
        tools = [types.Tool(name=name, input_schema={"type": "object"}) for name in names]
        if modern:
            tools[1].output_schema = LIST_OF_NUMBERS
        return types.ListToolsResult(tools=tools)

    async def list_resources(ctx: Context, params: object) -> types.ListResourcesResult:
        resources = [types.Resource(name=name, uri=f"note://{name}") for name in ("one", *asking.learnt)]
        return types.ListResourcesResult(resources=resources)

    async def list_prompts(ctx: Context, params: object) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[types.Prompt(name=name) for name in ("first", *asking.learnt)])

    async def accept(ctx: Context, params: object) -> types.EmptyResult:
        return types.EmptyResult()

    server = (_Tells if modern else _Old)(
        "asking",
        version="1",
        on_list_tools=list_tools,
        on_list_resources=list_resources,
        on_list_prompts=list_prompts,
        on_subscribe_resource=accept,
        on_unsubscribe_resource=accept,
        on_subscriptions_listen=ListenHandler(asking.bus),
    )
    if not modern:
        server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, accept)
    server.middleware.insert(0, asking)
    return server, asking


@asynccontextmanager
async def in_memory(server: Server[Any]) -> AsyncIterator[tuple[Any, Any]]:
    """A connection to the server in this process: the (read, write) of its client."""
    async with create_client_server_memory_streams() as (client, at_server), trio.open_nursery() as nursery:
        nursery.start_soon(server.run, *at_server, server.create_initialization_options())
        yield client
        nursery.cancel_scope.cancel()


async def serve_stdio(server: Server[Any]) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def serve_http(server: Server[Any], port: int) -> None:
    """Until the process is told to end; the URL is said on stdout once connections are accepted."""
    app = server.streamable_http_app()
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with lifespan(app) as state, serve(app, listeners, state=state):
        print(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/mcp", flush=True)
        await trio.sleep_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="asking")
    era = parser.add_mutually_exclusive_group(required=True)
    era.add_argument("--legacy", action="store_true")
    era.add_argument("--modern", action="store_true")
    parser.add_argument("--http", type=int, metavar="PORT")
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)
    server, _ = make(modern=options.modern)
    if options.http is None:
        trio.run(serve_stdio, server)
    else:
        trio.run(serve_http, server, options.http)


if __name__ == "__main__":
    main()

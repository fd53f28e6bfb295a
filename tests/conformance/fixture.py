"""The server that the official suite is run against: every tool, resource and prompt that its scenarios name.

    python -m tests.conformance.fixture [--legacy | --modern] [--http PORT]

Without `--http` it speaks over stdio; PORT 0 takes a free one, and the URL is said on stderr. `--legacy` refuses
everything of 2026-07-28, `--modern` everything before it, each as servers do that know one era only.

Rule: built on the SDK alone, so that what the suite says of it served directly is said of the SDK, and of our HTTP
host, which knows no MCP.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import defaultdict
from typing import Any, Final

import mcp_types as types
import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpactors.transports.asgi import lifespan, serve
from tests.conformance import content
from tests.conformance.asking import Asker, Unanswered, form
from tests.conformance.tools import STRING, TOOLS, Call, ToolFailed

__all__ = ["make", "server"]

Context = ServerRequestContext[Any, Any]

RESOURCE_NOT_FOUND: Final = -32002
"""The code before 2026-07-28, which has no constant in the SDK any more (SEP-2164)."""
EVENTS_KEPT: Final = 100
EXTRA_TOOL: Final = types.Tool(
    name="test_extra_tool", description="Is there every other time", input_schema={"type": "object"}
)
EXTRA_PROMPT: Final = types.Prompt(name="test_extra_prompt", description="Is there every other time")

# The suite is about what the deprecated features do.
warnings.filterwarnings("ignore", category=MCPDeprecationWarning)


class FixtureServer(Server[Any]):
    """The SDK's server, which says to old clients, too, that it tells of changes."""

    def create_initialization_options(self, *_: Any, **__: Any) -> InitializationOptions:
        return super().create_initialization_options(NotificationOptions(True, True, True))


class Fixture:
    """The handlers, and the little that they remember."""

    def __init__(self) -> None:
        self._bus = InMemorySubscriptionBus()
        self._more = {"tools": False, "prompts": False}

    async def list_tools(self, context: Context, params: object) -> types.ListToolsResult:
        listed = [tool.listed for tool in TOOLS.values()]
        return types.ListToolsResult(tools=[*listed, EXTRA_TOOL] if self._more["tools"] else listed)

    async def call_tool(
        self, context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        tool = TOOLS.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name}")
        asker = Asker(context, params.input_responses or {}, params.request_state)

        async def changed(kind: str) -> None:
            await self._changed(context, kind)

        try:
            answer = await tool.run(Call(context, params.arguments or {}, asker, changed))
        except Unanswered as unanswered:
            return unanswered.result
        except ToolFailed as failure:
            return types.CallToolResult(content=[types.TextContent(type="text", text=str(failure))], is_error=True)
        blocks = [types.TextContent(type="text", text=answer)] if isinstance(answer, str) else answer
        return types.CallToolResult(content=list(blocks))

    async def _changed(self, context: Context, kind: str) -> None:
        """A list changes, and both eras are told by their means."""
        self._more[kind] = not self._more[kind]
        if kind == "tools":
            await self._bus.publish(ToolsListChanged())
            await context.session.send_tool_list_changed()
        else:
            await self._bus.publish(PromptsListChanged())
            await context.session.send_prompt_list_changed()

    async def list_prompts(self, context: Context, params: object) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=content.PROMPTS + ([EXTRA_PROMPT] if self._more["prompts"] else []))

    async def get_prompt(
        self, context: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult | types.InputRequiredResult:
        if params.name == "test_input_required_result_prompt":
            asker = Asker(context, params.input_responses or {}, params.request_state)
            question = form("What context should the prompt use?", context=STRING)
            try:
                answer = (await asker.ask({"user_context": question}))["user_context"]
            except Unanswered as unanswered:
                return unanswered.result
            return types.GetPromptResult(messages=[content.user(f"In the context of {answer}")])
        try:
            return types.GetPromptResult(messages=content.prompt(params.name, params.arguments or {}))
        except KeyError as error:
            raise MCPError(types.INVALID_PARAMS, f"there is no prompt or argument {error}") from error

    async def list_resources(self, context: Context, params: object) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=content.RESOURCES)

    async def list_templates(self, context: Context, params: object) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=[content.TEMPLATE])

    async def read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        found = content.read(str(params.uri))
        if found is None:
            modern = context.protocol_version in MODERN_PROTOCOL_VERSIONS
            code = types.INVALID_PARAMS if modern else RESOURCE_NOT_FOUND
            raise MCPError(code, "Resource not found", {"uri": str(params.uri)})
        return types.ReadResourceResult(contents=[found])

    async def complete(self, context: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
        values = [word for word in ("paris", "park", "party", "test") if word.startswith(params.argument.value)]
        return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))

    async def accept(self, context: Context, params: object) -> types.EmptyResult:
        return types.EmptyResult()

    def server(self) -> Server[Any]:
        server = FixtureServer(
            "conformance-fixture",
            version="1.0.0",
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
            on_list_prompts=self.list_prompts,
            on_get_prompt=self.get_prompt,
            on_list_resources=self.list_resources,
            on_list_resource_templates=self.list_templates,
            on_read_resource=self.read_resource,
            on_subscribe_resource=self.accept,
            on_unsubscribe_resource=self.accept,
            on_subscriptions_listen=ListenHandler(self._bus),
            on_completion=self.complete,
        )
        server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, self.accept)
        return server


def make(*, legacy: bool = False, modern: bool = False) -> Server[Any]:
    """A new fixture, of both eras or of one."""
    server = Fixture().server()
    if legacy or modern:

        async def one_era(ctx: Context, call_next: CallNext) -> HandlerResult:
            version = ctx.protocol_version
            if legacy and version in MODERN_PROTOCOL_VERSIONS:
                raise MCPError(types.INVALID_REQUEST, f"Bad Request: Unsupported protocol version: {version}")
            if modern and version not in MODERN_PROTOCOL_VERSIONS:
                data = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": version}
                raise MCPError(types.UNSUPPORTED_PROTOCOL_VERSION, "Unsupported protocol version", data)
            return await call_next(ctx)

        server.middleware.insert(0, one_era)
    return server


class Events(EventStore):
    """The last events of each stream, for clients that ask with Last-Event-ID."""

    def __init__(self) -> None:
        self._streams: defaultdict[str, list[types.JSONRPCMessage | None]] = defaultdict(list)

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        events = self._streams[stream_id]
        events.append(message)
        if len(self._streams) > EVENTS_KEPT:
            del self._streams[next(iter(self._streams))]
        return f"{len(events)}@{stream_id}"

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        number, _, stream_id = last_event_id.partition("@")
        for after, message in enumerate(self._streams.get(stream_id, [])[int(number) :], int(number) + 1):
            if message is not None:
                await send_callback(EventMessage(message, f"{after}@{stream_id}"))
        return stream_id


async def serve_http(server: Server[Any], port: int) -> None:
    """Over HTTP until the process is told to end; the URL is said once connections are accepted."""
    app = server.streamable_http_app(event_store=Events(), retry_interval=100)
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with lifespan(app) as state, serve(app, listeners, state=state):
        print(f"serving http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
        await trio.sleep_forever()


async def serve_stdio(server: Server[Any], legacy: bool) -> None:
    """Over stdio, as servers of both eras do, or as those from before 2026: there the first request chooses nothing."""
    async with stdio_server() as (read, write):
        if legacy:
            await serve_loop(server, read, write, lifespan_state={})
        else:
            await server.run(read, write, server.create_initialization_options())


def main() -> None:
    parser = argparse.ArgumentParser(prog="fixture")
    era = parser.add_mutually_exclusive_group()
    era.add_argument("--legacy", action="store_true")
    era.add_argument("--modern", action="store_true")
    parser.add_argument("--http", type=int, metavar="PORT")
    options = parser.parse_args()
    made = make(legacy=options.legacy, modern=options.modern)
    if options.http is None:
        trio.run(serve_stdio, made, options.legacy)
    else:
        trio.run(serve_http, made, options.http)


server: Final = make()
"""The fixture of both eras, to be mounted by name."""

if __name__ == "__main__":
    main()

"""The client that the suite starts: it reaches the suite's server through a proxy of ours.

    python -m tests.conformance.client URL

The scenario and the revision come from the environment. A runtime with nothing but a proxy to URL is served over
HTTP, and the SDK's client does there what the scenario asks for; what the suite's server sees is the proxy.

Rule: what a scenario asks for stands in `SCENARIOS`; scenarios that want to see a call of a tool call them all.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import mcp_types as types
import trio
from mcp import Client
from mcp.shared.exceptions import MCPDeprecationWarning

from mcpactors import create_proxy, open_runtime
from tests.conformance.rows import LEGACY

warnings.filterwarnings("ignore", category=MCPDeprecationWarning)

PATIENCE: Final = 50.0
"""Seconds for one scenario; less than the suite gives, so that it is we who say what hangs."""
SAMPLES: Final[Mapping[str, Any]] = {
    "number": 2,
    "integer": 2,
    "boolean": True,
    "object": {},
    "array": [],
    "null": None,
}

Do = Callable[[Client], Awaitable[object]]


async def list_tools(client: Client) -> None:
    await client.list_tools()


async def call_tools(client: Client) -> None:
    """Call every tool that the proxy lists, with a value for everything it requires."""
    await client.list_tools()  # the client learns here which arguments go into headers, and drops what it may not call
    listed = await client.session.send_request(types.ListToolsRequest(), types.ListToolsResult)
    for tool in listed.tools:
        properties = tool.input_schema.get("properties", {})
        required = tool.input_schema.get("required", [])
        arguments = {name: SAMPLES.get(properties[name].get("type"), "a value") for name in required}
        await client.call_tool(tool.name, arguments)


async def call_what_is_asked_for(client: Client) -> None:
    """Make the calls that the suite names."""
    await client.list_tools()
    for call in json.loads(os.environ["MCP_CONFORMANCE_CONTEXT"])["toolCalls"]:
        await client.call_tool(call["name"], call["arguments"])


async def use_everything(client: Client) -> None:
    """List everything, and use the first of each kind."""
    await call_tools(client)
    for resource in (await client.list_resources()).resources:
        await client.read_resource(resource.uri)
    for prompt in (await client.list_prompts()).prompts:
        await client.get_prompt(prompt.name)


async def echo_schema(client: Client) -> None:
    """Hand back the schema of a tool, as it came."""
    [schema] = [
        tool.input_schema for tool in (await client.list_tools()).tools if tool.name == "json_schema_2020_12_tool"
    ]
    await client.call_tool("json_schema_echo", {"schema": schema})


SCENARIOS: Final[Mapping[str, Do]] = {
    "initialize": list_tools,
    "tools_call": call_tools,
    "elicitation-sep1034-client-defaults": call_tools,
    "sse-retry": call_tools,
    "request-metadata": call_tools,
    "sep-2322-client-request-state": call_tools,
    "http-standard-headers": use_everything,
    "http-custom-headers": call_what_is_asked_for,
    "http-invalid-tool-headers": call_tools,
    "json-schema-ref-no-deref": list_tools,
    "json-schema-2020-12-preservation": echo_schema,
}


async def answer(context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Accept a form as it is proposed: each field that has a default with that; a question of yes or no with yes."""
    schema = params.requested_schema if isinstance(params, types.ElicitRequestFormParams) else {}
    content = {
        name: field.get("default", True)
        for name, field in schema.get("properties", {}).items()
        if "default" in field or field.get("type") == "boolean"
    }
    return types.ElicitResult(action="accept", content=content)


async def sample(context: object, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    text = types.TextContent(type="text", text="An answer")
    return types.CreateMessageResult(role="assistant", content=text, model="none", stop_reason="endTurn")


async def list_roots(context: object) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


async def main(url: str) -> None:
    scenario = SCENARIOS[os.environ["MCP_CONFORMANCE_SCENARIO"]]
    legacy = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"] == LEGACY
    async with open_runtime("conformance") as runtime:
        await runtime.mount(create_proxy(url))
        async with runtime.serve_http(port=0) as front:
            client = Client(
                front,
                mode="legacy" if legacy else "auto",
                elicitation_callback=answer,
                sampling_callback=sample,
                list_roots_callback=list_roots,
            )
            with trio.fail_after(PATIENCE):
                async with client:
                    await scenario(client)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])

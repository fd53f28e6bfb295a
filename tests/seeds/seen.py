"""What a client sees of a server, in words short enough for a test: lists as names, results as text."""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.client import Client

from mcpactors import Server


async def tools(client: Client) -> list[str]:
    return [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]


async def prompts(client: Client) -> list[str]:
    return [prompt.name for prompt in (await client.list_prompts(cache_mode="bypass")).prompts]


async def resources(client: Client) -> list[str]:
    return [resource.uri for resource in (await client.list_resources(cache_mode="bypass")).resources]


async def templates(client: Client) -> list[str]:
    listed = await client.list_resource_templates(cache_mode="bypass")
    return [template.uri_template for template in listed.resource_templates]


async def everything(client: Client) -> dict[str, list[str]]:
    """All that is listed: kind -> names."""
    return {
        "tools": await tools(client),
        "prompts": await prompts(client),
        "resources": await resources(client),
        "templates": await templates(client),
    }


async def call(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))


async def read(client: Client, uri: str) -> str:
    [contents] = (await client.read_resource(uri)).contents
    assert isinstance(contents, types.TextResourceContents)
    assert contents.uri == uri
    return contents.text


async def prompted(client: Client, prompt: str, **arguments: str) -> str:
    [message] = (await client.get_prompt(prompt, arguments)).messages
    assert isinstance(message.content, types.TextContent)
    return message.content.text


def one_of_each(name: str = "Sub") -> Server:
    """A server with a component of each kind, called as in seed 001's table ("How Namespacing Works")."""
    server = Server(name)

    @server.tool
    def my_tool() -> str:
        return f"tool of {name}"

    @server.prompt
    def my_prompt() -> str:
        return f"prompt of {name}"

    @server.resource("data://info")
    def info() -> str:
        return f"resource of {name}"

    @server.resource("data://{id}")
    def by_id(id: str) -> str:
        return f"{id} of {name}"

    return server


ONE_OF_EACH = {
    "tools": ["my_tool"],
    "prompts": ["my_prompt"],
    "resources": ["data://info"],
    "templates": ["data://{id}"],
}
AS_API = {
    "tools": ["api_my_tool"],
    "prompts": ["api_my_prompt"],
    "resources": ["data://api/info"],
    "templates": ["data://api/{id}"],
}
"""What is listed of `one_of_each`, by itself and with the namespace "api"."""


async def answers_as_api(client: Client, name: str = "Sub") -> None:
    """Each component of `one_of_each` answers by the name that it has with the namespace "api"."""
    assert await call(client, "api_my_tool") == f"tool of {name}"
    assert await prompted(client, "api_my_prompt") == f"prompt of {name}"
    assert await read(client, "data://api/info") == f"resource of {name}"
    assert await read(client, "data://api/7") == f"7 of {name}"

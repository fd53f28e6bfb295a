"""FastMCP's client: it lists, calls, hears progress, answers questions, and says as JSON what came.

python fastmcp_client.py '{"url": ...} | {"command": ..., "args": [...]}' [...]      prints a line for each
"""

import asyncio
import json
import sys

from fastmcp import Client  # type: ignore[import-not-found, unused-ignore]


async def answer(message, response_type, params, context):
    return response_type(name=f"to {message}")


async def use(where: dict) -> None:
    progress = []

    async def stepped(step, total, message):
        progress.append(step)

    async with Client({"mcpServers": {"it": where}}, elicitation_handler=answer) as client:
        tools = [tool.name for tool in await client.list_tools()]

        async def said(name, **options):
            return (await client.call_tool(name, options.pop("arguments"), **options)).content[0].text

        echoed = await said("echo", arguments={"text": "näme \u2028 🎈"})
        done = await said("steps", arguments={"number": 3}, progress_handler=stepped)
        asked = await said("ask", arguments={"questions": ["one", "two"]})
    print(json.dumps({"tools": tools, "echoed": echoed, "progress": progress, "stepped": done, "asked": asked}))


async def main(words: list[str]) -> None:
    for where in words:
        await use(json.loads(where))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

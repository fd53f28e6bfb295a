"""The official Python SDK's client on asyncio: it lists, calls, hears progress, answers, and says as JSON what came.

python python_sdk.py MODE '{"url": ...} | {"command": ..., "args": [...]}' [MODE ...]      prints a line for each
"""

import asyncio
import json
import sys

from mcp import Client, StdioServerParameters
from mcp.types import ElicitResult


async def answer(context, params):
    return ElicitResult(action="accept", content={"name": f"to {params.message}"})


async def use(mode: str, where: dict) -> None:
    target = where.get("url") or StdioServerParameters(**where)
    progress = []

    async def stepped(step, total, message):
        progress.append(step)

    async with Client(target, mode=mode, elicitation_callback=answer) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]

        async def said(name, **options):
            result = await client.call_tool(name, options.pop("arguments"), **options)
            [part] = result.content
            assert part.type == "text"
            return part.text

        echoed = await said("echo", arguments={"text": "näme \u2028 🎈"})
        done = await said("steps", arguments={"number": 3}, progress_callback=stepped)
        asked = await said("ask", arguments={"questions": ["one", "two"]})
    print(json.dumps({"tools": tools, "echoed": echoed, "progress": progress, "stepped": done, "asked": asked}))


async def main(words: list[str]) -> None:
    for mode, where in zip(words[::2], words[1::2], strict=True):
        await use(mode, json.loads(where))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

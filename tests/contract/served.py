"""What the contract's ends serve, written down so that another process can serve it, too.

Rule: a `Spec` is plain JSON, and `opened` makes of it the server that is served, whatever the transport.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.server.mcpserver import Context
from pydantic import BaseModel

from mcpactors import Server, create_proxy, open_runtime
from mcpactors.client import MemoryTransport
from tests.backends.asking import make

__all__ = ["TOOLS", "Spec", "asking", "opened", "through"]

Spec = Mapping[str, Any]
TOOLS: Final[Spec] = {"serve": "tools"}
"""A runtime with the tools below, for clients of both eras."""


def asking(era: str) -> Spec:
    """The server of tests/backends/asking.py, which speaks one era only."""
    return {"serve": "asking", "era": era}


def through(backend: object) -> Spec:
    """A runtime with one backend: where it is, as `create_proxy` takes it; or its spec, for one in memory."""
    return {"serve": "through", "backend": backend}


class Name(BaseModel):
    name: str


def tools() -> Server:
    """A server that does what the contract is about."""
    server = Server("contract")
    gates: defaultdict[str, trio.Event] = defaultdict(trio.Event)
    held: list[str] = []
    ended: list[str] = []

    @server.tool(structured_output=False)
    async def echo(text: str) -> str:
        return text

    @server.tool(structured_output=False)
    async def big(size: int) -> str:
        return "0123456789abcdef" * (size // 16)

    @server.tool(structured_output=False)
    async def steps(ctx: Context, number: int) -> str:
        for step in range(number):
            await ctx.report_progress(step, number)
            await ctx.info({"step": step})
        return "done"

    @server.tool(structured_output=False)
    async def ask(ctx: Context, questions: list[str]) -> str:
        said = []
        for question in questions:
            answer = await ctx.elicit(question, Name)
            said.append(answer.data.name if answer.action == "accept" else answer.action)
        return ", ".join(said)

    @server.tool(structured_output=False)
    async def hold(key: str) -> str:
        held.append(key)
        try:
            await gates[key].wait()
        except trio.Cancelled:
            ended.append(key)
            raise
        return key

    @server.tool(structured_output=False)
    async def let_go(key: str) -> str:
        gates[key].set()
        return "gone"

    @server.tool
    async def told() -> dict[str, list[str]]:
        return {"held": held, "ended": ended}

    @server.tool(structured_output=False)
    async def die() -> str:
        os._exit(3)

    return server


@asynccontextmanager
async def opened(spec: Spec) -> AsyncIterator[LowLevelServer[Any]]:
    """The server that a spec means, while the block lasts."""
    if spec["serve"] == "asking":
        yield make(modern=spec["era"] == "modern")[0]
    elif spec["serve"] == "tools":
        async with open_runtime(tools()) as runtime:
            yield runtime.server
    else:
        async with open_runtime("front") as runtime:
            handle = await runtime.mount(_proxy(spec["backend"]))
            assert handle.state == "running", handle.info()
            yield runtime.server


def _proxy(backend: Any) -> Any:
    if not (isinstance(backend, Mapping) and "serve" in backend):
        return create_proxy(backend)
    server, _ = make(modern=backend["era"] == "modern")
    return create_proxy(MemoryTransport(server))

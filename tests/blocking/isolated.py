"""Servers that tests run in child processes: what blocks, what asks, and what ends its process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import trio
from mcp.server.mcpserver import Context
from pydantic import BaseModel

from mcpactors import Server

KNOWN = "only known here"
"""Set anew in the tests' process: a child does not see that."""


class Answer(BaseModel):
    """What a user is asked for."""

    name: str


def make() -> Server:
    server = Server("child", instructions="Call what you like.")

    @server.tool
    def pid() -> int:
        return os.getpid()

    @server.tool
    def known() -> str:
        return KNOWN

    @server.tool
    def variable(name: str) -> str:
        return os.environ.get(name, "unset")

    @server.tool
    async def spin() -> str:
        print("spinning", file=sys.stderr, flush=True)
        while True:  # the loop of its process does not turn any more
            pass

    @server.tool
    async def stall(until: str) -> str:
        print("WARNING mcpactors.other: not the watchdog", file=sys.stderr, flush=True)
        while not os.path.exists(until):  # noqa: ASYNC240 - the loop is to stand meanwhile
            pass
        return "done"

    @server.tool
    async def die() -> str:
        os._exit(7)

    @server.tool
    async def ask(ctx: Context) -> str:
        await ctx.report_progress(1, 2, "asking")
        answer = await ctx.elicit("Who are you?", Answer)
        return answer.data.name if answer.action == "accept" else answer.action

    @server.tool
    async def wait(ctx: Context) -> str:
        print("waiting", file=sys.stderr, flush=True)
        try:
            await trio.sleep_forever()
        finally:
            print("cancelled", file=sys.stderr, flush=True)

    @server.tool
    def grow() -> str:
        server.add_tool(_grown, "grown")
        return "grown"

    return server


def _grown() -> str:
    return "here"


def fails() -> Server:
    raise RuntimeError("no server today")


def inner() -> Callable[[], Server]:
    def local() -> Server:
        return Server("local")

    return local


server = make()

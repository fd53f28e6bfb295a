"""Clients that show the wire, and the backend that remembers its sessions, on every route."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field
from mcp.server.runner import modern_on_request
from mcp.shared.direct_dispatcher import create_direct_dispatcher_pair
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, LOG_LEVEL_META_KEY, PROTOCOL_VERSION_META_KEY

from mcpactors import Runtime, create_proxy
from mcpactors.transports.memory import memory_client
from tests.backends.remembering import Remembering, connect, make
from tests.processes import PATIENCE

REMEMBERING: Final = str(Path(__file__).parent.parent / "backends" / "remembering.py")
ROUTES: Final = ("memory", "stdio", "http")
Answer = Callable[[str, Mapping[str, Any] | None], Awaitable[dict[str, Any]]]


async def nothing(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    raise AssertionError(f"asked {method}")


@define(eq=False)
class Wire:
    """A client: what it sends and gets is plain JSON."""

    send: Callable[[str, dict[str, Any] | None], Awaitable[dict[str, Any]]]
    notify: Callable[[str, dict[str, Any] | None], Awaitable[None]]
    asked: list[str] = field(factory=list)
    heard: list[tuple[str, Mapping[str, Any]]] = field(factory=list)
    stamp: Mapping[str, Any] = field(factory=dict)
    leave: Callable[[], None] = lambda: None
    _more: trio.Event = field(factory=trio.Event)

    async def call(self, tool: str, token: Any = None, /, **arguments: Any) -> dict[str, Any]:
        """The whole result of a tool."""
        meta = {**self.stamp, **({} if token is None else {"progressToken": token})}
        return await self.send("tools/call", {"name": tool, "arguments": arguments, "_meta": meta})

    async def tool(self, name: str, /, **arguments: Any) -> Any:
        """What a tool of the backend says."""
        content = (await self.call(name, **arguments))["structuredContent"]
        return content.get("said", content)

    def hear(self, method: str, params: Mapping[str, Any] | None) -> bool:
        self.heard.append((method, params or {}))
        self._more.set()
        return True

    def said(self, method: str) -> list[Mapping[str, Any]]:
        return [params for heard, params in self.heard if heard == f"notifications/{method}"]

    async def until(self, happened: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            while not happened():
                self._more = trio.Event()
                await self._more.wait()

    def note(self, method: str) -> None:
        self.asked.append(method)
        self._more.set()


async def _ignore(context: object, method: str, params: object) -> None:
    """Everything is taken by `hear`, which keeps the order."""


@asynccontextmanager
async def legacy(
    runtime: Runtime, answer: Answer = nothing, capabilities: Mapping[str, Any] | None = None, name: str = "old"
) -> AsyncIterator[Wire]:
    """A client of 2025-11-25, past its handshake."""
    async with memory_client(runtime.server) as (read, write), trio.open_nursery() as nursery:
        dispatcher: JSONRPCDispatcher[Any] = JSONRPCDispatcher(read, write)
        client = Wire(dispatcher.send_raw_request, dispatcher.notify)

        async def on_request(context: object, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
            client.note(method)
            return await answer(method, params)

        await nursery.start(dispatcher.run, on_request, _ignore, client.hear)
        hello = {
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities or {},
            "clientInfo": {"name": name, "version": "1"},
        }
        await client.send("initialize", hello)
        await client.notify("notifications/initialized", None)
        yield client
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def modern(
    runtime: Runtime, capabilities: Mapping[str, Any] | None = None, name: str = "new", level: str | None = None
) -> AsyncIterator[Wire]:
    """A client of 2026-07-28."""
    async with trio.open_nursery() as nursery:
        near, far = create_direct_dispatcher_pair()
        stamp: dict[str, Any] = {
            PROTOCOL_VERSION_META_KEY: "2026-07-28",
            CLIENT_INFO_META_KEY: {"name": name, "version": "1"},
            CLIENT_CAPABILITIES_META_KEY: capabilities or {},
        }
        if level is not None:
            stamp[LOG_LEVEL_META_KEY] = level
        client = Wire(near.send_raw_request, near.notify, stamp=stamp)
        await nursery.start(far.run, modern_on_request(runtime.server, {}), _ignore)
        await nursery.start(near.run, _ignore, _ignore, client.hear)
        yield client
        nursery.cancel_scope.cancel()


def in_memory(**policy: Any) -> tuple[Any, Remembering]:
    """A proxy of a backend in this process, and what that backend remembers."""
    server, remembering = make()
    return create_proxy(partial(connect, server), **policy), remembering


@asynccontextmanager
async def proxy(route: str, **policy: Any) -> AsyncIterator[Any]:
    """A proxy of the backend: in memory, a program over stdio, or over HTTP."""
    if route == "memory":
        yield in_memory(**policy)[0]
    elif route == "stdio":
        yield create_proxy({"command": sys.executable, "args": [REMEMBERING]}, **policy)
    else:
        async with over_http() as url:
            yield create_proxy(url, **policy)


@asynccontextmanager
async def over_http() -> AsyncIterator[str]:
    """The backend as an HTTP server; yields its URL."""
    process = await trio.lowlevel.open_process([sys.executable, REMEMBERING, "--http", "0"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with trio.fail_after(PATIENCE):
            said = b""
            while not said.endswith(b"\n"):
                said += await process.stdout.receive_some(200)
        yield said.decode().strip()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()

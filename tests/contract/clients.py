"""Clients of both eras over our own client transports, as plain JSON: what the contract is checked with.

Rule: one client for every transport. What it connects to, `infer_transport` says; whether it reads, the test does.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import trio
from attrs import define, field
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher

from mcpactors import infer_transport
from tests.bridge.clients import EVERYTHING, INFO, Answers, Client, LegacyClient, ModernClient, _ignore, _refuse, nobody

__all__ = ["Client", "Faucet", "connected"]


@define(eq=False)
class Faucet:
    """What is read from a connection, unless it is shut."""

    inner: Any
    _open: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open = trio.Event()

    def open(self) -> None:
        self._open.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        item = await self.inner.__anext__()
        await self._open.wait()
        return item

    async def receive(self) -> Any:
        item = await self.inner.receive()
        await self._open.wait()
        return item

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


@asynccontextmanager
async def connected(
    target: Any, era: str, answers: Answers = nobody, log_level: str | None = None
) -> AsyncIterator[tuple[Client, Faucet]]:
    """A client of one era, past its handshake, and what it reads through."""
    version = "2026-07-28" if era == "modern" else "2025-11-25"
    headers: dict[str, str] = {}

    async def send(method: str, params: dict[str, Any]) -> dict[str, Any]:
        said = dict(headers)
        if era == "modern":
            said["mcp-method"] = method
            if isinstance(name := params.get("name") or params.get("uri"), str):
                said["mcp-name"] = name
        return await dispatcher.send_raw_request(method, params, {"headers": said, "timeout": math.inf})

    async with infer_transport(target).connect() as (read, write), trio.open_nursery() as nursery:
        faucet = Faucet(read)
        dispatcher: JSONRPCDispatcher[Any] = JSONRPCDispatcher(faucet, write)
        if era == "modern":
            modern = ModernClient(send, answers, log_level=log_level)
            headers["mcp-protocol-version"] = version
            await nursery.start(dispatcher.run, _refuse, _ignore, modern.hear)
            yield modern, faucet
        else:
            legacy = LegacyClient(send, answers)
            await nursery.start(dispatcher.run, legacy.on_request, _ignore, legacy.hear)
            hello: Mapping[str, Any] = {"protocolVersion": version, "capabilities": EVERYTHING, "clientInfo": INFO}
            legacy.hello = await legacy.request("initialize", hello)
            headers["mcp-protocol-version"] = version
            await dispatcher.notify("notifications/initialized", None, {"headers": headers})
            if log_level is not None:
                await legacy.request("logging/setLevel", {"level": log_level})
            yield legacy, faucet
        nursery.cancel_scope.cancel()

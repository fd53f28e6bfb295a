"""Clients of both eras that show the wire: params, results and errors as plain JSON, in memory, over stdio and HTTP.

Rule: no model of the SDK stands between a test and what was said. A modern client is asked by results and makes its
retries itself; a legacy one is asked by requests, which its `answers` function answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any, Final

import httpx
import trio
from attrs import define, field
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.runner import modern_on_request
from mcp.shared.direct_dispatcher import create_direct_dispatcher_pair
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, LOG_LEVEL_META_KEY, PROTOCOL_VERSION_META_KEY

from mcpactors import Runtime
from mcpactors.transports.memory import memory_client

__all__ = ["EVERYTHING", "Answers", "Client", "LegacyClient", "ModernClient", "legacy", "modern", "nobody"]

Answers = Callable[[str, Mapping[str, Any] | None], Awaitable[dict[str, Any]]]
Front = Runtime | str | StdioServerParameters
"""Where to connect to: a runtime of this process, a URL, or a program to run."""

EVERYTHING: Final[Mapping[str, Any]] = {
    "elicitation": {"form": {}, "url": {}},
    "sampling": {"tools": {}, "context": {}},
    "roots": {},
}
INFO: Final = {"name": "wire", "version": "1"}
BOTH: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
PROGRESS: Final = "notifications/progress"
Send = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


async def nobody(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """For a client that is not to be asked anything."""
    raise AssertionError(f"asked {method}")


@define(eq=False)
class Client:
    """What both eras have: calling, what was heard, what was asked."""

    _send: Send
    answers: Answers = nobody
    asked: list[tuple[str, Mapping[str, Any] | None]] = field(factory=list)
    heard: list[tuple[str, Mapping[str, Any]]] = field(factory=list)
    _more: trio.Event = field(factory=trio.Event)

    async def request(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One request. Raises MCPError for an error."""
        return await self._send(method, dict(params or {}))

    async def tool(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool, and answer whatever it asks."""
        return await self.complete("tools/call", {"name": name, "arguments": arguments})

    async def complete(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Make a request, and whatever it takes until there is a result that is complete."""
        raise NotImplementedError

    def hear(self, method: str, params: Mapping[str, Any] | None) -> bool:
        self.heard.append((method, params or {}))
        self._more.set()
        return True

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until what was heard or asked makes this true."""
        while not happened():
            self._more = trio.Event()
            await self._more.wait()

    def progress(self) -> list[tuple[Any, Any]]:
        """The (token, progress) of each step that was heard."""
        return [(said.get("progressToken"), said["progress"]) for method, said in self.heard if method == PROGRESS]

    def logged(self) -> list[Any]:
        return [said["data"] for method, said in self.heard if method == "notifications/message"]


@define(eq=False)
class ModernClient(Client):
    """Speaks 2026-07-28. `capabilities` and `log_level` go with every request."""

    capabilities: Mapping[str, Any] = field(factory=lambda: EVERYTHING)
    log_level: str | None = None

    def params(self, params: Mapping[str, Any], token: str | int | None = None) -> dict[str, Any]:
        """The params with the `_meta` that the revision wants."""
        meta = {**(params.get("_meta") or {}), PROTOCOL_VERSION_META_KEY: "2026-07-28", CLIENT_INFO_META_KEY: INFO}
        meta[CLIENT_CAPABILITIES_META_KEY] = self.capabilities
        if self.log_level is not None:
            meta[LOG_LEVEL_META_KEY] = self.log_level
        if token is not None:
            meta["progressToken"] = token
        return {**params, "_meta": meta}

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, token: str | int | None = None
    ) -> dict[str, Any]:
        return await self._send(method, self.params(params or {}, token))

    async def begin(self, name: str, /, token: str | int | None = None, **arguments: Any) -> dict[str, Any]:
        """The first request of a call; its result may be `input_required`."""
        return await self.request("tools/call", {"name": name, "arguments": arguments}, token)

    async def retry(
        self, asked: Mapping[str, Any], name: str, /, answers: Any = None, token: Any = None, **arguments: Any
    ) -> dict[str, Any]:
        """The same call again, with the state that `asked` gave, and these answers under its keys."""
        params = {"name": name, "arguments": arguments, "requestState": asked["requestState"]}
        if answers is not None:
            params["inputResponses"] = answers
        return await self.request("tools/call", params, token)

    async def complete(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        result = await self.request(method, params)
        while result["resultType"] == "input_required":
            more: dict[str, Any] = {}
            if "requestState" in result:
                more["requestState"] = result["requestState"]
            wanted = result.get("inputRequests") or {}
            for question in wanted.values():
                self.asked.append((question["method"], question.get("params")))
            if wanted:
                more["inputResponses"] = {
                    key: await self.answers(question["method"], question.get("params"))
                    for key, question in wanted.items()
                }
            result = await self.request(method, {**params, **more})
        return result


@define(eq=False)
class LegacyClient(Client):
    """Speaks 2025-11-25; it is asked by requests. What it is asked is withdrawn when they are cancelled."""

    withdrawn: list[str] = field(factory=list)
    hello: Mapping[str, Any] = field(factory=dict)

    async def complete(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return await self.request(method, params)

    async def on_request(self, context: object, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        self.asked.append((method, params))
        self._more.set()
        try:
            return await self.answers(method, params)
        except trio.Cancelled:
            self.withdrawn.append(method)
            self._more.set()
            raise


async def _ignore(context: object, method: str, params: object) -> None:
    """Everything is taken by `hear`, which keeps the order."""


# --- Modern -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def modern(
    front: Front, answers: Answers = nobody, *, address: str | None = None, **facts: Any
) -> AsyncIterator[ModernClient]:
    """A modern client of a runtime (in memory), of a URL (plain httpx, from `address`) or of a program (stdio)."""
    async with trio.open_nursery() as nursery:
        if isinstance(front, Runtime):
            near, far = create_direct_dispatcher_pair()
            client = ModernClient(near.send_raw_request, answers, **facts)
            await nursery.start(far.run, modern_on_request(front.server, {}), _ignore)
            await nursery.start(near.run, _refuse, _ignore, client.hear)
            yield client
        elif isinstance(front, str):
            transport = httpx.AsyncHTTPTransport(local_address=address)
            async with httpx.AsyncClient(timeout=30, transport=transport) as web:
                wire = HTTPWire(front, web)
                client = ModernClient(wire.send, answers, **facts)
                wire.hear = client.hear
                yield client
        else:
            async with stdio_client(front) as (read, write):
                dispatcher: JSONRPCDispatcher[Any] = JSONRPCDispatcher(read, write)
                client = ModernClient(dispatcher.send_raw_request, answers, **facts)
                await nursery.start(dispatcher.run, _refuse, _ignore, client.hear)
                yield client
        nursery.cancel_scope.cancel()


async def _refuse(context: object, method: str, params: object) -> dict[str, Any]:
    raise AssertionError(f"a modern client was sent the request {method}")


@define(eq=False)
class HTTPWire:
    """POSTs as the spec has them. `status`: the HTTP status of the last response."""

    url: str
    web: httpx.AsyncClient
    hear: Callable[[str, Mapping[str, Any] | None], bool] = lambda method, params: True
    status: int = 0
    _ids: Any = field(factory=lambda: count(1))

    async def send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        headers = {**BOTH, "mcp-protocol-version": "2026-07-28", "mcp-method": method}
        name = params.get("name") or params.get("uri")
        if isinstance(name, str):
            headers["mcp-name"] = name
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        async with self.web.stream("POST", self.url, headers=headers, content=json.dumps(body)) as response:
            self.status = response.status_code
            if response.headers["content-type"].startswith("application/json"):
                return _result(json.loads(await response.aread()))
            answer: dict[str, Any] | None = None
            async for line in response.aiter_lines():  # to its end: httpx wants its generators exhausted
                if line.startswith("data: "):
                    message = json.loads(line.removeprefix("data: "))
                    if "id" in message:
                        answer = message
                    else:
                        assert answer is None, "nothing comes after the response"
                        self.hear(message["method"], message.get("params"))
        assert answer is not None, "the stream ended without a response"
        return _result(answer)


def _result(message: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in message:
        raise MCPError(message["error"]["code"], message["error"]["message"], message["error"].get("data"))
    result: dict[str, Any] = message["result"]
    return result


# --- Legacy -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def legacy(
    front: Front, answers: Answers = nobody, capabilities: Mapping[str, Any] = EVERYTHING
) -> AsyncIterator[LegacyClient]:
    """A legacy client, past its handshake."""
    headers: dict[str, str] = {}
    async with _streams(front) as (read, write), trio.open_nursery() as nursery:
        dispatcher: JSONRPCDispatcher[Any] = JSONRPCDispatcher(read, write)

        async def send(method: str, params: dict[str, Any]) -> dict[str, Any]:
            return await dispatcher.send_raw_request(method, params, {"headers": headers, "timeout": math.inf})

        client = LegacyClient(send, answers)
        await nursery.start(dispatcher.run, client.on_request, _ignore, client.hear)
        hello = {"protocolVersion": "2025-11-25", "capabilities": dict(capabilities), "clientInfo": INFO}
        client.hello = await client.request("initialize", hello)
        headers["mcp-protocol-version"] = "2025-11-25"
        await dispatcher.notify("notifications/initialized", None, {"headers": headers})
        yield client
        nursery.cancel_scope.cancel()


def _streams(front: Front) -> AbstractAsyncContextManager[Any]:
    if isinstance(front, Runtime):
        return memory_client(front.server)
    return streamable_http_client(front) if isinstance(front, str) else stdio_client(front)

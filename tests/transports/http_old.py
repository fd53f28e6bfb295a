"""A client of the old era in bytes: a session, its calls, its streams. And the endpoint on an app of the test's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from attrs import frozen
from mcp_types.version import LATEST_HANDSHAKE_VERSION as OLD

from mcpactors import RuntimeSettings, Server, open_runtime
from mcpactors.transports.asgi import ASGIApp
from mcpactors.transports.http_server.sessions import SessionLimits, Sessions
from tests.transports.http_raw import Hosted, RawClient, Reply, hosted

HELLO = {"protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


def request(verb: str, body: Any = None, fields: Mapping[str, str] | None = None, path: str = "/mcp") -> bytes:
    """A request to the endpoint; `body` is bytes, or a message without its `jsonrpc`."""
    content: bytes = body if isinstance(body, bytes) else b""
    if not isinstance(body, bytes) and body is not None:
        content = json.dumps({"jsonrpc": "2.0", **body}).encode()
    lines = [f"{verb} {path} HTTP/1.1", "Host: localhost", "Accept: application/json, text/event-stream"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def call(identity: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    return {"id": identity, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


@frozen
class OldSession:
    """A session on a host; each request on a connection of its own unless one is given."""

    host: Hosted
    id: str
    user: Mapping[str, str]

    @property
    def fields(self) -> dict[str, str]:
        return {"Mcp-Session-Id": self.id, "Mcp-Protocol-Version": OLD, **self.user}

    async def post(self, message: Any) -> Reply:
        return await self.host.ask(request("POST", message, self.fields))

    async def begin(self, client: RawClient, message: Any) -> str:
        """Post on a connection that is kept; the id of the priming event."""
        await client.write(request("POST", message, self.fields))
        await client.until(b"\r\n\r\n")
        return (await client.until(b"id: "), await client.until(b"\r\n"))[1].decode().strip()

    def stream(self, after: str | None = None) -> bytes:
        """The request for a stream: of notices, or what came after an event."""
        return request("GET", fields=self.fields | ({} if after is None else {"Last-Event-ID": after}))


async def open_session(host: Hosted, user: Mapping[str, str] = {}, capabilities: Mapping[str, Any] = {}) -> OldSession:
    hello = {"id": 0, "method": "initialize", "params": {**HELLO, "capabilities": capabilities}}
    reply = await host.ask(request("POST", hello, user))
    assert reply.status == 200, reply
    session = OldSession(host, reply.fields["mcp-session-id"], user)
    assert (await session.post({"method": "notifications/initialized"})).status == 202
    return session


@asynccontextmanager
async def endpoint(
    main: Server, limits: SessionLimits = SessionLimits(), app: Any = None, settings: RuntimeSettings | None = None
) -> AsyncIterator[Hosted]:
    """The endpoint of a runtime; `app` puts something around it."""
    async with open_runtime(main, settings=settings) as runtime:
        sessions = Sessions(runtime.server, limits)
        wrapped: ASGIApp = sessions.handle_request if app is None else app(sessions.handle_request)
        async with sessions.run(), hosted(wrapped) as host:
            yield host

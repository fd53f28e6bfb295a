"""A verifier of tokens as a program has one, and the four ways by which a client may come with a token."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import trio
from attrs import define, field, frozen
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp_types.version import LATEST_HANDSHAKE_VERSION as OLD
from mcp_types.version import LATEST_MODERN_VERSION as NEW

from mcpactors import Server, open_runtime
from tests.transports.http_old import HELLO, call, request
from tests.transports.http_raw import HANG, RawClient, Reply, connected
from tests.transports.ws_raw import META, RawSocket, handshake
from tests.transports.ws_raw import call as modern_call

HERE: Final = "https://mcp.example.org/mcp"
METADATA: Final = "https://mcp.example.org/.well-known/oauth-protected-resource/mcp"


def settings(**more: Any) -> AuthSettings:
    """What asks for the scope `tools`."""
    facts = {"resource_server_url": HERE, "validate_token_resource": False, "required_scopes": ["tools"]}
    return AuthSettings.model_validate({"issuer_url": "https://login.example.org", **facts, **more})


@define(eq=False)
class Tokens:
    """Knows `ada` and `eve`, who are users of one app, and some tokens that are not enough, or of no use at all.

    `ada2` is another token of ada's.
    """

    asked: list[str] = field(factory=list)
    go: trio.Event = field(factory=trio.Event)
    """What the token `slow` waits for."""
    lasts: int | None = None
    """Seconds, and less than one more, for which a token is good from when it comes."""

    async def verify_token(self, token: str) -> AccessToken | None:
        self.asked.append(token)
        if token == "slow":
            await self.go.wait()
        if token == "broken" or not token.isascii():  # at which `hmac.compare_digest` raises
            raise RuntimeError("the key is sesame")
        if token == "exit":
            raise SystemExit("the verifier has had enough")
        if token == "asyncio":
            await asyncio.sleep(0)
        if token not in ("ada", "ada2", "eve", "slow", "scopeless", "expired", "elsewhere"):
            return None
        lasts = -1 if token == "expired" else self.lasts
        return AccessToken(
            token=token,
            client_id="app",
            subject=token.rstrip("2"),
            scopes=[] if token == "scopeless" else ["tools", "more"],
            expires_at=None if lasts is None else int(time.time()) + lasts,
            resource="https://other.example.org/mcp" if token == "elsewhere" else HERE,
        )


def who() -> str:
    """Sync, and so in a thread."""
    token = get_access_token()
    return "nobody" if token is None else f"{token.subject} with {token.token}"


def main_server(**options: Any) -> Server:
    """Has the tool `who`, and mounted below it `in_who`."""
    inner, main = Server("inner"), Server("main", **options)
    inner.add_tool(who)
    main.add_tool(who)
    main.mount(inner, namespace="in")
    return main


@asynccontextmanager
async def asking(tokens: Tokens | None = None, main: Server | None = None, **more: Any) -> AsyncIterator[int]:
    """The port at which a server asks for tokens."""
    options: dict[str, Any] = {"auth": settings(), "token_verifier": tokens or Tokens(), "websocket": True, **more}
    with trio.fail_after(HANG):
        async with open_runtime(main or main_server()) as runtime, runtime.serve_http(port=0, **options) as url:
            yield port_of(url)


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


async def ask(port: int, *parts: bytes) -> Reply:
    async with connected(port) as client:
        await client.write(*parts)
        return await client.reply()


# --- The ways -------------------------------------------------------------------------------------------------------


@frozen
class Met:
    """What a client met with: the response that decided it, and what the tool said where it was let in."""

    reply: Reply
    said: str | None = None


def new_call(token: str | None, tool: str = "who") -> bytes:
    message = {"id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}, "_meta": META}}
    fields = {"Mcp-Protocol-Version": NEW, "Mcp-Method": "tools/call", "Mcp-Name": tool, **bearer(token)}
    return request("POST", message, fields)


async def by_new_http(port: int, token: str | None, tool: str = "who") -> Met:
    reply = await ask(port, new_call(token, tool))
    return Met(reply, _text(json.loads(reply.body)) if reply.status == 200 else None)


async def by_old_http(port: int, token: str | None, tool: str = "who") -> Met:
    reply = await ask(port, request("POST", {"id": 0, "method": "initialize", "params": HELLO}, bearer(token)))
    if reply.status != 200:
        return Met(reply)
    fields = {"Mcp-Session-Id": reply.fields["mcp-session-id"], "Mcp-Protocol-Version": OLD, **bearer(token)}
    await ask(port, request("POST", {"method": "notifications/initialized"}, fields))
    called = await ask(port, request("POST", call(1, tool), fields))
    [said] = [line for line in called.body.split(b"\r\n") if line.startswith(b"data: {")]
    return Met(reply, _text(json.loads(said.removeprefix(b"data: "))))


async def by_sse(port: int, token: str | None, tool: str = "who") -> Met:
    async with connected(port) as client:
        await client.write(request("GET", None, bearer(token), "/sse"))
        head = await client.until(b"\r\n\r\n")
        if b" 200 " not in head:
            client.rest = head + client.rest
            return Met(await client.reply())
        where = await stream_of(client)
        for message in ({"id": 0, "method": "initialize", "params": HELLO}, {"method": "notifications/initialized"}):
            assert (await ask(port, request("POST", message, bearer(token), where))).status == 202
        await client.until(b"event: message\r\ndata: ")
        assert (await ask(port, request("POST", call(1, tool), bearer(token), where))).status == 202
        await client.until(b"event: message\r\ndata: ")
        return Met(Reply(200, {}, b""), _text(json.loads(await client.until(b"\r\n"))))


async def by_websocket(port: int, token: str | None, tool: str = "who") -> Met:
    async with connected(port) as client:
        await client.write(handshake(**bearer(token)))
        reply = await client.reply()
        if reply.status != 101:
            return Met(reply)
        return Met(reply, _text(await RawSocket(client).ask(modern_call(1, tool))))


Way = Callable[..., Awaitable[Met]]
WAYS: Final[Mapping[str, Way]] = {
    "new era": by_new_http,
    "old era": by_old_http,
    "SSE": by_sse,
    "WebSocket": by_websocket,
}


async def stream_of(client: RawClient) -> str:
    """Where to post, from a stream of SSE whose head was read."""
    await client.until(b"event: endpoint\r\ndata: ")
    return (await client.until(b"\r\n")).decode().strip()


def _text(message: Any) -> str:
    found: str = message["result"]["content"][0]["text"]
    return found

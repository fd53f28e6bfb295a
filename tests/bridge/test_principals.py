"""Who is logged in: a parked call is its own principal's, and no session is lent from one principal to another.

Over HTTP with bearer tokens, by the SDK's pieces of OAuth; the clients are otherwise alike.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.shared.exceptions import MCPError
from pydantic import AnyHttpUrl

from mcpactors import Runtime, create_proxy, open_runtime
from tests.backends.remembering import connect, make
from tests.bridge.backends import proxy
from tests.bridge.clients import HTTPWire, ModernClient
from tests.bridge.questions import form
from tests.processes import PATIENCE

URL = "http://127.0.0.1:8000"
CALL: dict[str, Any] = {"id": "a", "rounds": [[form("one")]]}
YES = {"q1": {"action": "accept", "content": {"name": "yes"}}}


class Tokens:
    """Takes every token, and its text for the name of who has it."""

    async def verify_token(self, token: str) -> AccessToken:
        return AccessToken(token=token, client_id="same-app", scopes=[], subject=token)


@asynccontextmanager
async def served(runtime: Runtime) -> AsyncIterator[Any]:
    """Makes clients, each with a token; the endpoint is the SDK's, as an embedding program may serve it."""
    here = AnyHttpUrl(f"{URL}/mcp")
    auth = AuthSettings(issuer_url=AnyHttpUrl(URL), resource_server_url=here, validate_token_resource=False)
    app = runtime.server.streamable_http_app(auth=auth, token_verifier=Tokens())
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app)) as ada:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as eve:
            for web, name in ((ada, "ada"), (eve, "eve")):
                web.headers["authorization"] = f"Bearer {name}"
            yield [ModernClient(HTTPWire(f"{URL}/mcp", web).send) for web in (ada, eve)]


async def test_f37_a_token_of_another_principal_is_refused_and_the_call_stays_parked() -> None:
    with trio.fail_after(PATIENCE):
        async with open_runtime("main") as runtime, served(runtime) as (ada, eve):
            await runtime.mount(proxy("memory", "legacy"))
            asked = await ada.begin("ask", **CALL)
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await eve.retry(asked, "ask", YES, **CALL)
            assert len(runtime.parked()) == 1
            result = await ada.retry(asked, "ask", YES, **CALL)
            assert result["structuredContent"]["answers"] == [[YES["q1"]]]


async def test_clients_that_are_alike_borrow_sessions_of_their_own_principal_only() -> None:
    server, remembering = make()
    with trio.fail_after(PATIENCE):
        async with open_runtime("main") as runtime, served(runtime) as (ada, eve):
            await runtime.mount(create_proxy(partial(connect, server), sessions="per_client"))
            ada.capabilities = eve.capabilities = {}  # that asks for roots, and is not lent again after it
            for client in (ada, eve, ada, eve, ada):
                await client.tool("who")
    assert [session.calls for session in remembering.sessions] == [0, 3, 2]

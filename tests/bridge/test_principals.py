"""Who is logged in: a parked call is its own principal's, and no session is lent from one principal to another.

Over HTTP with bearer tokens; the clients are otherwise alike.
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

from mcpactors import Runtime, create_proxy, open_runtime
from tests.backends.remembering import connect, make
from tests.bridge.backends import ERAS, proxy
from tests.bridge.clients import HTTPWire, ModernClient
from tests.bridge.questions import form
from tests.processes import PATIENCE

CALL: dict[str, Any] = {"id": "a", "rounds": [[form("one")]]}
YES = {"action": "accept", "content": {"name": "yes"}}


class Tokens:
    """Takes every token, and its text for the name of who has it."""

    async def verify_token(self, token: str) -> AccessToken:
        return AccessToken(token=token, client_id="same-app", scopes=[], subject=token)


@asynccontextmanager
async def served(runtime: Runtime) -> AsyncIterator[Any]:
    """Makes clients, each with a token."""
    auth = AuthSettings.model_validate({"issuer_url": "https://login.example.org", "resource_server_url": None})
    async with runtime.serve_http(port=0, auth=auth, token_verifier=Tokens()) as url:
        async with httpx.AsyncClient() as ada, httpx.AsyncClient() as eve:
            for web, name in ((ada, "ada"), (eve, "eve")):
                web.headers["authorization"] = f"Bearer {name}"
            yield [ModernClient(HTTPWire(url, web).send) for web in (ada, eve)]


@pytest.mark.parametrize("era", ERAS)
async def test_f37_a_state_of_another_principals_is_refused_and_the_call_stays_open(era: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_runtime("main") as runtime, served(runtime) as (ada, eve):
            await runtime.mount(proxy("memory", era))
            asked = await ada.begin("ask", **CALL)
            answers = dict.fromkeys(asked["inputRequests"], YES)
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await eve.retry(asked, "ask", answers, **CALL)
            assert len(runtime.parked()) == (1 if era == "legacy" else 0)
            result = await ada.retry(asked, "ask", answers, **CALL)
            assert result["structuredContent"]["answers"] == [[YES]]


async def test_clients_that_are_alike_borrow_sessions_of_their_own_principal_only() -> None:
    server, remembering = make()
    with trio.fail_after(PATIENCE):
        async with open_runtime("main") as runtime, served(runtime) as (ada, eve):
            await runtime.mount(create_proxy(partial(connect, server), sessions="per_client"))
            ada.capabilities = eve.capabilities = {}  # that asks for roots, and is not lent again after it
            for client in (ada, eve, ada, eve, ada):
                await client.tool("who")
    assert [session.calls for session in remembering.sessions] == [0, 3, 2]

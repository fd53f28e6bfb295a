"""A program whose server asks for tokens, run by its last line: a real process, which is asked by plain httpx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import trio

from mcpactors import Client, StreamableHttpTransport
from tests.processes import PATIENCE, Served

PROGRAM = """
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcpactors import Server

class Tokens:
    async def verify_token(self, token):
        return AccessToken(token=token, client_id="app", subject="ada", scopes=[]) if token == "secret" else None

auth = AuthSettings(issuer_url="https://login.example.org", resource_server_url=None)
main, inner = Server("main", auth=auth, token_verifier=Tokens()), Server("inner")

@inner.tool
def who() -> str:
    return get_access_token().subject

main.mount(inner, namespace="in")
main.run("http", port=0)
"""


async def test_run_asks_for_the_tokens_that_the_server_was_made_with(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = await trio.lowlevel.open_process([sys.executable, str(program)], stderr=subprocess.PIPE)
    served = Served(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.read)
            await served.said("serving http://127.0.0.1:")
            with trio.fail_after(PATIENCE):
                async with httpx.AsyncClient() as web:
                    refused = await web.post(served.url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"].startswith('Bearer error="invalid_token", ')
                target = StreamableHttpTransport(served.url, headers={"Authorization": "Bearer secret"})
                async with Client(target) as client:
                    assert (await client.call_tool("in_who", {})).structured_content == {"result": "ada"}
            process.terminate()
    finally:
        process.kill()

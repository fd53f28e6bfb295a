"""Pages of other origins: what browsers are told, to which pages, and that it is nothing by default. Real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

from mcpactors import Server, open_runtime
from tests.transports.http_raw import HANG

APP = "https://app.example"
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "page", "version": "1"}},
}
BOTH = {"accept": "application/json, text/event-stream"}
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type, mcp-method, mcp-param-region",
}


@asynccontextmanager
async def served(*allowed: str) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    main = Server("main")
    main.custom_route("/custom")(lambda: {"is": "mine"})
    async with open_runtime(main) as runtime, runtime.serve_http(port=0, allowed_origins=allowed) as url:
        async with httpx.AsyncClient() as client:
            with trio.fail_after(HANG):
                yield client, url


def of_cors(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


async def test_f33_a_page_that_was_allowed_asks_first_is_let_in_and_may_read_its_session_id() -> None:
    async with served(APP) as (client, url):
        for address in (url, url.replace("/mcp", "/sse")):
            asked = await client.options(address, headers={"origin": APP, **PREFLIGHT})
            assert asked.status_code == 204
            assert of_cors(asked) == {
                "access-control-allow-origin": APP,
                "access-control-allow-methods": "GET, POST, DELETE",
                "access-control-allow-headers": "*, Authorization",
                "access-control-max-age": "600",
            }
            assert asked.headers["vary"] == "Origin"
        said = await client.post(url, json=HELLO, headers={"origin": APP, **BOTH})
        assert said.status_code == 200
        assert said.headers["mcp-session-id"]
        assert said.headers["access-control-allow-origin"] == APP
        assert "Mcp-Session-Id" in said.headers["access-control-expose-headers"]
        wrong = await client.post(url, content="{", headers={"origin": APP, **BOTH})
        assert (wrong.status_code, wrong.headers["access-control-allow-origin"]) == (400, APP)


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ((), APP, 403),
        ((APP,), "https://evil.example", 403),
        ((APP,), "http://app.example", 403),
        ((APP,), "null", 403),
        ((), "http://localhost:6274", 405),
        ((APP,), "http://localhost:6274", 405),
    ],
)
async def test_f33_no_other_page_is_told_anything(allowed: tuple[str, ...], origin: str, status: int) -> None:
    """One of our own host may ask, as far as we are concerned; its browser is told no more than any."""
    async with served(*allowed) as (client, url):
        asked = await client.options(url, headers={"origin": origin, **PREFLIGHT})
        assert (asked.status_code, of_cors(asked)) == (status, {})
        said = await client.post(url, json=HELLO, headers={"origin": origin, **BOTH})
        assert (said.status_code, of_cors(said)) == (403 if status == 403 else 200, {})


async def test_f33_who_is_no_page_and_what_is_a_custom_route_hear_nothing_of_it() -> None:
    async with served(APP) as (client, url):
        assert of_cors(await client.post(url, json=HELLO, headers=BOTH)) == {}
        own: Any = await client.get(url.replace("/mcp", "/custom"), headers={"origin": APP})
        assert (own.json(), of_cors(own)) == ({"is": "mine"}, {})


async def test_f33_with_a_star_every_page_is_let_in_under_its_own_name() -> None:
    async with served("*") as (client, url):
        for origin in (APP, "null"):
            asked = await client.options(url, headers={"origin": origin, **PREFLIGHT})
            assert asked.headers["access-control-allow-origin"] == origin

"""Custom HTTP routes of a `Server` (feature A4); how they compose is in test_face.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mcpactors import MCPActorsError, Runtime, Server, open_runtime
from tests.composition.test_supervised import BLOWS


async def test_a4_a_route_takes_a_request_ornothing_and_returns_a_response_or_json() -> None:
    server = Server("web")

    @server.custom_route("/plain")
    async def plain() -> dict[str, str]:
        return {"status": "ok"}

    @server.custom_route("/echo/{word}", methods=["POST"])
    async def echo(request: Request) -> Response:
        return PlainTextResponse(request.path_params["word"] + (await request.body()).decode(), 201)

    @server.custom_route("/sync")
    def sync(request: Request) -> list[str]:
        return [request.query_params["a"]]

    async with _http(server) as (_, client):
        assert (await client.get("/plain")).json() == {"status": "ok"}
        answer = await client.post("/echo/hello", content="!")
        assert (answer.status_code, answer.text) == (201, "hello!")
        assert (await client.get("/sync?a=1")).json() == ["1"]
        assert (await client.get("/echo/hello")).status_code == 405
        assert (await client.get("/nowhere")).status_code == 404


@pytest.mark.parametrize("rubbish", [object(), {1, 2}, float("nan")])
async def test_a4_a_route_that_returns_rubbish_is_answered_500_and_the_next_request_works(
    rubbish: object, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server("web")
    server.custom_route("/rubbish")(lambda: rubbish)
    server.custom_route("/fine")(lambda: "fine")
    async with _http(server) as (_, client):
        answer = await client.get("/rubbish")
        assert answer.status_code == 500
        assert (await client.get("/fine")).json() == "fine"
    assert "/rubbish" in caplog.text


async def test_a4_a_route_that_raises_is_answered_500_without_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    server = Server("web")

    @server.custom_route("/broken")
    async def broken() -> None:
        raise RuntimeError("the password is swordfish")

    async with _http(server) as (_, client):
        answer = await client.get("/broken")
        assert answer.status_code == 500
        assert "swordfish" not in answer.text
    assert "swordfish" in caplog.text


@pytest.mark.parametrize("blow", BLOWS.values(), ids=BLOWS)
async def test_f59_whatever_a_route_raises_its_own_request_alone_suffers(blow: BaseException) -> None:
    server = Server("web")

    @server.custom_route("/blow")
    async def blow_up() -> None:
        raise blow

    server.custom_route("/fine")(lambda: "fine")
    async with _http(server) as (_, client):
        assert (await client.get("/blow")).status_code == 500
        assert (await client.get("/fine")).json() == "fine"


def test_a4_a_path_that_does_not_start_with_a_slash_is_refused() -> None:
    with pytest.raises(MCPActorsError, match="must start with '/'"):
        Server("x").custom_route("health")(lambda: "x")


@asynccontextmanager
async def _http(main: object) -> AsyncIterator[tuple[Runtime, httpx.AsyncClient]]:
    async with open_runtime(main) as runtime:
        async with runtime.serve_http(port=0) as url:
            async with httpx.AsyncClient(base_url=url.removesuffix("/mcp")) as client:
                yield runtime, client

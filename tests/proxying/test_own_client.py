"""A backend over the embedding program's own httpx client: its `Auth`, its hooks; and it stays that program's."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import httpx2
import pytest
from mcp.server.mcpserver import Context

from mcpactors import Client, Server, StreamableHttpTransport, create_proxy, open_runtime
from mcpactors.errors import ConfigError


def speaking() -> Server:
    server = Server("speaking")

    @server.tool()
    async def hello(ctx: Context) -> str:
        await ctx.report_progress(1, 1)
        return "hello"

    return server


class _Bearer:
    """As programs write it: for httpx and httpx2 alike."""

    requires_request_body = requires_response_body = False

    def auth_flow(self, request: Any) -> Iterator[Any]:
        request.headers["authorization"] = "Bearer of-the-program"
        yield request

    async def async_auth_flow(self, request: Any) -> AsyncIterator[Any]:
        for each in self.auth_flow(request):
            yield each


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_backend_can_be_given_a_client_of_the_embedding_program(library: Any, era: Any) -> None:
    seen: list[tuple[str, str]] = []

    async def note(request: Any) -> None:
        seen.append((request.method, request.headers.get("authorization", "")))

    class Auth(_Bearer, library.Auth):  # type: ignore[misc,name-defined,unused-ignore]
        pass

    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with open_runtime(speaking()) as behind, behind.serve_http(port=0) as url:
        async with library.AsyncClient(auth=Auth(), event_hooks={"request": [note]}) as own:
            async with open_runtime() as runtime:
                await runtime.mount(create_proxy(StreamableHttpTransport(url, client=own), era=era), "b")
                async with runtime.client() as client:
                    result = await client.call_tool("b_hello", {}, progress_callback=on_progress)
                    assert result.content[0].text == "hello"  # type: ignore[union-attr]
            assert not own.is_closed
    assert steps == [1]
    assert {said for _, said in seen} == {"Bearer of-the-program"}
    assert "POST" in {method for method, _ in seen}


async def test_a_client_of_ours_goes_through_it_too() -> None:
    seen: list[str] = []

    async def note(request: httpx.Request) -> None:
        seen.append(request.method)

    async with open_runtime(speaking()) as behind, behind.serve_http(port=0) as url:
        async with httpx.AsyncClient(event_hooks={"request": [note]}) as own:
            async with Client(StreamableHttpTransport(url, client=own)) as client:
                result = await client.call_tool("hello", {})
                assert result.content[0].text == "hello"  # type: ignore[union-attr]
            assert not own.is_closed
    assert "POST" in seen


def test_a_client_that_cannot_be_awaited_and_a_trust_that_nobody_would_look_at_are_refused_at_once() -> None:
    with httpx2.Client() as plain, pytest.raises(ConfigError, match="expected an AsyncClient of httpx or httpx2"):
        StreamableHttpTransport("https://a/mcp", client=plain)
    with pytest.raises(ConfigError, match="as verify="):
        StreamableHttpTransport("https://a/mcp", client=httpx2.AsyncClient(), ssl_context=ssl.create_default_context())

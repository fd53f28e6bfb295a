"""Backends over TLS: reached with the authority that was given, or the system's, and refused with any other.

Real sockets and certificates, in process and through `mcpactors serve`; HTTP, HTTP+SSE and WebSocket.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from mcp.shared.exceptions import MCPError

from mcpactors import (
    Client,
    Server,
    SSETransport,
    StreamableHttpTransport,
    WSTransport,
    create_proxy,
    load_config,
    open_runtime,
)
from mcpactors.errors import BackendStartError, ConfigError
from mcpactors.transports.asgi import tls_context
from tests.processes import PATIENCE
from tests.processes import serve as run_serve
from tests.seeds import seen
from tests.transports.http_raw import HANG

trustme: Any = pytest.importorskip("trustme", reason="the test extra has trustme, which makes certificates")

REFUSED = "certificate is not accepted"
Transport = Callable[[str, ssl.SSLContext | None], Any]
TRANSPORTS: dict[str, Transport] = {
    "http": lambda url, tls: StreamableHttpTransport(url, ssl_context=tls),
    "sse": lambda url, tls: SSETransport(url.replace("/mcp", "/sse"), ssl_context=tls),
    "websocket": lambda url, tls: WSTransport(url.replace("https", "wss", 1), ssl_context=tls),
}


@pytest.fixture(scope="module")
def authority() -> Any:
    return trustme.CA()


@pytest.fixture(scope="module")
def folder(authority: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what is served with (`chain.pem`) and what has to be trusted then (`ca.pem`)."""
    folder = tmp_path_factory.mktemp("tls")
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "chain.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder


@asynccontextmanager
async def echoing(folder: Path, patience: float = HANG) -> AsyncIterator[str]:
    """An endpoint with one tool, over TLS; yields its https URL."""
    main = Server("main")
    main.tool("echo")(lambda text: str(text))
    async with open_runtime(main) as runtime:
        async with runtime.serve_http(port=0, ssl_context=tls_context(folder / "chain.pem"), websocket=True) as url:
            with trio.fail_after(patience):
                yield url


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_d1_a_backend_is_reached_with_the_authority_that_was_given_and_refused_without(
    folder: Path, kind: str
) -> None:
    trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    async with echoing(folder) as url, open_runtime() as runtime:
        good = await runtime.mount(create_proxy(TRANSPORTS[kind](url, trusting)), "good")
        bad = await runtime.mount(create_proxy(TRANSPORTS[kind](url, None)), "bad")
        assert good.state == "running"
        assert REFUSED in str(bad.info().last_exit)
        async with runtime.client() as client:
            assert await seen.call(client, "good_echo", text="x" * 100_000) == "x" * 100_000
            with pytest.raises(MCPError, match=REFUSED):
                await client.call_tool("bad_echo", {"text": "x"})


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_d1_a_client_reaches_what_it_trusts_in_both_eras(folder: Path, kind: str, mode: str) -> None:
    trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    async with echoing(folder) as url:
        async with Client(TRANSPORTS[kind](url, trusting), mode=mode) as client:
            assert await seen.call(client, "echo", text="there") == "there"
        with pytest.raises(BackendStartError, match=REFUSED):
            async with Client(TRANSPORTS[kind](url, None), mode=mode):
                raise AssertionError("it is connected")


async def test_d1_a_client_of_ones_own_does_the_tls_of_what_is_connected_to_through_it(folder: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    async with echoing(folder) as url, httpx.AsyncClient(verify=trusting) as own:
        async with Client(StreamableHttpTransport(url, client=own)) as client:
            assert await seen.call(client, "echo", text="there") == "there"
        async with Client(StreamableHttpTransport(url.replace("/mcp", "/sse"), client=own), mode="legacy") as client:
            assert await seen.call(client, "echo", text="old") == "old"


async def test_d1_a_config_says_which_authority_is_trusted(folder: Path) -> None:
    async with echoing(folder) as url:
        for address in (url, url.replace("/mcp", "/sse"), url):
            (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"it": {"url": address, "ca": "./ca.pem"}}}))
            async with Client(load_config(folder / "mcp.json")) as client:
                assert await seen.call(client, "echo", text="there") == "there"
        for wrong, said in (("no.pem", "no certificates to trust: No such file"), ("mcp.json", "no certificates")):
            with pytest.raises(ConfigError, match=said):
                Client({"url": url, "ca": str(folder / wrong)})


async def test_d1_serve_connects_to_whom_its_config_or_its_environment_vouches_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with echoing(folder, 4 * PATIENCE) as url:  # each process has some of its own
        config = {
            "given": {"url": url, "ca": str(folder / "ca.pem")},
            "socket": {"url": url.replace("https", "wss", 1), "ca": str(folder / "ca.pem")},
            "system": {"url": url},
        }
        async with run_serve(config, folder) as served:
            for name in ("given ", "socket"):
                await served.said(f"{name}  up: 1 tool")
            assert REFUSED in await served.said("system  not up")
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        async with run_serve({"system": {"url": url}}, folder) as served:
            await served.said("system  up: 1 tool")

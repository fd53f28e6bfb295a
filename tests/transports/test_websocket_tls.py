"""wss: WebSocket with TLS, both ends. Real sockets, real certificates."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpactors import Client, Server, WSTransport, open_runtime
from mcpactors.errors import BackendStartError
from mcpactors.transports.asgi import tls_context
from tests.transports.http_raw import HANG

trustme: Any = pytest.importorskip("trustme", reason="the test extra has trustme, which makes certificates")


async def test_d1_wss_is_served_and_connected_to_and_a_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    chain = tmp_path / "chain.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(chain)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    main = Server("main")

    @main.tool()
    async def twice(text: str) -> str:
        return text * 2

    async with open_runtime(main) as runtime:
        async with runtime.serve_http(port=0, ssl_context=tls_context(chain), websocket=True) as url:
            url = url.replace("https", "wss", 1)
            with trio.fail_after(HANG):
                async with Client(WSTransport(url, ssl_context=trusting)) as client:
                    text = "x" * 1_000_000
                    result = await client.call_tool("twice", {"text": text})
                    assert result.structured_content == {"result": text * 2}
                with pytest.raises(BackendStartError, match="its certificate is not accepted"):
                    async with WSTransport(url).connect():
                        pass
                with pytest.raises(BackendStartError, match=r"it hung up|does not answer in HTTP"):
                    async with WSTransport(url.replace("wss", "ws", 1)).connect():
                        pass

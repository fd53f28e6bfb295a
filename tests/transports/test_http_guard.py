"""Whose requests are served, by Host and Origin: promise F33. The table, and the wire."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpactors import Server, open_runtime
from mcpactors.errors import ConfigError
from mcpactors.transports.asgi.listen import authority
from mcpactors.transports.http_server.guard import is_loopback, names_of, refusal
from tests.transports.http_raw import connected


def judged(bound: str, host: str, *origins: str) -> int:
    fields = [(b"host", host.encode("latin-1")), *((b"origin", origin.encode("latin-1")) for origin in origins)]
    refused = refusal(names_of(bound), fields)
    return refused[0] if refused is not None else 200


@pytest.mark.parametrize(
    ("bound", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8000", 200),
        ("127.0.0.1", "127.0.0.1", 200),
        ("127.0.0.1", "localhost:8000", 200),
        ("127.0.0.1", "LocalHost.:8000", 200),
        ("127.0.0.1", "[::1]:8000", 200),
        ("127.0.0.1", "[0:0:0:0:0:0:0:1]", 200),
        ("::1", "[::1]:1", 200),
        ("mcp.example", "MCP.example.:443", 200),
        ("mcp.example", "localhost", 200),
        ("0.0.0.0", "whatever.example", 200),
        ("::", "[fe80::1]:8000", 200),
        ("127.0.0.1", "evil.example:8000", 421),
        ("127.0.0.1", "localhost.evil.example", 421),
        ("127.0.0.1", "localhost..", 421),
        ("127.0.0.1", "127.0.0.1.", 200),
        ("127.0.0.1", "localhost:evil", 421),
        ("127.0.0.1", "localhost:80:80", 421),
        ("127.0.0.1", "localhost:99999", 421),
        ("127.0.0.1", "::1", 421),
        ("127.0.0.1", "[::1", 421),
        ("127.0.0.1", "evil@localhost", 421),
        ("127.0.0.1", "2130706433", 421),
        ("127.0.0.1", "", 421),
        ("0.0.0.0", "", 421),
        ("mcp.example", "example", 421),
    ],
)
def test_f33_hosts(bound: str, host: str, status: int) -> None:
    assert judged(bound, host) == status


@pytest.mark.parametrize(
    ("bound", "host", "origins", "status"),
    [
        ("127.0.0.1", "localhost:1", ["http://localhost:6274"], 200),
        ("127.0.0.1", "localhost:1", ["https://127.0.0.1"], 200),
        ("127.0.0.1", "localhost:1", ["http://[::1]:3000"], 200),
        ("mcp.example", "mcp.example", ["https://MCP.example"], 200),
        ("0.0.0.0", "box.lan:8000", ["http://box.lan:3000"], 200),
        ("0.0.0.0", "box.lan:8000", ["http://localhost:6274"], 200),
        ("127.0.0.1", "localhost:1", ["http://evil.example"], 403),
        ("127.0.0.1", "localhost:1", ["http://localhost.evil.example:80"], 403),
        ("127.0.0.1", "localhost:1", ["http://localhost:1.evil.example"], 403),
        ("127.0.0.1", "localhost:1", ["null"], 403),
        ("127.0.0.1", "localhost:1", ["file://localhost"], 403),
        ("127.0.0.1", "localhost:1", ["localhost"], 403),
        ("127.0.0.1", "localhost:1", ["http://localhost/evil"], 403),
        ("127.0.0.1", "localhost:1", ["http://localhost", "http://evil.example"], 403),
        ("127.0.0.1", "localhost:1", ["http://evil.example", "http://localhost"], 403),
        ("0.0.0.0", "box.lan:8000", ["http://evil.example"], 403),
        ("127.0.0.1", "evil.example", ["http://evil.example"], 421),
    ],
)
def test_f33_origins(bound: str, host: str, origins: list[str], status: int) -> None:
    assert judged(bound, host, *origins) == status


@pytest.mark.parametrize(
    ("bound", "hosts", "origins", "host", "origin", "status"),
    [
        ("127.0.0.1", ["mcp.example"], [], "MCP.example.:443", None, 200),
        ("127.0.0.1", ["mcp.example"], [], "localhost", None, 200),
        ("127.0.0.1", ["mcp.example"], [], "evil.mcp.example", None, 421),
        ("127.0.0.1", ["mcp.example"], [], "mcp.example", "https://mcp.example:444", 200),
        ("127.0.0.1", ["mcp.example"], [], "mcp.example", "https://evil.example", 403),
        ("127.0.0.1", ["*"], [], "whatever.example", None, 200),
        ("127.0.0.1", ["*"], [], "whatever.example", "https://evil.example", 403),
        ("0.0.0.0", ["box.lan"], [], "box.lan:8000", None, 200),
        ("0.0.0.0", ["box.lan"], [], "localhost:8000", None, 200),
        ("0.0.0.0", ["box.lan"], [], "rebound.example:8000", None, 421),
        ("::", ["fd00::1"], [], "[fd00:0::1]:8000", None, 200),
        ("127.0.0.1", [], ["https://app.example"], "localhost", "https://app.example", 200),
        ("127.0.0.1", [], ["https://app.example"], "localhost", "https://APP.example:443", 200),
        ("127.0.0.1", [], ["https://app.example"], "localhost", "https://app.example:444", 403),
        ("127.0.0.1", [], ["https://app.example"], "localhost", "http://app.example", 403),
        ("127.0.0.1", [], ["https://app.example"], "localhost", "https://app.example/evil", 403),
        ("127.0.0.1", [], ["https://app.example"], "app.example", "https://app.example", 421),
        ("127.0.0.1", [], ["null"], "localhost", "null", 200),
        ("127.0.0.1", [], ["vscode-webview://x1"], "localhost", "vscode-webview://x1", 200),
        ("127.0.0.1", [], ["*"], "localhost", "https://evil.example", 200),
    ],
)
def test_f33_what_is_allowed_beside(
    bound: str, hosts: list[str], origins: list[str], host: str, origin: str | None, status: int
) -> None:
    fields = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin is not None else [])
    refused = refusal(names_of(bound, hosts, origins), fields)
    assert (refused[0] if refused is not None else 200) == status


@pytest.mark.parametrize(
    ("hosts", "origins"), [(["http://a"], []), ([""], []), ([], ["a.example"]), ([], ["http://a/"])]
)
def test_f33_what_is_no_name_cannot_be_allowed(hosts: list[str], origins: list[str]) -> None:
    with pytest.raises(ConfigError, match="write it as"):
        names_of("127.0.0.1", hosts, origins)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_f33_rubbish_is_refused_and_raises_nothing(host: bytes, origin: bytes) -> None:
    refused = refusal(names_of("127.0.0.1"), [(b"host", host), (b"origin", origin)])
    assert refused is not None
    assert refused[0] in (403, 421)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("Host: evil.example", 421),
        ("Host: localhost\r\nOrigin: http://evil.example", 403),
        ("Host: localhost\r\nMcp-Name: =?base64?\xc4?=", 400),  # the SDK's decoder raises at it
    ],
)
@pytest.mark.parametrize("path", ["/mcp", "/custom", "/nothing"])
async def test_f33_every_route_refuses_before_a_body_is_read(fields: str, status: int, path: str) -> None:
    main = Server("main")
    main.custom_route("/custom")(lambda: {"is": "served"})
    async with open_runtime(main) as runtime, runtime.serve_http(port=0) as url:
        port = urlsplit(url).port
        assert port is not None
        async with connected(port) as client:
            await client.write(f"POST {path} HTTP/1.1\r\n{fields}\r\nContent-Length: 5\r\n\r\n".encode())
            assert (await client.reply()).status == status
        async with connected(port) as client:
            await client.write(b"GET /custom HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await client.reply()).status == 200


@pytest.mark.parametrize(
    ("hosts", "ours"),
    [
        (["127.0.0.1", "127.8.8.8", "::1", "Localhost"], True),
        (["0.0.0.0", "::", "", "10.0.0.1", "box.lan", "localhost.evil.example"], False),
    ],
)
def test_f33_who_can_connect_to_what_is_bound(hosts: list[str], ours: bool) -> None:
    assert {is_loopback(host) for host in hosts} == {ours}


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", []), ("127.1", ["127.1"])]
)  # the second is not known for it
async def test_f33_who_is_not_on_the_loopback_and_asks_for_no_tokens_is_warned(
    host: str, warned: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with open_runtime(Server("main")) as runtime, runtime.serve_http(host=host, port=0):
        told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split(",")[0] for line in told] == [f"bound to {host}" for host in warned]
    assert all("docs/security.md" in line for line in told)


@pytest.mark.parametrize(
    ("bound", "url"),
    [
        ("0.0.0.0", "127.0.0.1:80"),
        ("::", "[::1]:80"),
        ("", "127.0.0.1:80"),
        ("box.lan", "box.lan:80"),
        ("::1", "[::1]:80"),
    ],
)
def test_the_url_of_what_is_bound_to_every_address_is_one_for_clients(bound: str, url: str) -> None:
    assert authority(bound, 80) == url

"""Where HTTP is served beside a TCP port: with TLS, and at a Unix socket. Real sockets, real certificates."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from mcpactors import Client, Server, StreamableHttpTransport, open_runtime
from mcpactors.cli import main as main_of_cli
from mcpactors.errors import ConfigError
from mcpactors.transports.asgi import HostLimits, listening, serve, tls_context
from tests.processes import serve as run_serve
from tests.seeds import seen
from tests.transports.http_raw import HANG, answer, echo

trustme: Any = pytest.importorskip("trustme", reason="the test extra has trustme, which makes certificates")


@pytest.fixture(scope="module")
def authority() -> Any:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate chain for the loopback, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return chain, key


def trusting(authority: Any, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(list(protocols))
    return context


async def test_an_endpoint_with_tls_is_asked_over_https(authority: Any, files: tuple[Path, Path]) -> None:
    main = Server("main")
    main.custom_route("/seen")(lambda request: {"scheme": request.url.scheme})
    async with open_runtime(main) as runtime, runtime.serve_http(port=0, ssl_context=tls_context(*files)) as url:
        assert url.startswith("https://127.0.0.1:")
        async with httpx.AsyncClient(verify=trusting(authority)) as client:
            with trio.fail_after(HANG):
                for _ in range(2):
                    said = await client.get(url.replace("/mcp", "/seen"))
                    assert said.json() == {"scheme": "https"}


async def test_alpn_gives_http_1_1_and_whoever_speaks_without_tls_is_let_go(
    authority: Any, files: tuple[Path, Path]
) -> None:
    async with listening("127.0.0.1", 0, tls=tls_context(*files)) as (listener, origin):
        port = int(origin.rpartition(":")[2])
        async with serve(echo, [listener], HostLimits(drain=1)):
            plain = await trio.open_tcp_stream("127.0.0.1", port)
            await plain.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with trio.fail_after(HANG):
                while await plain.receive_some():
                    pass
            await plain.aclose()
            tls = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", port, ssl_context=trusting(authority, "h2", "http/1.1")
            )
            await tls.do_handshake()
            assert tls.selected_alpn_protocol() == "http/1.1"
            await trio.aclose_forcefully(tls)


async def test_over_tls_too_a_last_response_ends_with_an_end_and_not_with_a_reset(
    authority: Any, files: tuple[Path, Path]
) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"no", 413)

    async with listening("127.0.0.1", 0, tls=tls_context(*files)) as (listener, origin):
        port = int(origin.rpartition(":")[2])
        async with serve(refuse, [listener], HostLimits(drain=1)):
            tls = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=trusting(authority))
            with trio.fail_after(HANG):  # not https_compatible: an end without TLS's own would be an error here
                await tls.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n" + b"x" * 5000)
                said = b""
                while data := await tls.receive_some():
                    said += data
            assert said.startswith(b"HTTP/1.1 413 ")
            await trio.aclose_forcefully(tls)


def test_certificates_that_cannot_be_served_with_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    chain, key = files
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    for wrong in ((tmp_path / "none.pem", key), (chain, other), (chain, None), (key, key)):
        with pytest.raises(ConfigError, match="no certificate and key"):
            tls_context(*wrong)


# --- Unix sockets -------------------------------------------------------------------------------------------------


async def test_a_unix_socket_serves_our_own_user_under_any_host_and_goes_with_the_front(tmp_path: Path) -> None:
    path, main = tmp_path / "mcp.sock", Server("main")
    main.custom_route("/custom")(lambda: {"is": "served"})
    async with open_runtime(main) as runtime:
        for _ in range(2):
            async with runtime.serve_http(uds=path) as url:
                assert url == f"http+unix://{str(path).replace('/', '%2F')}/mcp"
                assert stat.S_IMODE(path.lstat().st_mode) == 0o600
                transport = httpx.AsyncHTTPTransport(uds=str(path))
                async with httpx.AsyncClient(transport=transport, base_url="http://mcp") as client:
                    with trio.fail_after(HANG):
                        assert (await client.get("/custom")).json() == {"is": "served"}
                        origin = {"Origin": "http://evil.example"}
                        assert (await client.get("/custom", headers=origin)).status_code == 403
            assert not path.exists()


async def test_a_client_connects_at_a_unix_socket_through_a_client_of_httpx_in_both_eras(tmp_path: Path) -> None:
    path, main = tmp_path / "mcp.sock", Server("main")
    main.tool("echo")(lambda text: str(text))
    async with open_runtime(main) as runtime, runtime.serve_http(uds=path):
        for mode in ("auto", "legacy"):
            async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as own:
                with trio.fail_after(HANG):
                    where = StreamableHttpTransport("http://localhost/mcp", client=own)
                    async with Client(where, mode=mode) as client:
                        assert await seen.call(client, "echo", text="there") == "there"


async def test_the_socket_file_of_a_server_that_was_killed_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    stale, taken, file = tmp_path / "stale", tmp_path / "taken", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    file.write_text("mine")
    async with listening("", 0, stale), listening("", 0, taken):
        for path, why in ((taken, "in use"), (file, "no socket"), (tmp_path / "none" / "x", "No such file")):
            with pytest.raises(ConfigError, match=why):
                async with listening("", 0, path):
                    pass
        os.unlink(taken)
        taken.write_text("of another")
    assert not stale.exists()
    assert taken.read_text() == "of another"
    assert file.read_text() == "mine"


# --- The command line ---------------------------------------------------------------------------------------------


async def test_serve_is_told_where_with_what_and_to_whom(
    authority: Any, files: tuple[Path, Path], tmp_path: Path
) -> None:
    path, (chain, key) = tmp_path / "mcp.sock", files
    options = ["--uds", str(path), "--certfile", str(chain), "--keyfile", str(key)]
    async with run_serve(None, tmp_path, *options, "--allowed-origin", "https://app.example") as served:
        await served.said("notes")
        transport = httpx.AsyncHTTPTransport(uds=str(path), verify=trusting(authority))
        async with httpx.AsyncClient(transport=transport, base_url="https://localhost") as client:
            with trio.fail_after(HANG):
                for origin, status in (("https://app.example", 400), ("https://evil.example", 403)):
                    asked = await client.post("/mcp", content="{}", headers={"Origin": origin})
                    assert asked.status_code == status
    assert not path.exists()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
async def test_serve_at_a_unix_socket_tells_what_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "of 'mine'"
    async with run_serve(None, tmp_path, "--uds", str(path)) as served:
        line = await served.said("ask it with: ")
        with trio.fail_after(HANG):
            done = await trio.run_process(line.partition(": ")[2], shell=True, capture_stdout=True, capture_stderr=True)
        assert b'"serverInfo":{"name":"mcpactors"' in done.stdout


def test_serve_says_what_is_wrong_with_its_arguments(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, why in (
        (["--port", "0", "--keyfile", str(files[1])], "--certfile"),
        (["--port", "0", "--certfile", "none.pem"], "no certificate and key"),
        (["--port", "0", "--allowed-host", "http://a"], "no name of a host"),
        (["--port", "0", "--allowed-origin", "a"], "no origin"),
        (["--uds", "/none/such/x"], "cannot serve at"),
    ):
        assert main_of_cli(["serve", *arguments]) == 2
        assert why in capsys.readouterr().err

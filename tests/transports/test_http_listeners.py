"""What the HTTP host can run on (Unix socket, TLS), and what can run on it (Starlette, a lifespan).

Rule: no client of anybody's; what is written and read here is what the RFC says. `HANG` ends only what hangs.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from mcpactors.transports.asgi import HostLimits, LifespanFailed, Receive, Scope, Send, lifespan, serve
from tests.transports.http_raw import (
    RawClient,
    chunked,
    connected,
    echo,
    get,
    post,
)

MIB = 1024 * 1024


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("an application was asked")


# --- What it can run on, and what can run on it -----------------------------------------------------------------------


async def test_a_starlette_application_runs_with_its_lifespan() -> None:
    ended: list[str] = []

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse(
            f"{request.path_params['name']} {request.state.word} {(await request.body()).decode()}"
        )

    async def stream(request: Request) -> StreamingResponse:
        async def parts():
            for number in range(3):
                yield f"{number},"

        return StreamingResponse(parts())

    async def around(app: Starlette):
        yield {"word": "says"}
        ended.append("end")

    app = Starlette(
        routes=[Route("/hello/{name}", hello, methods=["POST"]), Route("/stream", stream)],
        lifespan=asynccontextmanager(around),
    )
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with lifespan(app) as state, serve(app, listeners, state=state):
        async with connected(port) as client:
            await client.write(post(b"hi", "/hello/ann"), get("/stream"), get("/none"), get("/hello/ann"))
            assert (await client.reply()).body == b"ann says hi"
            assert (await client.reply()).body == b"0,1,2,"
            assert [(await client.reply()).status for _ in range(2)] == [404, 405]
        assert not ended
    assert ended == ["end"]


async def test_a_lifespan_that_fails_is_the_block_s_error_and_one_that_is_not_there_is_none() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(ExceptionGroup) as caught:
        async with lifespan(failing):
            raise AssertionError("it did not start")
    assert caught.group_contains(LifespanFailed, match="no database")
    async with lifespan(never) as state:
        assert state == {}


async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    path = str(tmp_path / "socket")
    plain = trio.socket.socket(trio.socket.AF_UNIX)
    await plain.bind(path)
    plain.listen()
    async with serve(app, [trio.SocketListener(plain)]):
        async with await trio.open_unix_socket(path) as stream:
            client = RawClient(stream)
            await client.write(post(b"hi"))
            assert (await client.reply()).body == b"POST / hi"
    assert (scopes[0]["client"], scopes[0]["server"]) == (None, (path, None))


def certificate(folder: Path) -> Path:
    """A certificate of the loopback's address and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(made.public_bytes(Encoding.PEM) + secret)
    return path


async def test_tls_serves_as_well_and_a_plain_request_to_it_harms_nobody(tmp_path: Path) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    path = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    tcp = listeners[0].transport_listener
    assert isinstance(tcp, trio.SocketListener)
    port = tcp.socket.getsockname()[1]
    async with serve(app, listeners, HostLimits(linger=5)):
        async with connected(port) as plain:
            await plain.write(get())
            assert b"HTTP" not in await plain.to_the_end()
        trusting = ssl.create_default_context(cafile=str(path))
        async with await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", port, ssl_context=trusting, https_compatible=True
        ) as stream:
            client = RawClient(stream)
            await client.write(post(b"x" * MIB), chunked(b"y"), get("/", "Connection: close"))
            assert len((await client.reply()).body) == MIB + len("POST / ")
            assert (await client.reply()).body == b"POST / y"
            await client.reply()
            assert await client.to_the_end() == b""
    assert {scope["scheme"] for scope in scopes} == {"https"}
    assert scopes[0]["server"] == ("127.0.0.1", port)

"""Streamable HTTP, both ends.

Rule: the protocol is the SDK's (session manager, both eras on one endpoint, Host and Origin checks); this file
connects it to a host and to a client. Until the host of our own passes every transport test, hypercorn serves.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import Match, Route

from mcpactors.errors import ConfigError
from mcpactors.transports.streams import Streams

__all__ = ["http_client", "serve_http"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
BACKLOG: Final = 256
UNREAD_TIMEOUT: Final = 30.0
"""Seconds a client may leave what we send unread: hypercorn cannot be stopped while it sends (promise F21)."""
EVENT_LIMIT: Final = 16 * 1024 * 1024
CONNECT_TIMEOUT: Final = 10.0
SILENCE_TIMEOUT: Final = 330.0
"""Longer than a call may take, so that the call's own deadline speaks first."""


@asynccontextmanager
async def http_client(url: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[Streams]:
    """Connect to a streamable HTTP endpoint; `headers` go with every request to it and nowhere else."""
    # As many connections as there are calls: the mailbox bounds those, and a call must not wait for a connection.
    timeout = httpx2.Timeout(CONNECT_TIMEOUT, read=SILENCE_TIMEOUT, pool=None)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=4)
    async with (
        httpx2.AsyncClient(headers=dict(headers or {}), timeout=timeout, limits=limits) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=EVENT_LIMIT) as streams,
    ):
        yield streams


@asynccontextmanager
async def serve_http(
    server: Server[Any],
    host: str = "127.0.0.1",
    port: int = 8000,
    path: str = "/mcp",
    routes: Callable[[], Iterable[Route]] = tuple,
) -> AsyncIterator[str]:
    """Serve an endpoint while the block lasts; yields its URL, with the port that was really bound.

    `routes()` gives what is served beside it, asked anew for every request to another path.

    Raises:
        ConfigError: the address cannot be bound.
    """
    manager = StreamableHTTPSessionManager(server, security_settings=_security(host))
    listener = _listener(host, port)
    config = Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]  # hypercorn closes what it is given
    config.errorlog = logging.getLogger("mcpactors.http")
    config.graceful_timeout = 2.0
    with listener:
        async with manager.run(), trio.open_nursery() as nursery:
            stop = trio.Event()
            await nursery.start(_serve, _app(manager, path, routes), config, stop)
            try:
                yield f"http://{_authority(host, listener.getsockname()[1])}{path}"
            finally:
                stop.set()
                nursery.cancel_scope.deadline = trio.current_time() + config.graceful_timeout


def _listener(host: str, port: int) -> socket.socket:
    """A bound socket. A client that reads nothing for `UNREAD_TIMEOUT` is dropped, where the system can do that."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(_cannot_bind(error, host, port)) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_TIMEOUT * 1000))
    return listener


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _serve(app: Any, config: Config, stop: trio.Event, *, task_status: trio.TaskStatus[list[str]]) -> None:
    await serve(app, config, shutdown_trigger=stop.wait, mode="asgi", task_status=task_status)


def _app(
    manager: StreamableHTTPSessionManager, path: str, routes: Callable[[], Iterable[Route]]
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            if scope["path"].rstrip("/") == path:
                await manager.handle_request(scope, receive, send)
            elif not await _beside(routes(), scope, receive, send):
                await _say(send, 404, f"nothing is served here; the MCP endpoint is {path}")

    return app


async def _beside(routes: Iterable[Route], scope: Scope, receive: Receive, send: Send) -> bool:
    """Let the first route that fits answer; one that fits but for its method only when no other does."""
    almost: tuple[Route, Scope] | None = None
    for route in routes:
        match, found = route.matches(scope)
        if match is Match.FULL:
            await route.handle({**scope, **found}, receive, send)
            return True
        if match is Match.PARTIAL and almost is None:
            almost = (route, found)
    if almost is None:
        return False
    await almost[0].handle({**scope, **almost[1]}, receive, send)
    return True


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _say(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode() + b"\n"})


def _security(host: str) -> TransportSecuritySettings:
    """Host and Origin checks: the loopback names, and the name that is served when it is another."""
    bracketed = f"[{host}]" if ":" in host else host
    names = list(dict.fromkeys((*LOOPBACK, bracketed)))
    if host in ("0.0.0.0", "::"):  # whoever binds every address is reached by names that we cannot know
        return TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[*names, *(f"{name}:*" for name in names)],
        allowed_origins=[f"{scheme}://{name}:*" for scheme in ("http", "https") for name in names],
    )


def _cannot_bind(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; stop what uses it or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this process has; choose one above 1023 with --port"
    return f"cannot serve at {host}:{port}: {error.strerror or error}"

"""Streamable HTTP, the serving end.

Rule: what is spoken on the endpoint stands in sessions.py; this file connects it to our host (asgi/), behind our
guard (guard.py). The other end: http_client/client.py, and http_client/streams.py.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final

import trio
from mcp.server.lowlevel import Server
from starlette.routing import Match, Route

from mcpactors.errors import ConfigError
from mcpactors.runtime.actor import part
from mcpactors.runtime.policy import DEFAULT_CLIENTS, ClientLimits
from mcpactors.transports.asgi import STOPPING, ASGIApp, HostLimits, Receive, Scope, Send, listening, serve
from mcpactors.transports.http_server.bearer import Bearer
from mcpactors.transports.http_server.cors import shared_with_pages
from mcpactors.transports.http_server.guard import Names, is_loopback, names_of, refusal
from mcpactors.transports.http_server.reply import say
from mcpactors.transports.http_server.sessions import SessionLimits, Sessions
from mcpactors.transports.http_server.sse import SSEFront
from mcpactors.transports.websocket.server import WebSocketFront, wants_websocket

__all__ = ["serve_http"]

logger = logging.getLogger("mcpactors")

OPEN: Final = (
    "bound to %s, and nobody is asked for a token: whoever reaches this machine may call everything. Bind it to "
    "127.0.0.1, or put what asks for tokens before it; a program gives serve_http(auth=..., token_verifier=...): "
    "docs/security.md"
)

_Guard = Callable[[ASGIApp], ASGIApp]


@asynccontextmanager
async def serve_http(
    server: Server[Any],
    host: str = "127.0.0.1",
    port: int = 8000,
    path: str = "/mcp",
    routes: Callable[[], Iterable[Route]] = tuple,
    limits: HostLimits = HostLimits(),
    *,
    allowed_hosts: Iterable[str] = (),
    allowed_origins: Iterable[str] = (),
    ssl_context: ssl.SSLContext | None = None,
    uds: str | os.PathLike[str] | None = None,
    websocket: bool = False,
    clients: ClientLimits = DEFAULT_CLIENTS,
    bearer: Bearer | None = None,
) -> AsyncIterator[str]:
    """Serve an endpoint while the block lasts; yields its URL, with the port that was really bound.

    `routes()` gives what is served beside it, asked anew for every request to another path. Whose requests are served
    `guard.names_of` says; `uds` is the path of a Unix socket to serve at instead of host and port. `websocket`:
    who asks the endpoint for a WebSocket gets one. Clients of the old HTTP+SSE transport find their stream at /sse.
    `limits` are of connections and requests, `clients` of what is in them. `bearer`: who asks on a route of MCP (not on
    one of `routes`) has to have a token; preflights of pages never have one. Leaving the block drains: streams of
    changes end in good order, calls in flight have `limits.drain` seconds to be answered.

    Raises:
        ConfigError: the address cannot be bound, or what is allowed is no host or origin.
    """
    for option, names_given in (("allowed_hosts", allowed_hosts), ("allowed_origins", allowed_origins)):
        if isinstance(names_given, str):  # its letters would be the names
            raise ConfigError(f"{option}: expected a list, got {names_given!r}; write it as [{names_given!r}]")
    if not isinstance(ssl_context, ssl.SSLContext | None):
        raise ConfigError(f"ssl_context: expected an ssl.SSLContext, got {ssl_context!r}")
    manager = Sessions(server, SessionLimits(clients))
    names = names_of(None if uds is not None else host, tuple(allowed_hosts), tuple(allowed_origins))
    guarded: _Guard = bearer.guarded if bearer is not None else lambda app: app
    described = bearer.routes() if bearer is not None else []
    sse = SSEFront(server, drain=limits.drain, clients=clients)
    app = _app(manager, path, lambda: [*described, *routes()], sse, names, guarded)
    sockets = WebSocketFront(server, limits.drain, clients) if websocket else None
    if sockets is not None:
        app = _with_websocket(path, sockets, app, guarded)
    app = _guarded(names, app)
    stopping = trio.Event()

    def lasts(scope: Scope) -> bool:  # the stream of an old session; those of modern clients end by `STOPPING`
        return scope["method"] == "GET" and _is_endpoint(scope, path)

    async with listening(host, port, uds, ssl_context) as (listener, origin):
        if bearer is None and uds is None and not is_loopback(host):
            logger.warning(OPEN, host)
        async with (
            manager.run(),
            sse.run(stopping),
            nullcontext() if sockets is None else sockets.run(stopping),
            serve(app, [listener], limits, lasts, state={STOPPING: stopping}),
        ):
            try:
                yield f"{origin}{path}"
            finally:
                stopping.set()


def _is_endpoint(scope: Scope, path: str) -> bool:
    found: str = scope["path"]
    return found == path or found.rstrip("/") == path


def _app(
    manager: Sessions,
    path: str,
    routes: Callable[[], Iterable[Route]],
    sse: SSEFront,
    names: Names,
    guarded: _Guard,
) -> ASGIApp:
    endpoint = shared_with_pages(names, guarded(manager.handle_request))
    old = shared_with_pages(names, guarded(sse))

    def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (endpoint if _is_endpoint(scope, path) else beside)(scope, receive, send)

    async def beside(scope: Scope, receive: Receive, send: Send) -> None:
        if await _beside(routes(), scope, receive, send):
            return
        if sse.is_for(scope):
            await old(scope, receive, send)
        else:
            await say(send, 404, f"nothing is served here; the MCP endpoint is {path}")

    return app


def _with_websocket(path: str, sockets: WebSocketFront, app: ASGIApp, guarded: _Guard) -> ASGIApp:
    socket = guarded(sockets)

    def either(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if wants_websocket(scope) and _is_endpoint(scope, path):
            return socket(scope, receive, send)
        return app(scope, receive, send)

    return either


def _guarded(names: Names, app: ASGIApp) -> ASGIApp:
    def guarded(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        refused = refusal(names, scope["headers"])
        return app(scope, receive, send) if refused is None else say(send, *refused)

    return guarded


async def _beside(routes: Iterable[Route], scope: Scope, receive: Receive, send: Send) -> bool:
    """Let the first route that fits answer; one that fits but for its method only when no other does."""
    almost: tuple[Route, Scope] | None = None
    for route in routes:
        match, found = route.matches(scope)
        if match is Match.FULL:
            await _handled(route, {**scope, **found}, receive, send)
            return True
        if match is Match.PARTIAL and almost is None:
            almost = (route, found)
    if almost is None:
        return False
    await _handled(almost[0], {**scope, **almost[1]}, receive, send)
    return True


async def _handled(route: Route, scope: Scope, receive: Receive, send: Send) -> None:
    """Let it answer; what an author's route raises is its request's own failure, a `SystemExit` too (promise F59)."""
    try:
        await route.handle(scope, receive, send)
    except BaseException as error:
        passes, own = part(error)
        if passes is not None or own is None or isinstance(own, Exception):
            raise
        raise RuntimeError(f"a custom route raised {own!r:.80}") from own

"""What a browser wants to be told before it lets a page of another origin use an endpoint (WHATWG Fetch, 3.2).

Rule: said to pages of origins that an operator has named, and to no others: by default nothing is said. Cookies play no
part, so there is no word of credentials. Custom routes have to say theirs themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from mcpactors.transports.asgi import ASGIApp, Message, Receive, Scope, Send
from mcpactors.transports.http_server.guard import Names, page_named

__all__ = ["shared_with_pages"]

MAY_DO: Final = (
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (b"access-control-allow-headers", b"*, Authorization"),  # `Mcp-Param-*` have any name; the star is not for this one
    (b"access-control-max-age", b"600"),
)
"""What answers a preflight."""
MAY_READ: Final = (b"access-control-expose-headers", b"Mcp-Session-Id, Retry-After, WWW-Authenticate")


def shared_with_pages(names: Names, app: ASGIApp) -> ASGIApp:
    """The application, for pages of the origins among `names`, too: their preflights are answered here."""

    def shared(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        page = page_named(names, scope["headers"])
        return app(scope, receive, send) if page is None else with_page(page, scope, receive, send)

    async def with_page(page: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        ours = [(b"access-control-allow-origin", page), (b"vary", b"Origin")]
        asks = any(name == b"access-control-request-method" for name, _ in scope["headers"])
        if scope["method"] == "OPTIONS" and asks:
            await send({"type": "http.response.start", "status": 204, "headers": [*ours, *MAY_DO]})
            await send({"type": "http.response.body"})
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *ours, MAY_READ]}
            await send(message)

        await app(scope, receive, told)

    return shared

"""HTTP routes that a server's author serves beside the MCP endpoint.

Rule: descriptions only; `host` decides at which paths they are served.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcpactors.foreign import routes_given
from mcpactors.meaning import Composite
from mcpactors.targets import ProxyServer

__all__ = ["endpoint", "routes_of"]


def endpoint(path: str, function: Callable[..., Any]) -> Callable[[Request], Awaitable[Response]]:
    """What a function, sync or not, of a request or of nothing, answers at `path`."""
    takes_request = bool(inspect.signature(function).parameters)

    async def answer(request: Request) -> Response:
        result = function(request) if takes_request else function()
        if inspect.isawaitable(result):
            result = await result
        try:
            return result if isinstance(result, Response) else JSONResponse(result)
        except (TypeError, ValueError) as error:
            raise TypeError(f"the route {path} returned what is neither a Response nor JSON: {error}") from error

    return answer


def routes_of(target: object) -> Sequence[Route]:
    """The custom HTTP routes that a server's author has given it."""
    if isinstance(target, ProxyServer):  # a server of this process brings its routes and those of all below it
        behind = target.behind
        deeper = (routes_of(handle.target) for handle in reversed(list(behind.mounts))) if behind is not None else ()
        return [*(behind.routes if behind is not None else ()), *(route for routes in deeper for route in routes)]
    if isinstance(target, Composite):
        return target.routes
    return routes_given(target)

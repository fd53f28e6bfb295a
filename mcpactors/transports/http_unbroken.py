"""The HTTP client that the SDK's streamable HTTP transport is given, for who wants streams of messages: `Client(url)`.

Rule: what goes wrong with one request is that request's error. The SDK's transport would end with it, and every other
call of its client with that.
"""

from __future__ import annotations

from typing import Any, Final

import httpx2
from mcp.shared.exceptions import MCPError

from mcpactors.errors import INVALID_PARAMS, UNAVAILABLE
from mcpactors.transports.http_faults import lost

__all__ = ["UnbrokenClient"]

_UNSAID: Final = "mcpactors.unsaid"


class UnbrokenClient(httpx2.AsyncClient):
    """A POST that cannot be made, or gets no answer, is answered here, with a JSON-RPC error."""

    def build_request(self, *args: Any, json: Any = None, **options: Any) -> httpx2.Request:
        try:
            return super().build_request(*args, json=json, **options)
        except ValueError as error:  # JSON has no half of a surrogate pair, and no NaN
            request = super().build_request(*args, **options)
            request.extensions[_UNSAID] = str(error)
            return request

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        if (unsaid := request.extensions.get(_UNSAID)) is not None:
            return _refused(request, 400, MCPError(INVALID_PARAMS, f"this cannot be written as JSON: {unsaid}"))
        try:
            return await super().send(request, **options)
        except httpx2.TransportError as error:
            if request.method != "POST":  # streams and ends of sessions, which the SDK looks after
                raise
            return _refused(request, 502, _error(str(request.url), error))


def _refused(request: httpx2.Request, status: int, error: MCPError) -> httpx2.Response:
    said = {"jsonrpc": "2.0", "id": None, "error": error.error.model_dump(exclude_none=True)}
    return httpx2.Response(status, request=request, json=said)


def _error(name: str, error: httpx2.TransportError) -> MCPError:
    said = str(error) or type(error).__name__
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return MCPError(UNAVAILABLE, f"{name} cannot be reached: {said}")
    return lost(name, f"broke off: {said}")

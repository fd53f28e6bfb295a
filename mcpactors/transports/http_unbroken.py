"""The HTTP client that the SDK's streamable HTTP transport is given, for who wants streams of messages: `Client(url)`.

Rule: what goes wrong with one request is that request's error. The SDK's transport would end with it, and every other
call of its client with that.
"""

from __future__ import annotations

from typing import Any

import httpx2
from mcp.shared.exceptions import MCPError

from mcpactors.errors import UNAVAILABLE
from mcpactors.transports.http_faults import lost

__all__ = ["UnbrokenClient"]


class UnbrokenClient(httpx2.AsyncClient):
    """A POST that cannot be made, or gets no answer, is answered here: HTTP 502 with a JSON-RPC error."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            return await super().send(request, **options)
        except httpx2.TransportError as error:
            if request.method != "POST":  # streams and ends of sessions, which the SDK looks after
                raise
            failed = _error(str(request.url), error).error.model_dump(exclude_none=True)
            return httpx2.Response(502, request=request, json={"jsonrpc": "2.0", "id": None, "error": failed})


def _error(name: str, error: httpx2.TransportError) -> MCPError:
    said = str(error) or type(error).__name__
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return MCPError(UNAVAILABLE, f"{name} cannot be reached: {said}")
    return lost(name, f"broke off: {said}")

"""Requests that come whole and answers that go whole, on the routes of MCP over HTTP; and JSON as it is sent.

Rule: what is written here is what goes out; nothing that JSON does not have is passed on as something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic_core import to_json

from mcpactors.transports.asgi import Receive, Scope, Send
from mcpactors.transports.http_server.body import error_body

__all__ = ["JSON", "TEXT", "as_json", "refuse", "respond", "say", "whole_body"]

Fields = Iterable[tuple[bytes, bytes]]

JSON: Final = (b"content-type", b"application/json")
TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


def as_json(message: Mapping[str, Any]) -> bytes:
    """A JSON-RPC message as it is sent. Raises ValueError: something in it (half a surrogate pair) has no JSON."""
    return to_json(message, inf_nan_mode="null")


async def respond(send: Send, status: int, body: bytes = b"", fields: Fields = (JSON,)) -> None:
    """Answer with a body of JSON, or none."""
    await send({"type": "http.response.start", "status": status, "headers": list(fields)})
    await send({"type": "http.response.body", "body": body})


async def say(send: Send, status: int, text: str, fields: Fields = ()) -> None:
    """Answer with a line for people."""
    await respond(send, status, text.encode() + b"\n", (TEXT, *fields))


async def refuse(
    send: Send, status: int, code: int, message: str, identity: int | str | None = None, fields: Fields = ()
) -> None:
    """Answer with a JSON-RPC error."""
    await respond(send, status, error_body(code, message, identity), (JSON, *fields))


async def whole_body(scope: Scope, receive: Receive, send: Send, most: int) -> bytes | None:
    """The body of a request. None: it is packed or has more than `most` bytes, which was answered, or the client left
    half-way."""
    coding = next((value.strip().lower() for name, value in scope["headers"] if name == b"content-encoding"), b"")
    if coding not in (b"", b"identity"):
        await respond(send, 415, b"Content-Encoding is not taken here: send the body as it is", [TEXT])
        return None
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    size, parts = int(length) if length.isdigit() else 0, []
    more = size <= most
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size = sum(map(len, parts))
        more = message.get("more_body", False) and size <= most
    if size > most:
        await respond(send, 413, b"Request body too large", [TEXT])
        return None
    return b"".join(parts)

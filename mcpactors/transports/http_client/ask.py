"""One request of ours to an HTTP backend, written down before it is sent.

Rule: values; nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import trio
from attrs import define, field, frozen
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import RequestId
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic_core import to_json

from mcpactors.errors import INVALID_PARAMS

__all__ = ["GET_FIELDS", "POST_FIELDS", "Ask", "Awaited"]

POST_FIELDS: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
GET_FIELDS: Final = {"accept": "text/event-stream", "cache-control": "no-store"}
LASTING: Final = "subscriptions/listen"
SAFE: Final = frozenset(
    {
        "ping",
        "server/discover",
        "tools/list",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "completion/complete",
        LASTING,
    }
)
"""Methods that change nothing at the backend (RFC 9110 9.2.2: they may be sent again)."""


@frozen(eq=False)
class Ask:
    """A request: `fields` and `body` are what goes out."""

    id: RequestId
    method: str
    fields: Mapping[str, str]
    body: bytes
    modern: bool
    """Whether it is of the era in which closing its stream cancels it, and in which a stream is not resumed."""
    session: str | None
    """The session that it was sent on."""
    cancels: bool
    """Whether the backend is told when nobody waits for it any more."""

    @classmethod
    def of(
        cls,
        identity: RequestId,
        method: str,
        params: Mapping[str, Any] | None,
        options: CallOptions,
        session: str | None,
    ) -> Ask:
        """Raises `MCPError`: the params are no JSON."""
        headers = options.get("headers") or {}
        said: dict[str, Any] = {"jsonrpc": "2.0", "id": identity, "method": method}
        if params:
            said["params"] = params
        try:
            body = to_json(said)
        except ValueError as error:
            raise MCPError(INVALID_PARAMS, f"{method}: its params cannot be written as JSON: {error}") from error
        fields = {**POST_FIELDS, **headers}
        modern = headers.get(MCP_PROTOCOL_VERSION_HEADER) in MODERN_PROTOCOL_VERSIONS
        if modern or method == "initialize":
            session = None
        if session is not None:
            fields["mcp-session-id"] = session
        return cls(identity, method, fields, body, modern, session, options.get("cancel_on_abandon", True))

    @property
    def safe(self) -> bool:
        """Whether it may be sent again where it is not known whether the backend has seen it."""
        return self.method in SAFE

    @property
    def lasts(self) -> bool:
        """Whether its reply ends only when one of us ends it."""
        return self.method == LASTING


@define(eq=False)
class Awaited:
    """A reply that is waited for on its own stream, and what came of it on another one."""

    scope: trio.CancelScope = field(factory=trio.CancelScope)
    said: Mapping[str, Any] = field(factory=dict)

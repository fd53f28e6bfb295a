"""What a call ended with, in the words of its client's revision.

Rule: nothing is asked or awaited. What the old era has no word for is taken out of its place and, where a user would
miss it, kept as text. Sources: MCP 2025-11-25 and 2026-07-28, schema (`CallToolResult`, `Tool`, `Result`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import frozen
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, SERVER_INFO_META_KEY
from mcp_types.methods import CACHEABLE_METHODS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.methods import not_found_code, outward_error, outward_result
from mcpactors.runtime.reply import Failure, Replies
from mcpactors.transports.asking import INPUT_REQUIRED, cannot_answer, visits_needed

__all__ = ["PASSED", "VISITED", "Shaping", "for_legacy"]

PASSED: Final = "passed:"
"""What `requestState` holds before a backend's own state."""
VISITED: Final = "visited"
"""What it holds of a call that its client makes anew after a visit to a URL."""
COMPLETE: Final = "completion/complete"
NEW_FIELDS: Final = ("resultType", "ttlMs", "cacheScope")


@frozen
class Shaping:
    """What one runtime says. `stamp` is who it is, `completes` tells whether anything in it completes arguments."""

    stamp: Mapping[str, Any]
    completes: Callable[[], bool]

    def answer(self, request: Request, replies: Replies, refused: Failure | None = None) -> dict[str, Any]:
        """The result of a call that has ended; `refused`: what its client could not be asked, which is said instead of
        a failure.

        Raises:
            MCPError: the call's error. Where that is for want of a capability, modern clients are told so.
        """
        outcome, namespace = replies.outcome, replies.channel.namespace
        if refused is not None and (isinstance(outcome, Failure) or outcome.value.get("isError")):
            outcome = refused
        if isinstance(outcome, Failure):
            visits = visits_needed(outcome, request.caller)
            if visits:
                return self.result(request, {**visits, "requestState": VISITED})
            code = outcome.code
            if request.method == COMPLETE and code == METHOD_NOT_FOUND and self.completes():
                return self.result(request, {"completion": {"values": []}})  # others here do; this one has no words
            if request.method == "resources/read":
                modern = request.caller.revision in MODERN_PROTOCOL_VERSIONS
                code = not_found_code(code, outcome.data, modern=modern)
            raise MCPError(code, *outward_error(outcome.message, outcome.data, namespace))
        result = outcome.value
        if result.get("resultType") == INPUT_REQUIRED:
            if (refusal := cannot_answer(result, request.caller)) is not None:
                raise MCPError(refusal.code, refusal.message, refusal.data)
            if isinstance(state := result.get("requestState"), str):
                result = {**result, "requestState": PASSED + state}
        return self.result(request, outward_result(request.method, result, namespace))

    def result(self, request: Request, result: Mapping[str, Any]) -> dict[str, Any]:
        """The result with the fields that the client's revision must have, and without those it does not know."""
        if request.caller.revision not in MODERN_PROTOCOL_VERSIONS:
            return for_legacy(request.method, result)
        shaped = dict(result)
        shaped.setdefault("resultType", "complete")
        if request.method in CACHEABLE_METHODS and shaped["resultType"] == "complete":
            shaped.setdefault("ttlMs", 0)
            shaped.setdefault("cacheScope", "private")
        shaped["_meta"] = {**(shaped.get("_meta") or {}), SERVER_INFO_META_KEY: self.stamp}
        return shaped


def for_legacy(method: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result without the fields of the new era; structured content and output schemas are objects or not there."""
    shaped = {key: value for key, value in result.items() if key not in NEW_FIELDS}
    if method == "tools/call" and not isinstance(result.get("structuredContent", shaped), Mapping):
        _keep_as_text(shaped)
    elif method == "tools/list" and isinstance(tools := result.get("tools"), list):
        shaped["tools"] = [_without_foreign_schema(tool) for tool in tools]
    return shaped


def _keep_as_text(result: dict[str, Any]) -> None:
    """Structured content that is no object becomes a text block, unless there is one that says the same."""
    value = result.pop("structuredContent")
    content = result.get("content")
    blocks = list(content) if isinstance(content, list) else []
    if value is not None and not any(_says(block, value) for block in blocks):
        blocks.append({"type": "text", "text": json.dumps(value, ensure_ascii=False)})
    result["content"] = blocks


def _says(block: object, value: object) -> bool:
    text = block.get("text") if isinstance(block, Mapping) else None
    if not isinstance(text, str):
        return False
    try:
        return text == value or bool(json.loads(text) == value)
    except (ValueError, RecursionError):
        return False


def _without_foreign_schema(tool: Any) -> Any:
    schema = tool.get("outputSchema") if isinstance(tool, Mapping) else None
    if schema is None or (isinstance(schema, Mapping) and schema.get("type") == "object"):
        return tool
    return {key: value for key, value in tool.items() if key != "outputSchema"}

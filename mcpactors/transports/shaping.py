"""Results of a modern server, as a client of the legacy era can read them.

Rule: pure functions. What the old era has no word for is taken out of its place and, where a user would miss it, kept
as text. Sources: MCP 2025-11-25 and 2026-07-28, schema (`CallToolResult`, `Tool`, `Result`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["for_legacy"]

NEW_FIELDS: Final = ("resultType", "ttlMs", "cacheScope")


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

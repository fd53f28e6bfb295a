"""Reading a list to its last page, from whatever answers `*/list`; and what says that it has changed.

Rule: bounded, and a peer that pages in circles ends with an error, not with a hang.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from mcpactors.errors import BackendStartError
from mcpactors.runtime.methods import FIELDS, LISTS
from mcpactors.runtime.routing import Kind

__all__ = ["CHANGES", "METHODS", "UPDATED", "read_all"]

PAGES: Final = 1_000
METHODS: Final[Mapping[Kind, str]] = {kind: method for method, kind in LISTS.items()}
"""Which method lists a kind."""
CHANGES: Final[Mapping[str, tuple[Kind, ...]]] = {
    "notifications/tools/list_changed": ("tools",),
    "notifications/prompts/list_changed": ("prompts",),
    "notifications/resources/list_changed": ("resources", "templates"),
}
"""Which notification says that which lists have changed."""
UPDATED: Final = "notifications/resources/updated"

Page = Callable[[str, dict[str, Any]], Awaitable[Mapping[str, Any] | None]]


async def read_all(kind: Kind, page: Page) -> tuple[tuple[Mapping[str, Any], ...], int | None]:
    """All items of a kind, and the shortest `ttlMs` of its pages (None: none was said).

    `page(method, params)` gets one page, or None when the peer has no such method.

    Raises:
        BackendStartError: the peer's list has no end, or is not a list.
    """
    items: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    ttl: int | None = None
    params: dict[str, Any] = {}
    for _ in range(PAGES):
        result = await page(METHODS[kind], params)
        if result is None:
            return (), None
        rows = result.get(FIELDS[kind])
        if not isinstance(rows, list):
            raise BackendStartError(f"{METHODS[kind]} was answered without a list of {FIELDS[kind]}")
        items += [row for row in rows if isinstance(row, Mapping)]
        said = result.get("ttlMs")
        if isinstance(said, int | float):
            ttl = int(said) if ttl is None else min(ttl, int(said))
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str):
            return tuple(items), ttl
        if cursor in seen:
            raise BackendStartError(f"{METHODS[kind]} gives the same cursor twice: its list has no end")
        seen.add(cursor)
        params = {"cursor": cursor}
    raise BackendStartError(f"{METHODS[kind]} has more than {PAGES} pages")

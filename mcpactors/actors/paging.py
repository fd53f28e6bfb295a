"""Reading a list to its last page, from whatever answers `*/list`; and what says that it has changed.

Rule: bounded, and a peer that pages in circles ends with an error, not with a hang.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio
from attrs import define, field, frozen
from mcp_types import Prompt, Resource, ResourceTemplate, Tool
from pydantic import BaseModel, ValidationError

from mcpactors.errors import BackendStartError
from mcpactors.runtime.methods import FIELDS, LISTS
from mcpactors.runtime.naming import KEYS, Kind

__all__ = ["CHANGES", "METHODS", "UPDATED", "Read", "read_all"]

logger = logging.getLogger("mcpactors")

PAGES: Final = 1_000
ITEMS: Final = 10_000
"""Of one list that are looked at."""
BYTES: Final = 16 * 1024 * 1024
"""Of one list, as JSON, that are taken."""
PARTS: Final = 50 * ITEMS
"""Of one list: what `{`, `[` and `,` stand for outside strings. Each becomes an object of some 60 to 200 bytes."""
TOLD: Final = 5
"""Rows of one list that are left out and told of."""
FAULTS: Final = 100
"""Of one row, at most, of which one is named."""
_AT_ONCE: Final = 100
_BYTES_AT_ONCE: Final = 64 * 1024
"""Rows, and bytes of them, that are checked before others have their turn."""
_FULL: Final = (
    "%s has more than %d items, %d bytes, or %d arrays, objects and members of them: "
    "what comes after item %d is left out"
)
_MODELS: Final[Mapping[Kind, type[BaseModel]]] = {
    "tools": Tool,
    "prompts": Prompt,
    "resources": Resource,
    "templates": ResourceTemplate,
}
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


def _size(kind: Kind, row: object, check: bool) -> tuple[int, int] | str:
    """Bytes and parts of a row that clients can be sent, and read; or why not: it would take all rows from them."""
    try:
        if check:
            _MODELS[kind].model_validate(row, by_name=False)
        text = json.dumps(row, ensure_ascii=False)
        return len(text.encode()), _parts(text)  # no half of a surrogate pair, for one
    except ValidationError as error:
        return f"which breaks the schema: {_fault_of(error)}"
    except (TypeError, ValueError, RecursionError) as error:
        return f"which cannot be written as JSON: {error}"


def _parts(text: str) -> int:
    """Those of a JSON text. Of a row of the usual size it costs three counts, and is too many: its strings count."""
    found = _opened(text)
    if found <= PARTS // ITEMS:
        return found
    bare = text.replace(r"\\", "").replace(r"\"", "") if "\\" in text else text
    return _opened("".join(bare.split('"')[::2]))


def _opened(text: str) -> int:
    return text.count("{") + text.count("[") + text.count(",")


def _fault_of(error: ValidationError) -> str:
    """The first of few faults; of many their number: to tell them one by one takes a microsecond or more each."""
    number = error.error_count()
    return str(error.errors()[0]["msg"]) if number <= FAULTS else f"it has {number} faults"


@define(eq=False)
class _Taken:
    """What is taken of one list: of what comes, as much as there is room for."""

    kind: Kind
    check: bool
    items: list[Mapping[str, Any]] = field(factory=list)
    full: bool = False
    _seen: int = 0
    _size: int = 0
    parts: int = 0
    _left_out: int = 0
    _at_once: int = 0

    async def add(self, rows: list[Mapping[str, Any]]) -> None:
        for row in rows:
            self._seen += 1
            if self._seen % _AT_ONCE == 0 or self._at_once > _BYTES_AT_ONCE:
                self._at_once = 0
                await trio.lowlevel.checkpoint()
            found = _size(self.kind, row, self.check) if self._seen <= ITEMS else (0, 0)
            if isinstance(found, str):
                self._tell(row, found)
                continue
            size, parts = found
            self._size += size
            self.parts += parts
            self._at_once += size
            if self._seen > ITEMS or self._size > BYTES or self.parts > PARTS:
                self.full = True
                logger.warning(_FULL, METHODS[self.kind], ITEMS, BYTES, PARTS, self._seen - 1)
                return
            self.items.append(row)

    def _tell(self, row: object, why: str) -> None:
        self._left_out += 1
        if self._left_out <= TOLD:
            name = row.get(KEYS[self.kind]) if isinstance(row, Mapping) else None
            more = "" if self._left_out < TOLD else "; of others of this list nothing is said"
            logger.warning("left out of %s: %.80r, %s%s", METHODS[self.kind], name, why, more)


@frozen
class Read:
    """What there is of a kind."""

    items: tuple[Mapping[str, Any], ...] = ()
    ttl: int | None = None
    """The shortest `ttlMs` of its pages. None: none was said."""
    parts: int = 0
    """Arrays, objects and members of them."""


async def read_all(kind: Kind, page: Page, *, check: bool) -> Read:
    """All items of a kind.

    `page(method, params)` gets one page, or None when the peer has no such method. What cannot be sent to clients is
    left out, and logged; with `check` that which breaks the schema, too. What comes after `ITEMS` items, `BYTES`
    bytes or `PARTS` parts is left out too, and the pages that follow are not asked for.

    Raises:
        BackendStartError: the peer's list has no end, or is not a list.
    """
    taken = _Taken(kind, check)
    seen: set[str] = set()
    ttl: int | None = None
    params: dict[str, Any] = {}
    for _ in range(PAGES):
        result = await page(METHODS[kind], params)
        if result is None:
            return Read()
        rows = result.get(FIELDS[kind])
        if not isinstance(rows, list):
            raise BackendStartError(f"{METHODS[kind]} was answered without a list of {FIELDS[kind]}")
        await taken.add(rows)
        said = result.get("ttlMs")
        if isinstance(said, int | float) and math.isfinite(said):
            ttl = int(said) if ttl is None else min(ttl, int(said))
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str) or taken.full:
            return Read(tuple(taken.items), ttl, taken.parts)
        if cursor in seen:
            raise BackendStartError(f"{METHODS[kind]} gives the same cursor twice: its list has no end")
        seen.add(cursor)
        params = {"cursor": cursor}
    raise BackendStartError(f"{METHODS[kind]} has more than {PAGES} pages")

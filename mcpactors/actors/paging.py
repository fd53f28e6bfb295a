"""Reading a list to its last page, from whatever answers `*/list`; what says that it has changed, and how soon to look.

Rule: bounded, and a peer that pages in circles ends with an error, not with a hang. What reading costs is counted, not
measured, as for a flood (`transports/lines/flood.py`): the same list is read equally often everywhere.
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
from mcpactors.runtime.naming import KEYS, TOLD, Kind

__all__ = ["CHANGES", "METHODS", "UPDATED", "ListAllowance", "Read", "read_all"]

logger = logging.getLogger("mcpactors")

PAGES: Final = 1_000
ITEMS: Final = 10_000
"""Of one list that are looked at."""
BYTES: Final = 16 * 1024 * 1024
"""Of one list, as JSON, that are taken."""
PARTS: Final = 50 * ITEMS
"""Of one list: what `{`, `[` and `,` stand for outside strings. Each becomes an object of some 60 to 200 bytes."""
FAULTS: Final = 100
"""Of one row, at most, of which one is named."""
_AT_ONCE: Final = 100
_BYTES_AT_ONCE: Final = 64 * 1024
"""Rows, and bytes of them, that are checked before others have their turn."""
_FULL: Final = (
    "%s has more than %d items, %d bytes, or %d arrays, objects and members of them: "
    "what comes after item %d is left out"
)
SHARE: Final = 0.01
"""Of all time, for reading lists of one backend, with what it takes to compare and to publish them: more would be felt
in its siblings' p99."""
BURST: Final = 0.25
"""Seconds for it, after silence, sooner than at that share: once or twice the longest list of the usual tools."""
FREE: Final = 0.001
"""Seconds of each time that are not counted: that of some fifty tools, of which the change window makes little."""
_PAGE: Final = 150e-6
_ROW: Final = 15e-6
_PART: Final = 0.3e-6
_BYTE: Final = 10e-9
_FAULT: Final = 1e-6
"""Seconds that they cost, roughly."""
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


@frozen
class _Unfit:
    """A row that clients cannot be sent: it would take all rows from them."""

    why: str
    cost: float
    """Seconds that it took to find out."""


def _size(kind: Kind, row: object, check: bool) -> tuple[int, int] | _Unfit:
    """Bytes and parts of a row that clients can be sent, and read."""
    if check:
        try:
            _MODELS[kind].model_validate(row, by_name=False)
        except ValidationError as error:
            return _Unfit(f"which breaks the schema: {_fault_of(error)}", error.error_count() * _FAULT)
    text = ""
    try:
        text = json.dumps(row, ensure_ascii=False)
        return len(text.encode()), _parts(text)  # no half of a surrogate pair, for one
    except (TypeError, ValueError, RecursionError) as error:
        return _Unfit(f"which cannot be written as JSON: {error}", len(text) * _BYTE + _opened(text) * _PART)


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
    cost: float = 0.0
    """Seconds, roughly."""
    _left_out: int = 0
    _at_once: int = 0

    async def add(self, rows: list[Mapping[str, Any]]) -> None:
        for row in rows:
            self._seen += 1
            self.cost += _ROW
            if self._seen % _AT_ONCE == 0 or self._at_once > _BYTES_AT_ONCE:
                self._at_once = 0
                await trio.lowlevel.checkpoint()
            found = _size(self.kind, row, self.check) if self._seen <= ITEMS else (0, 0)
            if isinstance(found, _Unfit):
                self.cost += found.cost
                self._tell(row, found.why)
                continue
            size, parts = found
            self._size += size
            self.parts += parts
            self.cost += size * _BYTE + parts * _PART
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


@define(eq=False)
class ListAllowance:
    """How much of the time goes on lists of one backend, however often they change. Overspent, it is waited for."""

    _paid_at: float = -math.inf
    """When, at its share of the time, what was read is paid for."""

    def spend(self, seconds: float, now: float) -> None:
        """Reading a list cost so much."""
        self._paid_at = max(self._paid_at, now - BURST / SHARE) + max(seconds - FREE, 0) / SHARE

    def wait(self, now: float) -> float:
        """Seconds until a list that is known may be read again; most often 0."""
        return max(self._paid_at - now, 0.0)


async def read_all(
    kind: Kind, page: Page, *, check: bool, spent: Callable[[float], None] = lambda seconds: None
) -> Read:
    """All items of a kind.

    `page(method, params)` gets one page, or None when the peer has no such method. What cannot be sent to clients is
    left out, and logged; with `check` that which breaks the schema, too. What comes after `ITEMS` items, `BYTES`
    bytes or `PARTS` parts is left out too, and the pages that follow are not asked for. `spent(seconds)` is told what
    it cost, however it ends.

    Raises:
        BackendStartError: the peer's list has no end, or is not a list.
    """
    taken = _Taken(kind, check)
    try:
        return await _read_into(taken, page)
    finally:
        spent(taken.cost)


async def _read_into(taken: _Taken, page: Page) -> Read:
    method, field_of = METHODS[taken.kind], FIELDS[taken.kind]
    seen: set[str] = set()
    ttl: int | None = None
    params: dict[str, Any] = {}
    for _ in range(PAGES):
        taken.cost += _PAGE
        result = await page(method, params)
        if result is None:
            return Read()
        rows = result.get(field_of)
        if not isinstance(rows, list):
            raise BackendStartError(f"{method} was answered without a list of {field_of}")
        await taken.add(rows)
        said = result.get("ttlMs")
        if isinstance(said, int | float) and math.isfinite(said):
            ttl = int(said) if ttl is None else min(ttl, int(said))
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str) or taken.full:
            return Read(tuple(taken.items), ttl, taken.parts)
        if cursor in seen:
            raise BackendStartError(f"{method} gives the same cursor twice: its list has no end")
        seen.add(cursor)
        params = {"cursor": cursor}
    raise BackendStartError(f"{method} has more than {PAGES} pages")

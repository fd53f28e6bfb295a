"""Pages of a list, and the cursors that lead from one to the next.

Rule: pure. A cursor is bound to the list and the version of it that it was given for, so that pages which are read
while the list changes show neither a name twice nor leave one out: they go on with the version they began with, as
long as that is remembered, and say plainly when it is not. It is sealed: one of another run, or made up, is refused.
MCP 2025-11-25, server/utilities/pagination.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import Any

from attrs import frozen

from mcpactors.errors import InvalidParams
from mcpactors.runtime.naming import Kind

__all__ = ["Cursor", "Page", "page_of"]

Items = Sequence[Mapping[str, Any]]


@frozen
class Cursor:
    """Where a page begins: in which version of which list, after how many items."""

    kind: Kind
    version: int
    offset: int

    def sealed(self, key: bytes) -> str:
        """The string that a client is given; `key` is the run's own."""
        text = f"{self.kind}:{self.version}:{self.offset}"
        seal = blake2b(text.encode(), key=key, digest_size=8).hexdigest()
        return base64.urlsafe_b64encode(f"{text}:{seal}".encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: object, kind: Kind, key: bytes) -> Cursor:
        """The cursor in a client's string. Raises `InvalidParams` for one that is not ours, or of another list."""
        wrong = InvalidParams("this cursor is not one that this list gave; list again without a cursor")
        if not isinstance(text, str) or len(text) > 100:
            raise wrong
        try:
            _, version, offset, _ = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().split(":")
            cursor = cls(kind, int(version), int(offset))
        except (binascii.Error, ValueError):
            raise wrong from None
        if not compare_digest(cursor.sealed(key).encode(), text.encode()):
            raise wrong
        return cursor


@frozen
class Page:
    """Some items of a list, and where the next ones begin."""

    items: Items
    next_cursor: str | None


def page_of(
    kind: Kind, cursor: object, version: int, recall: Callable[[int], Items | None], size: int | None, key: bytes
) -> Page:
    """The page at `cursor` (None: the first, of the list at `version`), of at most `size` items (None: all).

    `recall(version)` gives the list as it was; None when that is forgotten. `key` seals the cursors.

    Raises:
        InvalidParams: the cursor is no cursor of this list, or of a version that is forgotten.
    """
    start = Cursor(kind, version, 0) if cursor is None else Cursor.read(cursor, kind, key)
    items = recall(start.version)
    if items is None or start.offset > len(items):
        raise InvalidParams("the list has changed too much since this cursor was given; list again without a cursor")
    if size is None and cursor is None:
        return Page(items, None)
    end = start.offset + (size or len(items))
    following = Cursor(kind, start.version, end).sealed(key) if end < len(items) else None
    return Page(items[start.offset : end], following)

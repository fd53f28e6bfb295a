"""The copies that imports serve: what changed between two of them, and keeping one in a file.

Rule: values and files only; who serves a copy is the host's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mcpactors.errors import ConfigError, MountError
from mcpactors.mounts import CatalogDiff, MountHandle
from mcpactors.runtime.naming import KEYS, KINDS, Kind
from mcpactors.runtime.routing import Listing

__all__ = ["difference", "load_snapshot", "save_snapshot"]


def difference(before: Mapping[Kind, Listing], after: Mapping[Kind, Listing]) -> CatalogDiff:
    """What is different between two copies of one source's catalog."""
    added, removed, changed = {}, {}, {}
    for kind in KINDS:
        old = {item[KEYS[kind]]: item for item in before[kind].items}
        new = {item[KEYS[kind]]: item for item in after[kind].items}
        added[kind] = tuple(name for name in new if name not in old)
        removed[kind] = tuple(name for name in old if name not in new)
        changed[kind] = tuple(name for name in new if name in old and new[name] != old[name])
    return CatalogDiff(
        *({kind: names for kind, names in found.items() if names} for found in (added, removed, changed))
    )


def save_snapshot(handle: MountHandle, path: str | Path) -> None:
    """Keep an import's copy in a file, for `Runtime.mount_snapshot`. Raises `MountError` for what is no import."""
    if handle.catalog is None:
        raise MountError("only an import has a copy to keep; use import_server(...)")
    catalog = {kind: list(handle.catalog[kind].items) for kind in KINDS}
    Path(path).write_text(json.dumps({"mcpactorsSnapshot": 1, **catalog}, indent=1), encoding="utf-8")


def load_snapshot(path: str | Path) -> dict[Kind, Listing]:
    """What `save_snapshot` kept. Raises `ConfigError` naming the file."""
    try:
        whole = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a snapshot: {error}") from error
    if not isinstance(whole, dict) or whole.get("mcpactorsSnapshot") != 1:
        raise ConfigError(f"{path}: is no snapshot; make one with save_snapshot(handle, path)")
    catalog: dict[Kind, Listing] = {}
    for kind in KINDS:
        items = whole.get(kind)
        if not isinstance(items, list) or not all(
            isinstance(i, dict) and isinstance(i.get(KEYS[kind]), str) for i in items
        ):
            raise ConfigError(f"{path}: {kind}: expected a list of objects that each have a {KEYS[kind]}")
        catalog[kind] = Listing(tuple(items), fresh=True)
    return catalog

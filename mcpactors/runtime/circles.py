"""Which gateways a list has come through: none lists what it has listed before, however many are between (F40).

Rule: pure. A gateway that is asked for it, in `_meta`, says its own id and those of all gateways that what it lists has
come through. None takes a list that has come through itself. So nothing comes back to where it has been, and a gateway
that is mounted below itself is refused, where its catalog would grow with each look. Calls have a limit of hops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from mcpactors.errors import BackendStartError

__all__ = ["ASKING", "GATEWAYS", "asked_for_gateways", "gateways_of", "refuse_own", "with_gateways"]

GATEWAYS: Final = "mcpactors/gateways"
ASKING: Final[dict[str, Any]] = {GATEWAYS: True}
"""What stands in the `_meta` of a request whose answer is to say it. Our own id is not told: it is asked of nobody."""
MOST: Final = 1_000
LENGTH: Final = 64
"""Ids that are read of one answer, and characters of one."""


def asked_for_gateways(params: Mapping[str, Any]) -> bool:
    """Whether who sends these wants to know."""
    meta = params.get("_meta")
    return isinstance(meta, Mapping) and meta.get(GATEWAYS) is True


def with_gateways(result: Mapping[str, Any], own: str, others: Iterable[str]) -> dict[str, Any]:
    """The result, with the ids in its `_meta`: our own first."""
    return {**result, "_meta": {**(result.get("_meta") or {}), GATEWAYS: [own, *sorted(set(others) - {own})]}}


def gateways_of(said: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids that an answer says; rubbish says nothing, and so does who is no gateway of ours."""
    meta = said.get("_meta")
    ids = meta.get(GATEWAYS) if isinstance(meta, Mapping) else None
    if not isinstance(ids, list):
        return ()
    return tuple(each for each in ids[:MOST] if isinstance(each, str) and 0 < len(each) <= LENGTH)


def refuse_own(name: str, own: str, said: Mapping[str, Any]) -> frozenset[str]:
    """The ids in an answer of the backend `name`.

    Raises:
        BackendStartError: `own` is among them.
    """
    ids = gateways_of(said)
    if own in ids:
        what = "is this gateway itself" if ids[0] == own else "has this gateway below itself"
        raise BackendStartError(f"{name} {what}: all that is listed would be listed in it again; do not mount it here")
    return frozenset(ids)

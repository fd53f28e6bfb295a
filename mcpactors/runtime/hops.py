"""How many gateways a call has come through: the end of a call that would go round for ever (promise F40).

Rule: each edge counts one more than whoever sends to it said, and refuses above a limit. What a handler of this process
calls is counted by a context variable; what goes over a wire of ours says it in `_meta`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

from mcpactors.errors import TooManyHops

__all__ = ["HOPS", "HOP_LIMIT", "arrived", "hops_of", "passed"]

HOPS: Final = "mcpactors/hops"
HOP_LIMIT: Final = 8
passed: Final[ContextVar[int]] = ContextVar("mcpactors.hops", default=0)
"""The gateways that the call which runs here has come through; 0 for what no call has caused."""


def hops_of(params: Mapping[str, Any]) -> int:
    """What a request says of itself; rubbish says nothing."""
    meta = params.get("_meta")
    said = meta.get(HOPS) if isinstance(meta, Mapping) else None
    return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else 0


def arrived(params: Mapping[str, Any], limit: int) -> Mapping[str, Any]:
    """The params of a request that has come to an edge, with how many gateways were before it.

    Raises:
        TooManyHops: more than `limit`.
    """
    said, known = hops_of(params), passed.get()
    hops = max(said, known)
    if hops > limit:
        raise TooManyHops(
            f"this call has come through {hops} gateways already, more than {limit}: it goes round in a circle; look "
            "for a gateway that is mounted below itself, and for a tool that calls its own gateway",
            {"hops": hops, "limit": limit},
        )
    if hops == said:
        return params
    return {**params, "_meta": {**(params.get("_meta") or {}), HOPS: hops}}

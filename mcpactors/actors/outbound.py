"""What a call says to a backend: its params, with the `_meta` that the backend's era wants.

Rule: functions of the request; ids and progress tokens of clients never reach the backend (design.md section 4, rule
7), nor does what is switched off for it.
"""

from __future__ import annotations

from typing import Any, Final

from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)

from mcpactors.actors.backend import mapping
from mcpactors.actors.wire import envelope
from mcpactors.runtime.hops import HOPS, hops_of
from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.policy import FORWARD_ALL, Forwarding

__all__ = ["params_for", "params_through_client"]

ENVELOPE: Final = (PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY, LOG_LEVEL_META_KEY)


def params_for(request: Request, token: int, forward: Forwarding, *, modern: bool) -> dict[str, Any]:
    """The params as a backend of this era wants them, with our progress token."""
    meta = _meta(request)
    caller = request.caller
    if not modern:
        for key in ENVELOPE:
            meta.pop(key, None)
    elif PROTOCOL_VERSION_META_KEY not in meta:
        meta |= envelope(caller.capabilities, caller.info)
        meta[LOG_LEVEL_META_KEY] = caller.log_level or "debug"  # an old client hears all until it says otherwise
    if forward is not FORWARD_ALL:
        _withhold(meta, forward)
    if forward.progress:
        meta["progressToken"] = token
    return {**request.params, "_meta": meta}


def params_through_client(request: Request) -> dict[str, Any]:
    """The params for somebody else's client, which says itself who it is and has tokens of its own."""
    meta = _meta(request)
    for key in (*ENVELOPE, "progressToken"):
        meta.pop(key, None)
    return {**request.params, "_meta": meta}


def _meta(request: Request) -> dict[str, Any]:
    return {**mapping(request.params.get("_meta")), HOPS: hops_of(request.params) + 1}


def _withhold(meta: dict[str, Any], forward: Forwarding) -> None:
    """Do not tell the backend of what is switched off for it."""
    if CLIENT_CAPABILITIES_META_KEY in meta:
        meta[CLIENT_CAPABILITIES_META_KEY] = forward.allowed(mapping(meta[CLIENT_CAPABILITIES_META_KEY]))
    if not forward.logging:
        meta.pop(LOG_LEVEL_META_KEY, None)
    if not forward.progress:
        meta.pop("progressToken", None)

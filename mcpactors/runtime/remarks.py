"""What an operator should hear of a table that has just been made, beside what its lists show.

Rule: pure, and only what is new: a table made anew says nothing twice. Nothing here changes what is listed.
"""

from __future__ import annotations

import re
from typing import Any, Final

from mcpactors.runtime.naming import NAME_LENGTH, WORDS, shape_of
from mcpactors.runtime.routing import KindTable

__all__ = ["remarks"]

TOLD: Final = 5
"""Names in one remark, at most."""
_COPY: Final = re.compile(r"\.copy(#\d+)*$")
"""The actor of a local copy of a mirrored component: to win over that is what it is for."""


def remarks(before: KindTable[Any], after: KindTable[Any]) -> list[str]:
    """A line each for names that are newly shadowed, and for those that namespaces have made longer than MCP wants.

    MCP 2025-11-25, server/tools "Tool Names": 1 to 128 characters; a client may refuse what is longer.
    """
    word, said = WORDS[after.kind], []
    if after.conflicts:
        known = set(before.conflicts)
        told = [c for c in after.conflicts if c not in known and not _COPY.search(c.winner)]
        fresh = [f"{c.name!r} of {c.shadowed} by that of {c.winner}" for c in told]
        if fresh:
            said.append(f"{word} names that are shadowed: {_some(fresh)}; give one of them another namespace")
    if after.kind in ("tools", "prompts"):
        longer = [name for name in after.routes if len(name) > NAME_LENGTH and name not in before.routes]
        if longer:
            said.append(
                f"{word} names of more than {NAME_LENGTH} characters, which some clients refuse: "
                f"{_some([f'{name[:40]!r}... ({len(name)})' for name in longer])}; choose shorter namespaces"
            )
    if after.kind == "templates" and len(after.routes) > len(before.routes):
        said += _same_shapes(before, after)
    return said


def _same_shapes(before: KindTable[Any], after: KindTable[Any]) -> list[str]:
    first: dict[tuple[str, str], str] = {}
    fresh = []
    for name, route in after.routes.items():
        taken = first.setdefault((route.namespace.uri_prefix, shape_of(route.own)), name)
        if taken != name and not (taken in before.routes and name in before.routes):
            fresh.append(f"{name!r} of {route.target} by {taken!r} of {after.routes[taken].target}")
    return [f"URIs of templates that others answer: {_some(fresh)}; choose another namespace"] if fresh else []


def _some(words: list[str]) -> str:
    more = f" and {len(words) - TOLD} more" if len(words) > TOLD else ""
    return ", ".join(words[:TOLD]) + more

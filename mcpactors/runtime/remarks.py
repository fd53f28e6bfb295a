"""What an operator should hear of a table that has just been made, beside what its lists show.

Rule: pure, and only what is new: a table made anew says nothing twice. Nothing here changes what is listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from mcpactors.runtime.naming import NAME_LENGTH, TOLD, WORDS, Namespace, shape_of
from mcpactors.runtime.offers import Place, Step
from mcpactors.runtime.routing import KindTable, Listing

__all__ = ["remarks", "strays", "tell_strays"]

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


def strays(places: Sequence[Place[Any]], tools: Mapping[Any, Listing]) -> frozenset[tuple[str, str]]:
    """Which tools mounts rename, or say more of, that nothing there has: (the mount's actor, its name for the tool).

    Nothing is said of a mount before it is known what all that is mounted there, and below, lists.
    """
    below: dict[int, tuple[Step, list[Place[Any]]]] = {}  # of each mount that says something; by identity
    for place in places:
        for step in place.steps:
            if step.tools:
                below.setdefault(id(step), (step, []))[1].append(place)
    found: set[tuple[str, str]] = set()
    for step, inside in below.values():
        if all((listed := tools.get(place.target)) and (listed.items or listed.fresh) for place in inside):
            there = {name for place in inside for name in _names_at(step, place, tools[place.target])}
            at = next(str(place.target) for place in inside if place.steps[0] is step)
            found |= {(at, name) for name in step.tools if name not in there}
    return frozenset(found)


def tell_strays(found: AbstractSet[tuple[str, str]]) -> str:
    """A line for people."""
    return (
        f"tools that a mount renames or says more of, and that are not there: "
        f"{_some([f'{name!r} of {at}' for at, name in sorted(found)])}; correct tool_names= or tools= of the mount"
    )


def _names_at(step: Step, place: Place[Any], listing: Listing) -> Iterator[str]:
    """What the tools of a place are called inside a mount on their way out."""
    for item in listing.items:
        name: str = item["name"] if isinstance(item.get("name"), str) else ""
        for passed in place.steps if name else ():
            if passed is step:
                yield name
                break
            override = passed.tools.get(name)
            name = (override.name if override is not None else None) or name
            if passed.namespace is not None:
                name = Namespace((passed.namespace,)).outward("tools", name)


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

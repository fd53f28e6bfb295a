"""What a tool was when it was first seen: a definition that changes later may ask for what nobody has agreed to.

Rule: PURE. It compares and remembers; who hides a tool, or tells of it, decides by what it says (promise F41). A tool
that goes and comes back is held against what it was at first, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

from attrs import define, field, frozen

from mcpactors.errors import MountError

__all__ = ["ChangePolicy", "Definitions", "ToolChange", "check_policy"]

ChangePolicy: TypeAlias = Literal["allow", "warn", "quarantine"]
"""What becomes of a tool whose definition changes.

allow: nothing. warn: it is told, as a warning. quarantine: it is hidden and refused as well, until it is approved.
"""
COMPARED: Final = ("title", "description", "inputSchema", "outputSchema", "annotations")
"""The fields of a tool that models and people decide by."""
REMEMBERED: Final = 10_000
"""Tools of one actor whose first definition is kept; the oldest go first."""

_Digests = Mapping[str, bytes]
_encoded: Final = json.JSONEncoder(sort_keys=True, default=repr).encode


@frozen
class ToolChange:
    """A tool whose definition is not what it was when it was first seen."""

    tool: str
    """Its name, as its own server uses it."""
    fields: tuple[str, ...]
    """What is different: "description", "inputSchema", ..."""


@define(eq=False)
class Definitions:
    """The definitions of one actor's tools: as they were at first, or were approved, and as they are."""

    _first: dict[str, _Digests] = field(factory=dict, init=False)
    _now: dict[str, _Digests] = field(factory=dict, init=False)
    _ahead: dict[int, tuple[Mapping[str, Any], _Digests]] = field(factory=dict, init=False)

    def look_ahead(self, tools: Iterable[Mapping[str, Any]]) -> None:
        """Do for some of the tools that are to be looked at next what takes long; nothing else comes of it."""
        if len(self._ahead) > REMEMBERED:
            self._ahead.clear()  # of lists that were older than what came before them
        for tool in tools:
            if id(tool) not in self._ahead:
                self._ahead[id(tool)] = (tool, _digests(tool))

    def look(self, tools: Iterable[Mapping[str, Any]]) -> list[str]:
        """Take what the actor lists now; returns who is different from the first sight and was not so at the last."""
        news: list[str] = []
        for tool in tools:
            name = str(tool.get("name"))
            _, digests = self._ahead.get(id(tool)) or (tool, _digests(tool))
            first = self._first.setdefault(name, digests)
            # At first sight they are the same object, of which equality would compare every part.
            if first is not digests and digests != self._now.get(name, first) and digests != first:
                news.append(name)
            self._now[name] = digests
        self._ahead.clear()
        while len(self._first) > REMEMBERED:
            oldest = next(iter(self._first))
            del self._first[oldest], self._now[oldest]
        return news

    def change(self, tool: str) -> ToolChange | None:
        """What is different with a tool since it was first seen, or approved."""
        first, now = self._first.get(tool), self._now.get(tool)
        return _change(tool, first, now) if first is not None and now is not None and now != first else None

    @property
    def changed(self) -> tuple[str, ...]:
        """Every tool that is not what it was, and that nobody has approved."""
        return tuple(name for name, now in self._now.items() if now != self._first[name])

    @property
    def changes(self) -> tuple[ToolChange, ...]:
        """Those, and what is different with each; of thousands it takes long."""
        return tuple(_change(name, self._first[name], self._now[name]) for name in self.changed)

    def approve(self, tools: Iterable[str]) -> tuple[str, ...]:
        """Take these tools as they are now for what they are to be; without any, all. Returns which had changed."""
        wanted = frozenset(tools)
        approved = tuple(name for name in self.changed if not wanted or name in wanted)
        self._first.update({name: self._now[name] for name in approved})
        return approved


def _digests(tool: Mapping[str, Any]) -> _Digests:
    return {key: hashlib.sha256(_encoded(tool[key]).encode()).digest() for key in COMPARED if tool.get(key) is not None}


def _change(name: str, before: _Digests, after: _Digests) -> ToolChange:
    return ToolChange(name, tuple(key for key in COMPARED if before.get(key) != after.get(key)))


def check_policy(policy: ChangePolicy | None) -> ChangePolicy | None:
    """The policy itself when it is one. Raises `MountError`."""
    if policy is not None and policy not in get_args(ChangePolicy):
        raise MountError(f"on_tool_change={policy!r} is unknown; known are {', '.join(get_args(ChangePolicy))}")
    return policy

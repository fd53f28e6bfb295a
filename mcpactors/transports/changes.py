"""What one client has still to be told of what changes in the runtime.

Rule: a set, not a queue. However often something changes before the client has been told, it is told once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self

import trio

from mcpactors.runtime.routing import Change, Kind, ResourceUpdated

__all__ = ["LISTS_TOLD", "Changes", "Listener", "notification"]

Listener = Callable[[Change], None]

LISTS_TOLD: Final[Mapping[str, str]] = {
    "toolsListChanged": "tools",
    "promptsListChanged": "prompts",
    "resourcesListChanged": "resources",
}
_WORDS: Final[Mapping[Kind, str]] = {
    "tools": "tools",
    "prompts": "prompts",
    "resources": "resources",
    "templates": "resources",
}
"""Which `list_changed` speaks for a kind."""


class Changes:
    """What one client has still to be told: a set, so that however often something changes it is told once."""

    def __init__(
        self,
        listen: Callable[[Listener], Callable[[], None]],
        words: Iterable[str] = ("tools", "prompts", "resources"),
    ) -> None:
        self.uris: set[str] = set()
        """The resources that it watches."""
        self._words = frozenset(words)
        self._waiting: dict[str | ResourceUpdated, None] = {}
        self._something = trio.Event()
        self._ended = False
        self._listen = listen

    def __enter__(self) -> Self:
        self._forget = self._listen(self._take)
        return self

    def __exit__(self, *exc: object) -> None:
        self._forget()

    def _take(self, change: Change) -> None:
        if isinstance(change, ResourceUpdated):
            if change.uri in self.uris:
                self._waiting[change] = None
        elif (word := _WORDS[change.kind]) in self._words:
            self._waiting[word] = None
        if self._waiting:
            self._something.set()

    async def end_when(self, event: trio.Event) -> None:
        """End the iteration when the event is set."""
        await event.wait()
        self._ended = True
        self._something.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | ResourceUpdated:
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._something = trio.Event()
            await self._something.wait()
        change = next(iter(self._waiting))
        del self._waiting[change]
        return change


def notification(change: str | ResourceUpdated) -> tuple[str, dict[str, Any]]:
    """The notification, method and params, that tells of a change."""
    if isinstance(change, ResourceUpdated):
        return "notifications/resources/updated", {"uri": change.uri}
    return f"notifications/{change}/list_changed", {}

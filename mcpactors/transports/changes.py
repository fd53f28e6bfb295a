"""What one client has still to be told of what changes in the runtime.

Rule: a set, not a queue. However often something changes before the client has been told, it is told once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Self

import trio

from mcpactors.runtime.naming import Kind
from mcpactors.runtime.routing import Change, ResourceUpdated

__all__ = ["LISTS_TOLD", "Changes", "Listener", "Teller", "notification"]

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
_ALL: Final = frozenset(_WORDS.values())


class Changes:
    """What one client has still to be told: a set, so that however often something changes it is told once."""

    def __init__(
        self,
        listen: Callable[[Listener], Callable[[], None]],
        words: Iterable[str] = _ALL,
        stir: Callable[[], None] = lambda: None,
    ) -> None:
        """`stir` is called at each change, when there is something to tell."""
        self.uris: set[str] = set()
        """The resources that it watches."""
        self._words = frozenset(words)
        self._waiting: dict[str | ResourceUpdated, None] = {}
        self._something: trio.Event | None = None
        self._ended = False
        self._stir = stir
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
            self._wake()
            self._stir()

    def next(self) -> str | ResourceUpdated | None:
        """The oldest that is not told; from now on it is. None: all are."""
        change = next(iter(self._waiting), None)
        if change is not None:
            del self._waiting[change]
        return change

    async def end_when(self, event: trio.Event) -> None:
        """End the iteration when the event is set."""
        await event.wait()
        self._ended = True
        self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | ResourceUpdated:
        while (change := self.next()) is None:
            if self._ended:
                raise StopAsyncIteration
            self._something = trio.Event()
            await self._something.wait()
        return change

    def _wake(self) -> None:
        if self._something is not None:
            self._something.set()


class Teller:
    """Tells an old session of changes, by a task that lasts for as long as there is something to tell."""

    __slots__ = ("_spawn", "_task", "_tell", "changes")

    def __init__(
        self,
        listen: Callable[[Listener], Callable[[], None]],
        tell: Callable[[str, Mapping[str, Any]], Awaitable[None]],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self.changes = Changes(listen, stir=self._stir).__enter__()
        self._tell = tell
        self._spawn = spawn
        self._task: trio.CancelScope | None = None

    def end(self) -> None:
        """Nothing more is told."""
        self.changes.__exit__()
        if self._task is not None:
            self._task.cancel()

    def _stir(self) -> None:
        if self._task is None:
            self._task = trio.CancelScope()
            self._spawn(self._run)

    async def _run(self) -> None:
        assert self._task is not None
        with self._task:
            while (change := self.changes.next()) is not None:
                await self._tell(*notification(change))
        self._task = None


def notification(change: str | ResourceUpdated) -> tuple[str, dict[str, Any]]:
    """The notification, method and params, that tells of a change."""
    if isinstance(change, ResourceUpdated):
        return "notifications/resources/updated", {"uri": change.uri}
    return f"notifications/{change}/list_changed", {}

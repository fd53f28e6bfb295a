"""What clients watch: the URIs of old sessions, and whatever a modern client's `subscriptions/listen` asks for.

Rule: who watches is counted at the router, so that whatever is watched here is let go of here, however it ends. The
client is whoever is notified, and nothing of the SDK's sessions is known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import trio
from attrs import frozen
from mcp.shared.exceptions import MCPError

from mcpactors.errors import InvalidParams, MCPActorsError
from mcpactors.runtime.mailbox import ActorRef, Caller, Request
from mcpactors.runtime.reply import CallDeadlines, Result
from mcpactors.transports.changes import LISTS_TOLD, Changes, Listener, notification

__all__ = ["Watching", "check_watched", "let_go"]

ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
WATCHED: Final = 1000
URI_LENGTH: Final = 8192
UNWATCH_DEADLINES: Final = CallDeadlines(idle=5, total=5)


@frozen
class Watching:
    """The clients' way to what changes at the router `ref`; `on_change` has a function called at every change."""

    ref: ActorRef
    on_change: Callable[[Listener], Callable[[], None]]

    async def remember(self, changes: Changes | None, uri: str) -> None:
        """An old session watches this from now on; what it watches twice is watched once."""
        if changes is None or uri in changes.uris:
            await self.forget([uri])
        else:
            changes.uris.add(uri)

    async def forget(self, uris: Iterable[str]) -> None:
        """Nobody watches these any more, as far as one client is concerned."""
        for uri in uris:
            with suppress(MCPActorsError):
                await self.ref.ask(Request("resources/unsubscribe", {"uri": uri}), UNWATCH_DEADLINES)

    async def listen(
        self,
        params: Mapping[str, Any],
        caller: Caller,
        notify: Callable[[str, Mapping[str, Any]], Awaitable[None]],
        endings: Iterable[trio.Event],
    ) -> None:
        """Serve `subscriptions/listen`: acknowledge, then tell of what was asked for until one side ends it.

        Raises MCPError (-32602) for params that cannot be meant.
        """
        honoured, uris = _wanted(params)
        watched: list[str] = []
        with Changes(self.on_change, {LISTS_TOLD[word] for word in honoured}) as changes:
            try:
                for uri in uris:
                    outcome = await self.ref.ask(Request("resources/subscribe", {"uri": uri}, caller))
                    if isinstance(outcome, Result):
                        watched.append(uri)
                        changes.uris.add(uri)
                if watched:
                    honoured["resourceSubscriptions"] = watched
                await notify(ACKNOWLEDGED, {"notifications": honoured})
                async with trio.open_nursery() as nursery:
                    for ending in endings:
                        nursery.start_soon(changes.end_when, ending)
                    async for change in changes:
                        await notify(*notification(change))
                    nursery.cancel_scope.cancel()
            finally:
                with trio.move_on_after(UNWATCH_DEADLINES.total, shield=True):
                    await self.forget(watched)


def _wanted(params: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[str]]:
    """The lists whose changes are asked for, as they are acknowledged; and the URIs, each once."""
    wanted = params.get("notifications")
    if not isinstance(wanted, Mapping):
        raise MCPError(InvalidParams.code, "subscriptions/listen needs params.notifications: an object")
    uris = wanted.get("resourceSubscriptions") or []
    if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
        raise MCPError(InvalidParams.code, "subscriptions/listen takes resourceSubscriptions as a list of URIs")
    check_watched(uris)
    return {word: True for word in LISTS_TOLD if wanted.get(word) is True}, list(dict.fromkeys(uris))


def check_watched(uris: Sequence[object], changes: Changes | None = None) -> None:
    """Refuse to remember more, or longer ones, than a client may have watched: each is kept here and at its backend.

    `changes` has those that are watched already. Raises MCPError (-32602).
    """
    known = len(changes.uris) if changes is not None else 0
    if known + len(uris) > WATCHED or any(isinstance(uri, str) and len(uri) > URI_LENGTH for uri in uris):
        said = f"a client may watch {WATCHED} URIs, each of {URI_LENGTH} characters at most; unsubscribe from some"
        raise MCPError(InvalidParams.code, said)


def let_go(changes: Changes | None, uri: object) -> bool:
    """Whether an old session has watched this until now; it does not any more."""
    if changes is None or not isinstance(uri, str) or uri not in changes.uris:
        return False
    changes.uris.remove(uri)
    return True

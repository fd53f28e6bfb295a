"""What waits for clients to take it, over all connections of a host: whose goes when that is more than may wait.

Rule: it counts and decides, nothing waits. What is sent costs additions and no look at a clock: whether a client gets
on is seen once a second, when all are looked at. Nobody goes who has taken anything since the last look: however much
others leave lying, it is theirs that goes, and who waits longest is first. Promise F21.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from attrs import define, field

__all__ = ["UNREAD", "Unread", "to_drop", "unread_of"]

UNREAD: Final = "mcpactors.unread"
"""In the `extensions` of a scope: the `Unread` of its connection."""


@define(eq=False)
class Unread:
    """Of one connection, in bytes. Who keeps something for its client that the host was not given yet counts it here,
    too, and so does who has been given the connection."""

    waiting: int = 0
    """What is kept here until the client takes it."""
    taken: int = 0
    """In all, by the machine below us; which keeps some megabytes for a client."""
    idle: int = field(default=0, init=False)
    """At so many looks in a row something had waited since the one before, and nothing been taken."""
    _waited: int = field(default=0, init=False)  # at the last look
    _seen: int = field(default=0, init=False)  # of what was taken

    def hold(self, size: int) -> None:
        """So much more waits; below zero: less."""
        self.waiting += size

    def look(self) -> bool:
        """See how the client has got on since the last time. False: there is nothing to be seen."""
        if not self.waiting and not self._waited:
            return False
        self.idle = self.idle + 1 if self._waited and self.taken == self._seen else 0
        self._waited, self._seen = self.waiting, self.taken
        return True


def to_drop(everyone: Iterable[Unread], limit: int) -> set[Unread]:
    """Look at all, and say whose connections have to go so that no more than `limit` waits, or nobody is idle."""
    found = [each for each in everyone if each.look()]
    much = sum(each.waiting for each in found) - limit
    dropped = set()
    if much > 0:
        idle = [each for each in found if each.idle and each.waiting]
        for each in sorted(idle, key=lambda each: (each.idle, each.waiting), reverse=True):
            if much <= 0:
                break
            dropped.add(each)
            much -= each.waiting
    return dropped


def unread_of(scope: Any) -> Unread:
    """That of the connection on which a request came."""
    found = scope.get("extensions", {}).get(UNREAD)
    return found if isinstance(found, Unread) else Unread()

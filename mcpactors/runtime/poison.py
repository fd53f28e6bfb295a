"""Which messages an actor does not get a third time: those in flight whenever it went down (promise F29).

Rule: nothing is refused on a guess that an answer disproves. A message is under suspicion when its call was lost in a
crash, guilty when that happened at `after` crashes, and acquitted by any answer. Messages are known by a digest, so
that suspicion keeps no arguments. No clock and no task in here: times are handed in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, final

from attrs import evolve, frozen

from mcpactors.errors import PoisonMessage
from mcpactors.runtime.methods import CATALOG

__all__ = ["Suspects"]

KEPT: Final = 256
"""Suspects of one actor, at most; the one whose crash is longest ago goes first."""
FORGOTTEN_AFTER: Final = 600.0
"""Seconds after which nobody remembers that a message was there when the actor went down."""
JUST_BEFORE: Final = 1.0
"""Seconds by which a lost connection may fail a call before its actor notices that it has crashed."""


@frozen
class _Suspicion:
    crashes: int
    at: float


@final
class Suspects:
    """The messages under suspicion of one actor. `refused_for`: seconds a guilty one is refused before it may be tried
    again; `after`: at how many crashes it must have been in flight, 0 for never."""

    __slots__ = ("_after", "_ended", "_lost", "_refused_for", "known")

    def __init__(self, after: int = 2, refused_for: float = 60.0) -> None:
        self._after = after
        self._refused_for = refused_for
        self._lost: dict[bytes, float] = {}
        self._ended = math.inf
        self.known: dict[bytes, _Suspicion] = {}
        """Empty for an actor that has not crashed with a call in flight: then nothing needs to be asked."""

    def lost(self, method: str, params: Mapping[str, Any], now: float) -> None:
        """The call that carried this message has no answer because its callee, or the way to it, has gone."""
        if self._after and method != CATALOG and (digest := _digest(method, params)) is not None:
            self._lost[digest] = now
            if len(self._lost) > KEPT:
                del self._lost[next(iter(self._lost))]

    def ended(self, now: float) -> None:
        """A life ends now. How long it is then taken leave of, which of a process may be seconds, does not count."""
        self._ended = now

    def crashed(self, now: float) -> None:
        """The actor has crashed: what it held just now is under suspicion, once for each message and crash."""
        for digest, at in self._lost.items():
            if min(now, self._ended) - at <= JUST_BEFORE:
                before = self.known.pop(digest, _Suspicion(0, now))
                self.known[digest] = evolve(before, crashes=before.crashes + 1, at=now)
        self._lost.clear()
        while len(self.known) > KEPT:
            del self.known[next(iter(self.known))]

    def check(self, actor: str, method: str, params: Mapping[str, Any], now: float) -> None:
        """Let a message through, or refuse it.

        Raises:
            PoisonMessage: it was in flight at as many crashes as may be; `data.retryAfter` in seconds.
        """
        for digest in [digest for digest, it in self.known.items() if now - it.at > FORGOTTEN_AFTER]:
            del self.known[digest]
        suspicion = self.known.get(_digest(method, params) or b"")
        if suspicion is None or suspicion.crashes < self._after:
            return
        wait = suspicion.at + self._refused_for - now
        if wait > 0:
            raise PoisonMessage(
                f"{actor} has gone down {suspicion.crashes} times while it held this very message, so it does not get "
                f"it again for {wait:.0f} s; other calls are answered. Send something else, or mend {actor}",
                {"actor": actor, "crashes": suspicion.crashes, "retryAfter": round(wait, 3)},
            )

    def acquit(self, method: str, params: Mapping[str, Any]) -> None:
        """This message was answered."""
        self.known.pop(_digest(method, params) or b"", None)


def _digest(method: str, params: Mapping[str, Any]) -> bytes | None:
    """What two calls have in common that say the same; `_meta` differs with each. None: it cannot be told."""
    said = {key: value for key, value in params.items() if key != "_meta"}
    try:
        return sha256(json.dumps([method, said], sort_keys=True, default=repr).encode()).digest()
    except (TypeError, ValueError, RecursionError):
        return None

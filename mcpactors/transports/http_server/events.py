"""What is kept of the event streams of old clients, for who comes again after a break.

Rule: what is kept is bounded, in events, bytes and time, for one session and for all together, and the oldest goes
first; who asks for what has gone is told so and never left waiting. MCP 2025-11-25, "Resumability and Redelivery".
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import trio
from attrs import define, field, frozen

from mcpactors.transports.http_server.outlet import as_event

__all__ = ["STANDALONE", "EventLimits", "EventLog", "Kept", "Place", "SessionEvents"]

STANDALONE: Final = "_GET_stream"
"""The name of the stream beside the calls, where ids of requests stand."""


@frozen
class EventLimits:
    """Of what is kept for one session, and of all. Sizes in bytes of JSON; a larger event is not kept at all."""

    session_events: int = 512
    session_bytes: int = 4 * 1024 * 1024
    events: int = 20_000
    bytes: int = 64 * 1024 * 1024
    seconds: float = 300.0


@frozen(eq=False)
class Kept:
    """An event: the `number`th of its session, on its `stream`th stream. The `last` of a stream is its response."""

    number: int
    stream: int
    json: bytes
    last: bool
    at: float

    @property
    def id(self) -> str:
        return f"{self.stream}-{self.number}"

    @property
    def event(self) -> bytes:
        """As it is sent."""
        return as_event(self.json, self.id)


@frozen
class Place:
    """After which event somebody wants to go on. `key` names the stream while it is open."""

    stream: int
    number: int
    key: str | None


@define(eq=False)
class EventLog:
    """What is kept of all sessions together, in the order of its coming."""

    limits: EventLimits = EventLimits()
    _kept: OrderedDict[tuple[int, int], SessionEvents] = field(factory=OrderedDict, init=False)
    _size: int = field(default=0, init=False)
    _sessions: int = field(default=0, init=False)

    @property
    def held(self) -> tuple[int, int]:
        """How many events, how many bytes."""
        return len(self._kept), self._size

    def session(self) -> SessionEvents:
        """The events of a new session, apart from those of all others."""
        self._sessions += 1
        return SessionEvents(self, self._sessions)

    def add(self, session: SessionEvents, kept: Kept) -> None:
        """Keep it, and let go what is too old or too much."""
        self._kept[session.number, kept.number] = session
        self._size += len(kept.json)
        while self._kept and self._has_too_much(kept.at):
            next(iter(self._kept.values())).let_go()

    def remove(self, session: SessionEvents, kept: Kept) -> None:
        """It is not kept any more."""
        del self._kept[session.number, kept.number]
        self._size -= len(kept.json)

    def _has_too_much(self, now: float) -> bool:
        limits = self.limits
        oldest = next(iter(self._kept.values())).kept[0]
        return len(self._kept) > limits.events or self._size > limits.bytes or oldest.at < now - limits.seconds


@define(eq=False)
class SessionEvents:
    """What was sent to one client. `stream_id` is the id of the request that a stream belongs to, or STANDALONE."""

    _log: EventLog
    number: int
    kept: list[Kept] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)
    _count: int = field(default=0, init=False)
    asked: dict[str, bool] = field(factory=dict, init=False)
    """The requests that are unanswered; and whether what is sent for them is kept."""
    _streams: dict[str, int] = field(factory=dict, init=False)  # those that are open
    _opened: int = field(default=0, init=False)
    missing: dict[int, int] = field(factory=dict, init=False)
    """Of streams: the last event that is not kept any more; of as many at most as events are kept."""
    _unsure: int = field(default=0, init=False)  # up to this one some may be missing from any stream

    def ask(self, stream_id: str, *, keep: bool) -> None:
        """The client has asked; until there is a response its id is taken."""
        self.asked[stream_id] = keep

    def answered(self, stream_id: str) -> None:
        """There is a response, or there will be none."""
        self.asked.pop(stream_id, None)
        self._streams.pop(stream_id, None)

    def note(self, stream_id: str, json: bytes, *, last: bool = False) -> Kept:
        """Take note of what is about to be sent on a stream; empty: of its beginning, which is not sent again.

        The `last` is the response, which ends a stream: whoever uses the same id for a further request, has another.
        """
        self._count += 1
        event = Kept(self._count, self._stream(stream_id), json, last, trio.current_time())
        limits = self._log.limits
        keep = self.asked.get(stream_id, True)
        if last:
            self.answered(stream_id)
        if not keep:
            return event
        if len(json) > limits.session_bytes:
            self._miss(event)
        elif json:
            self.kept.append(event)
            self._size += len(json)
            self._log.add(self, event)
            while len(self.kept) > limits.session_events or self._size > limits.session_bytes:
                self.let_go()
        return event

    def let_go(self) -> None:
        """Keep the oldest event no longer."""
        oldest = self.kept.pop(0)
        self._size -= len(oldest.json)
        self._log.remove(self, oldest)
        if oldest.last or oldest.stream == 0:  # of notices some may be missing
            self.missing.pop(oldest.stream, None)
        else:
            self._miss(oldest)

    def _miss(self, event: Kept) -> None:
        """A later one may be missing already: what is too large was never kept."""
        self.missing[event.stream] = max(event.number, self.missing.get(event.stream, 0))
        if len(self.missing) > self._log.limits.session_events:  # no end of a stream need come that was given up
            self._unsure = max(self._unsure, self.missing.pop(next(iter(self.missing))))

    def clear(self) -> None:
        """The session is over."""
        while self.kept:
            self.let_go()

    def place(self, identity: str) -> Place | None:
        """Where to go on after an event; None: there was none such, or what came after it is not kept any more."""
        stream, _, number = identity.partition("-")
        if not (_is_number(stream) and _is_number(number)) or int(number) > self._count:
            return None
        place = Place(int(stream), int(number), next((k for k, n in self._streams.items() if n == int(stream)), None))
        if place.stream == 0:
            return Place(0, place.number, STANDALONE)  # some may be missing: better than none
        if max(self._unsure, self.missing.get(place.stream, 0)) > place.number:
            return None
        return place if place.key is not None or self._of(place.stream, place.number) else None

    def after(self, place: Place) -> list[Kept]:
        """What was sent after it and is kept, in order."""
        return self._of(place.stream, place.number)

    def _of(self, stream: int, after: int) -> list[Kept]:
        return [event for event in self.kept if event.stream == stream and event.number > after]

    def _stream(self, stream_id: str) -> int:
        if stream_id == STANDALONE:
            return 0
        if stream_id not in self._streams:
            self._opened += 1
            self._streams[stream_id] = self._opened
        return self._streams[stream_id]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16

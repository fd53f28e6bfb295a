"""How fast the event streams of one HTTP backend are read: as fast as they come, unless it says what nobody waits for.

Rule: all streams of a backend, in all its sessions, have one allowance, or a flood would be spread over many calls, and
be a new one in each session. What may be a reply costs nothing, until it has shown to be none; nor does progress in
time. Bytes that are no event cost what their lines take to be read. As for lines (`lines/flood.py`), what is counted is
what came, not how long it took. Promises P5, P6, F4, F5.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import trio
from attrs import define, field

from mcpactors.runtime.methods import QUESTIONS
from mcpactors.runtime.policy import BackendLimits
from mcpactors.transports.http_client.event_stream import Event, EventReader, EventTooLong, portions
from mcpactors.transports.http_client.faults import Unreadable, read_message
from mcpactors.transports.lines.flood import (
    DROPPED,
    FEW,
    LOGS_KEPT,
    LONGEST,
    PART,
    READ,
    SAID,
    SKIPPED,
    SMALL,
    Allowance,
    Steps,
    cost,
    flood_of,
    thinned,
)
from mcpactors.transports.lines.room import LARGE

__all__ = ["AT_A_TURN", "Pace", "Turn"]

AT_A_TURN: Final = 8
"""Messages that are taken before others have their turn: a millisecond."""
_LINE: Final = 0.7e-6
"""Seconds for a line that brings no data. `_EVENT`: for an event that is not as most are, where it is one of many."""
_EVENT: Final = 3e-6
_LINES: Final = 1000
"""Lines of data that a message may be on for nothing."""
_PIECE: Final = 0.15e-6
"""Seconds for a chunk of less than `_CRUMB` bytes on average: no reply is sent in such, if it is long."""
_CRUMB: Final = 16
_LONGEST: Final = 2 * LONGEST
"""Seconds to wait at once: one message may take as long to be read as many lines."""
_BESIDE: Final = 4
"""Lines without data that an event may have for nothing: its type, its id, when to come again, and its end."""

Turn = Callable[[], Awaitable[None]]
"""What is awaited for the others' turn."""


@define(eq=False)
class Pace:
    """For one session with a backend, whose allowance it shares. `calls` is how many are in flight here;
    `given` is awaited by who takes all, and sets the pace so."""

    _taken: BackendLimits
    _calls: Callable[[], int]
    _given: Turn | None = None
    _allowance: Allowance = field(factory=Allowance)
    _steps: Steps = field(factory=Steps, init=False)

    async def turn(self) -> None:
        """Of the others."""
        await (trio.lowlevel.checkpoint if self._given is None else self._given)()

    async def wait(self) -> None:
        """Until more may be taken; most often, not at all."""
        if self._given is not None:
            return
        while (wait := self._allowance.wait(trio.current_time())) > 0:  # noqa: ASYNC110 - it is time that it waits for
            await trio.sleep(wait)

    async def room_for(self, reader: EventReader) -> None:
        """For what there is of its next message, if that is large."""
        if reader.held > LARGE:
            await self._allowance.room.hold(reader, reader.held)
        else:
            self.leave(reader)

    def leave(self, reader: EventReader) -> None:
        """It holds nothing large any more."""
        self._allowance.room.leave(reader)

    async def read(self, reader: EventReader, data: bytes, pieces: int) -> tuple[Sequence[bytes], EventTooLong | None]:
        """What must be parsed of the messages that end in `data`, and what is wrong after them."""
        messages, wrong = await self.cut(reader, data, pieces)
        return self._thinned(messages), wrong

    async def cut(self, reader: EventReader, data: bytes, pieces: int) -> tuple[Sequence[bytes], EventTooLong | None]:
        """The messages that end in `data`, and what is wrong after them.

        Waits first, if it must, and not before `data` has come: of many streams that wait the first spends, and then
        the others see it.
        """
        await self.wait()
        greets, held, bare = not reader.begun, reader.held, reader.bare_lines
        events, unusual, wrong = list[Event](), 0, None
        try:
            events, rest = reader.usual(data)
            for number, portion in enumerate(portions(rest)):
                if number:
                    await self.turn()
                more = reader.feed(portion)
                unusual += len(more)
                events += more
        except EventTooLong as error:
            wrong = error.with_traceback(None)  # in which there would be this frame, in which it is
        messages = [event.data for event in events if event.data and event.kind == b"message"]
        each = max(len(events) - len(messages) - greets, 0) * SKIPPED
        each += max(unusual - FEW, 0) * _EVENT
        each += sum(max(message.count(b"\n") - _LINES, 0) for message in messages) * _LINE
        each += max(reader.bare_lines - bare - (len(events) + 1) * _BESIDE, 0) * _LINE
        if not (events or reader.held > held or (greets and reader.begun)):
            each += SAID
        if len(data) < pieces * _CRUMB:
            each += pieces * _PIECE
        if each:
            self._spend(cost(each, 0 if messages else len(data)))
        return messages, wrong

    def _thinned(self, messages: Sequence[bytes]) -> Sequence[bytes]:
        floods = self._allowance.strained
        if self._given is not None or (not floods and len(messages) <= FEW):
            return messages
        kept = thinned(messages, self._token_of, LOGS_KEPT if floods else math.inf)
        if dropped := len(messages) - len(kept):
            self._spend(READ + dropped * DROPPED, flood_of(messages, kept))
        return [message for message in kept if isinstance(message, bytes)]

    def _token_of(self, data: bytes) -> object:
        try:
            said = read_message(data, self._taken)
        except Unreadable:
            return None
        params = said.get("params")
        return params.get("progressToken") if "id" not in said and isinstance(params, dict) else None

    def skipped(self, data: bytes) -> None:
        """It cannot be read."""
        self._spend(cost(SKIPPED, len(data)))

    def heard(self, data: bytes, said: Mapping[str, Any]) -> None:
        """It is this, and no reply that anybody waits for."""
        method, params, size = said.get("method"), said.get("params"), len(data)
        parts = data.count(b",") + data.count(b"[") + data.count(b"{")
        each = SAID
        if method == "notifications/progress" and isinstance(params, dict):
            if self._steps.is_one(params.get("progressToken"), self._calls(), trio.current_time()):
                if size <= SMALL:
                    return
                each, size = 0, size - SMALL
        elif "method" in said and "id" in said and method not in QUESTIONS:
            each = READ  # we answer it at once, with a POST; what is asked of a client is answered at its own pace
        self._spend(cost(each + parts * PART, size))

    def _spend(self, seconds: float, flood: int = 0) -> None:
        self._allowance.spend(seconds, _LONGEST, flood)

"""What comes on the event streams of one HTTP backend: replies, given to who waits for them; all else goes to `Heard`.

Rule: a stream is read by the task that opened it, in its order and at the backend's pace; nothing is sent here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define, field

from mcpactors.runtime.policy import BackendLimits
from mcpactors.transports.http_client.ask import Ask, Awaited
from mcpactors.transports.http_client.event_stream import EventReader
from mcpactors.transports.http_client.faults import Unreadable, read_message, refuse_compressed
from mcpactors.transports.http_client.heard import Heard
from mcpactors.transports.http_client.pace import AT_A_TURN, Pace
from mcpactors.transports.http_client.pool import Answer

__all__ = ["Arrivals"]

logger = logging.getLogger("mcpactors")


@define(eq=False)
class Arrivals:
    """Reads all the streams of the backend `name`."""

    _name: str
    _taken: BackendLimits
    _pace: Pace
    _heard: Heard
    _awaited: dict[str, Awaited] = field(factory=dict, init=False)

    @contextmanager
    def elsewhere(self, ask: Ask) -> Iterator[Awaited]:
        """The reply to `ask` may come on the stream beside the calls: servers take that for the one that is resumed."""
        awaited = self._awaited[str(ask.id)] = Awaited()
        try:
            yield awaited
        finally:
            del self._awaited[str(ask.id)]

    async def read(self, answer: Answer, reader: EventReader, ask: Ask | None) -> dict[str, Any] | None:
        """Take what comes in its order, up to the response to `ask`; None: the stream ended before.

        Raises:
            EventTooLong, AnswerLost: the stream cannot be read on.
            Unreadable: on the stream of a call came what is no message; beside the calls such is skipped.
            MCPError: it is compressed.
        """
        refuse_compressed(self._name, answer)
        try:
            while data := await answer.receive():
                messages, wrong = await self._pace.read(reader, data, answer.pieces)
                for number, message in enumerate(messages, 1):
                    if (said := await self._take(message, ask)) is not None:
                        return said
                    if number % AT_A_TURN == 0:
                        await self._pace.turn()
                if wrong is not None:
                    raise wrong
                await self._pace.room_for(reader)
                await self._pace.turn()
            return None
        finally:
            self._pace.leave(reader)

    async def _take(self, data: bytes, ask: Ask | None) -> dict[str, Any] | None:
        """The response to `ask`, if that is what an event brings; anything else is acted on."""
        try:
            said = read_message(data, self._taken)
            if "method" in said:
                self._pace.heard(data, said)
                if "id" in said:
                    await self._pace.wait()  # of all that is said it takes the most: a task, and a POST
                await self._heard.take(said, ask, may_ask=ask is None or not ask.modern)
            elif ask is not None:
                return said
            elif (awaited := self._awaited.get(str(said.get("id")))) is not None:
                awaited.said = said
                awaited.scope.cancel()
            else:
                self._pace.heard(data, said)
        except Unreadable as error:
            if ask is not None:
                raise
            self._pace.skipped(data)
            logger.debug("%s sent %s on the stream beside its calls", self._name, error)
        return None

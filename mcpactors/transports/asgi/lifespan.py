"""An ASGI application's own beginning and end, as a block.

Rule: the application's lifespan is one task, entered and left here; what it raises on the way is the block's error.
https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from attrs import define, field

from mcpactors.transports.asgi.exchange import ASGIApp, Message

__all__ = ["LifespanFailed", "lifespan"]

STARTUP: Final = "lifespan.startup"
SHUTDOWN: Final = "lifespan.shutdown"


class LifespanFailed(Exception):
    """The application says that it could not start, or not end well."""


@define(eq=False)
class _Lifespan:
    app: ASGIApp
    state: dict[str, Any] = field(factory=dict, init=False)
    _asked: int = field(default=0, init=False)
    _stop: trio.Event = field(factory=trio.Event, init=False)
    _said: list[Message] = field(factory=list, init=False)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The application's task. An application that raises before it has said anything has no lifespan."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}

        async def send(message: Message) -> None:
            self._said.append(message)
            if message["type"].endswith(".failed"):
                raise LifespanFailed(message.get("message") or message["type"])
            if message["type"] == STARTUP + ".complete":
                task_status.started()

        try:
            await self.app(scope, self._receive, send)
        except Exception:
            if self._said:
                raise
        if not self._said:
            task_status.started()
            await self._stop.wait()

    def stop(self) -> None:
        """Let it end."""
        self._stop.set()

    async def _receive(self) -> Message:
        self._asked += 1
        if self._asked > 1:
            await self._stop.wait()
        return {"type": STARTUP if self._asked == 1 else SHUTDOWN}


@asynccontextmanager
async def lifespan(app: ASGIApp, patience: float = 30.0) -> AsyncIterator[dict[str, Any]]:
    """Between the application's startup and its shutdown, each within `patience` seconds; yields its state.

    Raises (in a group, as the block is a nursery's):
        LifespanFailed: the application said so.
        trio.TooSlowError: it had said nothing in time.
    """
    life = _Lifespan(app)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(patience):
            await nursery.start(life.run)
        yield life.state
        life.stop()
        nursery.cancel_scope.deadline = trio.current_time() + patience

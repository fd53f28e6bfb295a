"""`ScriptedBackend`: a script as a backend to mount, in this process or in one of its own.

Rule: what it sends reaches the runtime as bytes through the real framer, so that garbage, halves and floods mean what
they mean from a child process.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, final

import attrs
import trio
from attrs import define, field
from trio.testing import MockClock, lockstep_stream_pair

from mcpactors.config import StdioServer
from mcpactors.testing import script as program
from mcpactors.testing.framed import framed
from mcpactors.testing.script import Crashed, Garbage, Message, Script, Step, perform
from mcpactors.transports.lines.framing import Skip
from mcpactors.transports.lines.stderr import StderrTail
from mcpactors.transports.lines.streams import StdioLimits, StdioWriter
from mcpactors.transports.streams import Streams

__all__ = ["ScriptedBackend"]

PROGRAM: Final = str(Path(program.__file__))


def to_json(script: Script) -> Message:
    """The script as JSON, for `script.from_json`; bytes become text of the characters 0 to 255."""
    return {
        "steps": [_step_to_json(step) for step in script.steps],
        "on": {tool: [_step_to_json(step) for step in steps] for tool, steps in script.on.items()},
        "era": script.era,
        "tools": list(script.tools),
    }


def _step_to_json(step: Step) -> Message:
    given = attrs.asdict(step, filter=lambda of, value: value != of.default)
    if isinstance(step, Garbage):
        given["data"] = step.data.decode("latin-1")
    return {"do": type(step).__name__.lower(), **given}


@define(eq=False)
class _Stdin(trio.abc.ReceiveStream):
    """The backend's stdin; who writes to a pipe sees that it is closed, to a lockstep stream not."""

    _inner: trio.abc.ReceiveStream
    closed: trio.Event = field(factory=trio.Event)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed.set()
        await self._inner.aclose()


async def _notice(closed: trio.Event, writer: StdioWriter) -> None:
    await closed.wait()
    writer.hang_up()


@final
class ScriptedBackend:
    """A backend that does what its scripts say: one script a life, the last one for all that follow.

    It is a transport: `create_proxy(ScriptedBackend(script), sessions="shared")` mounts it like any other backend, on
    real time or on virtual, where a day of hanging costs nothing. Raises ValueError for a life that is no Script.
    """

    def __init__(self, *lives: Script, name: str = "scripted") -> None:
        for life in lives:
            if not isinstance(life, Script):
                raise ValueError(f"ScriptedBackend: expected Script([...]) for each of its lives, got {life!r:.200}")
        self.lives = lives or (Script(),)
        self.name = name
        self.begun = 0
        """Lives that have begun."""
        self.heard: list[Message] = []
        """The messages that it got, in all its lives."""
        self.dropped: Counter[Skip] = Counter()
        """What the runtime has dropped of what it said, by kind: rubbish, and replies that nobody waits for."""

    def said_of(self, method: str) -> list[Message]:
        """The messages of one method that it got."""
        return [message for message in self.heard if message.get("method") == method]

    @asynccontextmanager
    async def connect(self, stderr: StderrTail | None = None) -> AsyncIterator[Streams]:
        """A new life: yields the runtime's end of the connection to it."""
        script = self.lives[min(self.begun, len(self.lives) - 1)]
        self.begun += 1
        ours, theirs = lockstep_stream_pair()
        stdin, over = _Stdin(theirs.receive_stream), trio.Event()

        async def live() -> None:
            try:
                await perform(script, stdin, theirs.send_stream, self.heard.append)
            except Crashed:
                pass  # that is what the script said
            finally:
                over.set()

        limits = StdioLimits()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            async with framed(self.name, ours.send_stream, ours.receive_stream, limits, self.dropped) as (read, write):
                nursery.start_soon(_notice, stdin.closed, write)
                yield read, write
            with trio.move_on_after(limits.exit_grace, shield=True):
                await over.wait()
            nursery.cancel_scope.cancel()

    def as_process(self, folder: str | Path) -> StdioServer:
        """The same scripts as a program: a command that runs them in a process of its own.

        They are written to a file in `folder`, where each start leaves a mark: the next one is the next life. Raises
        RuntimeError in a run on virtual time, which does not wait for processes.
        """
        if trio.lowlevel.in_trio_run() and isinstance(trio.lowlevel.current_clock(), MockClock):
            raise RuntimeError(
                "as_process: a process takes real time, which this run does not wait for: its clock is virtual "
                "(simulate, autojump_clock). Mount the ScriptedBackend itself, or use trio.run."
            )
        path = Path(folder) / f"{self.name}.json"
        path.write_text(json.dumps({"lives": [to_json(script) for script in self.lives]}))
        return StdioServer(sys.executable, ("-P", PROGRAM, str(path)))

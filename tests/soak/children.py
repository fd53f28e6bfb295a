"""Whoever gives the orders to the processes of `child.py`: it knows every one that there ever was.

Rule: a life is over when its connection closes, which the kernel does for it however it ends; nothing here is a guess
made from a list of processes, but `running`, for what should not be there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field

__all__ = ["CHILD", "Children", "Life", "running"]

CHILD: Final = str(Path(__file__).parent / "child.py")
WELL: Final[dict[str, Any]] = {"do": "well"}


@define(eq=False)
class Life:
    """One process, from when it said its name to its end."""

    name: str
    pid: int
    parent: int
    began: float
    """On trio's clock."""
    connection: trio.SocketStream
    begun: trio.Event = field(factory=trio.Event)
    """Set once it was told how to begin."""
    ended: trio.Event = field(factory=trio.Event)

    async def order(self, **what: Any) -> None:
        """Tell it to do something; no matter when it is gone."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.connection.send_all(json.dumps(what).encode() + b"\n")

    def send(self, number: signal.Signals) -> None:
        """Signal it, unless it is gone."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


@define(eq=False)
class Children:
    """All lives of all children, by the name in their command lines. `path`: the socket, where there is none yet."""

    path: Path
    lives: list[Life] = field(factory=list)
    beginnings: dict[str, dict[str, Any] | trio.Event] = field(factory=dict)
    """The first order of a name's next lives; `WELL` where nothing is said. An event: it waits for that first."""
    _more: trio.Event = field(factory=trio.Event)

    def command(self, name: str, *options: str) -> dict[str, Any]:
        """An entry of a config file that runs the child of this name."""
        return {"command": sys.executable, "args": ["-S", CHILD, str(self.path), name, *options]}

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take connections until cancelled; then all children end."""
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(self.path))
            listener.listen(64)
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, self._hold, [trio.SocketListener(listener)])
                task_status.started()

    async def _hold(self, connection: trio.SocketStream) -> None:
        async with connection:
            said = b""
            while not said.endswith(b"\n"):
                data = await connection.receive_some()
                if not data:
                    return
                said += data
            life = Life(**json.loads(said), began=trio.current_time(), connection=connection)
            self.lives.append(life)
            self._tell()
            try:
                await self._begin(life)
                with suppress(trio.BrokenResourceError):
                    await connection.receive_some()
            finally:
                life.ended.set()
                self._tell()

    async def _begin(self, life: Life) -> None:
        beginning = self.beginnings.get(life.name, WELL)
        if isinstance(beginning, trio.Event):
            await beginning.wait()
            beginning = self.beginnings.get(life.name, WELL)
        assert isinstance(beginning, dict)
        await life.order(**beginning)
        life.begun.set()
        self._tell()

    def _tell(self) -> None:
        self._more.set()
        self._more = trio.Event()

    def living(self, name: str | None = None) -> list[Life]:
        """Who lives, the eldest first."""
        return [life for life in self.lives if not life.ended.is_set() and name in (None, life.name)]

    async def alive(self, name: str) -> Life:
        """Wait until one of this name lives and has begun; the youngest."""
        while not (found := [life for life in self.living(name) if life.begun.is_set()]):
            await self._more.wait()
        return found[-1]


def running() -> Iterator[tuple[int, str]]:
    """Every process of this machine that has a command line, but zombies (Linux; nothing elsewhere)."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if command := entry.read_bytes():
                yield int(entry.parent.name), command.replace(b"\0", b" ").decode(errors="replace")

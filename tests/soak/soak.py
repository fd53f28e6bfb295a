"""Chaos for a given time, from a seed: a real `mcpactors serve`, real children, closed-loop clients of both eras.

    python -m tests.soak.soak [--seconds 120] [--seed N]

Rule: nothing is mocked and nothing is asked of the gateway that a client could not ask. Each second the promises are
checked (`watch.py`, `ledger.py`); at the end all is calm, the gateway gets SIGTERM, exits 0, and nothing is left. Exit
code 1 and a sentence each where a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import trio
from attrs import define, field

from tests.processes import Served, serve
from tests.soak.chaos import Chaos
from tests.soak.children import Children, running
from tests.soak.clients import (
    CALL_TIMEOUT,
    Client,
    Legacy,
    Modern,
    Place,
    leave,
    leave_unread,
    send_garbage,
)
from tests.soak.ledger import Ledger, percentile
from tests.soak.watch import Watch

WITNESS: Final = str(Path(__file__).parent / "witness.py") + ":server"
SIBLINGS: Final = ("near", "calm", "brisk")
SICK: Final = ("anna", "boris", "clara", "dora")
MODERN: Final = ("brisk", "boris", "dora")
CLIENTS: Final = 4
"""Of each era; the first of each is a steady one."""
PAUSES: Final[dict[Callable[[Client], Awaitable[None]], float]] = {leave: 0.3, leave_unread: 4.0, send_garbage: 0.5}
"""Seconds between two deeds of those that behave badly, at most."""
RESTART: Final = {"intensity": 100_000, "backoffMax": 0.5}
GIVEN_UP: Final = {"probeAfter": 5}
"""One child has the usual policy, and is quarantined now and then."""
CALM: Final = 30.0
"""Seconds until everything is well again once nobody is harmed."""
STOP: Final = 12.0
"""Seconds from SIGTERM to the end."""
STRAYS: Final = 3.0
"""Seconds in which whatever descends from a child has gone, too."""


def configuration(children: Children) -> dict[str, Any]:
    """The servers of the gateway."""
    servers: dict[str, Any] = {"near": {"module": WITNESS}}
    for name in (*SIBLINGS[1:], *SICK):
        policy = GIVEN_UP if name == SICK[-1] else RESTART
        entry = children.command(name, *(["--modern"] if name in MODERN else []))
        servers[name] = {**entry, "restart": policy, "timeout": CALL_TIMEOUT}
    return servers


@define(eq=False)
class Soak:
    """One run."""

    seed: int
    seconds: float
    children: Children
    ledger: Ledger = field(factory=Ledger)
    happened: Counter[str] = field(factory=Counter)
    ending: bool = False
    place: Place = field(init=False)
    watch: Watch = field(init=False)
    stopped: float | None = None
    """Seconds that the end took; None: it has not come."""

    async def run(self, folder: Path) -> None:
        """Serve, rage, be calm, stop; what was broken stands in the ledger."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.children.serve)
            async with serve(configuration(self.children), folder, "--log-level", "info") as served:
                await served.said("connect a client with")
                port = urlsplit(served.url).port
                assert port is not None
                self.place = Place(port, SIBLINGS, SICK)
                self.watch = Watch(Modern("watch", self.place, self.ledger, self._rng("watch")), self.ledger)
                self.watch.first = await self.watch.look()
                await self._rage()
                await self.watch.calm(CALM)
                await self._look_for_strays()
                await self.watch.client.connection.aclose()
                await self._stop(served)
            await self._look_for_what_is_left(served)
            nursery.cancel_scope.cancel()

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")

    async def _rage(self) -> None:
        chaos = [Chaos(self.children, name, self._rng(name), self.happened) for name in SICK]
        async with trio.open_nursery() as watching:
            watching.start_soon(self.watch.each_second, lambda: self.ending)
            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    for kind in (Modern, Legacy):
                        nursery.start_soon(self._client(kind, number).live, lambda: self.ending)
                for misdeed, pause in PAUSES.items():
                    nursery.start_soon(self._misbehave, misdeed, pause)
                for one in chaos:
                    nursery.start_soon(one.rage)
                await self._wait_and_tell()
                self.ending = True
                for one in chaos:
                    one.calm.set()
            watching.cancel_scope.cancel()

    def _client(self, kind: type[Client], number: int) -> Client:
        name = f"{kind.__name__.lower()} {number}"
        return kind(name, self.place, self.ledger, self._rng(name), steady=number == 0)

    async def _misbehave(self, misdeed: Callable[[Client], Awaitable[None]], pause: float) -> None:
        client = Modern(misdeed.__name__, self.place, self.ledger, self._rng(misdeed.__name__))
        while not self.ending:
            await trio.sleep(client.rng.uniform(0, pause))
            await misdeed(client)

    async def _wait_and_tell(self) -> None:
        began = trio.current_time()
        while (passed := trio.current_time() - began) < self.seconds:
            await trio.sleep(min(10, self.seconds - passed))
            passed = trio.current_time() - began
            calls, broken = self.ledger.counts["begun"], len(self.ledger.broken)
            told = f"{self.happened.total()} faults, {self.watch.last.memory} KiB, {broken} promises broken"
            print(f"{passed:5.0f} s: {calls} calls, {told}", flush=True)

    async def _stop(self, served: Served) -> None:
        """SIGTERM, while one child is stopped, one is deaf, one has a child apart, and a call is in flight."""
        await self._fall_ill()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            last = self._client(Modern, CLIENTS)
            nursery.start_soon(last.call_slowly, SIBLINGS[1], 1.0)
            await trio.sleep(0.5)
            served.send(signal.SIGTERM)
        with trio.move_on_after(STOP):
            await served.process.wait()
        self.stopped = trio.current_time() - began
        if served.process.returncode != 0:
            self.ledger.breaks(f"{self.stopped:.1f} s after SIGTERM the exit code is {served.process.returncode}")
            if served.process.returncode is None:
                served.process.kill()
                await served.process.wait()

    async def _fall_ill(self) -> None:
        stopped, deaf, parent = [await self.children.alive(name) for name in SICK[:3]]
        stopped.send(signal.SIGSTOP)
        await deaf.order(do="deaf")
        await parent.order(do="grandchild", apart=True)

    async def _look_for_strays(self) -> None:
        """Processes that descend from a child and have outlived it, each by our socket in its command line."""
        until = trio.current_time() + STRAYS
        while (strays := self._strays()) and trio.current_time() < until:  # noqa: ASYNC110, nobody tells us
            await trio.sleep(0.1)
        for pid, command in strays.items():
            self.ledger.breaks(f"process {pid} has outlived its parent: {command}")

    def _strays(self) -> dict[int, str]:
        living = {life.pid for life in self.children.living()}
        path = str(self.children.path)
        return {pid: command for pid, command in running() if path in command and pid not in living}

    async def _look_for_what_is_left(self, served: Served) -> None:
        """Processes; and errors in the log that nobody expects."""
        await self._look_for_strays()
        if trace := [index for index, text in enumerate(served.lines) if "Traceback (most recent" in text]:
            lines = served.lines[max(0, trace[0] - 2) : trace[0] + 40]
            self.ledger.breaks(f"{len(trace)} tracebacks in the log, the first:\n" + "\n".join(lines))

    def tell(self) -> None:
        """The summary."""
        ledger, watch, counts = self.ledger, self.watch, self.ledger.counts
        kinds = ("sibling", "sick", "list", "leaver", "did not read", "garbage")
        print(f"calls: {counts['begun']} begun, {counts['ended']} ended, {counts['left']} left by their clients")
        print("  " + ", ".join(f"{counts[kind]} {kind}" for kind in kinds))
        print("  to sick children: " + ", ".join(f"{n} {k[6:]}" for k, n in counts.items() if k.startswith("sick: ")))
        print(f"faults: {self.happened.total()}: " + ", ".join(f"{n} {fault}" for fault, n in self.happened.items()))
        print(f"processes of children: {len(self.children.lives)}")
        p50, p99 = (percentile(ledger.siblings, share) * 1000 for share in (0.5, 0.99))
        print(
            f"calls to siblings: p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst p99 of a second {ledger.worst * 1000:.0f} ms"
        )
        print(f"slowest tools/list: {max(ledger.lists, default=0) * 1000:.0f} ms")
        for what in ("memory", "tasks", "descriptors"):
            first, last = getattr(watch.first, what), getattr(watch.last, what)
            print(f"{what}: {first}, then {watch.peak[what]} at most, {last} at the end")
        print(f"exit {self.stopped:.2f} s after SIGTERM")
        for sentence in ledger.broken:
            print(f"BROKEN {sentence}")
        print(f"{len(ledger.broken) + ledger.more_broken} promises broken; seed {self.seed}")


def command_line() -> argparse.Namespace:
    """How long, and which seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="how long chaos lasts; default: %(default)s")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="default: another one each time")
    return parser.parse_args()


def main() -> int:
    """Run; exit code 0 when no promise was broken."""
    if sys.platform != "linux":
        print("the soak looks into /proc, which is Linux's")
        return 77
    options = command_line()
    print(
        f"soak: seed {options.seed}, {options.seconds:g} s, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    )
    return trio.run(soak, options.seed, options.seconds)


async def soak(seed: int, seconds: float) -> int:
    """Run, tell; the exit code. SIGTERM ends it early, and leaves nothing behind either."""
    with tempfile.TemporaryDirectory() as folder:
        run = Soak(seed, seconds, Children(Path(folder) / "orders"))
        async with trio.open_nursery() as nursery:
            await nursery.start(_end_on_signal, nursery.cancel_scope)
            await run.run(Path(folder))
            nursery.cancel_scope.cancel()
    if run.stopped is None:
        return 128 + signal.SIGTERM
    run.tell()
    return 1 if run.ledger.broken else 0


async def _end_on_signal(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


if __name__ == "__main__":
    sys.exit(main())

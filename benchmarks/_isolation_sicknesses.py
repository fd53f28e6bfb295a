"""What may be wrong with a child of benchmarks/isolation.py, and how that is brought about.

Rule: a sickness is data. The child is a real process, which does nothing wrong but on order: over stdio the gateway
starts it (`tests/soak/child.py`), over HTTP it is there before (`_isolation_sick.py`).
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from benchmarks._targets import http_target
from tests.soak.children import Children

__all__ = ["NEVER_UP", "SICKNESSES", "Sickness"]

PROGRAM: Final = str(Path(__file__).parent / "_isolation_sick.py")
SPELL: Final = 6
"""Rounds that last 20 s and more: to the first crashes, four restarts with doubling pauses, quarantine, and on."""
NEVER_UP: Final = {"do": "hang"}
RELENTLESS: Final = {"intensity": 1_000_000, "backoffMax": 0.5}
"""Never given up, and restarted twice a second for as long as it is measured: what the shipped policy does not do."""


@frozen
class Sickness:
    """What is wrong with a child. `order`: what it is told to do; `stopped`, `crashes`, `hangs`: what else befalls it.

    `over_http`: its gateway reaches it over Streamable HTTP, and so do those whose child is well; else over stdio.
    `known`: whether the gateway can know all that it lists, without asking. `restart`: the child's policy, where it is
    not the shipped one. `rounds`: no fewer are measured, so that it is sick for so long. `claimed`: whether P6 is
    claimed of it, which is a promise about the defaults.
    """

    order: Mapping[str, Any] | None = None
    stopped: bool = False
    crashes: bool = False
    hangs: bool = False
    over_http: bool = False
    known: bool = True
    restart: Mapping[str, float] | None = None
    rounds: int = 0
    claimed: bool = True

    async def entry(self, stack: AsyncExitStack, children: Children, name: str) -> dict[str, Any]:
        """Of the config file of a gateway: its child of this name, which lives as long as `stack` if it starts here."""
        child: dict[str, Any] = {"startTimeout": 600}
        if self.restart:
            child["restart"] = self.restart
        if not self.over_http:
            return {**children.command(name), **child}
        command = [sys.executable, "-S", PROGRAM, str(children.path), name]
        _, url = await stack.enter_async_context(http_target(command, ()))
        return {"url": url, "era": "legacy", **child}  # in which each call has a session, which is the harder

    async def fall(self, children: Children, name: str) -> None:
        """The child of this name is sick from now on."""
        if self.crashes:
            children.beginnings[name] = {"do": "exit", "code": 1}
        for life in children.living(name):
            if self.order is not None:
                await life.order(**self.order)
            if self.stopped:
                life.send(signal.SIGSTOP)
            if self.crashes:
                life.send(signal.SIGKILL)

    async def pass_over(self, children: Children, name: str) -> None:
        """It is sick no more, or rests."""
        for life in children.living(name):
            if self.order is not None:
                await life.order(do="well")
            if self.stopped:
                life.send(signal.SIGCONT)


def _flood(what: str) -> dict[str, Any]:
    return {"do": "flood", "what": what, "seconds": 1000}


SICKNESSES: Final = {
    "nobody sick": Sickness(),
    "stopped (SIGSTOP)": Sickness(stopped=True),
    "hangs at its start": Sickness(hangs=True, known=False),
    "crash loop": Sickness(crashes=True, rounds=SPELL),
    "crash loop, restarted for ever": Sickness(crashes=True, restart=RELENTLESS, claimed=False),
    "floods progress": Sickness(_flood("progress")),
    "floods log lines": Sickness(_flood("log")),
    "floods list_changed": Sickness(_flood("list_changed"), known=False),
    "floods garbage": Sickness(_flood("garbage")),
    "stopped (SIGSTOP), over HTTP": Sickness(stopped=True, over_http=True),
    "floods progress over HTTP": Sickness(_flood("progress"), over_http=True),
    "floods garbage over HTTP": Sickness(_flood("garbage"), over_http=True),
}

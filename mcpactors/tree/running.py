"""What stands in a runtime's trees: actors that run, and routers with what is mounted on them.

Rule: what is known of one of them, and what makes two mounts one actor. `forest.py` starts and ends them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio
from attrs import define, evolve, field
from mcp.server.lowlevel import Server as LowLevelServer

from mcpactors.actors.router_ref import RouterRef
from mcpactors.foreign import low_level
from mcpactors.mounts import MountHandle, Mounts, itself
from mcpactors.runtime.definitions import ChangePolicy, Definitions
from mcpactors.runtime.mailbox import ActorRef
from mcpactors.runtime.naming import TOLD
from mcpactors.runtime.supervisor import ActorInfo
from mcpactors.runtime.threads import ThreadLimit
from mcpactors.runtime.visibility import SHOW_ALL, Rule, Visibility
from mcpactors.targets import ProxyServer, called
from mcpactors.transports.lines.stderr import StderrTail

__all__ = ["Ear", "Running", "Tree", "identity_of", "name_of", "source_of"]

logger = logging.getLogger("mcpactors")


@define(eq=False)
class Running:
    """An actor of the tree: one for each thing that is mounted, however many mounts it has."""

    ref: ActorRef
    source: object
    """What makes it this actor and no other: the low-level server, the description of a backend, or an import."""
    target: object
    """What was mounted."""
    stderr: StderrTail | None = None
    definitions: Definitions = field(factory=Definitions)
    policies: set[ChangePolicy] = field(factory=set)
    """What its mounts say about tools that change."""
    list_budget: float | None = None
    """Seconds that a list waits for it, where its config says so."""
    threads: ThreadLimit | None = None
    """Of a server of this process: how many threads its sync handlers may be in."""
    said: Mapping[str, Any] = field(factory=dict)
    """What it said of itself: `instructions` and `capabilities`, as on the wire."""
    forget: Callable[[], None] = lambda: None
    """Ends what was arranged when it was started."""
    ended: trio.Event = field(factory=trio.Event)

    def last_words(self) -> str | None:
        """The last that its process wrote to stderr."""
        said = self.stderr.last_words() if self.stderr is not None else None
        return f"its stderr ends: {said}" if said is not None else None

    def examine(self, tools: Sequence[Mapping[str, Any]]) -> bool:
        """Hold tools that are about to be listed against what they were; True: others are to be hidden now."""
        quarantine = "quarantine" in self.policies
        before = self.definitions.changed if quarantine else ()
        changed = self.definitions.look(tools)
        more = len(changed) - TOLD
        for number, change in enumerate(filter(None, map(self.definitions.change, changed[:TOLD])), 1):
            logger.log(
                logging.INFO if self.policies <= {"allow"} else logging.WARNING,
                "%s: the tool %r is not what it was when it was first seen: %s changed%s%s",
                self.ref.name,
                change.tool,
                ", ".join(change.fields),
                "; it is hidden until approve() of its mount" if quarantine else "",
                f"; and so with {more} more of its tools" if more > 0 and number == TOLD else "",
            )
        return quarantine and self.definitions.changed != before

    def hidden(self, policy: ChangePolicy) -> Visibility:
        """Hides the tools that are in quarantine."""
        changed = self.definitions.changed if policy == "quarantine" else ()
        return Visibility((Rule(False, names=changed, components={"tool"}),)) if changed else SHOW_ALL

    def row(self, info: ActorInfo, stalls: int) -> ActorInfo:
        """The supervisor's row of it, and what is known here."""
        heard = self.stderr.dropped if self.stderr is not None else {}
        return evolve(
            info,
            changed_tools=self.definitions.changed,
            threads=self.threads.borrowed_tokens if self.threads is not None else 0,
            stalls=stalls,
            dropped={str(kind): number for kind, number in heard.items()},
            era=self.said.get("era"),
        )


@define(eq=False)
class Tree:
    """A router and what is mounted on it: the runtime's own, and one for each import's source."""

    router: RouterRef
    mounts: Mounts = field(factory=Mounts)
    main: object | None = None
    """The server whose components are the root's own."""


class Ear:
    """Hears changes of many mounts, each once however often it is asked to."""

    def __init__(self, listener: Callable[[], None]) -> None:
        self._listener = listener
        self._heard: set[Mounts] = set()

    def hear(self, mounts: Mounts) -> None:
        if mounts not in self._heard:
            self._heard.add(mounts)
            mounts.listen(self._listener)

    def hear_only(self, needed: set[Mounts]) -> None:
        """Forget all others."""
        for mounts in self._heard - needed:
            mounts.forget(self._listener)
        self._heard &= needed


def identity_of(handle: MountHandle) -> object:
    """What makes two mounts one actor: the server, or the description of a backend; an import is its own."""
    if handle.catalog is not None:
        return handle
    return handle.target if isinstance(handle.target, ProxyServer) else source_of(handle.target)


def source_of(target: object) -> object:
    target = itself(target)
    if isinstance(target, ProxyServer):
        return target.target if isinstance(target.target, LowLevelServer) else target
    return low_level(target)


def name_of(server: object) -> str:
    return called(server.target if isinstance(server, MountHandle) else server)

"""What an edge stands before: how the endpoint introduces itself, and what the runtime does for it.

Rule: values only. Whoever serves a runtime makes them, and the edge asks them; neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import trio
from attrs import field, frozen

from mcpactors.runtime.clients import ClientLine
from mcpactors.runtime.hops import HOP_LIMIT
from mcpactors.runtime.mailbox import ActorRef
from mcpactors.runtime.policy import DEFAULT_CALLS, DEFAULT_CLIENTS, CallLimits
from mcpactors.transports.changes import Listener
from mcpactors.transports.parking import Parking, Spawn

__all__ = ["Face", "Surroundings"]


@frozen
class Face:
    """What the served endpoint says of itself."""

    name: str
    version: str = ""
    instructions: Callable[[], str | None] = lambda: None
    completions: Callable[[], bool] = lambda: True
    """Whether anybody here completes arguments."""
    tool_schema: Callable[[str], Mapping[str, Any] | None] = lambda name: None
    """The `inputSchema` of a listed tool with arguments that stand in headers, too: `Mcp-Param-*` is checked by it."""
    own: Callable[[], ActorRef | None] = lambda: None
    """The root's own server, where it has middleware: that sees how clients introduce themselves, and may refuse."""


@frozen(kw_only=True, eq=False)
class Surroundings:
    """What an edge needs of the runtime that it stands before, besides the router."""

    listen: Callable[[Listener], Callable[[], None]]
    """Have a function called at every change; returns what ends that."""
    spawn: Spawn
    """Run a function, for as long as the runtime lives: what tells an old session of what has changed."""
    parking: Parking
    """Where calls of modern clients wait for answers."""
    state_keys: Sequence[str] = ()
    """Secrets of 32 bytes or more that seal `requestState`, the first of them; none: one of this process."""
    client_came: Callable[[str, ClientLine], None] = lambda session, line: None
    """Called when an old session begins, with the way to its client outside of a call."""
    client_left: Callable[[str], None] = lambda session: None
    """Called when an old session has ended."""
    roots_changed: Callable[[str], None] = lambda session: None
    """Called when the client of an old session says that its roots have changed."""
    gateways: Callable[[], tuple[str, Iterable[str]]] = lambda: ("", ())
    """The id of this gateway, and those of all that what it lists has come through: runtime/circles.py."""
    calls: CallLimits = DEFAULT_CALLS
    """What one call may send before its result."""
    in_flight: int = DEFAULT_CLIENTS.in_flight
    """Requests of one connection that run at one time."""
    goes_to: Callable[[str, Mapping[str, Any]], Hashable] = lambda method, params: None
    """Where a request goes, as far as is known now, by its method and params: each place has turns of its own."""
    hop_limit: int = HOP_LIMIT
    """Gateways that a call may have come through before this one."""
    closing: trio.Event = field(factory=trio.Event)
    """Set when the runtime is about to close, so that streams of changes end in good order."""

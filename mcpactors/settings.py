"""What can be set about a runtime, in one value.

Rule: values and their defaults only; who reads one carries it out.
"""

from __future__ import annotations

from attrs import field, frozen

from mcpactors.runtime.definitions import ChangePolicy
from mcpactors.runtime.hops import HOP_LIMIT
from mcpactors.runtime.naming import UriFormat
from mcpactors.runtime.reply import CallDeadlines
from mcpactors.runtime.restart import RestartLimit, RestartPolicy
from mcpactors.runtime.routing import ConflictPolicy

__all__ = ["RuntimeSettings"]


@frozen(kw_only=True)
class RuntimeSettings:
    """What can be set about a runtime; times in seconds, defaults from promises.md."""

    deadlines: CallDeadlines = CallDeadlines()
    list_budget: float = 2.0
    """How long a list waits for a child that does not answer."""
    start_timeout: float = 15.0
    restart: RestartPolicy = RestartPolicy()
    restart_limit: RestartLimit = RestartLimit()
    """How fast restarts may follow one another, those of all children together."""
    drain: float = 30.0
    """How long calls in flight are waited for when something is unmounted, and when serving ends."""
    on_tool_change: ChangePolicy = "warn"
    """What becomes of a backend's tool whose definition is not what it was when it was first seen."""
    on_conflict: ConflictPolicy = "newest"
    """Which mount has a name that several offer; "error" refuses the mount."""
    resource_prefix_format: UriFormat = "path"
    """How a namespace stands in a URI: `data://ns/x` ("path") or `ns+data://x` ("protocol")."""
    page_size: int | None = None
    """Items in a page of a list; None: all in one."""
    mailbox: int = 256
    threads: int = 16
    """Threads that the sync handlers of one server of this process may be in; a call that finds none free waits."""
    stall: float | None = 0.2
    """Seconds within which the log says who keeps the loop from turning; None: nobody watches."""
    subreaper: bool = False
    """Whether all that descends from this process is the runtime's to reap and to end, also when it is killed (Linux).

    It concerns the whole process, so that one which embeds a runtime has to ask for it: docs/closing.md.
    """
    hop_limit: int = HOP_LIMIT
    """Gateways that a call may have come through before it comes here; beyond, it goes round in a circle."""
    parked: int = 256
    """Calls of modern clients that may wait for their clients' answers at one time."""
    state_keys: tuple[str, ...] = field(default=(), repr=False)
    """Secrets of 32 bytes or more that seal `requestState`: the first seals, all open. None: made for this process.

    Endpoints that share them can go on with each other's calls to modern backends; a parked call lives in one process.
    """

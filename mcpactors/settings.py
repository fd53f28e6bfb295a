"""What can be set about a runtime, in one value.

Rule: values and their defaults only; who reads one carries it out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import field, frozen

from mcpactors.config import MCPConfig
from mcpactors.runtime.checks import a, flag, none_or, number, one_of, whole
from mcpactors.runtime.definitions import ChangePolicy
from mcpactors.runtime.hops import HOP_LIMIT
from mcpactors.runtime.naming import UriFormat
from mcpactors.runtime.policy import (
    DEFAULT_BACKEND,
    DEFAULT_CALLS,
    DEFAULT_CLIENTS,
    BackendLimits,
    CallLimits,
    ClientLimits,
)
from mcpactors.runtime.reply import CallDeadlines
from mcpactors.runtime.restart import RestartLimit, RestartPolicy
from mcpactors.runtime.routing import ConflictPolicy
from mcpactors.written import Problem, block, config_error, problems

__all__ = ["RuntimeSettings", "settings_of"]

KEY_BYTES: Final = 32


def _texts(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(given)


@frozen(kw_only=True)
class RuntimeSettings:
    """What can be set about a runtime; times in seconds, sizes in bytes. docs/settings.md has them all in one table.

    A wrong value raises ValueError naming it.
    """

    deadlines: CallDeadlines = field(default=CallDeadlines(), validator=a(CallDeadlines))
    calls: CallLimits = field(default=DEFAULT_CALLS, validator=a(CallLimits))
    """What one call may send before its result."""
    clients: ClientLimits = field(default=DEFAULT_CLIENTS, validator=a(ClientLimits))
    """What is taken of the clients of what is served."""
    backends: BackendLimits = field(default=DEFAULT_BACKEND, validator=a(BackendLimits))
    """What is taken of a backend, and how its process is ended, where its mount says nothing else."""
    list_budget: float = field(default=2.0, validator=number(0))
    """How long a list waits for a child that does not answer."""
    start_timeout: float = field(default=15.0, validator=number(0, above=True))
    restart: RestartPolicy = field(default=RestartPolicy(), validator=a(RestartPolicy))
    restart_limit: RestartLimit = field(default=RestartLimit(), validator=a(RestartLimit))
    """How fast restarts may follow one another, those of all children together."""
    drain: float = field(default=30.0, validator=number(0))
    """How long calls in flight are waited for when something is unmounted, and when serving ends."""
    on_tool_change: ChangePolicy = field(default="warn", validator=one_of(ChangePolicy))
    """What becomes of a backend's tool whose definition is not what it was when it was first seen."""
    on_conflict: ConflictPolicy = field(default="newest", validator=one_of(ConflictPolicy))
    """Which mount has a name that several offer; "error" refuses the mount."""
    resource_prefix_format: UriFormat = field(default="path", validator=one_of(UriFormat))
    """How a namespace stands in a URI: `data://ns/x` ("path") or `ns+data://x` ("protocol")."""
    page_size: int | None = field(default=None, validator=none_or(whole(1)))
    """Items in a page of a list; None: all in one."""
    mailbox: int = field(default=256, validator=whole(1))
    """Requests that may wait for one actor; the next gets an overload error."""
    control: int = field(default=64, validator=whole(1))
    """Control messages that may wait for one actor, ahead of all requests."""
    in_flight: int = field(default=1024, validator=whole(1))
    """Requests that one actor answers at one time; the next wait in its mailbox."""
    threads: int = field(default=16, validator=whole(1))
    """Threads that the sync handlers of one server of this process may be in; a call that finds none free waits."""
    stall: float | None = field(default=0.2, validator=none_or(number(0, above=True)))
    """Seconds within which the log says who keeps the loop from turning; None: nobody watches."""
    subreaper: bool = field(default=False, validator=flag)
    """Whether all that descends from this process is the runtime's to reap and to end, also when it is killed (Linux).

    It concerns the whole process, so that one which embeds a runtime has to ask for it: docs/closing.md.
    """
    hop_limit: int = field(default=HOP_LIMIT, validator=whole(0))
    """Gateways that a call may have come through before it comes here; beyond, it goes round in a circle."""
    parked: int = field(default=256, validator=whole(0))
    """Calls of modern clients that may wait for their clients' answers at one time; a quarter of them of one client."""
    state_keys: tuple[str, ...] = field(default=(), converter=_texts, repr=False)
    """Secrets of 32 bytes or more that seal `requestState`: the first seals, all open. None: made for this process.

    Endpoints that share them can go on with each other's calls to modern backends; a parked call lives in one process.
    """

    @state_keys.validator
    def _check_state_keys(self, attribute: object, value: tuple[object, ...]) -> None:
        if not all(isinstance(key, str) and len(key.encode()) >= KEY_BYTES for key in value):
            raise ValueError(f"state_keys: expected texts of {KEY_BYTES} bytes or more")  # and never shown


def settings_of(config: MCPConfig) -> RuntimeSettings:
    """What a config file says under `settings`, the rest as it is anyway.

    Raises:
        ConfigError: the first thing that is wrong there, with its path.
    """
    try:
        settings: RuntimeSettings = block(config.settings, RuntimeSettings)
    except Problem as problem:
        raise config_error(config.source or "<config>", problems(problem, "settings")) from None
    return settings

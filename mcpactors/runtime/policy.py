"""How clients share a backend, what of its own messages is passed on to them, and what is taken of either side.

Rule: PURE values: data of a mount, or of a runtime. They are carried out where bytes and calls are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from attrs import field, frozen

from mcpactors.runtime.checks import number, whole

__all__ = [
    "DEFAULT_BACKEND",
    "DEFAULT_CALLS",
    "DEFAULT_CLIENTS",
    "DEFAULT_LIMITS",
    "FEATURES",
    "FORWARD_ALL",
    "BackendLimits",
    "CallLimits",
    "ClientLimits",
    "Era",
    "Forwarding",
    "OfEra",
    "PoolLimits",
    "Sessions",
]

Sessions: TypeAlias = Literal["shared", "per_client", "per_call"]
"""How clients share a backend of the old era (design.md section 7); a modern one has no sessions to share.

shared: one connection for all. per_client: one for each client session; clients that have none borrow one for a call.
per_call: a fresh one for each call, for backends of either era.
"""

Era: TypeAlias = Literal["auto", "legacy", "modern"]
"""Which era is spoken to a backend.

auto: the modern one where it is offered. legacy: the handshake at once. modern: nothing else.
"""


@frozen(eq=False)
class OfEra:
    """A connection on which this era is to be spoken."""

    connection: Any
    era: Era


FEATURES: Final[Mapping[str, str]] = {
    "roots/list": "roots",
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "notifications/elicitation/complete": "elicitation",
    "notifications/message": "logging",
    "notifications/progress": "progress",
}
"""Which switch of `Forwarding` a message of a backend hangs on."""


@frozen(kw_only=True)
class Forwarding:
    """What a backend may say to, and ask of, the clients behind its calls (seed 002, "Customizing Feature Support")."""

    roots: bool = True
    sampling: bool = True
    elicitation: bool = True
    logging: bool = True
    progress: bool = True

    def passes(self, method: str) -> bool:
        """Whether a request or notification of a backend is passed on; what is in no switch's hands is."""
        feature = FEATURES.get(method)
        return feature is None or bool(getattr(self, feature))

    def allowed(self, capabilities: Mapping[str, Any]) -> Mapping[str, Any]:
        """The capabilities of a client, without those that this backend is not to use."""
        if self is FORWARD_ALL:
            return capabilities
        return {name: value for name, value in capabilities.items() if getattr(self, name, True)}


FORWARD_ALL: Final = Forwarding()


MOST: Final = 10_000
"""Sessions of one kind at one mount: no setting that was meant asks for more."""


@frozen(kw_only=True)
class PoolLimits:
    """How many sessions one mount may have at its backend, besides the one for its catalog.

    Over stdio each is a process. A wrong value raises ValueError naming it.
    """

    clients: int = field(default=64, validator=whole(1, MOST))
    """Sessions that belong to a client; when all are working, another client's call is refused."""
    borrowed: int = field(default=8, validator=whole(1, MOST))
    """Sessions that are lent for one call, or made for one; when all are lent, another call waits."""
    asking: int = field(default=32, validator=whole(0, MOST))
    """Sessions lent for calls that wait for their clients' answers, beside those; beyond, another call is refused."""
    spares: int = field(default=1, validator=whole(0, MOST))
    """Sessions that are kept ready for "per_call"."""
    idle: float = field(default=300.0, validator=number(0))
    """Seconds after which a session that nobody has used is closed."""


DEFAULT_LIMITS: Final = PoolLimits()

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
DEEPEST: Final = 128
"""Levels that JSON may be nested, at most: what reads it recurses, and has been tried with these."""


@frozen(kw_only=True)
class BackendLimits:
    """What is taken of one backend, and how its process is ended. A wrong value raises ValueError naming it."""

    message: int = field(default=16 * _MIB, validator=whole(1 * _KIB))
    """Bytes of a line, an event, a body, a WebSocket message; a longer one is refused while it comes."""
    depth: int = field(default=DEEPEST, validator=whole(8, DEEPEST))
    """Levels that its JSON may be nested."""
    id: int = field(default=1 * _KIB, validator=whole(32))
    """Bytes of the id of a request of its own."""
    rounds: int = field(default=10, validator=whole(1))
    """Times that a call is retried with the answers that it asks for (`input_required`)."""
    state: int = field(default=64 * _KIB, validator=whole(0))
    """Characters of its `requestState`."""
    exit_grace: float = field(default=1.0, validator=number(0))
    """Seconds from the closing of a process's stdin to SIGTERM for its group."""
    term_grace: float = field(default=2.0, validator=number(0))
    """Seconds from SIGTERM to SIGKILL for its group."""


@frozen(kw_only=True)
class ClientLimits:
    """What is taken of the clients of what is served. A wrong value raises ValueError naming it."""

    in_flight: int = field(default=64, validator=whole(1))
    """Requests of one connection that run at one time; the next wait for their turn. Of those to one mount, and of
    lists, eight may run whatever the others do."""
    body: int = field(default=4 * _MIB, validator=whole(1 * _KIB))
    """Bytes of the body of a request over HTTP, and of a WebSocket message."""
    line: int = field(default=16 * _MIB, validator=whole(1 * _KIB))
    """Bytes of a line over stdio."""
    depth: int = field(default=DEEPEST, validator=whole(8, DEEPEST))
    """Levels that its JSON may be nested."""
    id: int = field(default=1 * _KIB, validator=whole(32))
    """Bytes of the id of a request."""
    head_timeout: float = field(default=10.0, validator=number(0, above=True))
    """Seconds for the head of a request over HTTP."""
    sessions: int = field(default=10_000, validator=whole(1))
    """Sessions of the old era over HTTP; who would begin another gets 503."""
    session_idle: float = field(default=30 * 60.0, validator=number(0, above=True))
    """Seconds without a request or an open stream after which such a session is forgotten."""
    comment: float = field(default=15.0, validator=number(0, above=True))
    """Seconds between two comments on an event stream, by which proxies see that it is alive."""
    unread: int = field(default=256 * _MIB, validator=whole(1 * _KIB))
    """Bytes of answers that wait for all clients over HTTP and WebSocket together; above, connections of those that do
    not keep up are closed, first who has taken nothing for longest."""


@frozen(kw_only=True)
class CallLimits:
    """What one call may send before its result. A wrong value raises ValueError naming it."""

    notices: int = field(default=64, validator=whole(1))
    """Notices that are kept for a caller that does not read; then the oldest goes, and of progress the one before."""
    progress: int = field(default=20, validator=whole(1))
    """Progress notices that are passed on in any second; the last one always is."""


DEFAULT_BACKEND: Final = BackendLimits()
DEFAULT_CLIENTS: Final = ClientLimits()
DEFAULT_CALLS: Final = CallLimits()

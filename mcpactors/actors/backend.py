"""What a proxy is told of its backend: how to connect, how clients share it, and whom to tell what it says.

Rule: values and the shapes of functions; nothing here connects. They outlive the lives of the proxy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from attrs import field, frozen

from mcpactors.errors import QuestionRefused
from mcpactors.runtime.circles import gateways_of
from mcpactors.runtime.given_up import GivenUp
from mcpactors.runtime.naming import Kind
from mcpactors.runtime.policy import (
    DEFAULT_BACKEND,
    DEFAULT_LIMITS,
    FORWARD_ALL,
    BackendLimits,
    Forwarding,
    PoolLimits,
    Sessions,
)
from mcpactors.runtime.reply import Failure, Outcome

__all__ = ["OURS", "OUR_INFO", "Backend", "Connect", "Introduction", "RootsChanged", "SessionEnded", "mapping"]

Connect = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens a connection: an async context manager that yields the SDK's (read, write) of `SessionMessage`, a `Dispatcher`
(`wire.py`), or a `ClientSession` of the SDK that somebody else has connected and keeps; or an `OfEra` of one."""
AskClient = Callable[[str, str, Mapping[str, Any] | None], Awaitable[Outcome]]
TellClient = Callable[[str, str, Mapping[str, Any]], None]

OUR_INFO: Final = {"name": "mcpactors", "version": "0.1.0"}
OUR_CAPABILITIES: Final[Mapping[str, Any]] = {
    "sampling": {"tools": {}, "context": {}},
    "elicitation": {"form": {}, "url": {}},
    "roots": {"listChanged": False},
}
"""What a shared old session is told once for everybody; what one caller cannot do is refused when it is asked."""


@frozen
class Introduction:
    """How a session introduces itself to a backend of the old era, and whose it is."""

    capabilities: Mapping[str, Any]
    info: Mapping[str, Any]
    session: str | None = None
    """The client session that it belongs to."""
    key: str | None = None
    """Says for whose calls it may be lent."""


@frozen
class SessionEnded:
    """Tells a proxy that this client session is over."""

    session: str


@frozen
class RootsChanged:
    """Tells a proxy that the client of this session says that its roots have changed."""

    session: str


OURS: Final = Introduction(OUR_CAPABILITIES, OUR_INFO)


@frozen(kw_only=True, eq=False)
class Backend:
    """What a proxy stands before; it outlives the proxy's lives."""

    connect: Connect
    timeout: float | None = None
    """Seconds for one call in all, where this backend's are fewer than the runtime's."""
    tags: tuple[str, ...] = ()
    """Given to all that it offers."""
    over_http: bool = False
    """Whether some arguments are to go into headers."""
    sessions: Sessions = "shared"
    forward: Forwarding = FORWARD_ALL
    limits: PoolLimits = DEFAULT_LIMITS
    taken: BackendLimits = DEFAULT_BACKEND
    """What is taken of what it says."""
    start_timeout: float = 15.0
    """Seconds a session beside the main one may take to open."""
    given_up: GivenUp = field(factory=GivenUp)
    """The calls that were cancelled, while it may be at work on them."""
    lost_session: Callable[[float], None] = lambda ended: None
    """Told when a session beside the main one was lost: the calls in flight may be to blame."""
    remarked: set[str] = field(factory=set)
    """What the log has been told of it, and is not told again."""
    watched: Counter[str] = field(factory=Counter)
    """How many clients watch which of its URIs; watched anew in every life."""
    changed: Callable[[tuple[Kind, ...]], None] = lambda kinds: None
    """Called when lists of these kinds are not what they were."""
    updated: Callable[[str], None] = lambda uri: None
    """Called when what is at one of its URIs has changed."""
    admit: Callable[[Mapping[str, Any]], frozenset[str]] = lambda said: frozenset(gateways_of(said))
    """Called with what it says of itself, and with each list: the gateways that this has come through. Raises
    `BackendStartError` where our own is among them: runtime/circles.py."""
    introduced: Callable[[Mapping[str, Any]], None] = lambda said: None
    """Called at every start with what the backend said of itself: its `server/discover` or `initialize` result."""
    ask_client: AskClient = field(default=lambda session, method, params: _nobody(session, method, params))
    """Puts a question to a client session while none of its calls is running."""
    tell_client: TellClient = lambda session, method, params: None
    """Sends a client session a notification that belongs to no running call of it; must not wait."""


async def _nobody(session: str, method: str, params: Mapping[str, Any] | None) -> Outcome:
    return Failure.of(QuestionRefused(f"{method} cannot be given to a client: no call is running"))


def mapping(value: object) -> Mapping[str, Any]:
    """The value when it is an object; else an empty one: what a peer says is not always what it should be."""
    return value if isinstance(value, Mapping) else {}

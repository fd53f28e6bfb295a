"""How clients share a backend, and what of a backend's own messages is passed on to them: data on a mount.

Rule: PURE values. What they mean is carried out by `actors/session.py`, `actors/pool.py` and `actors/proxy.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from attrs import Attribute, field, frozen

__all__ = ["DEFAULT_LIMITS", "FEATURES", "FORWARD_ALL", "Era", "Forwarding", "OfEra", "PoolLimits", "Sessions"]

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


def _at_least(low: int) -> Any:
    def check(limits: object, attribute: Attribute[Any], value: Any) -> None:
        whole = attribute.name != "idle"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value >= low:
            kind = "a whole number" if whole else "a number of seconds"
            raise ValueError(f"{attribute.name}: expected {kind}, {low} or more, got {value!r}")
        if whole and value > MOST:
            raise ValueError(f"{attribute.name}: at most {MOST}, got {value!r}")

    return check


@frozen(kw_only=True)
class PoolLimits:
    """How many sessions one mount may have at its backend, besides the one for its catalog.

    Over stdio each is a process. A wrong value raises ValueError naming it.
    """

    clients: int = field(default=64, validator=_at_least(1))
    """Sessions that belong to a client; when all are working, another client's call is refused."""
    borrowed: int = field(default=8, validator=_at_least(1))
    """Sessions that are lent for one call, or made for one; when all are lent, another call waits."""
    asking: int = field(default=32, validator=_at_least(0))
    """Sessions lent for calls that wait for their clients' answers, beside those; beyond, another call is refused."""
    spares: int = field(default=1, validator=_at_least(0))
    """Sessions that are kept ready for "per_call"."""
    idle: float = field(default=300.0, validator=_at_least(0))
    """Seconds after which a session that nobody has used is closed."""


DEFAULT_LIMITS: Final = PoolLimits()

"""When a child that ended is started again, how soon, and when it is given up.

Rule: PURE. Functions of values and of the times they are handed: no clock, no randomness, no task of its own. The
meaning is that of OTP's `supervisor` (supervisor.erl: `add_restart`, `do_restart`); promise P7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from attrs import Attribute, evolve, field, frozen

from mcpactors.runtime.checks import number, one_of, whole

__all__ = [
    "Exit",
    "Record",
    "Restart",
    "RestartLimit",
    "RestartPolicy",
    "RestartWindow",
    "Spread",
    "Wait",
    "backoff",
    "probe_wait",
    "should_restart",
]

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
"""OTP's restart types."""

Exit: TypeAlias = Literal["normal", "crash", "shutdown"]
"""How a child ended: it returned, it raised, or it shut itself down in good order (OTP's `shutdown`)."""

RESTARTED_AFTER: Final[Mapping[Restart, frozenset[Exit]]] = {
    "permanent": frozenset({"normal", "crash", "shutdown"}),
    "transient": frozenset({"crash"}),
    "temporary": frozenset(),
}


@frozen(kw_only=True)
class RestartPolicy:
    """How a supervisor treats one child that ended. Times are in seconds; a wrong value raises ValueError naming it.

    More than `intensity` restarts within `period` give the child up. The wait before a restart doubles from
    `backoff_initial` to `backoff_max`, give or take the share `jitter` of it; after `reset_after` of a life in
    which something was answered it begins at `backoff_initial` again. A child that was given up gets one probe after
    `probe_after`; one that could not even be started gets its first after `probe_initial`, doubling to `probe_after`:
    what it needs may come up late.
    A message that was in flight at `poison_after` crashes, never answered, is refused for `probe_after`; 0: none is.
    """

    restart: Restart = field(default="permanent", validator=one_of(Restart))
    intensity: int = field(default=5, validator=whole(0))
    period: float = field(default=30.0, validator=number(0, above=True))
    backoff_initial: float = field(default=0.1, validator=number(0))
    backoff_max: float = field(default=30.0, validator=number(0))
    jitter: float = field(default=0.2, validator=number(0, 1))
    reset_after: float = field(default=30.0, validator=number(0, above=True))
    probe_after: float = field(default=60.0, validator=number(0, above=True))
    probe_initial: float = field(default=8.0, validator=number(0, above=True))
    poison_after: int = field(default=2, validator=whole(0))

    @backoff_max.validator
    def _check_backoff_max(self, attribute: Attribute[float], value: float) -> None:
        if value < self.backoff_initial:
            raise ValueError(f"backoff_max: expected at least backoff_initial, {self.backoff_initial:g}; got {value:g}")


@frozen
class RestartWindow:
    """The restarts of one child that still count: OTP's `add_restart`, in seconds where OTP counts whole ones."""

    intensity: int
    period: float
    times: tuple[float, ...] = ()
    """When they were, oldest first; never more than `intensity` + 1 of them, for older ones change no answer."""

    @classmethod
    def of(cls, policy: RestartPolicy) -> RestartWindow:
        """The empty window of a child's first life."""
        return cls(policy.intensity, policy.period)

    def add(self, now: float) -> tuple[RestartWindow, bool]:
        """Count a restart at `now` (monotonic seconds, never decreasing); False says: give the child up.

        A restart exactly `period` ago still counts. One that was refused counts too, as in OTP.
        """
        recent = (*(time for time in self.times if now - time <= self.period), now)
        return evolve(self, times=recent[-self.intensity - 1 :]), len(recent) <= self.intensity


def backoff(policy: RestartPolicy, attempt: int, random: Callable[[], float]) -> float:
    """Seconds to wait before restart number `attempt`, counted from 0 since the last reset.

    `random()` is from 0 up to 1, as `random.random` is. The jitter lies around the cap too (so that children which
    all wait `backoff_max` do not come back together): the longest wait is `backoff_max * (1 + jitter)`.
    """
    try:
        doubled = math.ldexp(policy.backoff_initial, attempt)
    except OverflowError:
        doubled = math.inf
    return min(doubled, policy.backoff_max) * (1 + policy.jitter * (2 * random() - 1))


def should_restart(policy: RestartPolicy, exit: Exit) -> bool:
    """Whether a child that ended by itself is started again; one that its supervisor stopped is not asked about.

    OTP: permanent always, transient only after a crash, temporary never.
    """
    return exit in RESTARTED_AFTER[policy.restart]


def probe_wait(policy: RestartPolicy, failed_starts: int | None) -> float:
    """Seconds in quarantine until the probe. `failed_starts`: how often it was given up without having been up."""
    if failed_starts is None:
        return policy.probe_after
    return min(math.ldexp(policy.probe_initial, min(failed_starts, 64)), policy.probe_after)


@frozen
class Wait:
    """What comes before the next start of a child: a wait of so many seconds, in hope or given up."""

    state: Literal["backoff", "quarantined"]
    seconds: float


@frozen
class Record:
    """What is remembered of one child's ends: enough to decide what comes after the next one."""

    policy: RestartPolicy
    window: RestartWindow
    attempt: int = 0
    given_up: bool = False
    """It is in quarantine, or the life that follows is its probe."""
    failed_starts: int = 0

    @classmethod
    def of(cls, policy: RestartPolicy) -> Record:
        """That of a child which has not been started yet."""
        return cls(policy, RestartWindow.of(policy))

    def after(self, now: float, lived: float | None, random: Callable[[], float]) -> tuple[Record, Wait]:
        """Decide about a child that is to be started again and ended at `now`.

        `lived`: how many seconds it was up and of use: 0 when it answered nothing; None: it could not be started.
        """
        policy, attempt, given_up = self.policy, self.attempt, self.given_up
        if lived is not None and lived >= policy.reset_after:
            attempt, given_up = 0, False
        window, may_restart = self.window.add(now)
        failed_starts = self.failed_starts if lived is None else 0
        if may_restart and not given_up:
            delay = backoff(policy, attempt, random)
            return Record(policy, window, attempt + 1, False, failed_starts), Wait("backoff", delay)
        delay = probe_wait(policy, failed_starts if lived is None else None)  # promise P8: one probe, no more
        return Record(policy, window, 0, True, failed_starts + 1), Wait("quarantined", delay)


@frozen(kw_only=True)
class RestartLimit:
    """How fast children are restarted, all of one supervisor together: `burst` at once, then `per_second`.

    Ten backends that die at one moment (their network is gone) do not come back at one moment. First starts are not
    held up. A wrong value raises ValueError naming it.
    """

    burst: int = field(default=4, validator=whole(1))
    per_second: float = field(default=4.0, validator=number(0, above=True))


@frozen
class Spread:
    """The restarts that were let through so far, as far as `limit` needs to know (a leaky bucket)."""

    limit: RestartLimit
    empty_at: float = -math.inf

    def add(self, now: float) -> tuple[Spread, float]:
        """Let one restart through; returns when (monotonic seconds, `now` or later)."""
        apart = 1 / self.limit.per_second
        empty_at = max(self.empty_at, now)
        return Spread(self.limit, empty_at + apart), max(now, empty_at - (self.limit.burst - 1) * apart)

"""The books of every actor that lives while a test runs (promise P11)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define, field

from mcpactors.runtime.actor import ActorRef, witnesses
from tests.runtime.actors import imbalance


@define(eq=False)
class Books:
    """Every address that was made, in any runtime or without one, and what was wrong with their books."""

    at_once: int = 1000
    """Addresses that are held on to; of more, the older ones are looked at and let go."""
    _refs: list[ActorRef] = field(factory=list)
    _wrong: list[str] = field(factory=list)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """See what is made while the block lasts."""
        see = self._see
        witnesses.append(see)
        try:
            yield
        finally:
            witnesses.remove(see)

    def _see(self, ref: ActorRef) -> None:
        if len(self._refs) >= self.at_once:
            self._look(self._refs[: self.at_once // 2])
            del self._refs[: self.at_once // 2]
        self._refs.append(ref)

    def _look(self, refs: list[ActorRef]) -> None:
        self._wrong += [
            f"{ref}: {off} calls that nobody accounts for: {ref.tally}, in flight {len(ref.in_flight)}, "
            f"{ref.mailbox.statistics()}"
            for ref in refs
            if (off := imbalance(ref))
        ]

    def wrong(self) -> list[str]:
        """The sentences, one for each actor whose books do not balance."""
        self._look(self._refs)
        self._refs.clear()
        return self._wrong

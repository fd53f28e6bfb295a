"""The books of every actor that lives while a test runs (promise P11)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define, field, frozen

from mcpactors.runtime.mailbox import ActorRef, Envelope, Mailbox, Tally, witnesses
from tests.runtime.actors import imbalance


@frozen(eq=False)
class Book:
    """What an address counts, and nothing else of it: a test may ask whether the rest is forgotten."""

    name: str
    tally: Tally
    in_flight: set[Envelope]
    mailbox: Mailbox

    @classmethod
    def of(cls, ref: ActorRef) -> Book:
        """The address's own, which go on changing with it."""
        return cls(ref.name, ref.tally, ref.in_flight, ref.mailbox)


@define(eq=False)
class Books:
    """The books of every address that was made, in any runtime or without one, and what was wrong with them."""

    at_once: int = 1000
    """Books that are held on to; of more, the older ones are looked at and let go."""
    _books: list[Book] = field(factory=list)
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
        if len(self._books) >= self.at_once:
            self._look(self._books[: self.at_once // 2])
            del self._books[: self.at_once // 2]
        self._books.append(Book.of(ref))

    def _look(self, books: list[Book]) -> None:
        self._wrong += [
            f"{book.name}: {off} calls that nobody accounts for: {book.tally}, in flight {len(book.in_flight)}, "
            f"{book.mailbox.statistics()}"
            for book in books
            if (off := imbalance(book))
        ]

    def wrong(self) -> list[str]:
        """The sentences, one for each actor whose books do not balance."""
        self._look(self._books)
        self._books.clear()
        return self._wrong

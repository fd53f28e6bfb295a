"""A copied catalog: the actor that lists it, and the address that takes calls for what it lists.

Rule: what it lists never changes by itself, and only what it lists can be called. Calls go straight on to the source's
own actor, which lives in the runtime without being mounted: so the copied components keep the lifespan they need.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from mcpactors.actors.uris import matches
from mcpactors.errors import MethodNotFound
from mcpactors.runtime.actor import Actor
from mcpactors.runtime.mailbox import ActorRef, Envelope, Mailbox, Request
from mcpactors.runtime.methods import CATALOG, address_of
from mcpactors.runtime.naming import KEYS, Kind, unknown
from mcpactors.runtime.reply import Outcome, ReplyChannel, Result
from mcpactors.runtime.routing import Listing

__all__ = ["SnapshotActor", "SnapshotRef"]

Catalog = Callable[[], Mapping[Kind, Listing]]


class SnapshotRef(ActorRef):
    """The address of a copied catalog. A call for what it lists is handed on in the caller's own task, so a copied
    component costs what a mounted one does (features.md B3)."""

    __slots__ = ("_catalog", "_known", "_names", "_source")

    def __init__(self, name: str, mailbox: Mailbox, catalog: Catalog, source: ActorRef) -> None:
        super().__init__(name, SnapshotActor.kind, mailbox)
        self._catalog = catalog
        self._source = source
        self._known: Mapping[Kind, Listing] | None = None
        self._names: dict[Kind, frozenset[str]] = {}

    def offer(self, envelope: Envelope) -> None:
        """Hand a call to the source; what is no call for a name is the snapshot's own.

        Raises:
            NotFound: it was not there when the copy was taken.
            MailboxFull, ActorStopped, ActorUnavailable: what the source says.
        """
        request = envelope.request
        address = address_of(request.method, request.params)
        if address is None:
            super().offer(envelope)
        elif self._has(address.kind, address.name):
            self._source.offer(envelope)
        else:
            raise unknown(address.kind, address.name, " (it was not there when this snapshot was taken)")

    def _has(self, kind: Kind, name: str) -> bool:
        catalog = self._catalog()
        if catalog is not self._known:
            self._known = catalog
            self._names = {kind: frozenset(item[KEYS[kind]] for item in catalog[kind].items) for kind in catalog}
        if name in self._names[kind]:
            return True
        templates = self._names["templates"] if kind == "resources" else ()
        return any(matches(template, name) for template in templates)


class SnapshotActor(Actor):
    """Lists what was copied."""

    kind = "snapshot"

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome:
        if request.method == CATALOG:
            return Result({"listing": self._catalog()[request.params["kind"]]})
        raise MethodNotFound(f"{request.method} is not a method of a snapshot", {"method": request.method})

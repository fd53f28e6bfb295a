"""The actor that serves a copied catalog.

Rule: what it lists never changes by itself, and only what it lists can be called. Calls are handed to the source's
own actor, which lives in the runtime without being mounted: so the copied components keep the lifespan they need.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from mcpactors.actors.uris import matches
from mcpactors.errors import MethodNotFound, NotFound
from mcpactors.runtime.actor import Actor, ActorRef, Envelope, Forwarded, Request
from mcpactors.runtime.methods import CATALOG, address_of
from mcpactors.runtime.reply import Outcome, ReplyChannel, Result
from mcpactors.runtime.routing import KEYS, Kind, Listing

__all__ = ["SnapshotActor"]


class SnapshotActor(Actor):
    """Lists what was copied; hands calls on to `source`."""

    kind = "snapshot"

    def __init__(self, catalog: Callable[[], Mapping[Kind, Listing]], source: ActorRef) -> None:
        self._catalog = catalog
        self._source = source

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome | Forwarded:
        if request.method == CATALOG:
            return Result({"listing": self._catalog()[request.params["kind"]]})
        address = address_of(request.method, request.params)
        if address is None:
            raise MethodNotFound(f"{request.method} is not a method of a snapshot", {"method": request.method})
        if not self._has(address.kind, address.name):
            raise NotFound(f"{address.name!r} was not there when this snapshot was taken", {"name": address.name})
        self._source.offer(Envelope(request, reply))
        return Forwarded()

    def _has(self, kind: Kind, name: str) -> bool:
        catalog = self._catalog()
        if any(item[KEYS[kind]] == name for item in catalog[kind].items):
            return True
        templates = catalog["templates"].items if kind == "resources" else ()
        return any(matches(item["uriTemplate"], name) for item in templates)

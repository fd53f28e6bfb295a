"""What a tree, or one actor, offers at this moment, all of it and nobody missing: what an import copies.

Rule: it asks, and raises where a list takes what it can get.
"""

from __future__ import annotations

import trio
from attrs import evolve

from mcpactors.actors.paging import METHODS
from mcpactors.actors.router import MISSING
from mcpactors.actors.router_ref import RouterRef
from mcpactors.errors import BackendStartError
from mcpactors.mounts import Catalog, make_handle
from mcpactors.runtime.mailbox import ActorRef, Request
from mcpactors.runtime.methods import CATALOG
from mcpactors.runtime.naming import KINDS, Kind
from mcpactors.runtime.reply import Failure
from mcpactors.runtime.routing import Listing
from mcpactors.tree.running import Tree

__all__ = ["copied", "copy_of", "listed"]


async def copy_of(tree: Tree, target: object) -> Catalog:
    """All that `target` offers, which is what this tree is of. Raises `BackendStartError`."""
    if not tree.mounts:
        tree.mounts.put(make_handle(tree.mounts, target, None))
    for source in tree.mounts:
        await source.settled()
    return {kind: await listed(tree.router, kind) for kind in KINDS}


async def listed(router: RouterRef, kind: Kind) -> Listing:
    """All that a tree lists of a kind, nobody missing. Raises `BackendStartError`."""
    outcome = await router.ask(Request(METHODS[kind], {}))
    if isinstance(outcome, Failure):
        raise BackendStartError(f"{router.name} does not say what it offers: {outcome.message}")
    missing = (outcome.value.get("_meta") or {}).get(MISSING)
    if missing:
        raise BackendStartError(f"{missing[0]['actor']} does not say what it offers: {missing[0]['reason']}")
    return Listing(
        router.table.of(kind).items,
        fresh=True,
        learnt_at=trio.current_time(),
        through=router.through(),
        parts=router.parts(kind),
    )


async def copied(source: ActorRef, kind: Kind) -> Listing:
    outcome = await source.ask(Request(CATALOG, {"kind": kind}))
    if isinstance(outcome, Failure):
        raise BackendStartError(f"{source.name} does not say what it offers: {outcome.message}")
    listing: Listing = outcome.value["listing"]
    return evolve(listing, fresh=True)

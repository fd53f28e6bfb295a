"""A runtime's trees of actors: its own, and one for the source of each import.

Rule: the trees follow their description. `reconcile` makes what runs equal to what is mounted and publishes it to the
routers as one immutable value each; nothing else starts or ends an actor. How one is made: making.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

import trio
from attrs import evolve, frozen

from mcpactors.actors.backend import RootsChanged, SessionEnded
from mcpactors.actors.local import LocalActor
from mcpactors.actors.proxy import ProxyActor
from mcpactors.actors.router import RouterActor
from mcpactors.actors.router_ref import RouterRef
from mcpactors.actors.snapshot import SnapshotActor, SnapshotRef
from mcpactors.config import ServerConfig
from mcpactors.errors import BackendStartError, MailboxFull, MCPActorsError, MountCycle, MountError
from mcpactors.mounts import Catalog, CatalogDiff, MountHandle, Mounts, below, make_handle
from mcpactors.runtime.actor import Actor
from mcpactors.runtime.circles import refuse_own
from mcpactors.runtime.definitions import ChangePolicy, ToolChange
from mcpactors.runtime.mailbox import ActorRef, Mailbox
from mcpactors.runtime.naming import KEYS, KINDS, Kind, validate_namespace
from mcpactors.runtime.routing import Listing, Mount
from mcpactors.runtime.supervisor import ActorInfo, ChildSpec, ChildState, Supervisor
from mcpactors.runtime.watchdog import Watchdog
from mcpactors.server import Server
from mcpactors.snapshots import difference
from mcpactors.targets import ProxyServer, check_target
from mcpactors.tree import making
from mcpactors.tree.copies import copied, copy_of
from mcpactors.tree.making import Ground, Tell
from mcpactors.tree.running import Ear, Running, Tree, identity_of, name_of, source_of

__all__ = ["Forest", "LiveMount"]

logger = logging.getLogger("mcpactors")

STOP_TIMEOUT: Final = 10.0
_EMPTY: Final[Catalog] = dict.fromkeys(KINDS, Listing())


@frozen
class LiveMount:
    """What a handle can be asked while its runtime lives."""

    forest: Forest
    running: Running
    handle: MountHandle

    def state(self) -> ChildState:
        return self.forest.supervisor.state_of(self.running.ref.name)

    def info(self) -> ActorInfo:
        return self.forest.info(self.running.ref)

    def stderr(self) -> list[str]:
        return self.running.stderr.tail() if self.running.stderr is not None else []

    async def settled(self) -> ChildState:
        return await self.forest.supervisor.wait_settled(self.running.ref.name)

    async def gone(self) -> None:
        if self.forest.running.get(id(self.running.source)) is not self.running:
            await self.running.ended.wait()

    async def offers(self, *, shown: bool) -> Mapping[Kind, int]:
        counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        with trio.move_on_after(self.forest.settings.list_budget), suppress(MCPActorsError):
            for kind in KINDS:
                items = (await copied(self.running.ref, kind)).items
                counts[kind] = sum(self._is_shown(kind, item) for item in items) if shown else len(items)
        return counts

    def _is_shown(self, kind: Kind, item: Mapping[str, Any]) -> bool:
        """Whether there is a place of the actor in which nothing on the way to the root hides it."""
        own, ref, places = item.get(KEYS[kind]), self.running.ref, self.forest.root.router.table.places
        return isinstance(own, str) and any(
            place.target is ref and place.shown(kind, own, item).visible for place in places
        )

    def changed_tools(self) -> tuple[ToolChange, ...]:
        return self.running.definitions.changes

    def approve(self, tools: tuple[str, ...]) -> tuple[str, ...]:
        approved = self.running.definitions.approve(tools)
        for handle in (*below(self.handle.target), *self.handle.on_it):
            if handle.live is not None:
                approved += handle.live.approve(tools)
        if approved:
            self.forest.reconcile()
        return approved

    async def refresh(self) -> CatalogDiff:
        if self.handle.catalog is None:
            raise MountError("only an import can be refreshed; a live mount shows what its target has")
        diff = await self.forest.take_copy(self.handle)
        self.forest.root.router.changed(self.running.ref)
        return diff


class Forest:
    """What runs in one runtime, and what it follows."""

    def __init__(
        self, name: str, main: object | None, nursery: trio.Nursery, ground: Ground, watchdog: Watchdog | None
    ) -> None:
        self.name = name
        self.settings = ground.settings
        self.endpoint: object | None = None
        """The server that the root is served by: it is above all that is mounted."""
        self._nursery = nursery
        self._ground = ground
        self._watchdog = watchdog
        self._thread, self._token = threading.get_ident(), trio.lowlevel.current_trio_token()
        self.supervisor = Supervisor(nursery, self._on_change, limit=ground.settings.restart_limit)
        self.running: dict[int, Running] = {}
        self._retiring: dict[int, Running] = {}
        self.sources: dict[MountHandle, Tree] = {}
        self._ear = Ear(self.reconcile)
        self._mounted: set[MountHandle] = set()
        self.configs: WeakKeyDictionary[MountHandle, ServerConfig] = WeakKeyDictionary()
        """What a config says of a mount, where it comes from one."""
        self.root = self._new_tree(name, main)

    def trees(self) -> tuple[Tree, ...]:
        return (self.root, *self.sources.values())

    def tree_of(self, handle: MountHandle) -> Tree:
        """That of an import's source; there is one from now on."""
        if handle not in self.sources:
            self.sources[handle] = self._new_tree(f"{name_of(handle)}.source", None)
        return self.sources[handle]

    # --- From the description to actors ---------------------------------------------------------------------------

    def _new_tree(self, name: str, main: object | None) -> Tree:
        settings = self.settings
        router = RouterRef(self._free(name), settings.on_conflict, settings.resource_prefix_format)
        start = partial(RouterActor, router, settings.list_budget, settings.page_size, settings.start_timeout)
        self.supervisor.start_child(ChildSpec(router, start, settings.restart))
        router.examine, router.look_ahead, router.budget_of = self._examine, self._look_ahead, self._budget_of
        tree = Tree(router, Mounts(check_target), main)
        self._ear.hear(tree.mounts)
        return tree

    def _hear_only(self, mounted: set[MountHandle]) -> None:
        """Forget what is not mounted any more: it may change without us."""
        needed = {tree.mounts for tree in self.trees()}
        for handle in mounted:
            needed |= {handle.on_it, handle.target.mounts} if isinstance(handle.target, Server) else {handle.on_it}
        self._ear.hear_only(needed)

    def reconcile(self) -> None:
        """Make what runs equal to what is described: start what is new, publish the trees, end what is gone."""
        if threading.get_ident() != self._thread:  # a sync tool has mounted something
            trio.from_thread.run_sync(self.reconcile, trio_token=self._token)
            return
        used: dict[Running, None] = {}
        mounted: set[MountHandle] = set()
        for running in self.running.values():
            running.policies.clear()
        for tree in self.trees():
            tree.router.remount(self._root_mount(tree, used, mounted))
        dropped = [handle for handle in self.sources if handle.catalog is not None and handle not in mounted]
        for handle in dropped:
            self._drop_source(handle)
        if dropped:
            self.reconcile()  # what only those sources used is not used any more
            return
        for handle in self._mounted - mounted:
            self._let_go(handle)
        self._mounted = mounted
        self._hear_only(mounted)
        for running in list(self.running.values()):
            if running not in used:
                self._retiring[id(running.source)] = self.running.pop(id(running.source))
                running.forget()
                self._nursery.start_soon(self._retire, running)

    def _root_mount(self, tree: Tree, used: dict[Running, None], mounted: set[MountHandle]) -> Mount[ActorRef]:
        above: tuple[object, ...] = () if self.endpoint is None else (self.endpoint,)
        handles = tuple(tree.mounts)
        if tree.main is None:
            children = tuple(self._mount_of(handle, above, "", used, mounted) for handle in handles)
            return Mount(tree.router, None, children)
        own = make_handle(tree.mounts, tree.main, None, name=f"{self.name}.own")
        return self._mount_of(own, above, "", used, mounted, handles)

    def _mount_of(
        self,
        handle: MountHandle,
        above: tuple[object, ...],
        path: str,
        used: dict[Running, None],
        mounted: set[MountHandle],
        more: tuple[MountHandle, ...] = (),
        policy: ChangePolicy | None = None,
    ) -> Mount[ActorRef]:
        target, identity = handle.target, identity_of(handle)
        if handle.namespace is not None:
            validate_namespace(handle.namespace, self.settings.resource_prefix_format)
        if identity in above or source_of(handle.target) in above:  # a copy of what is above would copy itself, too
            said = " -> ".join([*(name_of(server) for server in above if server is not self.endpoint), name_of(handle)])
            raise MountCycle(f"this would mount a server into itself: {said}; mount it beside, not below, itself")
        name = path + (handle.name or handle.namespace or name_of(handle))
        running = self.running.get(id(identity)) or self._start(handle, identity, name)
        used[running] = None
        mounted.add(handle)
        policy = self._policy(handle, policy)
        usual = self.settings.on_tool_change if running.ref.kind == ProxyActor.kind else "allow"
        running.policies.add(policy or usual)
        handle.live = LiveMount(self, running, handle)
        inside = [] if handle.catalog is not None else sorted((*below(target), *handle.on_it, *more), key=self._rank)
        if handle.catalog is None:
            self._ear.hear(handle.on_it)
            if isinstance(target, Server):
                self._ear.hear(target.mounts)
        deeper = "" if handle.name == f"{self.name}.own" else f"{running.ref.name}/"
        inner = (*above, identity)
        children = tuple(self._mount_of(child, inner, deeper, used, mounted, (), policy) for child in inside)
        own_rules = (target.visibility,) if isinstance(target, Server) and handle.catalog is None else ()
        filters = tuple(
            rules for rules in (*own_rules, handle.visibility, running.hidden(policy or usual)) if rules.rules
        )
        wraps = isinstance(target, Server) and bool(target.own_middleware) and handle.catalog is None
        return Mount(running.ref, handle.namespace, children, filters, handle.tools, wraps)

    def _policy(self, handle: MountHandle, above: ChangePolicy | None) -> ChangePolicy | None:
        """What this mount says about tools that change; else its config, or the mount above it."""
        config = self._config_of(handle)
        return handle.on_tool_change or (config.on_tool_change if config is not None else None) or above

    def _config_of(self, handle: MountHandle) -> ServerConfig | None:
        config = self.configs.get(handle) or getattr(handle.target, "target", None)
        return config if isinstance(config, ServerConfig) else None

    def _rank(self, handle: MountHandle) -> tuple[bool, int]:
        """Oldest first; what is ahead of all others stands where the policy looks first."""
        return (handle.ahead == (self.settings.on_conflict != "oldest"), handle.age)

    def _free(self, name: str) -> str:
        """The name for an actor, with a number when another one has it."""
        taken = {running.ref.name for running in (*self.running.values(), *self._retiring.values())}
        taken |= {tree.router.name for tree in self.sources.values()}
        free, number = name, 2
        while free in taken or self.supervisor.state_of(free) != "stopped":
            free, number = f"{name}#{number}", number + 1
        return free

    def _start(self, handle: MountHandle, identity: object, name: str) -> Running:
        free = self._free(name)
        target = handle.target
        mailbox = Mailbox(free, capacity=self.settings.mailbox, control_capacity=self.settings.control)
        if handle.catalog is not None:
            ref, make = self._snapshot(handle, mailbox)
            running = self.running[id(identity)] = Running(ref, identity, target)
        else:
            actor = ProxyActor if isinstance(target, ProxyServer) else LocalActor
            running = Running(ActorRef(free, actor.kind, mailbox), identity, target)
            self.running[id(identity)] = running
            tell = Tell(
                changed=partial(self.changed, running.ref),
                updated=partial(self.updated, running.ref),
                said=partial(self.said, running.ref),
            )
            if isinstance(target, ProxyServer):
                make = making.proxy(target, running, self._ground, tell)
            else:
                earlier = self._retiring.get(id(running.source))
                after, mounted = earlier.ended if earlier else None, target is not self.root.main
                make = making.local(target, running, self._ground, tell, after, mounted=mounted)
        restart, start_timeout = self.settings.restart, self.settings.start_timeout
        if (config := self._config_of(handle)) is not None:
            restart, start_timeout = config.restart or restart, config.start_timeout or start_timeout
            running.list_budget = config.list_budget

        def begin() -> Actor:
            actor = make()
            actor.concurrency = self.settings.in_flight
            return actor

        self.supervisor.start_child(ChildSpec(running.ref, begin, restart, start_timeout, running.last_words))
        return running

    def _snapshot(self, handle: MountHandle, mailbox: Mailbox) -> tuple[ActorRef, Callable[[], Actor]]:
        if handle not in self.sources:
            self._nursery.start_soon(self._mount_source, self.tree_of(handle), handle.target)

        def catalog() -> Catalog:
            return handle.copy_in(self.settings.resource_prefix_format)

        ref = SnapshotRef(mailbox.owner, mailbox, catalog, self.sources[handle].router)
        return ref, lambda: SnapshotActor(catalog)

    async def _mount_source(self, tree: Tree, target: object) -> None:
        tree.mounts.put(make_handle(tree.mounts, target, None))

    def _drop_source(self, handle: MountHandle) -> None:
        tree = self.sources.pop(handle)
        self._nursery.start_soon(self.supervisor.stop_child, tree.router.name)

    async def _retire(self, running: Running) -> None:
        """End an actor that is not mounted any more: its calls in flight first, within the drain time."""
        with trio.move_on_after(self.settings.drain):
            await running.ref.idle()
        await self.supervisor.stop_child(running.ref.name)
        running.ended.set()
        if self._retiring.get(id(running.source)) is running:
            del self._retiring[id(running.source)]

    def _let_go(self, handle: MountHandle) -> None:
        if isinstance(handle.live, LiveMount) and handle.live.forest is self:
            handle.live = None

    async def close(self) -> None:
        """Stop every actor and let go of the description: it outlives this runtime."""
        self._ear.hear_only(set())
        for running in self.running.values():
            running.forget()
        with trio.move_on_after(STOP_TIMEOUT, shield=True):
            await self.supervisor.stop_all()
        for handle in self._mounted:
            self._let_go(handle)

    # --- What actors say of themselves, and what they are told ----------------------------------------------------

    def _examine(self, ref: ActorRef, tools: Sequence[Mapping[str, Any]]) -> None:
        """Hold tools that are about to be listed against what they were; hide those that are to be in quarantine."""
        running = self._running_as(ref)
        if running is not None and running.examine(tools):
            self.reconcile()

    def _look_ahead(self, ref: ActorRef, tools: Sequence[Mapping[str, Any]]) -> None:
        if (running := self._running_as(ref)) is not None:
            running.definitions.look_ahead(tools)

    def _on_change(self, ref: ActorRef, state: ChildState) -> None:
        if not isinstance(ref, RouterRef):
            for tree in self.trees():
                tree.router.changed(ref, ask=state == "running")

    def changed(self, ref: ActorRef, kinds: tuple[Kind, ...]) -> None:
        if threading.get_ident() != self._thread:  # a sync tool has added or removed something
            trio.from_thread.run_sync(self.changed, ref, kinds, trio_token=self._token)
            return
        for tree in self.trees():
            tree.router.changed(ref, kinds)

    def updated(self, ref: ActorRef, uri: str) -> None:
        self.root.router.updated(ref, uri)
        for handle, tree in self.sources.items():  # who watches an import watches its source
            if (copy := self.running.get(id(handle))) is not None:
                for own in tree.router.uris(ref, uri):
                    self.updated(copy.ref, own)

    def said(self, ref: ActorRef, said: Mapping[str, Any]) -> frozenset[str]:
        """The gateways that an answer of a backend has come through; see `Backend.admit`."""
        try:
            return refuse_own(ref.name, self.root.router.gateway, said)
        except BackendStartError:
            for tree in self.trees():
                tree.router.forget(ref)  # two that stand in for each other would never be rid of what went round
            raise

    def tell_proxies(self, message: SessionEnded | RootsChanged) -> None:
        for running in (*self.running.values(), *self._retiring.values()):
            if running.ref.kind == ProxyActor.kind:
                with suppress(MailboxFull):  # one that does not listen closes what is idle by itself, in time
                    running.ref.cast(message)

    # --- Looking --------------------------------------------------------------------------------------------------

    async def take_copy(self, handle: MountHandle) -> CatalogDiff:
        """Copy what an import's source offers now into its handle; returns what is different from the last copy.

        Raises:
            BackendStartError: the source does not start or does not say what it offers; the last copy stays.
        """
        tree = self.tree_of(handle)
        try:
            copy = await copy_of(tree, handle.target)
        except BaseException:  # a caller that gives up, too
            if handle.catalog is None and handle in self.sources:
                self._drop_source(handle)
                self.reconcile()
            raise
        before, handle.catalog = handle.copy_in(self.settings.resource_prefix_format) or _EMPTY, copy
        handle.by_format.clear()
        return difference(before, copy)

    def info(self, ref: ActorRef) -> ActorInfo:
        """The supervisor's row of an actor, and what only we know of it."""
        info, running = self.supervisor.info(ref.name), self._running_as(ref)
        stalls = self._watchdog.stalls[ref.name] if self._watchdog is not None else 0
        return evolve(info, stalls=stalls) if running is None else running.row(info, stalls)

    def _budget_of(self, ref: ActorRef) -> float | None:
        running = self._running_as(ref)
        return running.list_budget if running is not None else None

    def _running_as(self, ref: ActorRef) -> Running | None:
        return next((each for each in self.running.values() if each.ref is ref), None)

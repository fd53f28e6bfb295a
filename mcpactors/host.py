"""The runtime alive: `open_runtime()` builds the tree of actors that a program mounts, and takes it down.

Rule: this is the only module that knows all the others; it connects and decides nothing that they could. The tree of
mounts is kept here by handles and published to the router as one immutable value whenever it changes.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, final
from weakref import WeakKeyDictionary

import trio
from attrs import define, evolve, field, frozen
from mcp.client import Client
from mcp.server.lowlevel import Server as LowLevelServer
from starlette.routing import Route

from mcpactors.actors.backend import Backend, RootsChanged, SessionEnded
from mcpactors.actors.local import LocalActor, LocalServer
from mcpactors.actors.paging import METHODS
from mcpactors.actors.proxy import ProxyActor
from mcpactors.actors.router import MISSING, RouterActor, RouterRef
from mcpactors.actors.snapshot import SnapshotActor, SnapshotRef
from mcpactors.backends import connector, example_config, load_server
from mcpactors.config import HTTPServer, Isolation, MCPConfig, ModuleServer, ServerConfig, StdioServer, load_config
from mcpactors.errors import (
    BackendStartError,
    MailboxFull,
    MCPActorsError,
    MountCycle,
    MountError,
    NameConflict,
    NamespaceError,
)
from mcpactors.isolation import isolated, placed
from mcpactors.mounts import Catalog, CatalogDiff, MountHandle, Mounts, below, itself, make_handle
from mcpactors.runtime.actor import Actor, ActorRef, Mailbox, Request
from mcpactors.runtime.clients import Clients
from mcpactors.runtime.definitions import ChangePolicy, Definitions, ToolChange
from mcpactors.runtime.hops import HOP_LIMIT
from mcpactors.runtime.methods import CATALOG
from mcpactors.runtime.reply import CallDeadlines, Failure
from mcpactors.runtime.restart import RestartLimit, RestartPolicy
from mcpactors.runtime.routing import (
    KINDS,
    Conflict,
    ConflictPolicy,
    Kind,
    Listing,
    Mount,
    Namespace,
    UriFormat,
    tell_conflicts,
    validate_namespace,
)
from mcpactors.runtime.supervisor import ActorInfo, ChildSpec, ChildState, Supervisor
from mcpactors.runtime.threads import ThreadLimit
from mcpactors.runtime.visibility import SHOW_ALL, Rule, ToolOverride, Visibility
from mcpactors.runtime.watchdog import Watchdog, watchdog
from mcpactors.server import Server, bus_of, create_proxy, routes_of, sync_handlers_in_threads
from mcpactors.snapshots import difference, load_snapshot, save_snapshot
from mcpactors.targets import ClientFactory, ProxyServer, called, check_target, low_level
from mcpactors.transports.edge import Face, Surroundings, edge_server
from mcpactors.transports.framing import StderrTail
from mcpactors.transports.http import serve_http
from mcpactors.transports.http_host import HostLimits
from mcpactors.transports.http_listen import tls_context
from mcpactors.transports.orphans import own_orphans
from mcpactors.transports.parking import ParkedCall, Parking
from mcpactors.transports.stdio_server import serve_stdio
from mcpactors.transports.values import SDKTransport, StreamableHttpTransport

__all__ = [
    "MountHandle",
    "Runtime",
    "RuntimeSettings",
    "example_config",
    "load_config",
    "load_snapshot",
    "need_trio",
    "open_runtime",
    "save_snapshot",
    "tls_context",
]

logger = logging.getLogger("mcpactors")

VERSION: Final = "0.1.0"
STOP_TIMEOUT: Final = 10.0
_EMPTY: Final[Catalog] = dict.fromkeys(KINDS, Listing())
INSTRUCTIONS_LENGTH: Final = 10_000
"""Characters of one backend's instructions that become part of ours."""


@frozen(kw_only=True)
class RuntimeSettings:
    """What can be set about a runtime; times in seconds, defaults from promises.md."""

    deadlines: CallDeadlines = CallDeadlines()
    list_budget: float = 2.0
    """How long a list waits for a child that does not answer."""
    start_timeout: float = 15.0
    restart: RestartPolicy = RestartPolicy()
    restart_limit: RestartLimit = RestartLimit()
    """How fast restarts may follow one another, those of all children together."""
    drain: float = 30.0
    """How long calls in flight are waited for when something is unmounted, and when serving ends."""
    on_tool_change: ChangePolicy = "warn"
    """What becomes of a backend's tool whose definition is not what it was when it was first seen."""
    on_conflict: ConflictPolicy = "newest"
    """Which mount has a name that several offer; "error" refuses the mount."""
    resource_prefix_format: UriFormat = "path"
    """How a namespace stands in a URI: `data://ns/x` ("path") or `ns+data://x` ("protocol")."""
    page_size: int | None = None
    """Items in a page of a list; None: all in one."""
    mailbox: int = 256
    threads: int = 16
    """Threads that the sync handlers of one server of this process may be in; a call that finds none free waits."""
    stall: float | None = 0.2
    """Seconds within which the log says who keeps the loop from turning; None: nobody watches."""
    subreaper: bool = False
    """Whether all that descends from this process is the runtime's to reap and to end, also when it is killed (Linux).

    It concerns the whole process, so that one which embeds a runtime has to ask for it: docs/closing.md.
    """
    hop_limit: int = HOP_LIMIT
    """Gateways that a call may have come through before it comes here; beyond, it goes round in a circle."""
    parked: int = 256
    """Calls of modern clients that may wait for their clients' answers at one time."""
    state_keys: tuple[str, ...] = field(default=(), repr=False)
    """Secrets of 32 bytes or more that seal `requestState`: the first seals, all open. None: made for this process.

    Endpoints that share them can go on with each other's calls to modern backends; a parked call lives in one process.
    """


@define(eq=False)
class _Running:
    """An actor of the tree: one for each thing that is mounted, however many mounts it has."""

    ref: ActorRef
    source: object
    """What makes it this actor and no other: the low-level server, the description of a backend, or an import."""
    target: object
    """What was mounted."""
    stderr: StderrTail | None = None
    definitions: Definitions = field(factory=Definitions)
    policies: set[ChangePolicy] = field(factory=set)
    """What its mounts say about tools that change."""
    threads: ThreadLimit | None = None
    """Of a server of this process: how many threads its sync handlers may be in."""
    said: Mapping[str, Any] = field(factory=dict)
    """What it said of itself: `instructions` and `capabilities`, as on the wire."""
    forget: Callable[[], None] = lambda: None
    """Ends what was arranged when it was started."""
    ended: trio.Event = field(factory=trio.Event)

    def last_words(self) -> str | None:
        """The last line that its process wrote to stderr."""
        lines = [line for line in self.stderr.tail() if line.strip()] if self.stderr is not None else []
        return f"its stderr ends: {lines[-1].strip()[:200]}" if lines else None


@define(eq=False)
class _Tree:
    """A router and what is mounted on it: the runtime's own, and one for each import's source."""

    router: RouterRef
    mounts: Mounts = field(factory=Mounts)
    main: object | None = None
    """The server whose components are the root's own."""


@frozen
class _LiveMount:
    """What a handle can be asked while its runtime lives."""

    runtime: Runtime
    running: _Running
    handle: MountHandle

    def state(self) -> ChildState:
        return self.runtime._supervisor.state_of(self.running.ref.name)

    def info(self) -> ActorInfo:
        return self.runtime._info(self.running.ref)

    def stderr(self) -> list[str]:
        return self.running.stderr.tail() if self.running.stderr is not None else []

    async def settled(self) -> ChildState:
        return await self.runtime._supervisor.wait_settled(self.running.ref.name)

    async def gone(self) -> None:
        if self.runtime._running.get(id(self.running.source)) is not self.running:
            await self.running.ended.wait()

    async def offers(self) -> Mapping[Kind, int]:
        counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        with trio.move_on_after(self.runtime.settings.list_budget), suppress(MCPActorsError):
            for kind in KINDS:
                counts[kind] = len((await _copied(self.running.ref, kind)).items)
        return counts

    def changed_tools(self) -> tuple[ToolChange, ...]:
        return self.running.definitions.changes

    def approve(self, tools: tuple[str, ...]) -> tuple[str, ...]:
        approved = self.running.definitions.approve(tools)
        for handle in (*below(self.handle.target), *self.handle.on_it):
            if handle.live is not None:
                approved += handle.live.approve(tools)
        if approved:
            self.runtime._reconcile()
        return approved

    async def refresh(self) -> CatalogDiff:
        if self.handle.catalog is None:
            raise MountError("only an import can be refreshed; a live mount shows what its target has")
        diff = await self.runtime.take_copy(self.handle)
        self.runtime._router.changed(self.running.ref)
        return diff


@final
class Runtime:
    """A tree of actors behind one router. Made by `open_runtime` only."""

    _watchdog: Watchdog | None = None

    def __init__(self, name: str, nursery: trio.Nursery, main: object | None, settings: RuntimeSettings) -> None:
        self.name = name
        self.settings = settings
        self._thread, self._token = threading.get_ident(), trio.lowlevel.current_trio_token()
        self._nursery = nursery
        self._supervisor = Supervisor(nursery, self._on_change, limit=settings.restart_limit)
        self._running: dict[int, _Running] = {}
        self._retiring: dict[int, _Running] = {}
        self._sources: dict[MountHandle, _Tree] = {}
        self._heard: dict[Mounts, None] = {}
        self._mounted: set[MountHandle] = set()
        self._configs: WeakKeyDictionary[MountHandle, ServerConfig] = WeakKeyDictionary()
        self._tree = self._new_tree(name, main)
        self._router = self._tree.router
        self._closing = trio.Event()
        face = Face(name, VERSION, self._instructions, self._completes, self._tool_schema, self._own)
        self._clients = Clients(nursery.start_soon)
        self._parking = Parking(nursery.start_soon, settings.deadlines.question, settings.parked)
        around = Surroundings(
            listen=self._router.listen,
            spawn=nursery.start_soon,
            parking=self._parking,
            state_keys=settings.state_keys,
            client_came=self._clients.came,
            client_left=self._client_left,
            roots_changed=lambda session: self._to_proxies(RootsChanged(session)),
            closing=self._closing,
            hop_limit=settings.hop_limit,
        )
        self.server: LowLevelServer[Any] = edge_server(self._router, face, around, settings.deadlines)
        """The endpoint as an SDK server: whatever serves one of those serves this runtime."""
        self._reconcile()

    # --- Mounting -------------------------------------------------------------------------------------------------

    async def mount(
        self,
        target: object,
        namespace: str | None = None,
        *,
        isolate: Isolation | None = None,
        on_tool_change: ChangePolicy | None = None,
        tool_names: Mapping[str, str] | None = None,
        tools: Mapping[str, ToolOverride] | None = None,
        include_tags: Iterable[str] = (),
        exclude_tags: Iterable[str] = (),
    ) -> MountHandle:
        """Mount a server, or what `create_proxy` gives, live; wait until it has started or failed to.

        A backend that cannot start is mounted all the same and tried again: see `MountHandle.state`. The options are
        those of `Server.mount`.

        Raises:
            NamespaceError: illegal characters in the namespace.
            MountCycle: the target is this runtime's own server, or an ancestor of its mount.
            NameConflict: the target offers a name that is taken, and the policy is "error".
            MountError: the target is no server, or cannot be isolated.
        """
        handle = make_handle(
            self._tree.mounts,
            placed(target, isolate),
            namespace,
            tool_names=tool_names,
            tools=tools,
            include_tags=include_tags,
            exclude_tags=exclude_tags,
            on_tool_change=on_tool_change,
        )
        self._tree.mounts.put(handle)
        await handle.settled()
        try:
            await self.refuse_conflicts()
        except NameConflict:
            await handle.unmount()
            raise
        return handle

    async def import_server(self, target: object, namespace: str | None = None) -> MountHandle:
        """Mount a static copy of what `target` offers at this moment; later changes are not seen (seeds 001, 003).

        The source runs as an actor that is not mounted, so the copied components keep the lifespan they need.

        Raises:
            BackendStartError: the source does not start, or does not say what it offers.
            NamespaceError, MountError: as for `mount`.
        """
        handle = make_handle(self._tree.mounts, check_target(target), namespace)
        await self.take_copy(handle)
        self._tree.mounts.put(handle)
        await handle.settled()
        return handle

    def mount_snapshot(self, path: str | Path, target: object, namespace: str | None = None) -> MountHandle:
        """Mount a catalog that `save_snapshot` has kept in a file: it is listed before `target`, its source, is up.

        Raises:
            ConfigError: the file cannot be read, or is no snapshot.
        """
        handle = make_handle(self._tree.mounts, check_target(target), namespace, catalog=load_snapshot(path))
        self._tree.mounts.put(handle)
        return handle

    def mount_config(
        self, config: MCPConfig | str | Path, instead_of: Mapping[str, MountHandle | MCPActorsError] | None = None
    ) -> dict[str, MountHandle | MCPActorsError]:
        """Mount every server of a config that is not disabled; several get their names as namespaces, one none.

        `config` is the file's path, or what `load_config` made of it. Returns at once (it is not awaited), with a
        handle a server, or the error for one that cannot be mounted at all. A module that cannot be loaded is mounted
        as a backend that does not start, and says why: it is tried again.

        `instead_of` is what an earlier call returned, for a file that has changed since (features E7). A server of
        which it says the same goes on, with its process; one of which it says something else is replaced, one that is
        gone is taken out: calls in flight end there, within the drain time, new ones go to the new one.

        Raises:
            ConfigError: the file is wrong; nothing has changed.
            MCPActorsError: one of its servers cannot be mounted at all, and there is an `instead_of`; likewise.
        """
        if not isinstance(config, MCPConfig):
            config = load_config(config)
        wanted = {name: server for name, server in config.servers.items() if not server.disabled}
        before = {name: handle for name, handle in (instead_of or {}).items() if handle in self._tree.mounts}
        mounted: dict[str, MountHandle | MCPActorsError] = {}
        for name, server in wanted.items():
            try:
                mounted[name] = self._configured(name, server, len(wanted) > 1, before.get(name))
            except MCPActorsError:
                if instead_of is not None or not isinstance(server, ModuleServer):
                    raise
                later = ProxyServer(client_factory=partial(_from_config, server), name=name)
                mounted[name] = self._configured(name, server, len(wanted) > 1, None, later)
        for name, handle in mounted.items():
            if isinstance(handle, MountHandle) and handle is not (old := before.get(name)):
                try:
                    self._tree.mounts.put(handle, old if isinstance(old, MountHandle) else None)
                except MCPActorsError as error:
                    mounted[name] = error
        for name, handle in before.items():
            if name not in mounted and isinstance(handle, MountHandle):
                self._tree.mounts.take_out(handle)
        return mounted

    def _configured(
        self, name: str, server: ServerConfig, named: bool, before: object, target: object = None
    ) -> MountHandle:
        """The mount that a config describes: the one that was there, where it is the same; else at least its actor."""
        old = before if isinstance(before, MountHandle) else None
        target = old.target if old is not None and self._configs.get(old) == server else target
        namespace = name if named else None
        if old is not None and target is not None and old.namespace == namespace:
            return old
        handle = make_handle(
            self._tree.mounts,
            _from_config(server) if target is None else target,
            namespace,
            include_tags=server.include_tags,
            exclude_tags=server.exclude_tags,
            name=name,
        )
        if old is not None:
            handle.on_it = old.on_it  # what was mounted by the handle stays
        self._configs[handle] = server
        return handle

    async def take_copy(self, handle: MountHandle) -> CatalogDiff:
        """Copy what an import's source offers now into its handle; returns what is different from the last copy.

        Raises:
            BackendStartError: the source does not start or does not say what it offers; the last copy stays.
        """
        if handle not in self._sources:
            self._sources[handle] = self._new_tree(f"{_called(handle)}.source", None)
        tree = self._sources[handle]
        try:
            if not tree.mounts:
                tree.mounts.put(make_handle(tree.mounts, handle.target, None))
            for source in tree.mounts:
                await source.settled()
            copy = {kind: await _listed(tree.router, kind) for kind in KINDS}
        except BaseException:  # a caller that gives up, too
            if handle.catalog is None and handle in self._sources:
                self._drop_source(handle)
                self._reconcile()
            raise
        before, handle.catalog = handle.copy_in(self.settings.resource_prefix_format) or _EMPTY, copy
        handle.by_format.clear()
        return difference(before, copy)

    async def refuse_conflicts(self) -> None:
        """Raise `NameConflict` when the policy is "error" and two mounts that are up offer one name."""
        if self.settings.on_conflict == "error":
            for kind in KINDS:
                with suppress(BackendStartError):
                    await _listed(self._router, kind)
            if self._router.table.conflicts:
                raise NameConflict(tell_conflicts(self._router.table.conflicts))

    # --- From the description to actors ---------------------------------------------------------------------------

    def _new_tree(self, name: str, main: object | None) -> _Tree:
        router = RouterRef(self._free(name), self.settings.on_conflict, self.settings.resource_prefix_format)
        self._supervisor.start_child(
            ChildSpec(
                router,
                lambda: RouterActor(
                    router, self.settings.list_budget, self.settings.page_size, self.settings.start_timeout
                ),
                self.settings.restart,
            )
        )
        router.examine = self._examine
        tree = _Tree(router, Mounts(check_target), main)
        self._hear(tree.mounts)
        return tree

    def _hear(self, mounts: Mounts) -> None:
        if mounts not in self._heard:
            self._heard[mounts] = None
            mounts.listen(self._reconcile)

    def _hear_only(self, mounted: set[MountHandle]) -> None:
        """Forget what is not mounted any more: it may change without us."""
        needed = {tree.mounts for tree in (self._tree, *self._sources.values())}
        for handle in mounted:
            needed |= {handle.on_it, handle.target.mounts} if isinstance(handle.target, Server) else {handle.on_it}
        for mounts in [each for each in self._heard if each not in needed]:
            mounts.forget(self._reconcile)
            del self._heard[mounts]

    def _reconcile(self) -> None:
        """Make what runs equal to what is described: start what is new, publish the trees, end what is gone."""
        if threading.get_ident() != self._thread:  # a sync tool has mounted something
            trio.from_thread.run_sync(self._reconcile, trio_token=self._token)
            return
        used: dict[_Running, None] = {}
        mounted: set[MountHandle] = set()
        for running in self._running.values():
            running.policies.clear()
        for tree in (self._tree, *self._sources.values()) if hasattr(self, "_tree") else ():
            tree.router.remount(self._root_mount(tree, used, mounted))
        dropped = [handle for handle in self._sources if handle.catalog is not None and handle not in mounted]
        for handle in dropped:
            self._drop_source(handle)
        if dropped:
            self._reconcile()  # what only those sources used is not used any more
            return
        for handle in self._mounted - mounted:
            self._let_go(handle)
        self._mounted = mounted
        self._hear_only(mounted)
        for running in list(self._running.values()):
            if running not in used:
                self._retiring[id(running.source)] = self._running.pop(id(running.source))
                running.forget()
                self._nursery.start_soon(self._retire, running)

    def _root_mount(self, tree: _Tree, used: dict[_Running, None], mounted: set[MountHandle]) -> Mount[ActorRef]:
        above: tuple[object, ...] = (self.server,) if hasattr(self, "server") else ()
        handles = tuple(tree.mounts)
        if tree.main is None:
            children = tuple(self._mount_of(handle, above, "", used, mounted) for handle in handles)
            return Mount(tree.router, None, children)
        own = make_handle(tree.mounts, tree.main, None, name=f"{self.name}.own")
        mount = self._mount_of(own, above, "", used, mounted, handles)
        return mount

    def _mount_of(
        self,
        handle: MountHandle,
        above: tuple[object, ...],
        path: str,
        used: dict[_Running, None],
        mounted: set[MountHandle],
        more: tuple[MountHandle, ...] = (),
        policy: ChangePolicy | None = None,
    ) -> Mount[ActorRef]:
        target, identity = handle.target, _identity(handle)
        if handle.namespace is not None:
            validate_namespace(handle.namespace, self.settings.resource_prefix_format)
        if identity in above or _source(handle.target) in above:  # a copy of what is above would copy itself, too
            said = " -> ".join([*(_name_of(server) for server in above if server is not self.server), _called(handle)])
            raise MountCycle(f"this would mount a server into itself: {said}; mount it beside, not below, itself")
        name = path + (handle.name or handle.namespace or _called(handle))
        running = self._running.get(id(identity)) or self._start(handle, identity, name)
        used[running] = None
        mounted.add(handle)
        policy = self._policy(handle, policy)
        usual = self.settings.on_tool_change if running.ref.kind == ProxyActor.kind else "allow"
        running.policies.add(policy or usual)
        handle.live = _LiveMount(self, running, handle)
        inside = [] if handle.catalog is not None else sorted((*below(target), *handle.on_it, *more), key=self._rank)
        if handle.catalog is None:
            self._hear(handle.on_it)
            if isinstance(target, Server):
                self._hear(target.mounts)
        deeper = "" if handle.name == f"{self.name}.own" else f"{running.ref.name}/"
        inner = (*above, identity)
        children = tuple(self._mount_of(child, inner, deeper, used, mounted, (), policy) for child in inside)
        own_rules = (target.visibility,) if isinstance(target, Server) and handle.catalog is None else ()
        filters = tuple(
            rules for rules in (*own_rules, handle.visibility, _hiding(running, policy or usual)) if rules.rules
        )
        wraps = isinstance(target, Server) and bool(target.own_middleware) and handle.catalog is None
        return Mount(running.ref, handle.namespace, children, filters, handle.tools, wraps)

    def _policy(self, handle: MountHandle, above: ChangePolicy | None) -> ChangePolicy | None:
        """What this mount says about tools that change; else its config, or the mount above it."""
        config = self._configs.get(handle) or getattr(handle.target, "target", None)
        said = config.on_tool_change if isinstance(config, StdioServer | HTTPServer | ModuleServer) else None
        return handle.on_tool_change or said or above

    def _examine(self, ref: ActorRef, tools: Sequence[Mapping[str, Any]]) -> None:
        """Hold tools that are about to be listed against what they were; hide those that are to be in quarantine."""
        running = next((each for each in self._running.values() if each.ref is ref), None)
        if running is None:
            return
        before = running.definitions.changes
        for change in running.definitions.look(tools):
            logger.log(
                logging.INFO if running.policies <= {"allow"} else logging.WARNING,
                "%s: the tool %r is not what it was when it was first seen: %s changed%s",
                ref.name,
                change.tool,
                ", ".join(change.fields),
                "; it is hidden until approve() of its mount" if "quarantine" in running.policies else "",
            )
        if "quarantine" in running.policies and running.definitions.changes != before:
            self._reconcile()

    def _rank(self, handle: MountHandle) -> tuple[bool, int]:
        """Oldest first; what is ahead of all others stands where the policy looks first."""
        return (handle.ahead == (self.settings.on_conflict != "oldest"), handle.age)

    def _free(self, name: str) -> str:
        """The name for an actor, with a number when another one has it."""
        taken = {running.ref.name for running in (*self._running.values(), *self._retiring.values())}
        taken |= {tree.router.name for tree in self._sources.values()}
        free, number = name, 2
        while free in taken or self._supervisor.state_of(free) != "stopped":
            free, number = f"{name}#{number}", number + 1
        return free

    def _start(self, handle: MountHandle, identity: object, name: str) -> _Running:
        free = self._free(name)
        target = handle.target
        mailbox = Mailbox(free, capacity=self.settings.mailbox)
        if handle.catalog is not None:
            ref, make = self._snapshot(handle, mailbox)
            running = self._running[id(identity)] = _Running(ref, identity, target)
        else:
            proxied = isinstance(target, ProxyServer)
            running = _Running(ActorRef(free, "proxy" if proxied else "local", mailbox), identity, target)
            self._running[id(identity)] = running
            make = self._proxy(target, running) if isinstance(target, ProxyServer) else self._local(target, running)
        config = self._configs.get(handle) or getattr(target, "target", None)
        restart, start_timeout = self.settings.restart, self.settings.start_timeout
        if isinstance(config, StdioServer | HTTPServer | ModuleServer):
            restart, start_timeout = config.restart or restart, config.start_timeout or start_timeout
        self._supervisor.start_child(ChildSpec(running.ref, make, restart, start_timeout, running.last_words))
        return running

    def _snapshot(self, handle: MountHandle, mailbox: Mailbox) -> tuple[ActorRef, Callable[[], Actor]]:
        if handle not in self._sources:
            tree = self._sources[handle] = self._new_tree(f"{_called(handle)}.source", None)
            self._nursery.start_soon(self._mount_source, tree, handle.target)

        def catalog() -> Catalog:
            return handle.copy_in(self.settings.resource_prefix_format)

        ref = SnapshotRef(mailbox.owner, mailbox, catalog, self._sources[handle].router)
        return ref, lambda: SnapshotActor(catalog)

    async def _mount_source(self, tree: _Tree, target: object) -> None:
        tree.mounts.put(make_handle(tree.mounts, target, None))

    def _proxy(self, target: ProxyServer, running: _Running) -> Callable[[], Actor]:
        running.stderr = StderrTail()
        where = target.target
        said = where if isinstance(where, StdioServer | HTTPServer) else None

        def introduced(said: Mapping[str, Any]) -> None:
            """Keep of it what has the right shape: it becomes part of what we say of ourselves."""
            instructions, capabilities = said.get("instructions"), said.get("capabilities")
            running.said = {
                "instructions": instructions[:INSTRUCTIONS_LENGTH] if isinstance(instructions, str) else None,
                "capabilities": capabilities if isinstance(capabilities, Mapping) else {},
                "era": "legacy" if "protocolVersion" in said else "modern",  # only `initialize` has that in its result
            }

        inside = evolve(self.settings, subreaper=False)
        backend = Backend(
            connect=connector(target, running.stderr, partial(open_runtime, settings=inside)),
            timeout=said.timeout if said is not None else None,
            tags=said.tags if said is not None else (),
            over_http=isinstance(where, SDKTransport | ClientFactory | StreamableHttpTransport)
            or (isinstance(where, HTTPServer) and where.resolved_transport != "websocket"),
            sessions=target.strategy,
            forward=target.forward,
            limits=target.pool,
            start_timeout=said.start_timeout if said and said.start_timeout else self.settings.start_timeout,
            changed=lambda kinds: self._changed(running.ref, kinds),
            updated=lambda uri: self._updated(running.ref, uri),
            introduced=introduced,
            ask_client=self._clients.ask,
            tell_client=self._clients.tell,
        )
        return lambda: ProxyActor(running.ref.name, backend)

    def _local(self, target: object, running: _Running) -> Callable[[], Actor]:
        server = low_level(target)
        running.threads = ThreadLimit(self.settings.threads)
        own = isinstance(target, Server)
        local = LocalServer(
            server=server,
            middleware=target.own_middleware if isinstance(target, Server) else (),
            tells=own,
            after=earlier.ended if (earlier := self._retiring.get(id(running.source))) is not None else None,
            bus=bus_of(target),
            changed=lambda kinds: self._changed(running.ref, kinds),
            updated=lambda uri: self._updated(running.ref, uri),
            threads=running.threads,
            adopt=lambda: sync_handlers_in_threads(target),
        )
        capabilities = server.get_capabilities().model_dump(by_alias=True, exclude_none=True)
        running.said = {"instructions": server.instructions, "capabilities": capabilities}
        if isinstance(target, Server):
            forget = target.listen(lambda kind: self._changed(running.ref, (kind,)))
            target.running_in.append(self)

            def end() -> None:
                forget()
                target.running_in.remove(self)

            running.forget = end
        return lambda: LocalActor(local)

    def _let_go(self, handle: MountHandle) -> None:
        if isinstance(handle.live, _LiveMount) and handle.live.runtime is self:
            handle.live = None

    def _drop_source(self, handle: MountHandle) -> None:
        tree = self._sources.pop(handle)
        self._nursery.start_soon(self._supervisor.stop_child, tree.router.name)

    async def _retire(self, running: _Running) -> None:
        """End an actor that is not mounted any more: its calls in flight first, within the drain time."""
        with trio.move_on_after(self.settings.drain):
            await running.ref.idle()
        await self._supervisor.stop_child(running.ref.name)
        running.ended.set()
        if self._retiring.get(id(running.source)) is running:
            del self._retiring[id(running.source)]

    def _close(self) -> None:
        """Let go of the description: it outlives this runtime."""
        self._closing.set()
        for mounts in self._heard:
            mounts.forget(self._reconcile)
        for running in self._running.values():
            running.forget()

    # --- What is known of clients -----------------------------------------------------------------------------------

    def _client_left(self, session: str) -> None:
        self._clients.left(session)
        self._to_proxies(SessionEnded(session))

    def _to_proxies(self, message: SessionEnded | RootsChanged) -> None:
        for running in (*self._running.values(), *self._retiring.values()):
            if running.ref.kind == ProxyActor.kind:
                with suppress(MailboxFull):  # one that does not listen closes what is idle by itself, in time
                    running.ref.cast(message)

    # --- What actors say of themselves ----------------------------------------------------------------------------

    def _on_change(self, ref: ActorRef, state: ChildState) -> None:
        if not isinstance(ref, RouterRef):
            for tree in (self._tree, *self._sources.values()):
                tree.router.changed(ref, ask=state == "running")

    def _changed(self, ref: ActorRef, kinds: tuple[Kind, ...]) -> None:
        if threading.get_ident() != self._thread:  # a sync tool has added or removed something
            trio.from_thread.run_sync(self._changed, ref, kinds, trio_token=self._token)
            return
        for tree in (self._tree, *self._sources.values()):
            tree.router.changed(ref, kinds)

    def _updated(self, ref: ActorRef, uri: str) -> None:
        self._router.updated(ref, uri)
        for handle, tree in self._sources.items():  # who watches an import watches its source
            if (copy := self._running.get(id(handle))) is not None:
                for own in tree.router.uris(ref, uri):
                    self._updated(copy.ref, own)

    def _in_order(self) -> Iterator[tuple[Namespace, _Running, object]]:
        """Everything that is mounted, that which wins a conflict first."""
        by_ref = {running.ref: running for running in self._running.values()}
        for place in self._router.table.places:
            if place.target in by_ref:
                yield place.namespace, by_ref[place.target], by_ref[place.target].target

    def _instructions(self) -> str | None:
        """What the servers say of their use, each under the namespace that its names have here."""
        paragraphs = [
            f"{namespace.outward('tools', '')}*: {text}" if namespace else text
            for namespace, running, _ in sorted(self._in_order(), key=lambda row: row[0].parts)
            if (text := self._said(running).get("instructions"))
        ]
        return "\n\n".join(dict.fromkeys(paragraphs)) or None

    def _said(self, running: _Running) -> Mapping[str, Any]:
        """What an actor said of itself; for an import, what its source did."""
        tree = self._sources.get(running.source) if isinstance(running.source, MountHandle) else None
        for handle in tree.mounts if tree is not None else ():
            if isinstance(handle.live, _LiveMount):
                return handle.live.running.said
        return running.said

    def _completes(self) -> bool:
        said = [self._said(running).get("capabilities") for running in self._running.values()]
        return any(not it or it.get("completions") is not None for it in said)

    def _own(self) -> ActorRef | None:
        """The actor of the server that the root is, where that has middleware."""
        main = self._tree.main
        running = self._running.get(id(_source(main))) if isinstance(main, Server) and main.own_middleware else None
        return running.ref if running is not None else None

    def _tool_schema(self, name: str) -> Mapping[str, Any] | None:
        item = self._router.table.tools.item(name)
        schema: Mapping[str, Any] | None = item.get("inputSchema") if item is not None else None
        return schema

    # --- Looking and serving --------------------------------------------------------------------------------------

    def client(self, **options: Any) -> Client:
        """The SDK's `Client` of this runtime, in memory; `options` are its own (`mode="legacy"`, callbacks, ...)."""
        return Client(self.server, **options)

    def ps(self) -> ActorInfo:
        """A frozen snapshot of the tree of actors."""

        def row(mount: Mount[ActorRef]) -> ActorInfo:
            return evolve(self._info(mount.target), children=tuple(map(row, mount.children)))

        root = row(self._router.tree)
        if self._tree.main is None:
            return root
        own = evolve(root, children=())
        return evolve(self._supervisor.info(self._router.name), children=(own, *root.children))

    def _info(self, ref: ActorRef) -> ActorInfo:
        """The supervisor's row of an actor, and what only we know of it."""
        running = next((each for each in self._running.values() if each.ref is ref), None)
        threads = running.threads.borrowed_tokens if running is not None and running.threads is not None else 0
        stalls = self._watchdog.stalls[ref.name] if self._watchdog is not None else 0
        heard = running.stderr.dropped if running is not None and running.stderr is not None else {}
        dropped = {str(kind): number for kind, number in heard.items()}
        changed = tuple(change.tool for change in running.definitions.changes) if running is not None else ()
        info = self._supervisor.info(ref.name)
        era = running.said.get("era") if running is not None else None
        return evolve(info, changed_tools=changed, threads=threads, stalls=stalls, dropped=dropped, era=era)

    def parked(self) -> tuple[ParkedCall, ...]:
        """The calls of modern clients that wait for their clients' answers, the oldest first."""
        return tuple(self._parking)

    def conflicts(self) -> tuple[Conflict, ...]:
        """Every name that one mount hides from another."""
        return self._router.table.conflicts

    def routes(self) -> list[Route]:
        """The custom HTTP routes of everything that is mounted, by their own paths and by namespaced ones.

        The first that fits answers: a path that several have is the newest mount's.
        """
        own: list[Route] = []
        namespaced: list[Route] = []
        for namespace, _, source in self._in_order():
            for route in routes_of(source):
                own.append(route)
                if namespace:
                    path = f"/{namespace}{route.path}"
                    namespaced.append(Route(path, route.endpoint, methods=list(route.methods or ()), name=route.name))
        return own + namespaced

    def serve_http(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        ssl_context: ssl.SSLContext | None = None,
        uds: str | os.PathLike[str] | None = None,
        websocket: bool = False,
    ) -> AbstractAsyncContextManager[str]:
        """Serve streamable HTTP, both eras on one endpoint, while the block lasts; yields the endpoint's URL.

        `allowed_hosts` are names by which clients may ask for it beside `host` and the loopback, as behind a proxy or
        bound to 0.0.0.0; `allowed_origins` web pages that may ask (docs/security.md). `uds` is the path of a Unix
        socket to serve at instead. `websocket`: WebSocket is spoken at the same address, too. Raises `ConfigError`.
        """
        return serve_http(
            self.server,
            host,
            port,
            routes=self.routes,
            limits=HostLimits(drain=self.settings.drain),
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
            ssl_context=ssl_context,
            uds=uds,
            websocket=websocket,
        )

    async def serve_stdio(self, stopping: trio.Event | None = None) -> None:
        """Serve one client on this process's stdin and stdout until it closes them, or until `stopping` is set.

        Then what it has asked has `RuntimeSettings.drain` seconds to be answered, and nothing new is begun.
        """
        await serve_stdio(self.server, stopping, self.settings.drain)

    def end_listening(self) -> None:
        """End the streams of changes of modern clients in good order: serving is about to end (promise P10)."""
        self._closing.set()


@asynccontextmanager
async def open_runtime(main: object = "main", *, settings: RuntimeSettings | None = None) -> AsyncIterator[Runtime]:
    """A runtime for as long as the block lasts. `main`: its name, or a server whose components are the root's own.

    A `Server` brings everything that is mounted on it; what it mounts while the block lasts starts at once. The block
    is a nursery block: errors come out as exception groups. Leaving it stops every actor, and leaves no task, process
    or descriptor behind.

    Raises:
        RuntimeError: this is no trio program.
        NameConflict: two mounts offer one name, and the policy is "error".
        MountError, MountCycle: the description cannot be made alive.
    """
    need_trio("open_runtime(...)")
    name = main if isinstance(main, str) else called(check_target(main))
    settings = settings or RuntimeSettings()
    with watchdog(settings.stall) as dog:
        async with trio.open_nursery() as nursery, own_orphans(nursery) if settings.subreaper else nullcontext():
            runtime = Runtime(name, nursery, None if isinstance(main, str) else main, settings)
            runtime._watchdog = dog
            try:
                for running in list(runtime._running.values()):
                    await runtime._supervisor.wait_settled(running.ref.name)
                await runtime.refuse_conflicts()
                yield runtime
            finally:
                runtime._close()
                with trio.move_on_after(STOP_TIMEOUT, shield=True):
                    await runtime._supervisor.stop_all()
                for handle in runtime._mounted:
                    runtime._let_go(handle)
                nursery.cancel_scope.cancel()


def need_trio(what: str) -> None:
    """Raise RuntimeError, with what to do, where asyncio or nothing runs: its own errors come late and say little."""
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"{what} needs trio, which does not run here: start the program with trio.run(main), not "
            "asyncio.run(main())"
        )


def _from_config(server: ServerConfig) -> object:
    if not isinstance(server, ModuleServer):
        return create_proxy(server)
    return check_target(load_server(server)) if server.isolate is None else isolated(server)


def _hiding(running: _Running, policy: ChangePolicy) -> Visibility:
    """Hides the tools that are in quarantine."""
    changed = [change.tool for change in running.definitions.changes] if policy == "quarantine" else []
    return Visibility((Rule(False, names=changed, components={"tool"}),)) if changed else SHOW_ALL


async def _copy_apart(handle: MountHandle) -> None:
    """Take the copy of an import in a runtime of its own; in both URI formats, where nested URIs differ by them."""
    formats: tuple[UriFormat, ...] = ("path", "protocol") if any(below(handle.target)) else ("path",)
    copies: dict[UriFormat, Catalog] = {}
    refused: MCPActorsError | None = None
    for uri_format in reversed(formats):
        handle.catalog = None
        async with open_runtime("import", settings=RuntimeSettings(resource_prefix_format=uri_format)) as runtime:
            try:
                await runtime.take_copy(handle)
                copies[uri_format] = handle.copy_in(uri_format)
            except MCPActorsError as error:
                refused = error  # raised outside of the runtime's nursery, which would make a group of it
        if refused is not None and not (uri_format == "protocol" and isinstance(refused, NamespaceError)):
            raise refused  # a runtime of that format refuses such a namespace itself
        refused = None
    handle.by_format.update(copies)


Server.copy_apart = _copy_apart


def _identity(handle: MountHandle) -> object:
    """What makes two mounts one actor: the server, or the description of a backend; an import is its own."""
    if handle.catalog is not None:
        return handle
    return handle.target if isinstance(handle.target, ProxyServer) else _source(handle.target)


def _source(target: object) -> object:
    target = itself(target)
    if isinstance(target, ProxyServer):
        return target.target if isinstance(target.target, LowLevelServer) else target
    return low_level(target)


def _called(handle: MountHandle) -> str:
    return called(handle.target)


def _name_of(server: object) -> str:
    return _called(server) if isinstance(server, MountHandle) else called(server)


async def _listed(router: RouterRef, kind: Kind) -> Listing:
    """All that a tree lists of a kind, nobody missing. Raises `BackendStartError`."""
    outcome = await router.ask(Request(METHODS[kind], {}))
    if isinstance(outcome, Failure):
        raise BackendStartError(f"{router.name} does not say what it offers: {outcome.message}")
    missing = (outcome.value.get("_meta") or {}).get(MISSING)
    if missing:
        raise BackendStartError(f"{missing[0]['actor']} does not say what it offers: {missing[0]['reason']}")
    return Listing(router.table.of(kind).items, fresh=True, learnt_at=trio.current_time())


async def _copied(source: ActorRef, kind: Kind) -> Listing:
    outcome = await source.ask(Request(CATALOG, {"kind": kind}))
    if isinstance(outcome, Failure):
        raise BackendStartError(f"{source.name} does not say what it offers: {outcome.message}")
    listing: Listing = outcome.value["listing"]
    return evolve(listing, fresh=True)

"""The runtime alive: `open_runtime()` builds the tree of actors that a program mounts, and takes it down.

Rule: this is the only module that knows all the others; it connects and decides nothing that they could. The tree of
mounts is kept here by handles and published to the router as one immutable value whenever it changes.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final, final

import trio
from attrs import define, evolve, field, frozen
from mcp.client import Client
from mcp.server.lowlevel import Server as LowLevelServer

from mcpactors.actors.local import LocalActor
from mcpactors.actors.proxy import Connect, ProxyActor
from mcpactors.actors.router import KINDS, RouterActor, RouterRef
from mcpactors.actors.snapshot import SnapshotActor
from mcpactors.config import HTTPServer, MCPConfig, ModuleServer, StdioServer, load_config, parse_config
from mcpactors.errors import BackendStartError, ConfigError, MCPActorsError, MountCycle, MountError
from mcpactors.runtime.actor import Actor, ActorRef, Mailbox, Request
from mcpactors.runtime.methods import CATALOG
from mcpactors.runtime.reply import CallDeadlines, Failure
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.runtime.routing import Conflict, ConflictPolicy, Kind, Listing, Mount, validate_namespace
from mcpactors.runtime.supervisor import ActorInfo, ChildSpec, ChildState, Supervisor
from mcpactors.server import ProxyServer, create_proxy, low_level
from mcpactors.transports.edge import Face, edge_server
from mcpactors.transports.http import http_client, serve_http
from mcpactors.transports.memory import memory_client
from mcpactors.transports.stdio import StderrTail, stdio_client
from mcpactors.transports.stdio_server import serve_stdio

__all__ = ["MountHandle", "Runtime", "RuntimeSettings", "example_config", "load_config", "open_runtime"]

logger = logging.getLogger("mcpactors")

VERSION: Final = "0.1.0"
STOP_TIMEOUT: Final = 10.0
MODULE_OBJECTS: Final = ("server", "mcp", "app")


@frozen(kw_only=True)
class RuntimeSettings:
    """What can be set about a runtime; times in seconds, defaults from promises.md."""

    deadlines: CallDeadlines = CallDeadlines()
    list_budget: float = 2.0
    """How long a list waits for a child that does not answer."""
    start_timeout: float = 15.0
    restart: RestartPolicy = RestartPolicy()
    on_conflict: ConflictPolicy = "newest"
    mailbox: int = 256


@define(eq=False)
class _Running:
    """An actor of the tree: what it was made of, and how many mounts it has (one lifespan, however many)."""

    ref: ActorRef
    source: object
    mounts: int = 0
    stderr: StderrTail | None = None


@final
@define(eq=False)
class MountHandle:
    """One mount: a live place in the tree. Made by `Runtime.mount` and `MountHandle.mount` only."""

    _runtime: Runtime
    _running: _Running
    namespace: str | None
    parent: MountHandle | None
    children: list[MountHandle] = field(factory=list)

    @property
    def name(self) -> str:
        """The actor's name, as `ps` shows it."""
        return self._running.ref.name

    @property
    def state(self) -> ChildState:
        """What the actor is doing now."""
        return self._runtime._supervisor.state_of(self.name)

    def info(self) -> ActorInfo:
        """The actor's row of `ps`."""
        return self._runtime._supervisor.info(self.name)

    def stderr(self) -> list[str]:
        """The last lines that a backend's process wrote to its stderr."""
        return self._running.stderr.tail() if self._running.stderr is not None else []

    async def offers(self) -> dict[Kind, int]:
        """How many tools, prompts, resources and templates it lists; those that it does not tell in time are 0."""
        counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        with trio.move_on_after(self._runtime.settings.list_budget), suppress(MCPActorsError):
            for kind in KINDS:
                counts[kind] = len((await _copied(self._running.ref, kind)).items)
        return counts

    async def settled(self) -> ChildState:
        """Wait until the actor has started, or failed to, for the first time."""
        return await self._runtime._supervisor.wait_settled(self.name)

    async def mount(self, target: object, namespace: str | None = None) -> MountHandle:
        """Mount `target` below this mount; its names get both namespaces. As `Runtime.mount`."""
        return await self._runtime._mount(self, target, namespace)

    async def unmount(self) -> None:
        """Take this mount, and all below it, out of the tree, and stop the actors that have no other mount."""
        await self._runtime._unmount(self)


@final
class Runtime:
    """A tree of actors behind one router. Made by `open_runtime` only."""

    def __init__(self, name: str, supervisor: Supervisor, router: RouterRef, settings: RuntimeSettings) -> None:
        self.name = name
        self.settings = settings
        self._supervisor = supervisor
        self._router = router
        self._running: dict[int, _Running] = {}
        self._root = MountHandle(self, _Running(router, None), None, None)
        self.server: LowLevelServer[Any] = edge_server(
            router, Face(name, VERSION, tool_schema=self._tool_schema), settings.deadlines
        )
        """The endpoint as an SDK server: whatever serves one of those serves this runtime."""

    # --- Mounting -------------------------------------------------------------------------------------------------

    async def mount(self, target: object, namespace: str | None = None) -> MountHandle:
        """Mount an SDK server, or what `create_proxy` gives, live; wait until it has started or failed to.

        A backend that cannot start is mounted all the same and tried again: see `MountHandle.state`.

        Raises:
            NamespaceError: illegal characters in the namespace.
            MountCycle: the target is this runtime's own server, or an ancestor of its mount.
            MountError: the target is no server.
        """
        return await self._mount(self._root, target, namespace)

    async def import_server(self, target: object, namespace: str | None = None) -> MountHandle:
        """Mount a static copy of what `target` offers at this moment; later changes are not seen (seeds 001, 003).

        The source runs as an actor that is not mounted, so the copied components keep the lifespan they need.

        Raises:
            BackendStartError: the source does not start, or does not say what it offers.
            NamespaceError, MountError: as for `mount`.
        """
        if namespace is not None:
            validate_namespace(namespace)
        source = self._run_actor(target, f"{namespace or _called(target)}.source")
        source.mounts += 1
        await self._supervisor.wait_settled(source.ref.name)
        try:
            catalog = {kind: await _copied(source.ref, kind) for kind in KINDS}
        except BackendStartError:
            await self._release(source)
            raise
        copy = self._start(
            object(), namespace or _called(target), "snapshot", lambda ref: SnapshotActor(catalog, source.ref)
        )
        handle = self._attach(self._root, copy, namespace)
        await handle.settled()
        return handle

    def mount_config(self, config: MCPConfig) -> dict[str, MountHandle | MCPActorsError]:
        """Mount every server of a config that is not disabled; several get their names as namespaces, one none.

        Returns at once, with a handle a server, or the error for one that cannot be mounted at all.
        """
        wanted = {name: server for name, server in config.servers.items() if not server.disabled}
        mounted: dict[str, MountHandle | MCPActorsError] = {}
        for name, server in wanted.items():
            namespace = name if len(wanted) > 1 else None
            try:
                target = load_server(server) if isinstance(server, ModuleServer) else create_proxy(server, name)
                mounted[name] = self._add(self._root, target, namespace, name)
            except MCPActorsError as error:
                mounted[name] = error
        return mounted

    async def _own(self, main: object) -> None:
        """Make `main`'s components the root's own: they come before those of every mount."""
        own = self._run_actor(main, f"{self.name}.own")
        own.mounts += 1
        self._root._running = own
        self._publish()
        await self._supervisor.wait_settled(own.ref.name)

    async def _mount(self, parent: MountHandle, target: object, namespace: str | None) -> MountHandle:
        handle = self._add(parent, target, namespace, None)
        await handle.settled()
        return handle

    def _add(self, parent: MountHandle, target: object, namespace: str | None, name: str | None) -> MountHandle:
        if namespace is not None:
            validate_namespace(namespace)
        identity = _identity(target)
        self._refuse_cycle(parent, identity)
        path = name or namespace or _called(target)
        if parent.parent is not None:
            path = f"{parent.name}/{path}"
        return self._attach(parent, self._run_actor(target, path), namespace)

    def _attach(self, parent: MountHandle, running: _Running, namespace: str | None) -> MountHandle:
        running.mounts += 1
        handle = MountHandle(self, running, namespace, parent)
        parent.children.append(handle)
        self._publish()
        return handle

    def _refuse_cycle(self, parent: MountHandle, identity: object) -> None:
        above: MountHandle | None = parent
        names = []
        while above is not None:
            names.append(above.name)
            if above._running.source is identity or (above is self._root and identity is self.server):
                path = " -> ".join([*reversed(names), names[-1]])
                raise MountCycle(f"this would mount a server into itself: {path}; mount it beside, not below, itself")
            above = above.parent

    def _run_actor(self, target: object, name: str) -> _Running:
        """The actor of a target, started if this is its first mount."""
        identity = _identity(target)
        running = self._running.get(id(identity))
        if running is not None:
            return running
        if not isinstance(target, ProxyServer):
            server = low_level(target)
            return self._start(identity, name, LocalActor.kind, lambda ref: LocalActor(server))
        stderr = StderrTail()
        connect = _connector(target, stderr)
        timeout = target.target.timeout if isinstance(target.target, StdioServer | HTTPServer) else None
        over_http = isinstance(target.target, HTTPServer)

        def make(ref: ActorRef) -> ProxyActor:
            return ProxyActor(ref.name, connect, lambda kinds: self._router.changed(ref, kinds), timeout, over_http)

        running = self._start(identity, name, ProxyActor.kind, make)
        running.stderr = stderr
        return running

    def _start(self, source: object, name: str, kind: str, make: Callable[[ActorRef], Actor]) -> _Running:
        taken = {running.ref.name for running in self._running.values()} | {self._router.name}
        free, number = name, 2
        while free in taken:
            free, number = f"{name}#{number}", number + 1
        ref = ActorRef(free, kind, Mailbox(free, capacity=self.settings.mailbox))
        running = self._running[id(source)] = _Running(ref, source)
        self._supervisor.start_child(
            ChildSpec(ref, lambda: make(ref), self.settings.restart, self.settings.start_timeout)
        )
        return running

    async def _unmount(self, handle: MountHandle) -> None:
        if handle.parent is None or handle not in handle.parent.children:
            return
        handle.parent.children.remove(handle)
        self._publish()
        for gone in _subtree(handle):
            await self._release(gone._running)

    async def _release(self, running: _Running) -> None:
        running.mounts -= 1
        if running.mounts == 0:
            self._running.pop(id(running.source), None)
            await self._supervisor.stop_child(running.ref.name)

    def _publish(self) -> None:
        self._router.remount(_tree(self._root))

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

        def row(handle: MountHandle) -> ActorInfo:
            return evolve(handle.info(), children=tuple(row(child) for child in handle.children))

        root = row(self._root)
        if self._root._running.ref is self._router:
            return root
        own = evolve(root, children=())
        return evolve(self._supervisor.info(self._router.name), children=(own, *root.children))

    def conflicts(self) -> tuple[Conflict, ...]:
        """Every name that one mount hides from another."""
        return self._router.table.conflicts

    def serve_http(self, host: str = "127.0.0.1", port: int = 8000) -> AbstractAsyncContextManager[str]:
        """Serve streamable HTTP, both eras on one endpoint, while the block lasts; yields the endpoint's URL."""
        return serve_http(self.server, host, port)

    async def serve_stdio(self) -> None:
        """Serve one client on this process's stdin and stdout until it closes them."""
        await serve_stdio(self.server)


@asynccontextmanager
async def open_runtime(main: object = "main", *, settings: RuntimeSettings | None = None) -> AsyncIterator[Runtime]:
    """A runtime for as long as the block lasts. `main`: its name, or a server whose components are the root's own.

    The block is a nursery block: errors come out as exception groups. Leaving it stops every actor, and leaves no
    task, process or descriptor behind.
    """
    settings = settings or RuntimeSettings()
    name = main if isinstance(main, str) else _called(main)
    router = RouterRef(name, settings.on_conflict)

    def on_change(ref: ActorRef, state: ChildState) -> None:
        if ref is not router:
            router.changed(ref, ask=state == "running")

    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, on_change)
        runtime = Runtime(name, supervisor, router, settings)
        supervisor.start_child(ChildSpec(router, lambda: RouterActor(router, settings.list_budget), settings.restart))
        try:
            if not isinstance(main, str):
                await runtime._own(main)
            yield runtime
        finally:
            with trio.move_on_after(STOP_TIMEOUT, shield=True):
                await supervisor.stop_all()
            nursery.cancel_scope.cancel()


def _tree(handle: MountHandle) -> Mount[ActorRef]:
    return Mount(handle._running.ref, handle.namespace, tuple(_tree(child) for child in handle.children))


def _subtree(handle: MountHandle) -> list[MountHandle]:
    return [handle, *(below for child in handle.children for below in _subtree(child))]


def _identity(target: object) -> object:
    """What makes two mounts the same actor: the low-level server, or the description of a backend."""
    return target if isinstance(target, ProxyServer) else low_level(target)


def _called(target: object) -> str:
    return target.name if isinstance(target, ProxyServer) else low_level(target).name


async def _copied(source: ActorRef, kind: Kind) -> Listing:
    outcome = await source.ask(Request(CATALOG, {"kind": kind}))
    if isinstance(outcome, Failure):
        raise BackendStartError(f"{source.name} does not say what it offers: {outcome.message}")
    listing: Listing = outcome.value["listing"]
    return evolve(listing, fresh=True)


def _connector(proxy: ProxyServer, stderr: StderrTail) -> Connect:
    """How to connect to a backend."""
    target = proxy.target
    if isinstance(target, StdioServer):
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)))
        env = {"PATH": path, **target.env}  # programs installed beside us are found, after all others
        return lambda: stdio_client(target.command, target.args, env=env, cwd=target.cwd, stderr=stderr)
    if isinstance(target, HTTPServer):
        if target.resolved_transport != "http":
            raise MountError(f"{target.url}: transport {target.resolved_transport!r} is not there yet; use http")
        return lambda: http_client(target.url, target.headers)
    return lambda: memory_client(target)


def load_server(config: ModuleServer) -> object:
    """The server object that a config's `module` names.

    Raises:
        ConfigError: there is no such module or object, or importing it fails.
    """
    try:
        module = _import_file(Path(config.module)) if config.is_file else importlib.import_module(config.module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"module {config.module} cannot be imported: {type(error).__name__}: {error}") from error
    for attribute in (config.attribute,) if config.attribute else MODULE_OBJECTS:
        found = getattr(module, attribute, None)
        if found is not None:
            return found
    wanted = config.attribute or " or ".join(MODULE_OBJECTS)
    raise ConfigError(f"module {config.module} has no {wanted}; write it as {config.module}:NAME")


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"mcpactors_module_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def example_config() -> MCPConfig:
    """The config that is served when none is given: servers of this process, so that nothing but Python is needed."""
    servers = {name: {"module": f"mcpactors.example:{name}"} for name in ("weather", "notes")}
    return parse_config({"mcpServers": servers}, source="the built-in example")

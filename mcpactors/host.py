"""The runtime alive: `open_runtime()` builds the tree of actors that a program mounts, and takes it down.

Rule: this is the only module that knows all the others; it connects and decides nothing that they could. What runs,
and how it follows what is mounted: tree/.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import trio
from attrs import evolve
from mcp.client import Client
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.lowlevel import Server as LowLevelServer
from starlette.routing import Route

from mcpactors.actors.backend import RootsChanged, SessionEnded
from mcpactors.backends import example_config
from mcpactors.config import Isolation, MCPConfig
from mcpactors.configfile import load_config, parse_config
from mcpactors.errors import BackendStartError, ConfigError, MCPActorsError, NameConflict, NamespaceError
from mcpactors.foreign import auth_of
from mcpactors.isolation import placed
from mcpactors.mounts import Catalog, CatalogDiff, MountHandle, below, make_handle
from mcpactors.routes import routes_of
from mcpactors.runtime.clients import Clients
from mcpactors.runtime.definitions import ChangePolicy
from mcpactors.runtime.lookups import look_up_apart
from mcpactors.runtime.mailbox import ActorRef
from mcpactors.runtime.naming import KINDS, UriFormat
from mcpactors.runtime.routing import Conflict, Mount, tell_conflicts
from mcpactors.runtime.supervisor import ActorInfo
from mcpactors.runtime.visibility import ToolOverride
from mcpactors.runtime.watchdog import Watchdog, watchdog
from mcpactors.server import Server
from mcpactors.settings import RuntimeSettings
from mcpactors.snapshots import load_snapshot, save_snapshot
from mcpactors.targets import called, check_target
from mcpactors.transports.asgi import HostLimits, ParseLimits, tls_context
from mcpactors.transports.edge import edge_server
from mcpactors.transports.http_server.bearer import Bearer
from mcpactors.transports.http_server.serving import serve_http
from mcpactors.transports.lines.stderr import words_of
from mcpactors.transports.parking import ParkedCall, Parking
from mcpactors.transports.stdio.orphans import own_orphans
from mcpactors.transports.stdio.server import serve_stdio
from mcpactors.transports.surroundings import Surroundings
from mcpactors.tree.configured import Mounted, mount_config
from mcpactors.tree.copies import listed
from mcpactors.tree.face import face_of, in_order
from mcpactors.tree.forest import Forest
from mcpactors.tree.making import Ground
from mcpactors.tree.places import goes_to

__all__ = [
    "VERSION",
    "MountHandle",
    "Runtime",
    "example_config",
    "load_config",
    "load_snapshot",
    "need_trio",
    "open_runtime",
    "save_snapshot",
    "tls_context",
    "words_of",
]

VERSION: Final = "0.1.0"


@final
class Runtime:
    """A tree of actors behind one router. Made by `open_runtime` only."""

    def __init__(
        self,
        name: str,
        nursery: trio.Nursery,
        main: object | None,
        settings: RuntimeSettings,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self._clients = Clients(nursery.start_soon)
        ground = Ground(runtime=self, settings=settings, clients=self._clients, open_runtime=open_runtime)
        self._forest = Forest(name, main, nursery, ground, watchdog)
        self._closing = trio.Event()
        self._parking = Parking(nursery.start_soon, settings.deadlines.question, settings.parked)
        router = self._forest.root.router
        around = Surroundings(
            listen=router.listen,
            spawn=nursery.start_soon,
            parking=self._parking,
            state_keys=settings.state_keys,
            client_came=self._clients.came,
            client_left=self._client_left,
            roots_changed=lambda session: self._forest.tell_proxies(RootsChanged(session)),
            gateways=lambda: (router.gateway, router.through()),
            calls=settings.calls,
            in_flight=settings.clients.in_flight,
            goes_to=partial(goes_to, router),
            closing=self._closing,
            hop_limit=settings.hop_limit,
        )
        face = face_of(self._forest, VERSION)
        self.server: LowLevelServer[Any] = edge_server(router, face, around, settings.deadlines)
        """The endpoint as an SDK server: whatever serves one of those serves this runtime."""
        self._forest.endpoint = self.server
        self._forest.reconcile()

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
            self._forest.root.mounts,
            placed(target, isolate),
            namespace,
            tool_names=tool_names,
            tools=tools,
            include_tags=include_tags,
            exclude_tags=exclude_tags,
            on_tool_change=on_tool_change,
        )
        self._forest.root.mounts.put(handle)
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
        handle = make_handle(self._forest.root.mounts, check_target(target), namespace)
        await self.take_copy(handle)
        self._forest.root.mounts.put(handle)
        await handle.settled()
        return handle

    def mount_snapshot(self, path: str | Path, target: object, namespace: str | None = None) -> MountHandle:
        """Mount a catalog that `save_snapshot` has kept in a file: it is listed before `target`, its source, is up.

        Raises:
            ConfigError: the file cannot be read, or is no snapshot.
        """
        handle = make_handle(self._forest.root.mounts, check_target(target), namespace, catalog=load_snapshot(path))
        self._forest.root.mounts.put(handle)
        return handle

    def mount_config(
        self, config: MCPConfig | Mapping[str, Any] | str | os.PathLike[str], instead_of: Mounted | None = None
    ) -> dict[str, MountHandle | MCPActorsError]:
        """Mount every server of a config that is not disabled; several get their names as namespaces, one none.

        `config` is the file's path, what `load_config` made of it, or a mapping as in the file (a relative `cwd`, `ca`
        or `module` is relative to the folder that we are in). Returns at once (it is not awaited), with a handle a
        server, or the error for one that cannot be mounted at all. A module that cannot be loaded is mounted as a
        backend that does not start, and says why: it is tried again.

        `instead_of` is what an earlier call returned, for a file that has changed since (features E7). A server of
        which it says the same goes on, with its process; one of which it says something else is replaced, one that is
        gone is taken out: calls in flight end there, within the drain time, new ones go to the new one.

        Raises:
            ConfigError: the file is wrong; nothing has changed.
            MCPActorsError: one of its servers cannot be mounted at all, and there is an `instead_of`; likewise.
        """
        if isinstance(config, Mapping):
            config = parse_config(config, source="mount_config")
        elif not isinstance(config, MCPConfig):
            config = load_config(config)
        return mount_config(self._forest, config, instead_of)

    async def take_copy(self, handle: MountHandle) -> CatalogDiff:
        """Copy what an import's source offers now into its handle; returns what is different from the last copy.

        Raises:
            BackendStartError: the source does not start or does not say what it offers; the last copy stays.
        """
        return await self._forest.take_copy(handle)

    async def refuse_conflicts(self) -> None:
        """Raise `NameConflict` when the policy is "error" and two mounts that are up offer one name."""
        if self.settings.on_conflict == "error":
            for kind in KINDS:
                with suppress(BackendStartError):
                    await listed(self._forest.root.router, kind)
            if self._forest.root.router.table.conflicts:
                raise NameConflict(tell_conflicts(self._forest.root.router.table.conflicts))

    # --- Looking and serving --------------------------------------------------------------------------------------

    def client(self, **options: Any) -> Client:
        """The SDK's `Client` of this runtime, in memory; `options` are its own (`mode="legacy"`, callbacks, ...)."""
        return Client(self.server, **options)

    def ps(self) -> ActorInfo:
        """A frozen snapshot of the tree of actors."""

        def row(mount: Mount[ActorRef]) -> ActorInfo:
            return evolve(self._forest.info(mount.target), children=tuple(map(row, mount.children)))

        root = row(self._forest.root.router.tree)
        if self._forest.root.main is None:
            return root
        own = evolve(root, children=())
        return evolve(self._forest.supervisor.info(self._forest.root.router.name), children=(own, *root.children))

    def parked(self) -> tuple[ParkedCall, ...]:
        """The calls of modern clients that wait for their clients' answers, the oldest first."""
        return tuple(self._parking)

    def conflicts(self) -> tuple[Conflict, ...]:
        """Every name that one mount hides from another."""
        return self._forest.root.router.table.conflicts

    def routes(self) -> list[Route]:
        """The custom HTTP routes of everything that is mounted, by their own paths and by namespaced ones.

        The first that fits answers: a path that several have is the newest mount's.
        """
        own: list[Route] = []
        namespaced: list[Route] = []
        for namespace, _, source in in_order(self._forest):
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
        auth: AuthSettings | None = None,
        token_verifier: TokenVerifier | None = None,
    ) -> AbstractAsyncContextManager[str]:
        """Serve streamable HTTP, both eras on one endpoint, while the block lasts; yields the endpoint's URL.

        `allowed_hosts` are names by which clients may ask for it beside `host` and the loopback, as behind a proxy or
        bound to 0.0.0.0; `allowed_origins` web pages that may ask (docs/security.md). `uds` is the path of a Unix
        socket to serve at instead. `websocket`: WebSocket is spoken at the same address, too. `auth` and
        `token_verifier`, the SDK's, ask every request to MCP for a token; without them the main server's own do, where
        it has some. The verifier runs on trio. Raises `ConfigError`.
        """
        if (auth is None) is not (token_verifier is None):
            missing = "auth" if auth is None else "token_verifier"
            raise ConfigError(f"auth=AuthSettings(...) and token_verifier=... go together; {missing} is missing")
        given = auth_of(self._forest.root.main) if auth is None or token_verifier is None else (auth, token_verifier)
        clients = self.settings.clients
        parse = ParseLimits(body=clients.body)
        return serve_http(
            self.server,
            host,
            port,
            routes=self.routes,
            limits=HostLimits(
                parse, head_timeout=clients.head_timeout, drain=self.settings.drain, unread=clients.unread
            ),
            clients=clients,
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
            ssl_context=ssl_context,
            uds=uds,
            websocket=websocket,
            bearer=None if given is None else Bearer(*given),
        )

    async def serve_stdio(self, stopping: trio.Event | None = None) -> None:
        """Serve one client on this process's stdin and stdout until it closes them, or until `stopping` is set.

        Then what it has asked has `RuntimeSettings.drain` seconds to be answered, and nothing new is begun. After the
        end of stdin it has 0.8 s, from when all that is mounted has started or failed to.
        """
        await serve_stdio(self.server, stopping, self.settings.drain, self.settings.clients, self._started)

    def end_listening(self) -> None:
        """End the streams of changes of modern clients in good order: serving is about to end (promise P10)."""
        self._closing.set()

    def _client_left(self, session: str) -> None:
        self._clients.left(session)
        self._forest.tell_proxies(SessionEnded(session))

    async def _started(self) -> None:
        """Wait until all that is mounted now has started, or failed to, for the first time."""
        for running in list(self._forest.running.values()):
            await self._forest.supervisor.wait_settled(running.ref.name)


@asynccontextmanager
async def open_runtime(main: object = "main", *, settings: RuntimeSettings | None = None) -> AsyncIterator[Runtime]:
    """A runtime for as long as the block lasts. `main`: its name, or a server whose components are the root's own.

    A `Server` brings everything that is mounted on it; what it mounts while the block lasts starts at once. The block
    is a nursery block: errors come out as exception groups. Leaving it stops every actor, and leaves no task, process
    or descriptor behind.

    Raises:
        RuntimeError: this is no trio program.
        NameConflict: two mounts offer one name, and the policy is "error".
        ConfigError: the settings are none.
        MountError, MountCycle: the description cannot be made alive.
    """
    need_trio("open_runtime(...)")
    name = main if isinstance(main, str) else called(check_target(main))
    settings = RuntimeSettings() if settings is None else settings
    if not isinstance(settings, RuntimeSettings):
        raise ConfigError(f"settings: expected RuntimeSettings(...), got {type(settings).__name__}")
    look_up_apart()
    with watchdog(settings.stall) as dog:
        async with trio.open_nursery() as nursery, own_orphans(nursery) if settings.subreaper else nullcontext():
            runtime = Runtime(name, nursery, None if isinstance(main, str) else main, settings, dog)
            try:
                await runtime._started()
                await runtime.refuse_conflicts()
                yield runtime
            finally:
                runtime.end_listening()
                await runtime._forest.close()
                nursery.cancel_scope.cancel()


def need_trio(what: str) -> None:
    """Raise RuntimeError, with what to do, where asyncio or nothing runs: its own errors come late and say little."""
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"{what} needs trio, which does not run here: start the program with trio.run(main), not "
            "asyncio.run(main())"
        )


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

"""`Server`: its own components, what is mounted on it, and serving it; `create_proxy`.

Rule: descriptions only; a runtime makes them alive.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NoReturn, Unpack

import trio

from mcpactors.components import Components, Words
from mcpactors.config import HTTPServer, Isolation, StdioServer
from mcpactors.errors import MountError
from mcpactors.isolation import placed
from mcpactors.mirrored import Mirrored, find_mirrored
from mcpactors.mounts import MountHandle, make_handle
from mcpactors.runtime.definitions import ChangePolicy
from mcpactors.runtime.naming import Kind
from mcpactors.runtime.visibility import ToolOverride
from mcpactors.targets import Policy, ProxyServer, describe

__all__ = ["Server", "create_proxy"]


class Server(Components):
    """The SDK's `MCPServer` with tags, visibility, live changes, and servers mounted on it (seeds 001, 003, 004).

    Schemas, validation, `Context`, dependency injection and completions are the SDK's. Constructing one does not touch
    the program's logging. `options` are the SDK's (title, website_url, auth, ...).
    """

    copy_apart: ClassVar[Callable[[MountHandle], Awaitable[None]]]
    """Takes the copy of an import while this server is in no runtime: set by the host, which alone knows how."""

    serve_alone: ClassVar[Callable[..., Awaitable[None]]]
    """Runs and serves a server until it is told to stop: set by `serving`."""

    def mount(
        self,
        target: object,
        namespace: str | None = None,
        *,
        as_proxy: bool = False,
        isolate: Isolation | None = None,
        on_tool_change: ChangePolicy | None = None,
        tool_names: Mapping[str, str] | None = None,
        tools: Mapping[str, ToolOverride] | None = None,
        include_tags: Words = (),
        exclude_tags: Words = (),
    ) -> MountHandle:
        """Mount another server on this one, live (seed 001, "Basic Mounting"). At once when this one is running.

        `as_proxy`: speak to it over memory streams, in sessions of its own. `isolate="process"`: run it in a child
        process, where it can block, crash and fill its memory alone; `target` is then a name, "package.module:object"
        or "./file.py:object", or a function at the top of a module that makes the server. `on_tool_change`:
        what becomes of a tool whose definition is not what it was when it was first seen ("allow", "warn",
        "quarantine"; see `ChangePolicy`). `tool_names` renames tools of the target; `tools` says more of them (see
        `ToolOverride`). `include_tags` and `exclude_tags` filter this mount.

        Raises:
            NamespaceError: illegal characters in the namespace.
            MountCycle: this server is the target, or mounted somewhere below it.
            MountError: the target is no server, or cannot be isolated.
        """
        checked = placed(target, isolate)
        handle = make_handle(
            self.mounts,
            create_proxy(checked) if as_proxy and not isinstance(checked, ProxyServer) else checked,
            namespace,
            tool_names=tool_names,
            tools=tools,
            include_tags=include_tags,
            exclude_tags=exclude_tags,
            on_tool_change=on_tool_change,
        )
        self.mounts.put(handle)
        return handle

    async def import_server(self, target: object, namespace: str | None = None) -> MountHandle:
        """Copy what `target` offers at this moment; later changes are not seen (seeds 001 and 003, "Importing").

        The copied components run in an actor of their source, which is not mounted: so they keep the lifespan that
        they need, and this server does not run it.

        Raises:
            BackendStartError: the source does not start or does not say what it offers.
            NamespaceError, MountCycle, MountError: as for `mount`.
        """
        self._fits(target)
        handle = make_handle(self.mounts, target, namespace)
        await self._take(handle)
        self.mounts.put(handle)
        return handle

    async def _take(self, handle: MountHandle) -> None:
        if self.running_in:
            await self.running_in[-1].take_copy(handle)
        else:
            await type(self).copy_apart(handle)

    async def get_tool(self, name: str) -> Mirrored:
        """The tool that this server mirrors under that name (seed 002 "Mirrored Components"; features.md C7).

        It is what its backend says and refuses every change. `copy()` gives a local one that can be changed; added to
        a server, it wins over all that is mounted there. Asks the backend, which is started for that while no runtime
        runs this server.

        Raises:
            NotFound: nothing that is mounted on this server has it.
            BackendStartError: a backend that may have it does not say what it offers.
        """
        return await self._mirrored(name, "tools")

    async def get_resource(self, uri: str) -> Mirrored:
        """The resource, or template, that this server mirrors at that URI; as `get_tool`."""
        return await self._mirrored(uri, "resources", "templates")

    async def get_prompt_component(self, name: str) -> Mirrored:
        """The prompt that this server mirrors; as `get_tool`. (`get_prompt` is the SDK's, and renders one.)"""
        return await self._mirrored(name, "prompts")

    async def _mirrored(self, key: str, *kinds: Kind) -> Mirrored:
        try:
            return await find_mirrored(self.mounts, self._take, key, *kinds)
        finally:
            self.mounts.changed()  # what ran only to be looked at is not used any more

    # --- Serving --------------------------------------------------------------------------------------------------

    def run(self, transport: str = "stdio", **options: Any) -> None:
        """Serve this server and all that is mounted on it, as a program's last line; on trio, until Ctrl-C.

        `transport` is "stdio", or "streamable-http" (or "http", or "sse": they are one endpoint, with /sse beside it).
        `options`: `settings=RuntimeSettings(...)`, and over HTTP those of `Runtime.serve_http`: `host`, `port`,
        `allowed_hosts`, `allowed_origins`, `ssl_context`, `uds`, `websocket`, `auth`, `token_verifier`. The first
        Ctrl-C, or SIGTERM, lets calls in flight end.

        Raises:
            ConfigError: there is no such transport or option, or the address cannot be served at.
        """
        trio.run(partial(self.run_async, transport, **options))

    async def run_async(self, transport: str = "stdio", **options: Any) -> None:
        """`run`, in a trio program; several things at once are `open_runtime(server)`."""
        await type(self).serve_alone(self, transport, **options)

    async def run_stdio_async(self) -> None:
        """As `run_async("stdio")`."""
        await self.run_async("stdio")

    async def run_streamable_http_async(self, **options: Any) -> None:
        """As `run_async("streamable-http", ...)`."""
        await self.run_async("streamable-http", **options)

    async def run_sse_async(self, **options: Any) -> None:
        """As `run_async("sse", ...)`."""
        await self.run_async("sse", **options)

    def streamable_http_app(self, **options: Any) -> NoReturn:
        """Raises `MountError`: the SDK's app would serve this server without what is mounted on it."""
        raise MountError(
            "an app of this server alone has nothing that is mounted on it; server.run('streamable-http') serves all, "
            "and `async with open_runtime(server) as runtime` has runtime.server.streamable_http_app() for trio, which "
            "asks for tokens only when it is given auth=... and token_verifier=..., whatever this server has"
        )

    def sse_app(self, **options: Any) -> NoReturn:
        """Raises `MountError`, as `streamable_http_app`."""
        self.streamable_http_app()

    @classmethod
    def as_proxy(cls, target: object, name: str | None = None, **policy: Unpack[Policy]) -> Server:
        """A server that mirrors a backend: whatever `create_proxy` takes (seed 002)."""
        proxy = create_proxy(target, name, **policy)
        server = cls(proxy.name)
        server.mount(proxy)
        return server


def create_proxy(target: object, name: str | None = None, **policy: Unpack[Policy]) -> ProxyServer | Server:
    """Describe a proxied backend (seeds 001 "Mounting External Servers" and 002; features.md C1).

    `target` is one of
    * an http(s) URL; the path of a `.py` or `.js` script;
    * an `mcpServers` mapping, its one entry, or the path of a `.json` file that has one. Of several entries it makes a
      server that has each mounted under its name (seeds 002 and 003);
    * a transport: ours (`NpxStdioTransport(...)`, ...), the SDK's, or a function that makes one;
    * a client, ours or the SDK's: its transport is used, for sessions of the proxy's own; one that is connected
      already is used as it is, and so is an SDK `ClientSession`;
    * a server of this process, ours or the SDK's, or a runtime: spoken to over memory streams, in sessions of its own.

    `policy`, for each of them: `sessions` ("shared", "per_client", "per_call"), `era` ("auto", "legacy", "modern"),
    `forward`, `pool`, and `roots`, `sampling`, `elicitation`, `logging`, `progress`, of which each may be None: then it
    is switched off.

    Raises:
        ConfigError: the target, or the policy, cannot be understood.
    """
    found = describe(target, name)
    if isinstance(found, ProxyServer):
        found = found.with_policy(policy) if policy else found
        includes, excludes = _filters(found)
        if isinstance(target, StdioServer | HTTPServer) or not (includes or excludes):  # the mount of one entry filters
            return found
        name, found = found.name, {"": found}
    whole = Server(name or "config")
    for namespace, proxy in found.items():
        includes, excludes = _filters(proxy)
        whole.mount(
            proxy.with_policy(policy) if policy else proxy,
            namespace or None,
            include_tags=includes,
            exclude_tags=excludes,
        )
    return whole


def _filters(proxy: ProxyServer) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tags of what is shown and of what is not, as its config says."""
    server = proxy.target
    return (server.include_tags, server.exclude_tags) if isinstance(server, StdioServer | HTTPServer) else ((), ())

"""`Server`: components, visibility, and what is mounted on it; `create_proxy`.

Rule: descriptions only; a runtime makes them alive. The SDK's private names that we need of a server (its managers,
its routes) are used in this file only.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar, Unpack, overload

import trio
from mcp.server import MCPServer
from mcp.server.context import ServerMiddleware
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.resources import Resource
from mcp.server.mcpserver.tools import Tool
from mcp.server.subscriptions import SubscriptionBus
from mcp.shared._callable_inspection import is_async_callable
from mcp_types import Annotations, Icon, ToolAnnotations
from mcp_types import Prompt as ListedPrompt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcpactors.config import HTTPServer, Isolation, StdioServer
from mcpactors.errors import InvalidParams, MountError
from mcpactors.isolation import placed
from mcpactors.mirrored import Copies, LocalCopy, Mirrored, find_mirrored, refuse_mirrored
from mcpactors.mounts import CatalogDiff, MountHandle, Mounts, make_handle, refuse_cycle
from mcpactors.runtime.definitions import ChangePolicy
from mcpactors.runtime.naming import Kind, shape_of, validate_name
from mcpactors.runtime.threads import in_thread
from mcpactors.runtime.visibility import SHOW_ALL, TAGS_KEY, Rule, ToolOverride, Visibility
from mcpactors.targets import Policy, ProxyServer, called, check_target, describe

__all__ = ["Copier", "Server", "create_proxy", "routes_of", "session_state", "sync_handlers_in_threads"]

Function = TypeVar("Function", bound=Callable[..., Any])
Words = Iterable[str]
Middleware = ServerMiddleware[Any]


class Copier(Protocol):
    """What a runtime does for an import."""

    async def take_copy(self, handle: MountHandle) -> CatalogDiff: ...


@contextmanager
def _logging_left_alone() -> Iterator[None]:
    """The SDK's `MCPServer` sets up the program's logging when constructed, unless somebody has: so somebody has."""
    nobody = logging.NullHandler()
    logging.root.addHandler(nobody)
    try:
        yield
    finally:
        logging.root.removeHandler(nobody)


class Server(MCPServer[Any]):
    """The SDK's `MCPServer` with tags, visibility, live changes, and servers mounted on it (seeds 001, 003, 004).

    Schemas, validation, `Context`, dependency injection and completions are the SDK's. Constructing one does not touch
    the program's logging. `options` are the SDK's (title, website_url, auth, ...).
    """

    copy_apart: ClassVar[Callable[[MountHandle], Awaitable[None]]]
    """Takes the copy of an import while this server is in no runtime: set by the host, which alone knows how."""

    serve_alone: ClassVar[Callable[..., Awaitable[None]]]
    """Runs and serves a server until it is told to stop: set by `serving`."""

    def __init__(
        self,
        name: str | None = None,
        *,
        instructions: str | None = None,
        version: str = "",
        lifespan: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
        middleware: Sequence[Middleware] = (),
        **options: Any,
    ) -> None:
        self.mounts = Mounts(self._fits, check_target)
        self.copies = Copies(self.mounts)
        self._rules: Visibility = SHOW_ALL
        self.routes: list[Route] = []
        self.running_in: list[Copier] = []
        """The runtimes that run this server now."""
        self._prompt_meta: dict[str, dict[str, Any]] = {}
        self._listeners: dict[Callable[[Kind], None], None] = {}
        with _logging_left_alone():
            super().__init__(
                name,
                instructions=instructions,
                version=version,
                lifespan=lifespan,
                middleware=list(middleware),
                warn_on_duplicate_tools=options.pop("warn_on_duplicate_tools", True),
                **options,
            )
        self._sdk_middleware = tuple(self.middleware[: len(self.middleware) - len(middleware)])

    @property
    def own_middleware(self) -> tuple[Middleware, ...]:
        """What its author put around it, outermost first: all of `middleware` that is not the SDK's own."""
        return tuple(each for each in self.middleware if each not in self._sdk_middleware)

    # --- Components -----------------------------------------------------------------------------------------------

    @overload  # type: ignore[override]  # also without parentheses, and with tags
    def tool(self, name: Function) -> Function: ...
    @overload
    def tool(
        self,
        name: str | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        structured_output: bool | None = None,
        tags: Words = (),
        enabled: bool = True,
    ) -> Callable[[Function], Function]: ...
    def tool(
        self,
        name: str | Callable[..., Any] | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        structured_output: bool | None = None,
        tags: Words = (),
        enabled: bool = True,
    ) -> Any:
        """Add a function as a tool: `@server.tool`, `@server.tool(...)` or `@server.tool("name")`."""
        if callable(name):
            return self.tool()(name)

        def decorate(function: Function) -> Function:
            self.add_tool(
                function,
                name=name,
                title=title,
                description=description,
                annotations=annotations,
                icons=icons,
                meta=_tagged(meta, tags),
                structured_output=structured_output,
            )
            self._hide_unless(enabled, "tool", name or function.__name__)
            return function

        return decorate

    def resource(
        self,
        uri: str,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime_type: str | None = None,
        icons: list[Icon] | None = None,
        annotations: Annotations | None = None,
        meta: dict[str, Any] | None = None,
        tags: Words = (),
        enabled: bool = True,
        **options: Any,
    ) -> Callable[[Function], Function]:
        """Add a function as a resource, or as a template when the URI has `{parameters}`."""
        if callable(uri):
            raise TypeError('@server.resource needs the URI: @server.resource("data://name")')
        self._refuse_second_template(uri)
        register = super().resource(
            uri,
            name=name,
            title=title,
            description=description,
            mime_type=mime_type,
            icons=icons,
            annotations=annotations,
            meta=_tagged(meta, tags),
            **options,
        )

        def decorate(function: Function) -> Function:
            register(function)
            self._hide_unless(enabled, "template" if "{" in uri else "resource", uri)
            self.components_changed("templates" if "{" in uri else "resources")
            return function

        return decorate

    def _refuse_second_template(self, uri: str) -> None:
        shape = shape_of(uri)
        for there in self._resource_manager._templates:
            if there != uri and shape_of(there) == shape:
                raise InvalidParams(
                    f"the template {uri!r:.200} stands for the same URIs as {there!r:.200}, which would answer all of "
                    "them; give it a path of its own, or remove the other first"
                )

    @overload  # type: ignore[override]
    def prompt(self, name: Function) -> Function: ...
    @overload
    def prompt(
        self,
        name: str | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        tags: Words = (),
        enabled: bool = True,
    ) -> Callable[[Function], Function]: ...
    def prompt(
        self,
        name: str | Callable[..., Any] | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        tags: Words = (),
        enabled: bool = True,
    ) -> Any:
        """Add a function as a prompt: `@server.prompt`, `@server.prompt(...)` or `@server.prompt("name")`."""
        if callable(name):
            return self.prompt()(name)

        def decorate(function: Function) -> Function:
            prompt = Prompt.from_function(function, name=name, title=title, description=description, icons=icons)
            self.add_prompt(prompt)
            whole = _tagged(meta, tags)
            if whole is not None:
                self._prompt_meta[prompt.name] = whole
            self._hide_unless(enabled, "prompt", prompt.name)
            return function

        return decorate

    def add_tool(  # type: ignore[override]
        self, fn: Callable[..., Any] | LocalCopy, name: str | None = None, **options: Any
    ) -> None:
        """Add a function as a tool, or a local copy of a mirrored one."""
        refuse_mirrored(fn)
        if isinstance(fn, LocalCopy):
            self.copies.add(fn, "tools")
            return
        validate_name("tool", fn.__name__ if name is None else name)
        tags = options.pop("tags", ())
        options["meta"] = _tagged(options.get("meta"), tags)
        super().add_tool(fn, name, **options)
        self.components_changed("tools")

    def remove_tool(self, name: str) -> None:
        if self.copies.remove(name, "tools"):
            return
        super().remove_tool(name)
        self.components_changed("tools")

    def add_resource(self, resource: Resource | LocalCopy) -> None:
        """Add a resource, or a local copy of a mirrored resource or template."""
        refuse_mirrored(resource)
        if isinstance(resource, LocalCopy):
            self.copies.add(resource, "resources", "templates")
            return
        super().add_resource(resource)
        self.components_changed("resources")

    def remove_resource(self, uri: str) -> None:
        """Remove a resource, or a template, by its URI. Raises `InvalidParams` when there is none."""
        if self.copies.remove(uri, "resources", "templates"):
            return
        manager = self._resource_manager
        for kind, there in (("resources", manager._resources), ("templates", manager._templates)):
            if there.pop(uri, None) is not None:
                self.components_changed(kind)  # type: ignore[arg-type]
                return
        raise InvalidParams(f"there is no resource or template {uri!r} to remove")

    def add_prompt(self, prompt: Prompt | LocalCopy) -> None:
        """Add a prompt, or a local copy of a mirrored one."""
        refuse_mirrored(prompt)
        if isinstance(prompt, LocalCopy):
            self.copies.add(prompt, "prompts")
            return
        validate_name("prompt", prompt.name)
        super().add_prompt(prompt)
        self.components_changed("prompts")

    def remove_prompt(self, name: str) -> None:
        if self.copies.remove(name, "prompts"):
            return
        super().remove_prompt(name)
        self._prompt_meta.pop(name, None)
        self.components_changed("prompts")

    async def list_prompts(self) -> list[ListedPrompt]:
        """The SDK's list; its prompts carry no `_meta` of their own."""
        listed = await super().list_prompts()
        return [
            prompt.model_copy(update={"meta": self._prompt_meta[prompt.name]})
            if prompt.name in self._prompt_meta
            else prompt
            for prompt in listed
        ]

    def completion(self, function: Function | None = None) -> Any:
        """Add the function that completes arguments: `@server.completion` or `@server.completion()`."""
        register = super().completion()  # type: ignore[no-untyped-call]
        return register if function is None else register(function)

    def custom_route(
        self, path: str, methods: Sequence[str] = ("GET",), name: str | None = None, include_in_schema: bool = True
    ) -> Callable[[Function], Function]:
        """Serve an HTTP route beside the MCP endpoint, here and in every server that this one is mounted on.

        The function takes a Starlette `Request` or nothing, and returns a `Response` or a JSON value.
        """

        if not path.startswith("/"):
            raise InvalidParams(f"the route {path!r} cannot be served: its path must start with '/'")

        def decorate(function: Function) -> Function:
            route = Route(path, _endpoint(path, function), methods=list(methods), name=name)
            self.routes.append(route)
            return function

        return decorate

    # --- Live changes and visibility ------------------------------------------------------------------------------

    def components_changed(self, *kinds: Kind) -> None:
        """Tell everybody who listens that lists of these kinds are not what they were."""
        for listener in list(self._listeners):
            for kind in kinds:
                listener(kind)

    def listen(self, listener: Callable[[Kind], None]) -> Callable[[], None]:
        """Have `listener(kind)` called after every change of the server's own components; returns what ends that."""
        self._listeners[listener] = None
        return lambda: self._listeners.pop(listener, None) and None

    def enable(
        self,
        *,
        names: Words | None = None,
        tags: Words | None = None,
        components: Words | None = None,
        only: bool = False,
    ) -> None:
        """Show components, here and in everything mounted below: those that fit all that is given.

        `names` are as this server lists them; `components` are "tool", "prompt", "resource", "template". With `only`
        everything else is hidden. What is hidden cannot be called. Later calls win over earlier ones.
        """
        self._rule(Rule(True, names, tags, components, only))

    def disable(
        self, *, names: Words | None = None, tags: Words | None = None, components: Words | None = None
    ) -> None:
        """Hide components, here and in everything mounted below: those that fit all that is given."""
        self._rule(Rule(False, names, tags, components))

    @property
    def visibility(self) -> Visibility:
        """What `enable` and `disable` have said, and which local copies are switched off."""
        return Visibility((*self._rules.rules, *self.copies.rules))

    def _rule(self, rule: Rule) -> None:
        self._rules = self._rules.and_then(rule)
        self.mounts.changed()

    def _hide_unless(self, enabled: bool, component: str, name: str) -> None:
        if not enabled:
            self.disable(names={name}, components={component})

    # --- Composition ----------------------------------------------------------------------------------------------

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
        `allowed_hosts`, `allowed_origins`, `ssl_context`, `uds`, `websocket`. The first Ctrl-C, or SIGTERM, lets calls
        in flight end.

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
            "and `async with open_runtime(server) as runtime` has runtime.server.streamable_http_app() for trio"
        )

    def sse_app(self, **options: Any) -> NoReturn:
        """Raises `MountError`, as `streamable_http_app`."""
        self.streamable_http_app()

    def _fits(self, target: object) -> None:
        refuse_cycle(self, check_target(target), called)

    @classmethod
    def as_proxy(cls, target: object, name: str | None = None, **policy: Unpack[Policy]) -> Server:
        """A server that mirrors a backend: whatever `create_proxy` takes (seed 002)."""
        proxy = create_proxy(target, name, **policy)
        server = cls(proxy.name)
        server.mount(proxy)
        return server


def _tagged(meta: Mapping[str, Any] | None, tags: Words) -> dict[str, Any] | None:
    names = sorted({tags} if isinstance(tags, str) else set(tags))
    return {**(meta or {}), TAGS_KEY: names} if names else (dict(meta) if meta is not None else None)


def _endpoint(path: str, function: Callable[..., Any]) -> Callable[[Request], Awaitable[Response]]:
    takes_request = bool(inspect.signature(function).parameters)

    async def endpoint(request: Request) -> Response:
        result = function(request) if takes_request else function()
        if inspect.isawaitable(result):
            result = await result
        try:
            return result if isinstance(result, Response) else JSONResponse(result)
        except (TypeError, ValueError) as error:
            raise TypeError(f"the route {path} returned what is neither a Response nor JSON: {error}") from error

    return endpoint


def session_state(ctx: Context[Any, Any]) -> dict[str, Any]:
    """What a server keeps for one client session: a dict that its later calls find again.

    A client of the new era has no session, and finds it empty at every call.
    """
    state: dict[str, Any] = ctx.session._connection.state
    return state


def bus_of(target: object) -> SubscriptionBus | None:
    """Where an SDK server publishes the changes that its tools tell of."""
    return target._subscriptions if isinstance(target, MCPServer) else None


def sync_handlers_in_threads(target: object) -> None:
    """Have the sync functions that an SDK server has now run in threads under the limit of the actor that calls them.

    Its own way to a thread has one limit for the whole process and waits for the thread, whatever happens. Called
    again it finds what was added since. Other servers than the SDK's `MCPServer` are left as they are.
    """
    if not isinstance(target, MCPServer):
        return
    resources = target._resource_manager
    for components in (
        target._tool_manager._tools,
        target._prompt_manager._prompts,
        resources._resources,
        resources._templates,
    ):
        for component in components.values():
            function = getattr(component, "fn", None)
            if function is not None and not is_async_callable(function):
                component.fn = in_thread(function)  # type: ignore[union-attr]
                if isinstance(component, Tool):
                    component.is_async = True


def routes_of(target: object) -> Sequence[Route]:
    """The custom HTTP routes that a server's author has given it."""
    if isinstance(target, ProxyServer):  # a server of this process brings its routes and those of all below it
        behind = target.behind
        deeper = (routes_of(handle.target) for handle in reversed(list(behind.mounts))) if behind is not None else ()
        return [*(behind.routes if behind is not None else ()), *(route for routes in deeper for route in routes)]
    if isinstance(target, Server):
        return target.routes
    return target._custom_starlette_routes if isinstance(target, MCPServer) else ()


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

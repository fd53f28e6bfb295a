"""`Components`: what a server has of its own - tools, resources, prompts, routes - and who may see it.

Rule: descriptions only; what is mounted on a server, and how it is served, is in `server`. Of the SDK's `MCPServer`,
whose managers have no public names, this file and `foreign` alone know the private ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar, overload

from mcp.server import MCPServer
from mcp.server.context import ServerMiddleware
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.resources import Resource
from mcp_types import Annotations, Icon, ToolAnnotations
from mcp_types import Prompt as ListedPrompt
from starlette.routing import Route

from mcpactors.errors import InvalidParams
from mcpactors.mirrored import Copies, LocalCopy, refuse_mirrored
from mcpactors.mounts import Copier, Mounts, refuse_cycle
from mcpactors.routes import endpoint
from mcpactors.runtime.naming import Kind, shape_of, validate_name
from mcpactors.runtime.visibility import SHOW_ALL, TAGS_KEY, Rule, Visibility
from mcpactors.targets import called, check_target

__all__ = ["Components", "Words"]

Function = TypeVar("Function", bound=Callable[..., Any])
Words = Iterable[str]
Middleware = ServerMiddleware[Any]


@contextmanager
def _logging_left_alone() -> Iterator[None]:
    """The SDK's `MCPServer` sets up the program's logging when constructed, unless somebody has: so somebody has."""
    nobody = logging.NullHandler()
    logging.root.addHandler(nobody)
    try:
        yield
    finally:
        logging.root.removeHandler(nobody)


class Components(MCPServer[Any]):
    """The half of `Server` in which nothing is mounted yet: what its author adds by decorator, shows and hides."""

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
            route = Route(path, endpoint(path, function), methods=list(methods), name=name)
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

    def _fits(self, target: object) -> None:
        refuse_cycle(self, check_target(target), called)


def _tagged(meta: Mapping[str, Any] | None, tags: Words) -> dict[str, Any] | None:
    names = sorted({tags} if isinstance(tags, str) else set(tags))
    return {**(meta or {}), TAGS_KEY: names} if names else (dict(meta) if meta is not None else None)

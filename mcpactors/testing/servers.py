"""Servers as values: what Hypothesis draws, shrinks and prints, and the real `Server`s that are built from it.

Rule: every component says whose it is, twice: in the description that is listed and in what it answers. So whoever
holds a list can tell what each call must answer, without knowing how names are made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from attrs import field, frozen
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.resources.templates import ResourceSecurity
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceLink,
    ResourceTemplateReference,
    TextContent,
)

from mcpactors.runtime.naming import Kind
from mcpactors.runtime.visibility import Rule
from mcpactors.server import Server

__all__ = ["MountSpec", "Offer", "ServerSpec", "Tree", "add_offer", "label", "remove_offer", "show"]

_ANY_VALUE = ResourceSecurity(reject_path_traversal=False, reject_absolute_paths=False, reject_null_bytes=False)
"""What is drawn may look like an attack; these resources are no files."""


@frozen
class Offer:
    """One tool, prompt, resource or template that a server has."""

    kind: Kind
    name: str
    """A resource's URI, a template's URI template."""
    tags: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    """URIs that a tool's or a prompt's answer hands out, as the server itself calls them."""


@frozen
class ServerSpec:
    """One server: its components in order, and the rules of `enable` and `disable` that it was given."""

    name: str
    offers: tuple[Offer, ...] = ()
    rules: tuple[Rule, ...] = ()

    def build(self) -> Server:
        """A real server, new."""
        server = Server(self.name)
        for offer in self.offers:
            add_offer(server, offer)
        for rule in self.rules:
            show(server, rule)
        _complete(server)
        return server


@frozen
class MountSpec:
    """A mount of one server of a tree on another; both by their number."""

    parent: int
    child: int
    namespace: str | None = None
    tool_names: Mapping[str, str] = field(factory=dict)
    include_tags: tuple[str, ...] = ()
    exclude_tags: tuple[str, ...] = ()


@frozen
class Tree:
    """Servers and how they are mounted, oldest first. The first is the root; one may be mounted more than once."""

    servers: tuple[ServerSpec, ...]
    mounts: tuple[MountSpec, ...] = ()

    def build(self) -> list[Server]:
        """Real servers, new, mounted on each other."""
        servers = [spec.build() for spec in self.servers]
        for mount in self.mounts:
            servers[mount.parent].mount(
                servers[mount.child],
                mount.namespace,
                tool_names=mount.tool_names,
                include_tags=mount.include_tags,
                exclude_tags=mount.exclude_tags,
            )
        return servers


def label(owner: str, kind: str, name: str) -> str:
    """What a component says of itself, in its description and in its answer."""
    return f"{owner} has {kind} {name}"


def show(server: Server, rule: Rule) -> None:
    """Give a server a rule by `enable` or `disable`."""
    if rule.show:
        server.enable(names=rule.names, tags=rule.tags, components=rule.components, only=rule.only)
    else:
        server.disable(names=rule.names, tags=rule.tags, components=rule.components)


def add_offer(server: Server, offer: Offer) -> None:
    """Add a component to a server that has none of this kind and name. It answers what `label` says, and its links."""
    _ADD[offer.kind](server, offer, label(server.name, offer.kind, offer.name))


def remove_offer(server: Server, kind: Kind, name: str) -> None:
    """Take a component from a server that has it."""
    remove = {"tools": server.remove_tool, "prompts": server.remove_prompt}.get(kind, server.remove_resource)
    remove(name)


# --- One function a kind: async, because the SDK runs what is not in a thread -----------------------------------------


def _add_tool(server: Server, offer: Offer, said: str) -> None:
    async def call() -> list[TextContent | ResourceLink]:
        return [TextContent(type="text", text=said), *_links(offer)]

    server.add_tool(call, offer.name, description=said, structured_output=False, tags=offer.tags)


def _add_prompt(server: Server, offer: Offer, said: str) -> None:
    async def get() -> list[UserMessage]:
        return [UserMessage(said), *map(UserMessage, _links(offer))]

    server.prompt(offer.name, description=said, tags=offer.tags)(get)


def _add_resource(server: Server, offer: Offer, said: str) -> None:
    async def read() -> str:
        return said

    server.resource(offer.name, name="resource", description=said, tags=offer.tags)(read)


def _add_template(server: Server, offer: Offer, said: str) -> None:
    variables = UriTemplate.parse(offer.name).variable_names

    async def read(**values: str | list[str]) -> str:
        return said

    # The SDK wants a parameter for every variable, by name; optional, as those of a query are; a list, of `{/x*}`.
    value = str | list[str]
    words = [inspect.Parameter(it, inspect.Parameter.KEYWORD_ONLY, default="", annotation=value) for it in variables]
    read.__signature__ = inspect.Signature(words, return_annotation=str)  # type: ignore[attr-defined]
    read.__annotations__ = {**dict.fromkeys(variables, value), "return": str}
    server.resource(offer.name, name="template", description=said, tags=offer.tags, security=_ANY_VALUE)(read)


_ADD: Mapping[Kind, Callable[[Server, Offer, str], None]] = {
    "tools": _add_tool,
    "prompts": _add_prompt,
    "resources": _add_resource,
    "templates": _add_template,
}


def _links(offer: Offer) -> list[ResourceLink]:
    return [ResourceLink(type="resource_link", name="link", uri=uri) for uri in offer.links]


def _complete(server: Server) -> None:
    """Have the server complete every argument with its own label for what the reference names."""

    @server.completion()  # type: ignore[untyped-decorator]
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        kind, name = ("prompts", ref.name) if isinstance(ref, PromptReference) else ("templates", ref.uri)
        return Completion(values=[label(server.name, kind, name)])

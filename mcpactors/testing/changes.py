"""Changes to a running composition, as values: drawn by Hypothesis, made in a `World`, foretold by a `Model`.

Rule: servers and mounts are meant by number, counted round, so that any change can be made in any world; one that
means nothing there (there is no mount to unmount) does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field, frozen

from mcpactors.host import Runtime
from mcpactors.mounts import MountHandle, below, make_handle
from mcpactors.runtime.naming import Kind
from mcpactors.runtime.visibility import Rule
from mcpactors.server import Server
from mcpactors.testing.servers import Offer, add_offer, remove_offer, show

__all__ = [
    "Add",
    "Change",
    "Filter",
    "Import",
    "MountBelow",
    "MountOn",
    "Refresh",
    "Remove",
    "Rename",
    "Unmount",
    "World",
]


@define(eq=False)
class World:
    """A running composition that changes are made in."""

    runtime: Runtime
    servers: list[object]
    """What takes part, mounted or not; the first is the root's own."""
    handles: list[MountHandle] = field(factory=list)
    """The mounts that there are, in the order in which they were made."""

    @classmethod
    def of(cls, runtime: Runtime, servers: list[object]) -> World:
        """The world of these servers, and of all that is mounted on them already."""
        world = cls(runtime, list(servers))
        for server in world.servers:  # grows while it is read
            for handle in below(server):
                world.handles.append(handle)
                if not any(handle.target is known for known in world.servers):
                    world.servers.append(handle.target)
        return world

    def server(self, number: int) -> object:
        return self.servers[number % len(self.servers)]

    def mount(self, number: int) -> MountHandle | None:
        return self.handles[number % len(self.handles)] if self.handles else None

    async def offers(self, server: Server) -> list[tuple[Kind, str]]:
        """A server's own components: tools, prompts, resources, templates, each in the server's own order."""
        return [
            *(("tools", tool.name) for tool in await server.list_tools()),
            *(("prompts", prompt.name) for prompt in await server.list_prompts()),
            *(("resources", resource.uri) for resource in await server.list_resources()),
            *(("templates", template.uri_template) for template in await server.list_resource_templates()),
        ]


@frozen
class Add:
    """A server gets a component, unless it has one of that kind and name."""

    server: int
    offer: Offer

    async def make(self, world: World) -> None:
        server, offer = world.server(self.server), self.offer
        if isinstance(server, Server) and (offer.kind, offer.name) not in await world.offers(server):
            add_offer(server, offer)


@frozen
class Remove:
    """A server loses a component."""

    server: int
    number: int

    async def make(self, world: World) -> None:
        server = world.server(self.server)
        if isinstance(server, Server) and (there := await world.offers(server)):
            remove_offer(server, *there[self.number % len(there)])


@frozen
class Filter:
    """A server's `enable` or `disable` is called."""

    server: int
    rule: Rule

    async def make(self, world: World) -> None:
        server = world.server(self.server)
        if isinstance(server, Server):
            show(server, self.rule)


@frozen
class MountOn:
    """A server is mounted on another, by `Runtime.mount` (on the root) or by `Server.mount`."""

    parent: int
    child: int
    namespace: str | None = None
    tool_names: Mapping[str, str] = field(factory=dict)
    include_tags: tuple[str, ...] = ()
    exclude_tags: tuple[str, ...] = ()
    by_runtime: bool = False

    async def make(self, world: World) -> None:
        parent, child = world.server(self.parent), world.server(self.child)
        if self.by_runtime:
            handle = await world.runtime.mount(
                child,
                self.namespace,
                tool_names=self.tool_names,
                include_tags=self.include_tags,
                exclude_tags=self.exclude_tags,
            )
        elif isinstance(parent, Server):
            handle = parent.mount(
                child,
                self.namespace,
                tool_names=self.tool_names,
                include_tags=self.include_tags,
                exclude_tags=self.exclude_tags,
            )
        else:
            return
        world.handles.append(handle)


@frozen
class MountBelow:
    """A server is mounted by `MountHandle.mount`: below that one mount, not below the server mounted there."""

    mount: int
    child: int
    namespace: str | None = None

    async def make(self, world: World) -> None:
        above = world.mount(self.mount)
        if above is not None and above.catalog is None:
            world.handles.append(await above.mount(world.server(self.child), self.namespace))


@frozen
class Import:
    """What a server offers is copied, by `Runtime.import_server` (to the root) or by `Server.import_server`."""

    parent: int
    child: int
    namespace: str | None = None
    by_runtime: bool = False

    async def make(self, world: World) -> None:
        parent, child = world.server(self.parent), world.server(self.child)
        if self.by_runtime:
            handle = await world.runtime.import_server(child, self.namespace)
        elif isinstance(parent, Server):
            handle = await parent.import_server(child, self.namespace)
        else:
            return
        world.handles.append(handle)


@frozen
class Refresh:
    """An import is copied anew."""

    mount: int

    async def make(self, world: World) -> None:
        handle = world.mount(self.mount)
        if handle is not None and handle.catalog is not None and handle.live is not None:
            await handle.refresh()


@frozen
class Unmount:
    """A mount is taken away, with all that was mounted below it."""

    mount: int

    async def make(self, world: World) -> None:
        handle = world.mount(self.mount)
        if handle is not None:
            world.handles.remove(handle)
            await handle.unmount()


@frozen
class Rename:
    """A live mount is made again, as the newest, with other names for its tools."""

    mount: int
    tool_names: Mapping[str, str]

    async def make(self, world: World) -> None:
        handle = world.mount(self.mount)
        if handle is None or handle.catalog is not None:
            return
        again = make_handle(handle.within, handle.target, handle.namespace, tool_names=self.tool_names)
        again.visibility = handle.visibility
        world.handles.remove(handle)
        await handle.unmount()
        again.within.put(again)
        world.handles.append(again)


Change = Add | Remove | Filter | MountOn | MountBelow | Import | Refresh | Unmount | Rename

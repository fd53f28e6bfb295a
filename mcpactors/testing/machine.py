"""A state machine over a running composition: Hypothesis changes it, and after every step it is what it must be.

Rule: nothing here knows how the runtime works. What must be listed and whom a call must reach comes from `Model`;
what the answer must be comes from the server itself, asked by a client that is connected straight to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, TypeVar

import trio
from attrs import define
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate
from mcp_types import PromptReference, ResourceTemplateReference, Tool

from mcpactors.errors import MountCycle
from mcpactors.foreign import low_level
from mcpactors.host import Runtime, open_runtime
from mcpactors.runtime.naming import KEYS, Kind, UriFormat
from mcpactors.runtime.visibility import tags_of
from mcpactors.server import Server
from mcpactors.settings import RuntimeSettings
from mcpactors.targets import ProxyServer
from mcpactors.testing.changes import (
    Add,
    Change,
    Filter,
    Import,
    MountBelow,
    MountOn,
    Refresh,
    Remove,
    Rename,
    Unmount,
    World,
)
from mcpactors.testing.model import KINDS, Model, ModelMount, ModelOffer, ModelServer, uris_renamed
from mcpactors.testing.running import GuestRun
from mcpactors.testing.servers import Tree
from mcpactors.testing.strategies import change_of, trees

__all__ = ["CompositionMachine", "Live"]

T = TypeVar("T")

ERAS: Mapping[str, str] = {"modern": "auto", "legacy": "legacy"}
SETTLE = 1.0
"""Seconds, mostly virtual, in which what a change sets going has come to rest."""
VALUE = "a"
"""Stands for every variable of a template."""


@define(eq=False)
class Live:
    """What a machine has open: the composition, a client of each era, and a client straight to each server."""

    world: World
    clients: Mapping[str, Client]
    alone: Sequence[Client]
    """In the order of `world.servers`."""

    @property
    def runtime(self) -> Runtime:
        return self.world.runtime


def _drawn(kind: type[Change]) -> st.SearchStrategy[Any]:
    """Changes of a kind, with namespaces that are legal in the machine's settings."""
    return st.runner().flatmap(lambda machine: change_of(kind, machine.uri_format))


class CompositionMachine(RuleBasedStateMachine):
    """Changes a running composition in every way there is, and looks whether lists and calls are as they must be.

    `TestIt = CompositionMachine.TestCase` tests mcpactors itself, on trees that Hypothesis draws. A subclass gives
    `servers()` of its own, adds rules (`self.step(async_function)` runs one with what is `Live`), overrides
    `arguments` for its tools, and may leave out a rule by setting its name to None.
    """

    runtime_settings: ClassVar[RuntimeSettings] = RuntimeSettings()
    """`on_conflict="error"` is not for this machine: its mounts collide all the time."""
    virtual_time: ClassVar[bool] = True
    """Waiting costs nothing. False where a server waits for a socket, a process or the real clock."""

    # --- For subclasses -------------------------------------------------------------------------------------------

    def servers(self) -> Sequence[object]:
        """New servers, the root's own first; what is mounted on them takes part too. By default: a drawn tree's."""
        return self.tree.build()

    def starts(self) -> st.SearchStrategy[Tree | None]:
        """What `servers` may begin with, as `self.tree`: drawn only where `servers` is the default one."""
        if type(self).servers is CompositionMachine.servers:
            return trees(uri_format=self.uri_format)
        return st.none()

    def arguments(self, tool: Tool) -> dict[str, Any]:
        """What a tool is called with: by default something of the right type for every required argument."""
        properties = tool.input_schema.get("properties", {})
        required = tool.input_schema.get("required", [])
        return {name: _SOMETHING.get(properties.get(name, {}).get("type"), "a") for name in required}

    def step(self, function: Callable[[Live], Awaitable[T]]) -> T:
        """Run an async function in the composition's run, to its end."""
        return self._run.step(function)

    @property
    def uri_format(self) -> UriFormat:
        return self.runtime_settings.resource_prefix_format

    # --- Beginning and end ----------------------------------------------------------------------------------------

    @initialize(tree=st.runner().flatmap(lambda machine: machine.starts()))
    def begin(self, tree: Tree | None) -> None:
        if tree is not None:
            self.tree = tree
        self._called = 0
        self._known: dict[tuple[int, Ask, str], Any] = {}
        self._run: GuestRun[Live] = GuestRun(self._open, virtual_time=self.virtual_time)
        self.model: Model = self.step(self._learn)

    def teardown(self) -> None:
        run = getattr(self, "_run", None)
        if run is not None:
            run.close()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Live]:
        servers = list(self.servers())
        async with AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(open_runtime(servers[0], settings=self.runtime_settings))
            world = World.of(runtime, servers)
            clients = {
                era: await stack.enter_async_context(runtime.client(mode=mode, raise_exceptions=False))
                for era, mode in ERAS.items()
            }
            alone = [await stack.enter_async_context(Client(_direct(server))) for server in world.servers]
            yield Live(world, clients, alone)

    async def _learn(self, live: Live) -> Model:
        """The model of how things stand at the beginning, by what each server says when it is asked alone."""
        servers: list[ModelServer] = []
        for server, client in zip(live.world.servers, live.alone, strict=True):
            offers = [
                ModelOffer(kind, item[KEYS[kind]], tags_of(item))
                for kind in KINDS
                for item in await read_list(client, kind)
            ]
            ours = isinstance(server, Server)
            rules = list(server.visibility.rules) if isinstance(server, Server) else []
            servers.append(ModelServer(_direct(server).name, offers, rules, changes=ours))
        model = Model(servers, policy=self.runtime_settings.on_conflict, uri_format=self.uri_format)
        number = {id(server): index for index, server in enumerate(live.world.servers)}
        for handle in live.world.handles:
            tool_names = {old: override.name for old, override in handle.tools.items() if override.name}
            target = servers[number[id(handle.target)]]
            mount = ModelMount(target, handle.namespace, tool_names, list(handle.visibility.rules))
            [parent] = [it for it in live.world.servers if isinstance(it, Server) and it.mounts is handle.within]
            model.put(mount, servers[number[id(parent)]].mounts)
        return model

    # --- Changes --------------------------------------------------------------------------------------------------

    @rule(change=_drawn(Add))
    def add(self, change: Add) -> None:
        """A component that nothing had before can be called at once, though nobody has listed it yet."""
        kind = change.offer.kind
        before = {seen.name for seen in self.model.listed(kind)}
        self.make(change)
        new = [seen.name for seen in self.model.listed(kind) if seen.name not in before]
        if kind in ("resources", "templates") and self.model.listed("templates"):
            return  # until the change is noticed, another template may stand for the URI
        if new:
            self.step(lambda live: self._check_call(live, "modern", kind, new[0]))

    @rule(change=_drawn(Remove))
    def remove(self, change: Remove) -> None:
        self.make(change)

    @rule(change=_drawn(Filter))
    def enable_or_disable(self, change: Filter) -> None:
        self.make(change)

    @rule(change=_drawn(MountOn))
    def mount(self, change: MountOn) -> None:
        self.make(change)

    @rule(change=_drawn(MountBelow))
    def mount_below(self, change: MountBelow) -> None:
        self.make(change)

    @rule(change=_drawn(Import))
    def import_server(self, change: Import) -> None:
        self.make(change)

    @rule(change=_drawn(Refresh))
    def refresh(self, change: Refresh) -> None:
        self.make(change)

    @rule(change=_drawn(Unmount))
    def unmount(self, change: Unmount) -> None:
        self.make(change)

    @rule(change=_drawn(Rename))
    def rename(self, change: Rename) -> None:
        self.make(change)

    def make(self, change: Change) -> None:
        """Make a change in the composition and in the model."""
        self._known.clear()
        accepted = self.model.make(change)
        made = self.step(lambda live: _made(change, live.world))
        assert made is accepted, f"{change} was {'made' if made else 'refused'}; the model says otherwise"

    # --- Looking --------------------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(KINDS), era=st.sampled_from(sorted(ERAS)))
    def list_twice(self, kind: Kind, era: str) -> None:
        """Looking changes nothing."""
        for _ in range(2):
            self.step(lambda live: self._check_list(live, era, kind))

    @rule(kind=st.sampled_from(KINDS), era=st.sampled_from(sorted(ERAS)), number=st.integers(0, 99))
    def call_what_is_hidden(self, kind: Kind, era: str, number: int) -> None:
        hidden = self.model.hidden(kind)
        if hidden:
            self.step(lambda live: self._check_call(live, era, kind, hidden[number % len(hidden)]))

    @rule(kind=st.sampled_from(KINDS), era=st.sampled_from(sorted(ERAS)), offer=_drawn(Add))
    def call_any_name(self, kind: Kind, era: str, offer: Add) -> None:
        """Whether it is listed, hidden, gone or never was."""
        self.step(lambda live: self._check_call(live, era, offer.offer.kind, offer.offer.name))

    @invariant()
    def lists_and_calls_are_as_the_model_says(self) -> None:
        self.step(self._check_all)

    async def _check_all(self, live: Live) -> None:
        """Every list in both eras, at once; then, when all is quiet, a call of everything that is listed, in one."""
        for kind in KINDS:
            for era in ERAS:
                await self._check_list(live, era, kind)
        reported = {(conflict.kind, conflict.name) for conflict in live.runtime.conflicts()}
        expected = {(kind, name) for kind in KINDS for name in self.model.shadowed(kind)}
        assert reported == expected, f"conflicts() has {reported}, must have {expected}"
        await trio.sleep(SETTLE)
        self._called += 1
        era = sorted(ERAS)[self._called % len(ERAS)]
        for kind in KINDS:
            for seen in self.model.listed(kind):
                await self._check_call(live, era, kind, seen.name)

    async def _check_list(self, live: Live, era: str, kind: Kind) -> None:
        got = [item[KEYS[kind]] for item in await read_list(live.clients[era], kind)]
        expected = [seen.name for seen in self.model.listed(kind)]
        assert got == expected, f"{kind}, {era} client: lists {got}, must list {expected}"

    async def _check_call(self, live: Live, era: str, kind: Kind, name: str) -> None:
        """A call by this name answers what the server that it leads to answers, with URIs as they are here."""
        for ask, named in _asks(kind, name):
            leads = self.model.leads(kind if ask is not _read else "resources", named)
            arguments, expected = {}, None
            if leads is not None:
                [number] = [index for index, server in enumerate(self.model.servers) if server is leads.server]
                if (key := (number, ask, leads.own)) not in self._known:
                    arguments = await self._arguments(live.alone[number], leads.own) if ask is _call else {}
                    self._known[key] = arguments, await ask(live.alone[number], leads.own, arguments)
                arguments, answer = self._known[key]
                expected = uris_renamed(answer, leads.parts, self.uri_format)
            got = await ask(live.clients[era], named, arguments)
            said = f"{leads.server.name}'s {leads.own!r}" if leads is not None else "nobody"
            assert got == expected, (
                f"{kind} {name!r}, {era} client, {ask.__name__[1:]} {named!r}: answers {got}, must be answered by "
                f"{said}: {expected}"
            )

    async def _arguments(self, client: Client, name: str) -> dict[str, Any]:
        tools = {tool.name: tool for tool in (await client.list_tools(cache_mode="bypass")).tools}
        return self.arguments(tools[name])


_SOMETHING: Mapping[Any, Any] = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}, "null": None}


def _direct(server: object) -> Any:
    """The SDK server to ask alone, also where it is mounted as a proxy. Raises `MountError` for any other backend."""
    return low_level(server.target if isinstance(server, ProxyServer) else server)


async def _made(change: Change, world: World) -> bool:
    try:
        await change.make(world)
    except MountCycle:
        return False
    return True


async def read_list(client: Client, kind: Kind) -> list[dict[str, Any]]:
    """A whole list, all its pages, as on the wire."""
    method = {
        "tools": client.list_tools,
        "prompts": client.list_prompts,
        "resources": client.list_resources,
        "templates": client.list_resource_templates,
    }[kind]
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page: Any = await method(cursor=cursor, cache_mode="bypass")
        items += [_json(item) for item in getattr(page, "resource_templates" if kind == "templates" else kind)]
        cursor = page.next_cursor
        if cursor is None:
            return items


# --- Asking a client by a name; None: it is refused -------------------------------------------------------------------


def _json(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found


async def _call(client: Client, name: str, arguments: dict[str, Any]) -> Any:
    try:
        result = _json(await client.call_tool(name, arguments))
    except MCPError:
        return None
    return {key: result.get(key) for key in ("content", "structuredContent", "isError")}


async def _get(client: Client, name: str, arguments: dict[str, Any]) -> Any:
    try:
        return _json(await client.get_prompt(name))["messages"]
    except MCPError:
        return None


async def _read(client: Client, uri: str, arguments: dict[str, Any]) -> Any:
    try:
        return _json(await client.read_resource(uri, cache_mode="bypass"))["contents"]
    except MCPError:
        return None


async def _complete(client: Client, name: str, arguments: dict[str, Any]) -> Any:
    ref = (
        ResourceTemplateReference(type="ref/resource", uri=name)
        if "{" in name
        else PromptReference(type="ref/prompt", name=name)
    )
    try:
        return (await client.complete(ref, {"name": "x", "value": VALUE})).completion.values
    except MCPError:
        return None


Ask = Callable[[Client, str, dict[str, Any]], Awaitable[Any]]


def _asks(kind: Kind, name: str) -> list[tuple[Ask, str]]:
    """What can be asked of a client that has this name from a list."""
    if kind == "templates":
        uri = expanded(name)
        return [(_complete, name), *([(_read, uri)] if uri else [])]
    if kind == "prompts":
        return [(_get, name), (_complete, name)]
    return [(_call if kind == "tools" else _read, name)]


def expanded(template: str) -> str | None:
    """A URI that the template stands for; None where the SDK does not parse it."""
    try:
        parsed = UriTemplate.parse(template)
    except InvalidUriTemplate:
        return None
    return parsed.expand(dict.fromkeys(parsed.variable_names, VALUE)) or None

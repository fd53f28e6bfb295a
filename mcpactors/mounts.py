"""The description of a tree of servers: what is mounted where, as which names, seen by whom.

Rule: descriptions only. Nothing here runs; a `Runtime` makes a description alive, follows its changes and tells its
handles what became of them. So `mount` means the same before and after the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Protocol, final

from attrs import define, evolve, field, frozen

from mcpactors.errors import MountCycle, MountError
from mcpactors.runtime.definitions import ChangePolicy, ToolChange, check_policy
from mcpactors.runtime.naming import Kind, UriFormat, validate_name, validate_namespace
from mcpactors.runtime.routing import Listing
from mcpactors.runtime.supervisor import ActorInfo, ChildState
from mcpactors.runtime.visibility import SHOW_ALL, ToolOverride, Visibility

__all__ = ["Catalog", "CatalogDiff", "Copier", "Live", "MountHandle", "Mounts", "below", "itself"]

Catalog = Mapping[Kind, Listing]
Fits = Callable[[object], object]

_ages = count(1)


@frozen
class CatalogDiff:
    """What `refresh` found: names, as the source uses them, by kind."""

    added: Mapping[Kind, tuple[str, ...]]
    removed: Mapping[Kind, tuple[str, ...]]
    changed: Mapping[Kind, tuple[str, ...]]

    def __bool__(self) -> bool:
        return any((*self.added.values(), *self.removed.values(), *self.changed.values()))


class Live(Protocol):
    """A mount in a running runtime."""

    def state(self) -> ChildState: ...
    def info(self) -> ActorInfo: ...
    def stderr(self) -> list[str]: ...
    async def settled(self) -> ChildState: ...
    async def gone(self) -> None: ...
    async def offers(self, *, shown: bool) -> Mapping[Kind, int]: ...
    async def refresh(self) -> CatalogDiff: ...
    def changed_tools(self) -> tuple[ToolChange, ...]: ...
    def approve(self, tools: tuple[str, ...]) -> tuple[str, ...]: ...


class Copier(Protocol):
    """What a runtime does for an import."""

    async def take_copy(self, handle: MountHandle) -> CatalogDiff: ...


class Mounts:
    """What is mounted on one thing, oldest first. Whoever listens is told, at once, that it has changed.

    `fits(target)` raises `MountError` for what cannot be mounted here; `fits_below(target)` for what cannot be mounted
    by the handles of these mounts.
    """

    def __init__(self, fits: Fits = lambda target: None, fits_below: Fits | None = None) -> None:
        self.fits = fits
        self.fits_below = fits_below or fits
        self._handles: list[MountHandle] = []
        self._listeners: dict[Callable[[], None], None] = {}

    def __iter__(self) -> Iterator[MountHandle]:
        return iter(tuple(self._handles))

    def __contains__(self, handle: object) -> bool:
        return handle in self._handles

    def __len__(self) -> int:
        return len(self._handles)

    def put(self, handle: MountHandle, instead_of: MountHandle | None = None) -> None:
        """Add a mount as the newest, or in the place of another.

        Raises:
            MountError: the target cannot be mounted here, or the other is not here (any more). Nothing has changed.
        """
        self.fits(handle.target)
        if instead_of is not None and instead_of not in self._handles:
            raise MountError("this handle is not mounted any more; mount the target anew")
        before = list(self._handles)
        if instead_of is None:
            handle.age = next(_ages)
            self._handles.append(handle)
        else:
            handle.age = instead_of.age
            self._handles[self._handles.index(instead_of)] = handle
        try:
            self.changed()
        except BaseException:  # a change that cannot be made alive is not made
            self._handles = before
            self.changed()
            raise

    def take_out(self, handle: MountHandle) -> bool:
        """Remove a mount. False when it is not there (any more)."""
        if handle not in self._handles:
            return False
        self._handles.remove(handle)
        self.changed()
        return True

    def changed(self) -> None:
        """Tell everybody who listens."""
        for listener in list(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener()` called after every change, until `forget`."""
        self._listeners[listener] = None

    def forget(self, listener: Callable[[], None]) -> None:
        self._listeners.pop(listener, None)


@final
@define(eq=False)
class MountHandle:
    """One mount: a place in the tree. Made by `Server.mount`, `Runtime.mount`, `MountHandle.mount` and imports."""

    target: object
    namespace: str | None
    within: Mounts = field(repr=False)
    tools: Mapping[str, ToolOverride] = field(factory=dict)
    visibility: Visibility = SHOW_ALL
    catalog: Catalog | None = field(default=None, repr=False)
    """The copy that an import serves; None for a live mount."""
    name: str | None = None
    """What the actor is called, where the namespace does not say it."""
    on_tool_change: ChangePolicy | None = None
    """What becomes of a tool, here and in all that is mounted below, whose definition changes after first sight."""
    live: Live | None = field(default=None, repr=False)
    """What became of it in the runtime that runs it; None while nothing does."""
    age: int = field(default=0, repr=False)
    """Says which of two mounts is the newer one, by whichever way they were mounted: it has the higher number."""
    ahead: bool = field(default=False, repr=False)
    """Whether it wins over every other mount beside it, as a server's own components do: a local copy of one."""
    on_it: Mounts = field(factory=Mounts, repr=False)
    """What is mounted below by this handle (and not by the target's own `mount`)."""
    by_format: dict[UriFormat, Catalog] = field(factory=dict, repr=False)
    """The copy with its nested URIs in each format, where it was taken before a runtime said which it has."""

    def copy_in(self, uri_format: UriFormat) -> Catalog:
        """The copy that an import serves in a runtime with this URI format."""
        return self.by_format.get(uri_format) or self.catalog or {}

    @property
    def state(self) -> ChildState:
        """What the actor does now; "stopped" while no runtime runs it."""
        return self.live.state() if self.live is not None else "stopped"

    def info(self) -> ActorInfo:
        """The actor's row of `ps`. Raises `MountError` while no runtime runs it."""
        return self._alive().info()

    def stderr(self) -> list[str]:
        """The last lines that a backend's process wrote to its stderr."""
        return self.live.stderr() if self.live is not None else []

    async def settled(self) -> ChildState:
        """Wait until the actor has started, or failed to, for the first time."""
        return await self._alive().settled()

    async def offers(self, *, shown: bool = False) -> Mapping[Kind, int]:
        """How many tools, prompts, resources and templates it lists now; 0 where it does not tell within the budget.

        `shown`: of those only what no filter on the way to a client hides.
        """
        return await self._alive().offers(shown=shown)

    async def refresh(self) -> CatalogDiff:
        """Take an import's copy anew; returns what is different. Raises `MountError` for what is no import."""
        return await self._alive().refresh()

    def changed_tools(self) -> tuple[ToolChange, ...]:
        """The tools of this mount whose definitions are not what they were at first, under their own names."""
        return self._alive().changed_tools()

    def approve(self, *tools: str) -> tuple[str, ...]:
        """Take these tools as they are now for what they are to be, and show those that were hidden; none named: all.

        Names are the server's own. Returns those that had changed. Raises `MountError` while no runtime runs this.
        """
        return self._alive().approve(tools)

    async def mount(
        self, target: object, namespace: str | None = None, *, tool_names: Mapping[str, str] | None = None
    ) -> MountHandle:
        """Mount `target` below this mount, by this handle alone; names get both namespaces. Waits as `settled` does."""
        if self not in self.within:
            raise MountError("this handle is not mounted any more; mount its target anew")
        handle = make_handle(self.on_it, target, namespace, tool_names=tool_names)
        self.on_it.put(handle)
        if handle.live is not None:
            await handle.live.settled()
        return handle

    async def unmount(self) -> None:
        """Take this mount, and all below it, out of the tree: at once for new calls; returns when it has ended.

        Calls in flight are waited for, within the drain time; then actors that have no other mount are stopped.
        """
        live = self.live
        if self.within.take_out(self) and live is not None:
            await live.gone()

    async def replace(self, target: object) -> MountHandle:
        """Put another target in this place: same namespace, same precedence. Returns its handle; this one is done.

        Calls go to the new one from now on, and wait while it starts; those in flight end at the old one. Returns when
        the new one has started (or failed to) and the old one has ended. What was mounted by this handle stays
        mounted, by the new one. Raises as `mount` does.
        """
        fresh = evolve(self, target=target, catalog=None, by_format={}, live=None)
        live = self.live
        self.within.put(fresh, instead_of=self)
        if fresh.live is not None:
            await fresh.live.settled()
        if live is not None:
            await live.gone()
        return fresh

    def _alive(self) -> Live:
        if self.live is None:
            raise MountError("no runtime runs this mount; ask inside `async with open_runtime(...)`")
        return self.live


def make_handle(
    within: Mounts,
    target: object,
    namespace: str | None,
    *,
    tool_names: Mapping[str, str] | None = None,
    tools: Mapping[str, ToolOverride] | None = None,
    include_tags: Iterable[str] = (),
    exclude_tags: Iterable[str] = (),
    catalog: Catalog | None = None,
    name: str | None = None,
    on_tool_change: ChangePolicy | None = None,
) -> MountHandle:
    """A handle that is not in its place yet (`within.put` does that).

    Raises:
        NamespaceError: illegal characters in the namespace.
        InvalidParams: a new name of a tool is empty or too long.
        MountError: there is no such policy.
    """
    check_policy(on_tool_change)
    if namespace is not None:
        validate_namespace(namespace)
    overrides = {old: ToolOverride(name=new) for old, new in (tool_names or {}).items()} | dict(tools or {})
    for override in overrides.values():
        if override.name is not None:
            validate_name("tool", override.name)
    visibility = Visibility.by_tags(include_tags, exclude_tags)
    handle = MountHandle(target, namespace, within, overrides, visibility, catalog, name, on_tool_change)
    handle.on_it.fits = handle.on_it.fits_below = within.fits_below
    return handle


def itself(target: object) -> object:
    """The target, or the server of this process that it is a proxy of."""
    return getattr(target, "behind", None) or target


def below(target: object) -> Iterator[MountHandle]:
    """What the target's own description has mounted on it."""
    mounts = getattr(target, "mounts", None)
    return iter(mounts) if isinstance(mounts, Mounts) else iter(())


def refuse_cycle(parent: object, child: object, called: Callable[[object], str]) -> None:
    """Raise `MountCycle`, with the path named, when `parent` is `child` or mounted somewhere below it."""

    seen: set[MountHandle] = set()  # handles can make a circle of what no runtime runs yet

    def path_to_parent(here: object, path: tuple[object, ...], more: Mounts) -> tuple[object, ...] | None:
        if here is parent:
            return path
        for handle in (*below(here), *more):
            if handle in seen:
                continue
            seen.add(handle)
            target = itself(handle.target)
            found = path_to_parent(target, (*path, target), handle.on_it)
            if found is not None:
                return found
        return None

    path = path_to_parent(itself(child), (itself(child),), Mounts())
    if path is not None:
        said = " -> ".join(called(server) for server in (parent, *path))
        raise MountCycle(f"this would mount a server into itself: {said}; mount it beside, not below, itself")

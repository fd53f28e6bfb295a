"""Mirrored components: what a server shows of a backend, one by one, and local copies of them that can be changed.

Rule: descriptions only. A mirrored component is what its backend says, so nothing here changes it. A copy is a mount of
that one component, which wins over all other mounts, and whose calls go on to the backend (seed 002 "Mirrored
Components", features.md C7).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from copy import deepcopy
from typing import Any, Final, NoReturn

from attrs import Attribute, define, evolve, field, frozen

from mcpactors.errors import InvalidParams, MCPActorsError, MirroredComponent, NotFound
from mcpactors.mounts import Catalog, MountHandle, Mounts, make_handle
from mcpactors.runtime.naming import KEYS, KINDS, Kind, Namespace
from mcpactors.runtime.offers import Place, Step
from mcpactors.runtime.routing import Listing
from mcpactors.runtime.visibility import COMPONENTS, Rule, ToolOverride, tags_of, with_tags, without_tags

__all__ = ["Copies", "LocalCopy", "Mirrored", "find_mirrored", "refuse_mirrored"]

ADDED_BY: Final[Mapping[Kind, str]] = {
    "tools": "add_tool",
    "prompts": "add_prompt",
    "resources": "add_resource",
    "templates": "add_resource",
}


@frozen
class _Origin:
    """Where a component comes from: of which mount's target, as what, and what that mount makes of it."""

    kind: Kind
    own: str
    """What the target itself calls it."""
    key: str
    """What the server that mirrors it lists it as: a name, or a URI."""
    target: object
    called: str
    namespace: str | None
    override: ToolOverride | None
    item: Mapping[str, Any]
    """What that server lists, as on the wire."""


def _refuse(component: Mirrored, attribute: Attribute[Any], value: object) -> NoReturn:
    component._refuse(f"its {attribute.name} cannot be changed")


@define(eq=False, on_setattr=_refuse)
class Mirrored:
    """A tool, resource, template or prompt as a backend says it is. To change one, take a `copy()`."""

    _origin: _Origin = field(repr=False)
    component: str
    """ "tool", "resource", "template" or "prompt"."""
    key: str
    """The name that it is called by, or the URI that it is read at."""
    name: str
    title: str | None
    description: str | None
    tags: frozenset[str]
    meta: Mapping[str, Any] = field(repr=False)
    item: Mapping[str, Any] = field(repr=False)
    """All of it, as it is listed on the wire: `inputSchema`, `annotations`, ..."""
    enabled: bool = True

    def enable(self) -> NoReturn:
        """Raises `MirroredComponent`."""
        self._refuse("it cannot be enabled or disabled")

    def disable(self) -> NoReturn:
        """Raises `MirroredComponent`."""
        self._refuse("it cannot be enabled or disabled")

    def copy(self, **changes: Any) -> LocalCopy:
        """A local component that can be changed, and added to any server; `changes` are its attributes."""
        local = LocalCopy(
            self._origin,
            self.component,
            self.name,
            self.title,
            self.description,
            self.tags,
            deepcopy(dict(self.meta)),
        )
        for attribute, value in changes.items():
            setattr(local, attribute, value)
        return local

    def _refuse(self, what: str) -> NoReturn:
        raise MirroredComponent(
            f"the {self.component} {self.key!r} is mirrored from {self._origin.called}: {what}; change a local copy: "
            f"copy = {self.component}.copy(), then server.{ADDED_BY[self._origin.kind]}(copy)"
        )


def refuse_mirrored(component: object) -> None:
    """Raise `MirroredComponent` for one that is not a copy: it is its backend's, and cannot be added to a server."""
    if isinstance(component, Mirrored):
        component._refuse("it cannot be added as it is")


def _set(local: LocalCopy, attribute: Attribute[Any], value: Any) -> Any:
    """Set it, and tell the servers that have it; when one of them refuses, it is as it was."""
    if attribute.name not in CHANGEABLE or (attribute.name, local.component) == ("name", "prompt"):
        raise InvalidParams(
            f"the {attribute.name} of a copied {local.component} cannot be changed: its backend knows it by that"
        )
    before = getattr(local, attribute.name)
    value = _words(value) if attribute.name == "tags" else value
    try:
        object.__setattr__(local, attribute.name, value)
        local._changed()
    except BaseException:
        object.__setattr__(local, attribute.name, before)
        raise
    return value


CHANGEABLE: Final = frozenset({"name", "title", "description", "tags", "meta", "enabled"})


def _words(values: str | Collection[str]) -> frozenset[str]:
    return frozenset([values] if isinstance(values, str) else values)


@define(eq=False, on_setattr=_set)
class LocalCopy:
    """A copy of a mirrored component, which is its owner's: assign to change it, also while a server shows it.

    What it does stays the backend's: calls go on to it, with progress, questions and cancellation. Another `name` only
    changes what a tool is called by.
    """

    _origin: _Origin = field(repr=False)
    component: str
    name: str
    title: str | None
    description: str | None
    tags: Collection[str] = field(converter=_words)
    meta: Mapping[str, Any]
    enabled: bool = True
    """Whether it is shown; where it is not, neither is what it is a copy of."""
    _followers: list[Callable[[LocalCopy], None]] = field(factory=list, init=False, repr=False)

    @property
    def kind(self) -> Kind:
        return self._origin.kind

    @property
    def key(self) -> str:
        """The name that it is called by, or the URI that it is read at."""
        return self.name if self.kind in ("tools", "prompts") else self._origin.key

    def enable(self) -> None:
        """Show it again."""
        self.enabled = True

    def disable(self) -> None:
        """Neither list it nor let it be called, nor what it is a copy of."""
        self.enabled = False

    def _changed(self) -> None:
        for follower in self._followers:
            follower(self)

    def _listed(self) -> Mapping[str, Any]:
        """What is listed of it, under the backend's own name."""
        said = {"name": self.name, "title": self.title, "description": self.description, "_meta": dict(self.meta)}
        item = {**self._origin.item, **said, KEYS[self.kind]: self._origin.own}
        if self.tags:
            item = dict(with_tags(item, self.tags))
        return {
            field: value for field, value in item.items() if value is not None and not (field == "_meta" and not value)
        }

    def _mounted_on(self, mounts: Mounts) -> MountHandle:
        """A mount of this one component; its calls take the way that the mirrored one's take."""
        origin, namespace, tools = self._origin, self._origin.namespace, {}
        if self.kind == "tools":
            inner = self.name if namespace is None else Namespace((namespace,)).inward("tools", self.name)
            if inner is None:  # renamed out of its namespace
                namespace, inner = None, self.name
            override = evolve(origin.override or ToolOverride(), name=inner, title=None, description=None)
            tools = {} if override == ToolOverride(name=origin.own) else {origin.own: override}
        catalog = {kind: Listing() for kind in KINDS} | {self.kind: Listing((self._listed(),), fresh=True)}
        handle = make_handle(mounts, origin.target, namespace, tools=tools, catalog=catalog, name=f"{self.key}.copy")
        handle.ahead = True
        return handle


@define(eq=False)
class Copies:
    """The local copies that a server has."""

    _mounts: Mounts
    _placed: dict[LocalCopy, MountHandle] = field(factory=dict, init=False)

    def add(self, copy: LocalCopy, *kinds: Kind) -> None:
        """Show a copy, in the place of an older one of this name, and follow its changes.

        Raises:
            InvalidParams: it is none of these kinds, or its name is empty or too long.
            MountCycle: its backend is a server that this one is mounted on.
        """
        if copy.kind not in kinds:
            raise InvalidParams(f"{copy.key!r} is a {copy.component}: add it with {ADDED_BY[copy.kind]}")
        if copy in self._placed:
            return
        handle = copy._mounted_on(self._mounts)
        self._mounts.put(handle)
        self.remove(copy.key, copy.kind)
        self._placed[copy] = handle
        copy._followers.append(self._follow)

    def remove(self, key: str, *kinds: Kind) -> bool:
        """Show no copy of this name any more. False when there is none."""
        for copy in [copy for copy in self._placed if copy.key == key and copy.kind in kinds]:
            copy._followers.remove(self._follow)
            self._mounts.take_out(self._placed.pop(copy))
            return True
        return False

    def _follow(self, copy: LocalCopy) -> None:
        fresh = copy._mounted_on(self._mounts)
        self._mounts.put(fresh, instead_of=self._placed[copy])
        self._placed[copy] = fresh

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What hides the names of the copies that are switched off."""
        return tuple(
            Rule(False, names={copy.key}, components={copy.component}) for copy in self._placed if not copy.enabled
        )


async def find_mirrored(
    mounts: Mounts, taken: Callable[[MountHandle], Awaitable[None]], key: str, *kinds: Kind
) -> Mirrored:
    """The component that these mounts list as `key`, of the newest of them that does; `taken` fills in its catalog.

    Raises:
        NotFound: none of the mounts has it.
        BackendStartError: none has it, and one does not say what it offers.
    """
    missing: MCPActorsError | None = None
    for handle in sorted(mounts, key=lambda handle: handle.age, reverse=True):
        if handle.ahead:
            continue
        try:
            catalog = handle.catalog or await _catalog(handle, mounts, taken)
        except MCPActorsError as error:
            missing = missing or error
            continue
        for kind in kinds:
            for item in catalog[kind].items:
                found = _seen(handle, kind, item, key)
                if found is not None:
                    return found
    if missing is not None:
        raise missing
    raise NotFound(
        f"nothing that is mounted here has the {COMPONENTS[kinds[0]]} {key!r}; only such a one can be copied"
    )


async def _catalog(handle: MountHandle, mounts: Mounts, taken: Callable[[MountHandle], Awaitable[None]]) -> Catalog:
    copy = make_handle(mounts, handle.target, None)
    await taken(copy)
    return copy.catalog or {}


def _seen(handle: MountHandle, kind: Kind, item: Mapping[str, Any], key: str) -> Mirrored | None:
    """The component, if that is what the mount shows under this name, in either format of URIs."""
    own = item[KEYS[kind]]
    step = Step(handle.namespace, (handle.visibility,), handle.tools)
    parts = () if handle.namespace is None else (handle.namespace,)
    for uri_format in ("path", "protocol"):
        shown = Place(None, Namespace(parts, uri_format), steps=(step,)).shown(kind, own, item)
        if shown.visible and shown.name == key:
            listed = deepcopy({**shown.item, KEYS[kind]: key})
            called = getattr(handle.target, "name", None) or "a server"
            override = handle.tools.get(own) if kind == "tools" else None
            origin = _Origin(kind, own, key, handle.target, called, handle.namespace, override, listed)
            meta = without_tags(listed).get("_meta") or {}
            said = (listed.get("name", key), listed.get("title"), listed.get("description"))
            return Mirrored(origin, COMPONENTS[kind], key, *said, tags_of(listed), meta, listed)
    return None

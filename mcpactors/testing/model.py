"""What must be listed, and whom a call must reach: a model of a composition in lists and loops.

Rule: plain and slow, and written apart from the runtime: it shares no line with naming.py, routing.py or
visibility.py, keeps no table, and looks through the whole tree again for every question. Where both agree on all that
Hypothesis can think of, neither has the other's mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import define, evolve, field, frozen
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

from mcpactors.runtime.naming import Kind
from mcpactors.runtime.visibility import Rule
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
)

__all__ = ["KINDS", "Leads", "Model", "ModelMount", "ModelOffer", "ModelServer", "Seen", "renamed"]

KINDS: tuple[Kind, ...] = ("tools", "prompts", "resources", "templates")
_WORD: Mapping[Kind, str] = {"tools": "tool", "prompts": "prompt", "resources": "resource", "templates": "template"}


@frozen
class ModelOffer:
    """One component, as its server calls it."""

    kind: Kind
    name: str
    tags: frozenset[str] = frozenset()


@define(eq=False)
class ModelServer:
    """A server as it is alone, and what is mounted on it."""

    name: str
    offers: list[ModelOffer]
    rules: list[Rule] = field(factory=list)
    mounts: list[ModelMount] = field(factory=list)
    changes: bool = True
    """Whether it can be changed: it is an `mcpactors.Server`."""

    def has(self, kind: Kind, name: str) -> bool:
        return any((offer.kind, offer.name) == (kind, name) for offer in self.offers)


@define(eq=False)
class ModelMount:
    """A server below another one, or a copy of what it offered."""

    target: ModelServer
    namespace: str | None = None
    tool_names: Mapping[str, str] = field(factory=dict)
    rules: list[Rule] = field(factory=list)
    below: list[ModelMount] = field(factory=list)
    """What was mounted by this mount's handle."""
    copy: Mapping[Kind, list[Seen]] | None = None
    within: list[ModelMount] = field(factory=list)
    """The list that it stands in."""
    age: int = 0
    """Which mount it was of all that were made."""


@frozen
class Seen:
    """A component as it is seen from some place above its server."""

    name: str
    own: str
    tags: frozenset[str]
    visible: bool
    source: ModelServer | ModelMount
    """Who offers it: a server, or the mount of a copy."""
    parts: tuple[str, ...] = ()
    """The namespaces between, outermost first."""
    way: tuple[int, ...] = ()
    """Which mount of which, from above; the older ones have the lower numbers."""


@frozen
class Leads:
    """Whom a name leads to."""

    server: ModelServer
    own: str
    parts: tuple[str, ...]
    """The namespaces that what it hands out must get."""


def renamed(kind: Kind, name: str, parts: Sequence[str], uri_format: str = "path") -> str:
    """A name with namespaces put in, outermost first."""
    for part in reversed(parts):
        if kind in ("tools", "prompts"):
            name = f"{part}_{name}"
        elif uri_format == "protocol":
            name = f"{part}+{name}"
        else:
            scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(//)?|", name)
            assert scheme is not None
            name = f"{scheme[0]}{part}/{name[len(scheme[0]) :]}"
    return name


def stripped(uri: str, parts: Sequence[str], uri_format: str) -> str | None:
    """The URI that becomes `uri` when namespaces are put in; None when there is none."""
    for part in parts:
        place = 0
        if uri_format == "path":
            scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(//)?|", uri)
            assert scheme is not None
            place = scheme.end()
        put_in = part + ("+" if uri_format == "protocol" else "/")
        if not uri.startswith(put_in, place):
            return None
        uri = uri[:place] + uri[place + len(put_in) :]
    return uri


def fits(template: str, uri: str) -> bool:
    """Whether the SDK takes the URI for one of the template."""
    try:
        return UriTemplate.parse(template).match(uri) is not None
    except InvalidUriTemplate:
        return False


def shown(rules: Sequence[Rule], kind: Kind, name: str, tags: frozenset[str]) -> bool:
    """Whether rules show a component: the latest that has something to say about it decides."""
    for rule in reversed(rules):
        if (
            (rule.components is None or _WORD[kind] in rule.components)
            and (rule.names is None or name in rule.names)
            and (rule.tags is None or any(tag in rule.tags for tag in tags))
        ):
            return rule.show
        if rule.only:
            return False
    return True


@define
class Model:
    """A root server, what a runtime has mounted beside, and all servers and mounts that there are, by number."""

    servers: list[ModelServer]
    mounts: list[ModelMount] = field(factory=list)
    beside: list[ModelMount] = field(factory=list)
    """What the runtime itself has mounted on the root."""
    policy: str = "newest"
    uri_format: str = "path"
    _made: int = 0

    # --- What is listed -------------------------------------------------------------------------------------------

    def listed(self, kind: Kind) -> list[Seen]:
        """What the root lists, in its order."""
        return self._won(self._root(kind))

    def shadowed(self, kind: Kind) -> set[str]:
        """The names that more than one mount offers."""
        visible = [seen for seen in self._root(kind) if seen.visible]
        offerers: dict[str, set[tuple[int, str, tuple[str, ...]]]] = {}
        for seen in visible:
            offerers.setdefault(seen.name, set()).add((id(seen.source), seen.own, seen.parts))
        return {name for name, found in offerers.items() if len(found) > 1}

    def hidden(self, kind: Kind) -> list[str]:
        """Names that are there but that a filter hides."""
        listed = {seen.name for seen in self.listed(kind)}
        return sorted({seen.name for seen in self._root(kind) if not seen.visible} - listed)

    def _root(self, kind: Kind) -> list[Seen]:
        return self._seen(kind, self.servers[0], self.beside)

    def _won(self, rows: list[Seen]) -> list[Seen]:
        """Of several with one name the first; in the order of lists: parents first, then the oldest mount."""
        won: dict[str, Seen] = {}
        for seen in rows:
            if seen.visible:
                won.setdefault(seen.name, seen)
        return sorted(won.values(), key=lambda seen: seen.way)

    def _seen(self, kind: Kind, server: ModelServer, more: Sequence[ModelMount] = ()) -> list[Seen]:
        """All that can be seen at a server, what wins first: its own, then that of the newest (or oldest) mount."""
        rows = [Seen(it.name, it.name, it.tags, True, server) for it in server.offers if it.kind == kind]
        mounts = sorted([*server.mounts, *more], key=lambda mount: mount.age)
        numbered = list(enumerate(mounts))
        for number, mount in numbered if self.policy == "oldest" else reversed(numbered):
            rows += [evolve(seen, way=(number, *seen.way)) for seen in self._through(kind, mount)]
        return [self._filtered(seen, kind, server.rules) for seen in rows]

    def _through(self, kind: Kind, mount: ModelMount) -> Iterator[Seen]:
        """What can be seen of a mount from outside of it."""
        for seen in mount.copy[kind] if mount.copy is not None else self._seen(kind, mount.target, mount.below):
            seen = self._filtered(seen, kind, mount.rules)
            name = mount.tool_names.get(seen.name, seen.name) if kind == "tools" else seen.name
            if mount.namespace is None:
                yield evolve(seen, name=name)
            else:
                name = renamed(kind, name, [mount.namespace], self.uri_format)
                yield evolve(seen, name=name, parts=(mount.namespace, *seen.parts))

    def _filtered(self, seen: Seen, kind: Kind, rules: Sequence[Rule]) -> Seen:
        return seen if shown(rules, kind, seen.name, seen.tags) else evolve(seen, visible=False)

    # --- Where a call leads ---------------------------------------------------------------------------------------

    def leads(self, kind: Kind, name: str) -> Leads | None:
        """Who must answer a call by this name (a read of this URI, a completion for this template); None: nobody."""
        return self._leads(kind, name, {of: self._root(of) for of in KINDS})

    def _leads(self, kind: Kind, name: str, rows: Mapping[Kind, list[Seen]]) -> Leads | None:
        for seen in self._won(rows[kind]):
            if seen.name == name:
                return self._onward(kind, seen, seen.own)
        if kind != "resources":
            return None
        templates: dict[str, Seen] = {}
        for seen in rows["templates"]:
            if seen.visible:
                templates.setdefault(seen.name, seen)
        for seen in sorted(templates.values(), key=lambda seen: -len(seen.parts)):  # the deepest, then what wins
            own = stripped(name, seen.parts, self.uri_format)
            if own is None or not fits(seen.own, own):
                continue
            if any((it.name, it.own, it.source) == (name, own, seen.source) for it in rows["resources"]):
                continue  # it is hidden: a template of who hides it is no way around that
            return self._onward(kind, seen, own)
        return None

    def _onward(self, kind: Kind, seen: Seen, own: str) -> Leads | None:
        """Who answers in the end: a copy hands on to what its source is now."""
        if isinstance(seen.source, ModelServer):
            return Leads(seen.source, own, seen.parts)
        source = seen.source.target
        found = self._leads(kind, own, {of: self._seen(of, source) for of in KINDS})
        return None if found is None else Leads(found.server, found.own, (*seen.parts, *found.parts))

    # --- Changes --------------------------------------------------------------------------------------------------

    def put(self, mount: ModelMount, within: list[ModelMount]) -> None:
        """Add a mount that is there, as the newest."""
        mount.within = within
        within.append(mount)
        self.mounts.append(mount)
        self._made += 1
        mount.age = self._made

    def make(self, change: Change) -> bool:
        """Make a change; False when it must be refused, because a server would come to be mounted into itself."""
        server = self.servers[change.server % len(self.servers)] if isinstance(change, Add | Remove | Filter) else None
        if server is not None:
            if server.changes:
                self._change_server(server, change)
            return True
        if isinstance(change, MountOn | Import):
            return self._mount_on(change)
        assert isinstance(change, MountBelow | Refresh | Unmount | Rename)
        return not self.mounts or self._change_mount(self.mounts[change.mount % len(self.mounts)], change)

    def _change_server(self, server: ModelServer, change: Change) -> None:
        if isinstance(change, Add):
            offer = change.offer
            if not server.has(offer.kind, offer.name):
                server.offers.append(ModelOffer(offer.kind, offer.name, frozenset(offer.tags)))
        elif isinstance(change, Remove) and server.offers:
            in_order = sorted(server.offers, key=lambda offer: KINDS.index(offer.kind))
            server.offers.remove(in_order[change.number % len(in_order)])
        elif isinstance(change, Filter):
            server.rules.append(change.rule)

    def _mount_on(self, change: MountOn | Import) -> bool:
        parent = self.servers[0 if change.by_runtime else change.parent % len(self.servers)]
        child = self.servers[change.child % len(self.servers)]
        if not change.by_runtime:
            if not parent.changes:
                return True
            if parent in self._described(child, [], []):
                return False
        within = self.beside if change.by_runtime else parent.mounts
        if isinstance(change, Import):
            if self._is_cyclic(child):
                return False
            mount = ModelMount(child, change.namespace)
            self._copy(mount)
            return self._put_unless_cyclic(mount, within)
        mount = ModelMount(child, change.namespace, change.tool_names)
        if change.include_tags:
            mount.rules.append(Rule(True, tags=change.include_tags, only=True))
        if change.exclude_tags:
            mount.rules.append(Rule(False, tags=change.exclude_tags))
        return self._put_unless_cyclic(mount, within)

    def _change_mount(self, mount: ModelMount, change: MountBelow | Refresh | Unmount | Rename) -> bool:
        if isinstance(change, MountBelow) and mount.copy is None:
            child = self.servers[change.child % len(self.servers)]
            return self._put_unless_cyclic(ModelMount(child, change.namespace), mount.below)
        if isinstance(change, Refresh) and mount.copy is not None and self._runs(mount):
            self._copy(mount)
        if isinstance(change, Unmount) or (isinstance(change, Rename) and mount.copy is None):
            self._take_out(mount)
        if isinstance(change, Rename) and mount.copy is None:
            again = ModelMount(mount.target, mount.namespace, change.tool_names, mount.rules)
            self.put(again, mount.within)
        return True

    def _take_out(self, mount: ModelMount) -> None:
        self.mounts.remove(mount)
        mount.within.remove(mount)

    def _put_unless_cyclic(self, mount: ModelMount, within: list[ModelMount]) -> bool:
        self.put(mount, within)
        if self._is_cyclic(self.servers[0], self.beside):
            self._take_out(mount)
            return False
        return True

    def _copy(self, mount: ModelMount) -> None:
        """Have an import offer what its source lists now."""
        rows = {kind: self._won(self._seen(kind, mount.target)) for kind in KINDS}
        mount.copy = {
            kind: [Seen(seen.name, seen.name, seen.tags, True, mount) for seen in found] for kind, found in rows.items()
        }

    def _runs(self, mount: ModelMount) -> bool:
        """Whether it is somewhere below the root; an import on a server that nothing runs is not taken anew."""
        return mount in self._described(self.servers[0], self.beside, [])

    def _described(
        self, server: ModelServer, more: Sequence[ModelMount], found: list[ModelServer | ModelMount]
    ) -> list[ModelServer | ModelMount]:
        """A server and all below it, by every mount; in what does not run yet there may be circles."""
        found.append(server)
        for mount in (*server.mounts, *more):
            if mount not in found:
                found.append(mount)
                self._described(mount.target, mount.below, found)
        return found

    def _is_cyclic(self, root: ModelServer, more: Sequence[ModelMount] = ()) -> bool:
        """Whether a server, or a copy of it, is below itself in what runs: in the tree of a root or of a source."""
        trees: list[tuple[ModelServer, Sequence[ModelMount]]] = [(root, more)]

        def again(server: ModelServer, more: Sequence[ModelMount], above: tuple[ModelServer, ...]) -> bool:
            if server in above:
                return True
            for mount in (*server.mounts, *more):
                if mount.copy is None and again(mount.target, mount.below, (*above, server)):
                    return True
                if mount.copy is not None:
                    if mount.target in (*above, server):
                        return True
                    if not any(mount.target is known for known, _ in trees):
                        trees.append((mount.target, ()))
            return False

        return any(again(*tree, ()) for tree in trees)


def uris_renamed(answer: Any, parts: Sequence[str], uri_format: str) -> Any:
    """An answer with namespaces put into every URI that it hands out."""
    if isinstance(answer, list):
        return [uris_renamed(item, parts, uri_format) for item in answer]
    if not isinstance(answer, dict):
        return answer
    return {
        key: renamed("resources", value, parts, uri_format)
        if key == "uri" and isinstance(value, str)
        else uris_renamed(value, parts, uri_format)
        for key, value in answer.items()
    }

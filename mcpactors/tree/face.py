"""What the endpoint of a runtime says of itself, made of what its servers and backends say.

Rule: it reads; nothing here changes what runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from attrs import define, field

from mcpactors.actors.wire import mirrored_arguments
from mcpactors.mounts import MountHandle
from mcpactors.runtime.mailbox import ActorRef
from mcpactors.runtime.naming import Namespace
from mcpactors.server import Server
from mcpactors.transports.surroundings import Face
from mcpactors.tree.forest import Forest, LiveMount
from mcpactors.tree.running import Running, source_of

__all__ = ["face_of", "in_order"]


def face_of(forest: Forest, version: str) -> Face:
    """That of the root; it goes with what is mounted."""
    return Face(
        forest.name,
        version,
        instructions=partial(_instructions, forest),
        completions=partial(_completes, forest),
        tool_schema=_MirroredSchemas(forest).schema_of,
        own=partial(_own, forest),
    )


def in_order(forest: Forest) -> Iterator[tuple[Namespace, Running, object]]:
    """Everything that is mounted, that which wins a conflict first."""
    by_ref = {running.ref: running for running in forest.running.values()}
    for place in forest.root.router.table.places:
        if place.target in by_ref:
            yield place.namespace, by_ref[place.target], by_ref[place.target].target


def _instructions(forest: Forest) -> str | None:
    """What the servers say of their use, each under the namespace that its names have here."""
    paragraphs = [
        f"{namespace.outward('tools', '')}*: {text}" if namespace else text
        for namespace, running, _ in sorted(in_order(forest), key=lambda row: row[0].parts)
        if (text := _said(forest, running).get("instructions"))
    ]
    return "\n\n".join(dict.fromkeys(paragraphs)) or None


def _said(forest: Forest, running: Running) -> Mapping[str, Any]:
    """What an actor said of itself; for an import, what its source did."""
    tree = forest.sources.get(running.source) if isinstance(running.source, MountHandle) else None
    for handle in tree.mounts if tree is not None else ():
        if isinstance(handle.live, LiveMount):
            return handle.live.running.said
    return running.said


def _completes(forest: Forest) -> bool:
    said = [_said(forest, running).get("capabilities") for running in forest.running.values()]
    return any(not it or it.get("completions") is not None for it in said)


def _own(forest: Forest) -> ActorRef | None:
    """The actor of the server that the root is, where that has middleware."""
    main = forest.root.main
    running = forest.running.get(id(source_of(main))) if isinstance(main, Server) and main.own_middleware else None
    return running.ref if running is not None else None


@define(eq=False)
class _MirroredSchemas:
    """The schemas of the tools that have arguments in headers, too.

    To tell these the SDK looks through all of a schema: that is done once for as long as the list is the same, or each
    call of a tool with a large one would pay for it, and its siblings with it.
    """

    _forest: Forest
    _table: object = None
    _found: dict[str, Mapping[str, Any] | None] = field(factory=dict)

    def schema_of(self, name: str) -> Mapping[str, Any] | None:
        table = self._forest.root.router.table.tools
        if self._table is not table:
            self._table, self._found = table, {}
        if name not in self._found and (item := table.item(name)) is not None:
            schema: Mapping[str, Any] | None = item.get("inputSchema")
            self._found[name] = schema if mirrored_arguments(schema) else None
        return self._found.get(name)

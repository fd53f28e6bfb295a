"""Who may see which component: rules by name, tag and kind, and how a mount shows a tool under another face.

Rule: pure. A component is visible when every filter between it and the client shows it; what is not listed cannot be
called either (design.md section 5). Tags travel in `_meta`, so they survive a proxy; FastMCP's are read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

from attrs import field, frozen

from mcpactors.errors import InvalidParams

__all__ = [
    "COMPONENTS",
    "SHOW_ALL",
    "TAGS_KEY",
    "Component",
    "Rule",
    "ToolOverride",
    "Visibility",
    "tags_of",
    "with_tags",
    "without_tags",
]

TAGS_KEY: Final = "mcpactors/tags"
_FASTMCP: Final = ("fastmcp", "_fastmcp")

Component: TypeAlias = Literal["tool", "prompt", "resource", "template"]
COMPONENTS: Final[Mapping[str, Component]] = {
    "tools": "tool",
    "prompts": "prompt",
    "resources": "resource",
    "templates": "template",
}
"""What one of a kind is called where it is shown or hidden."""


def tags_of(item: Mapping[str, Any]) -> frozenset[str]:
    """The tags of a listed component: ours and FastMCP's, from its `_meta`."""
    meta = item.get("_meta")
    if not isinstance(meta, Mapping):
        return frozenset()
    found = _strings(meta.get(TAGS_KEY))
    for key in _FASTMCP:
        theirs = meta.get(key)
        if isinstance(theirs, Mapping):
            found |= _strings(theirs.get("tags"))
    return found


def with_tags(item: Mapping[str, Any], tags: Iterable[str]) -> Mapping[str, Any]:
    """The item with more tags, under our key."""
    known = item.get("_meta")
    meta = known if isinstance(known, Mapping) else {}
    return {**item, "_meta": {**meta, TAGS_KEY: sorted(_strings(meta.get(TAGS_KEY)) | set(tags))}}


def without_tags(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The item with none of its tags, whoever's."""
    meta = item.get("_meta")
    if not isinstance(meta, Mapping):
        return item
    kept = {key: value for key, value in meta.items() if key != TAGS_KEY}
    for key in _FASTMCP:
        if isinstance(theirs := kept.get(key), Mapping):
            kept[key] = {word: value for word, value in theirs.items() if word != "tags"}
    return {**item, "_meta": kept}


def _strings(value: object) -> frozenset[str]:
    return frozenset(tag for tag in value if isinstance(tag, str)) if isinstance(value, list | tuple) else frozenset()


def _words(values: Iterable[str] | None) -> frozenset[str] | None:
    words = None if values is None else frozenset([values] if isinstance(values, str) else values)
    if not all(isinstance(word, str) for word in words or ()):
        raise InvalidParams(f"names, tags and components are words, got {values!r:.80}")
    return words


def _frozen(values: Iterable[str]) -> frozenset[str]:
    return _words(values) or frozenset()


def _components(values: Iterable[str] | None) -> frozenset[str] | None:
    words = _words(values)
    if words is not None and not words <= set(COMPONENTS.values()):
        raise InvalidParams(f"components are {', '.join(COMPONENTS.values())}; got {values!r:.80}")
    return words


@frozen
class Rule:
    """One call of `enable` or `disable`. It is about the components that fit everything that it names.

    `only` (with `show`) hides everything else as well.
    """

    show: bool
    names: frozenset[str] | None = field(default=None, converter=_words)
    tags: frozenset[str] | None = field(default=None, converter=_words)
    components: frozenset[str] | None = field(default=None, converter=_components)
    only: bool = False

    def fits(self, component: Component, name: str, tags: frozenset[str]) -> bool:
        """Whether this rule is about that component; any one of `tags` is enough."""
        return (
            (self.components is None or component in self.components)
            and (self.names is None or name in self.names)
            and (self.tags is None or not self.tags.isdisjoint(tags))
        )


@frozen
class Visibility:
    """Rules in the order in which they were given; the last one that says something about a component decides."""

    rules: tuple[Rule, ...] = ()

    def shows(self, kind: str, name: str, item: Mapping[str, Any]) -> bool:
        """Whether the component is visible. Without rules everything is."""
        if not self.rules:
            return True
        component, tags, visible = COMPONENTS[kind], tags_of(item), True
        for rule in self.rules:
            if rule.fits(component, name, tags):
                visible = rule.show
            elif rule.only:
                visible = False
        return visible

    def and_then(self, rule: Rule) -> Visibility:
        """These rules and one more."""
        return Visibility((*self.rules, rule))

    @classmethod
    def by_tags(cls, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Visibility:
        """A mount's `include_tags` and `exclude_tags`; excluding wins."""
        including, excluding = Rule(True, tags=include, only=True), Rule(False, tags=exclude)
        return cls(tuple(rule for rule in (including, excluding) if rule.tags))


SHOW_ALL: Final = Visibility()


@frozen(kw_only=True)
class ToolOverride:
    """How a mount shows one tool: another name or description, arguments dropped or fixed (features B12).

    `fixed` arguments are no longer shown and always sent with these values; `dropped` ones are neither shown nor sent.
    """

    name: str | None = None
    title: str | None = None
    description: str | None = None
    fixed: Mapping[str, Any] = field(factory=dict)
    dropped: frozenset[str] = field(default=frozenset(), converter=_frozen)

    def shown(self, tool: Mapping[str, Any]) -> Mapping[str, Any]:
        """The listed tool as this mount shows it, still under its old name."""
        changed = dict(tool)
        if self.title is not None:
            changed["title"] = self.title
        if self.description is not None:
            changed["description"] = self.description
        hidden = self.dropped | set(self.fixed)
        schema = tool.get("inputSchema")
        if hidden and isinstance(schema, Mapping):
            changed["inputSchema"] = _without(schema, hidden)
        return changed

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that are really sent for those that a client gave."""
        return {key: value for key, value in given.items() if key not in self.dropped} | dict(self.fixed)


def _without(schema: Mapping[str, Any], hidden: Iterable[str]) -> dict[str, Any]:
    hidden = frozenset(hidden)
    changed = dict(schema)
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        changed["properties"] = {key: value for key, value in properties.items() if key not in hidden}
    required = schema.get("required")
    if isinstance(required, list):
        changed["required"] = [key for key in required if not (isinstance(key, str) and key in hidden)]
        if not changed["required"]:
            del changed["required"]
    return changed

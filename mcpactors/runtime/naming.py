"""What a component is called: in its own server, and in each namespace on the way to the root.

Rule: everything in this file is a pure function or an immutable value; no trio, no MCP types, no I/O. Names come from
seeds 001 and 003: `{namespace}_{name}` for tools and prompts, `scheme://{namespace}/rest` ("path") or
`{namespace}+scheme://rest` ("protocol") for resources and templates; nesting accumulates.

How every URI round-trips: a URI is its head (`scheme://`, else `scheme:`, else nothing) and the rest, and the path
format puts the namespace between the two. So `file:///x` becomes `file://ns//x`, `urn:isbn:1` becomes `urn:ns/isbn:1`
and `{+any}` becomes `ns/{+any}`; taking it out again needs no guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from heapq import nlargest
from itertools import islice
from os.path import commonprefix
from typing import Final, Literal

from attrs import field, frozen

from mcpactors.errors import InvalidParams, NamespaceError, NotFound

__all__ = [
    "BETWEEN",
    "KEYS",
    "KINDS",
    "NAMESPACE_LENGTH",
    "NAME_LENGTH",
    "TOLD",
    "WORDS",
    "Kind",
    "Namespace",
    "UriFormat",
    "add_resource_prefix",
    "has_literals",
    "has_resource_prefix",
    "literals",
    "nearest",
    "prefixes",
    "remove_resource_prefix",
    "shape_of",
    "unknown",
    "validate_name",
    "validate_namespace",
]

Kind = Literal["tools", "prompts", "resources", "templates"]
UriFormat = Literal["path", "protocol"]

KINDS: Final[tuple[Kind, ...]] = ("tools", "prompts", "resources", "templates")
KEYS: Final[Mapping[Kind, str]] = {"tools": "name", "prompts": "name", "resources": "uri", "templates": "uriTemplate"}
"""Which field of a listed item is its name."""
WORDS: Final[Mapping[Kind, str]] = {
    "tools": "tool",
    "prompts": "prompt",
    "resources": "resource",
    "templates": "resource template",
}
"""What one of a kind is called, for people."""

NAME_LENGTH: Final = 128
"""The longest name of a tool or prompt that MCP allows (2025-11-25, server/tools "Tool Names")."""
NAMESPACE_LENGTH: Final = 64
TOLD: Final = 5
"""Of what is alike, at most, that people are told of each by its name."""
LOOKED_AT: Final = 1_000
COMPARED: Final = 4
"""Names that are looked at, and of those compared, for the one that was meant: see `nearest`."""
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SCHEME_NAMESPACE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.-]*")
BETWEEN: Final[Mapping[UriFormat, str]] = {"path": "/", "protocol": "+"}
"""What stands between two namespaces, and after the last, in a URI."""
_VARIABLES: Final = re.compile(r"\{([+#./]?)([^{}?&;+#./][^{}]*)\}")
_EXPRESSION: Final = re.compile(r"\{[^{}]*\}")
_HEAD: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//)?")


def validate_namespace(namespace: str, uri_format: UriFormat = "path") -> str:
    """The namespace itself when it can stand in a tool name and in a URI.

    Raises:
        NamespaceError: it cannot; the message says what is allowed.
    """
    allowed = _NAMESPACE if uri_format == "path" else _SCHEME_NAMESPACE
    if not isinstance(namespace, str) or not allowed.fullmatch(namespace) or len(namespace) > NAMESPACE_LENGTH:
        first, rest = (
            ("a letter or digit", "letters, digits, '_', '.', '-'")
            if uri_format == "path"
            else ("a letter", "letters, digits, '.', '-' (the URI format 'protocol' puts it in a URI scheme)")
        )
        raise NamespaceError(
            f"namespace {namespace!r:.80} cannot be used: it must start with {first} and consist of {rest}, at most "
            f"{NAMESPACE_LENGTH} characters; leave it out (None) to keep names unchanged"
        )
    return namespace


def validate_name(what: str, name: str) -> str:
    """The name of a tool or prompt itself when it has a length that MCP allows. Raises `InvalidParams`."""
    if not name or len(name) > NAME_LENGTH:
        raise InvalidParams(
            f"{what} name {name[:40] + '...' if name else name!r} cannot be used: it must have 1 to {NAME_LENGTH} "
            f"characters, it has {len(name)}"
        )
    return name


def shape_of(template: str) -> str:
    """A URI template without the names of its variables: two of one shape stand for the same URIs.

    Names in a query are part of the URI, and stay.
    """
    return _VARIABLES.sub(_without_names, template)


def _without_names(expression: re.Match[str]) -> str:
    operator, names = expression.groups()
    return "{" + operator + ",".join(re.sub(r"^[^:*]*", "", name) for name in names.split(",")) + "}"


def literals(template: str) -> Sequence[str]:
    """What stands before, between and after the expressions of a URI template."""
    return _EXPRESSION.split(template)


def has_literals(literals: Sequence[str], uri: str) -> bool:
    """Whether a URI has the literals of a template where each expansion of it has them; one pass over the URI."""
    first, last = literals[0], literals[-1]
    if not uri.startswith(first) or not uri.endswith(last):
        return False
    if len(literals) == 1:
        return uri == first
    at = len(first)
    for literal in literals[1:-1]:
        found = uri.find(literal, at)
        if found < 0:
            return False
        at = found + len(literal)
    return len(uri) - len(last) >= at


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that was meant by one that nobody has, if one is much like it.

    A backend chooses these names, and everybody waits meanwhile: two long ones take a millisecond to compare. So of
    the first 1,000 that are not too long only those few are compared that begin and end most alike.
    """
    if len(name) > NAME_LENGTH:
        return None

    def alike(other: str) -> int:
        ends = (name, other), (name[::-1], other[::-1])
        return sum(len(commonprefix(pair)) for pair in ends)  # noqa: RUF071 (letters are meant)

    looked_at = (other for other in islice(known, LOOKED_AT) if len(other) < 2 * NAME_LENGTH)
    close = get_close_matches(name, nlargest(COMPARED, looked_at, key=alike), n=1, cutoff=0.8)
    return close[0] if close else None


def unknown(kind: Kind, name: str, hint: str = "") -> NotFound:
    """The error for a name that nobody has: the same words and `data` whoever finds it out."""
    return NotFound(
        f"Unknown {WORDS[kind]}: {name}{hint}", {"uri" if kind in ("resources", "templates") else "name": name}
    )


def _split(uri: str) -> tuple[str, str]:
    head = _HEAD.match(uri)
    return (head.group(), uri[head.end() :]) if head else ("", uri)


def add_resource_prefix(uri: str, prefix: str, prefix_format: UriFormat = "path") -> str:
    """The URI or URI template with a namespace in it: `data://x` and `ns` give `data://ns/x` (or `ns+data://x`)."""
    if prefix_format == "protocol":
        return f"{prefix}+{uri}"
    head, rest = _split(uri)
    return f"{head}{prefix}/{rest}"


def has_resource_prefix(uri: str, prefix: str, prefix_format: UriFormat = "path") -> bool:
    """Whether `remove_resource_prefix` would take anything out."""
    if prefix_format == "protocol":
        return uri.startswith(f"{prefix}+")
    return _split(uri)[1].startswith(f"{prefix}/")


def remove_resource_prefix(uri: str, prefix: str, prefix_format: UriFormat = "path") -> str:
    """The URI without the namespace; unchanged when it is not there."""
    if not has_resource_prefix(uri, prefix, prefix_format):
        return uri
    if prefix_format == "protocol":
        return uri[len(prefix) + 1 :]
    head, rest = _split(uri)
    return head + rest[len(prefix) + 1 :]


def prefixes(uri: str, prefix_format: UriFormat, most: int) -> Iterator[str]:
    """What stands where the prefixes of up to `most` namespaces stand, the longest first, the empty one last."""
    between = BETWEEN[prefix_format]
    parts = (_split(uri)[1] if prefix_format == "path" else uri).split(between, most)[:-1]
    for count in range(len(parts), -1, -1):
        yield between.join(parts[:count])


@frozen
class Namespace:
    """The namespaces on the way from the root to one mount, outermost first. The empty one changes nothing."""

    parts: tuple[str, ...] = ()
    uri_format: UriFormat = "path"
    _name_prefix: str = field(init=False, repr=False, eq=False)
    uri_prefix: str = field(init=False, repr=False, eq=False)

    @_name_prefix.default
    def _make_name_prefix(self) -> str:
        return "".join(part + "_" for part in self.parts)

    @uri_prefix.default
    def _make_uri_prefix(self) -> str:
        return BETWEEN[self.uri_format].join(self.parts)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __str__(self) -> str:
        return "/".join(self.parts)

    def within(self, part: str | None) -> Namespace:
        """The namespace of a mount below this one."""
        return self if part is None else Namespace((*self.parts, part), self.uri_format)

    def around(self, inner: Namespace) -> Namespace:
        """This namespace with another one inside it."""
        return Namespace((*self.parts, *inner.parts), inner.uri_format) if self.parts else inner

    def outward(self, kind: Kind, own: str) -> str:
        """The name under which the root lists what the mount itself calls `own`."""
        if not self.parts:
            return own
        if kind in ("tools", "prompts"):
            return self._name_prefix + own
        return add_resource_prefix(own, self.uri_prefix, self.uri_format)

    def inward(self, kind: Kind, full: str) -> str | None:
        """The mount's own name for `full`; None when `full` cannot be one of its names."""
        if not self.parts:
            return full
        if kind in ("tools", "prompts"):
            return full[len(self._name_prefix) :] if full.startswith(self._name_prefix) else None
        if not has_resource_prefix(full, self.uri_prefix, self.uri_format):
            return None
        return remove_resource_prefix(full, self.uri_prefix, self.uri_format)

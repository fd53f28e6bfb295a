"""Whether a URI is an expansion of a URI template (RFC 6570), by the SDK's own parser, parsed once."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

__all__ = ["matches"]

_EXPRESSION: Final = re.compile(r"\{[^{}]*\}")


@lru_cache(maxsize=4096)
def _parsed(template: str) -> UriTemplate | None:
    try:
        return UriTemplate.parse(template)
    except InvalidUriTemplate:
        return None


def matches(template: str, uri: str) -> bool:
    """True when `uri` is an expansion of `template`.

    The SDK refuses templates that other servers may use (`{id:3}`, `{?tags*}`, `{a}{b}`): of those, only what stands
    between the expressions is compared, and the server has the last word.
    """
    parsed = _parsed(template)
    return parsed.match(uri) is not None if parsed is not None else _has_the_literals(template, uri)


def _has_the_literals(template: str, uri: str) -> bool:
    first, *middle = _EXPRESSION.split(template)
    if not middle:
        return uri == template
    last = middle.pop()
    at = len(first)
    for literal in middle:
        found = uri.find(literal, at)
        if found < 0:
            return False
        at = found + len(literal)
    return uri.startswith(first) and uri.endswith(last) and len(uri) - len(last) >= at

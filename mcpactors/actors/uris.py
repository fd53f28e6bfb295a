"""Whether a URI is an expansion of a URI template (RFC 6570), by the SDK's own parser, parsed once."""

from __future__ import annotations

from functools import lru_cache

from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

__all__ = ["matches"]


@lru_cache(maxsize=4096)
def _parsed(template: str) -> UriTemplate | None:
    try:
        return UriTemplate.parse(template)
    except InvalidUriTemplate:
        return None


def matches(template: str, uri: str) -> bool:
    """True when `uri` is an expansion of `template`; False, too, for a template that is not well-formed."""
    parsed = _parsed(template)
    return parsed is not None and parsed.match(uri) is not None

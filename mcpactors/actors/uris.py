"""Whether a URI is an expansion of a URI template (RFC 6570), by the SDK's own parser."""

from __future__ import annotations

from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

from mcpactors.runtime.naming import has_literals, literals

__all__ = ["matches"]


def matches(template: str, uri: str) -> bool:
    """True when `uri` is an expansion of `template`.

    The SDK refuses templates that other servers may use (`{id:3}`, `{?tags*}`, `{a}{b}`): of those, only what stands
    between the expressions is compared, and the server has the last word.
    """
    if not has_literals(literals(template), uri):
        return False
    try:
        return UriTemplate.parse(template).match(uri) is not None
    except InvalidUriTemplate:
        return True

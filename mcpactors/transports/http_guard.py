"""Whose HTTP requests are served: a table of names against the Host and Origin of a request.

Rule: pure, and asked before a body is read, on every route. A web page may let a browser ask servers of its user's own
network (DNS rebinding): then Host or Origin is the page's name. Promise F33; MCP, Streamable HTTP, security warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

__all__ = ["ANY_ADDRESS", "LOOPBACK", "names_of", "refusal"]

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
ANY_ADDRESS: Final = ("0.0.0.0", "::")
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@/?#\s]+))(?::([0-9]{1,5}))?")
_ORIGIN: Final = re.compile(r"https?://(.+)", re.IGNORECASE)

Refusal = tuple[int, str]
"""Status and a sentence for people."""


def names_of(host: str) -> frozenset[str] | None:
    """The names that a server bound to `host` is reached by; None where nobody can know: bound to every address."""
    return None if host in ANY_ADDRESS else frozenset(_plain(name) for name in (*LOOPBACK, host))


def refusal(names: frozenset[str] | None, fields: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """Why a request with these header fields (names in lower case) is not served, or None when it is.

    `names` None serves whatever Host; then an Origin is of that host, or of the loopback.
    """
    host, origins = b"", []
    for name, value in fields:
        if name == b"host":
            host = value
        elif name == b"origin":
            origins.append(value)
    return _judged(names, host, b", ".join(origins))


@lru_cache(maxsize=256)
def _judged(names: frozenset[str] | None, host: bytes, origin: bytes) -> Refusal | None:
    asked = _name(host.decode("latin-1"))
    if asked is None or (names is not None and asked not in names):
        return 421, "this server is not reached by that name (Host)"
    if origin:
        found = _ORIGIN.fullmatch(origin.decode("latin-1"))
        page = _name(found[1]) if found is not None else None
        if page is None or page not in (names if names is not None else {asked, *LOOPBACK}):
            return 403, "pages of that origin may not ask this server (Origin)"
    return None


def _name(authority: str) -> str | None:
    """The host of `host[:port]`, as names are compared; None when it is none."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None or int(found[3] or 0) > 65535:
        return None
    return _plain(found[1] or found[2])


def _plain(host: str) -> str:
    """In lower case, without the dot that ends a name from the root, an address as its shortest spelling."""
    try:
        return str(ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")

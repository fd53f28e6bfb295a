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

from attrs import frozen

from mcpactors.errors import ConfigError

__all__ = ["ANY_ADDRESS", "LOOPBACK", "Names", "is_loopback", "names_of", "page_named", "refusal"]

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
ANY_ADDRESS: Final = ("0.0.0.0", "::")
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@/?#\s]+))(?::([0-9]{1,5}))?")
_ORIGIN: Final = re.compile(r"https?://(.+)", re.IGNORECASE)

Refusal = tuple[int, str]
"""Status and a sentence for people."""


@frozen
class Names:
    """What a server is reached by: `hosts` as they are compared, None: whatever name. `origins` are of web pages that
    may ask it beside those of these hosts, None: all pages."""

    hosts: frozenset[str] | None
    origins: frozenset[str] | None = frozenset()


def names_of(host: str | None, allowed_hosts: Iterable[str] = (), allowed_origins: Iterable[str] = ()) -> Names:
    """The names that a server bound to `host` is reached by.

    Bound to every address (or, `host` None, to none of the network) these are `allowed_hosts` and the loopback; where
    none are given nobody can know, and every name is taken. "*" among the allowed allows all.

    Raises:
        ConfigError: what is allowed is no name of a host, or no origin.
    """
    known = [_checked_host(name) for name in allowed_hosts if name != "*"]
    anything = host is None or host in ANY_ADDRESS
    every = "*" in allowed_hosts or (anything and not known)
    own = () if host is None or anything else (host,)
    hosts = None if every else frozenset((*(_plain(name) for name in (*LOOPBACK, *own)), *known))
    origins = None if "*" in allowed_origins else frozenset(_checked_origin(origin) for origin in allowed_origins)
    return Names(hosts, origins)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can connect to what is bound to `host`; of a name that is not known."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return _plain(host) in LOOPBACK


def refusal(names: Names, fields: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """Why a request with these header fields (names in lower case) is not served, or None when it is.

    Where every host is served, an Origin is of the host that was asked, of the loopback, or allowed.
    """
    host, origins = b"", []
    for name, value in fields:
        if name == b"host":
            host = value
        elif name == b"origin":
            origins.append(value)
        elif name.startswith(b"mcp-") and not value.isascii():  # the SDK's decoder raises at some of these
            return 400, f"{name.decode('latin-1')} has to be ASCII; other text goes as =?base64?...?="
    return _judged(names, host, b", ".join(origins))


def page_named(names: Names, fields: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The Origin of the page that asks, as it came, where it is among those that an operator has allowed by name."""
    found = [value for name, value in fields if name == b"origin"]
    if len(found) != 1 or not found[0].isascii():
        return None
    return found[0] if names.origins is None or _origin(found[0].decode()) in names.origins else None


@lru_cache(maxsize=256)
def _judged(names: Names, host: bytes, origin: bytes) -> Refusal | None:
    asked = _name(host.decode("latin-1"))
    if asked is None or (names.hosts is not None and asked not in names.hosts):
        return 421, "this server is not reached by that name (Host); allow it with --allowed-host where it is right"
    if origin and names.origins is not None:
        text = origin.decode("latin-1")
        found = _ORIGIN.fullmatch(text)
        page = _name(found[1]) if found is not None else None
        ours = page is not None and page in (names.hosts if names.hosts is not None else {asked, *LOOPBACK})
        if not ours and _origin(text) not in names.origins:
            return 403, "pages of that origin may not ask this server (Origin); --allowed-origin allows one"
    return None


def _checked_host(host: str) -> str:
    name = _name(f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host)
    if name is None:
        raise ConfigError(f"{host!r} is no name of a host; write it as mcp.example.org, or * for all")
    return name


def _checked_origin(origin: str) -> str:
    text = _origin(origin)
    if text is None:
        raise ConfigError(f"{origin!r} is no origin; write it as https://app.example.org, or * for all")
    return text


_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def _origin(origin: str) -> str | None:
    """An origin as origins are compared: scheme, host, and a port that is not the scheme's own. "null" is one."""
    if origin == "null":
        return origin
    scheme, _, authority = origin.lower().partition("://")
    found = _AUTHORITY.fullmatch(authority)
    if found is None or _name(authority) is None or not re.fullmatch("[a-z][a-z0-9+.-]*", scheme):
        return None
    port = found[3] or ""
    return f"{scheme}://{_plain(found[1] or found[2])}:{'' if port == _DEFAULT_PORTS.get(scheme) else port}"


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

"""Where a backend is served over HTTP, what goes with every request there, and by what means it is reached.

Rule: one origin. What was given for it (headers, credentials) goes there and nowhere else, whatever a redirect says.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final
from urllib.request import getproxies, proxy_bypass

import httpx2
from attrs import define, field

from mcpactors.errors import BackendStartError
from mcpactors.transports.http_over_httpx import ClientExchange
from mcpactors.transports.http_pool import CONNECT_TIMEOUT, Answer, Exchange, Pool

__all__ = ["Endpoint"]

OURS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that a request has of us, whatever was given."""
KEEP_METHOD: Final = (307, 308)
REDIRECTS: Final = (301, 302, 303, *KEEP_METHOD)
MAX_REDIRECTS: Final = 5
_PORTS: Final = {"http": 80, "https": 443}


@define(eq=False)
class Endpoint:
    """A URL that was given, with the headers that go with every request to it.

    Raises:
        BackendStartError: nothing can be served at such a URL, or a header cannot be sent.
    """

    given: str
    headers: Mapping[str, str]
    target: str = field(init=False)
    """Path and query, as they are asked for; another one once a redirect said that it is for good."""
    _url: httpx2.URL = field(init=False)

    def __attrs_post_init__(self) -> None:
        try:
            self._url = httpx2.URL(self.given)
        except httpx2.InvalidURL as error:
            raise BackendStartError(f"{self.given!r} is no URL: {error}") from error
        if self._url.scheme not in _PORTS or not self._url.host:
            raise BackendStartError(f"{self._url.copy_with(userinfo=b'')} is no URL of HTTP with a host in it")
        self.target = self._url.raw_path.decode("ascii")

    def __str__(self) -> str:
        """Without what may be secret: user, password and query."""
        return str(self._url.copy_with(userinfo=b"", query=None, fragment=None))

    def exchange(self, client: Any = None) -> Exchange:
        """By what it is reached: `client`, an httpx or httpx2 client that stays its owner's; else our own pool, or a
        client of httpx2 where the environment names a proxy for this host.
        """
        if client is not None:
            return ClientExchange(client, self._origin, self._fields(host=False), owned=False)
        if self._is_proxied():
            timeout = httpx2.Timeout(CONNECT_TIMEOUT, read=None, write=None, pool=None)
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=4)
            owned = httpx2.AsyncClient(timeout=timeout, limits=limits)
            return ClientExchange(owned, self._origin, self._fields(host=False), owned=True)
        url = self._url
        tls = ssl.create_default_context() if url.scheme == "https" else None
        try:
            host = url.raw_host.decode("ascii").strip("[]")
            return Pool(host, url.port or _PORTS[url.scheme], tls, self._fields(host=True))
        except ValueError as error:
            raise BackendStartError(f"the headers for {self} cannot be sent: {error}") from error

    def next_target(self, method: str, target: str, answer: Answer) -> str | None:
        """Where a redirect leads that is to be followed: on this origin, and for the same method."""
        location = answer.fields.get("location")
        if location is None or not (answer.status in KEEP_METHOD or method == "GET"):
            return None
        try:
            url = self._url.copy_with(raw_path=target.encode(), fragment=None).join(location)
        except (httpx2.InvalidURL, ValueError):
            return None
        same = (url.scheme, url.host, url.port) == (self._url.scheme, self._url.host, self._url.port)
        return url.raw_path.decode("ascii") if same and url.userinfo in (b"", self._url.userinfo) else None

    @property
    def _origin(self) -> str:
        return f"{self._url.scheme}://{self._url.netloc.decode('ascii')}"

    def _fields(self, *, host: bool) -> dict[str, str]:
        fields = {"host": self._url.netloc.decode("ascii")} if host else {}
        fields |= {"user-agent": "mcpactors", "accept-encoding": "identity"}
        if self._url.userinfo:
            plain = f"{self._url.username}:{self._url.password}".encode()
            fields["authorization"] = f"Basic {b64encode(plain).decode('ascii')}"
        given = {name.lower(): value for name, value in self.headers.items()}
        return {**fields, **{name: value for name, value in given.items() if name not in OURS}}

    def _is_proxied(self) -> bool:
        proxies = getproxies()
        named = self._url.scheme in proxies or "all" in proxies
        return named and not proxy_bypass(self._url.host)

"""Where a backend is served over HTTP, what goes with every request there, and by what means it is reached.

Rule: one origin. What was given for it (headers, credentials) goes there and nowhere else, whatever a redirect says.
"""

from __future__ import annotations

import ssl
import threading
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Self
from urllib.request import getproxies, proxy_bypass

import httpx2
import trio
from attrs import define, field

from mcpactors.errors import BackendStartError, ConfigError
from mcpactors.transports.http_client.over_httpx import ClientExchange
from mcpactors.transports.http_client.pool import CONNECT_TIMEOUT, Answer, AnswerLost, Exchange, Pool

__all__ = ["Endpoint", "system_tls", "trusting"]

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
_reading: Final = threading.Lock()  # whoever comes while what the system trusts is being read has it from there


@define(eq=False)
class Endpoint:
    """A URL that was given, with the headers that go with every request to it: see `at`."""

    given: str
    headers: Mapping[str, str]
    client: Any = None
    """An httpx or httpx2 client to send through, which stays its owner's."""
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    """What TLS is done with, where it is not the client's; None: what the system trusts."""
    _url: httpx2.URL = field(init=False)
    _target: str = field(init=False)  # path and query; others once a redirect said that they are so for good
    _exchange: Exchange = field(init=False)

    @classmethod
    async def at(cls, url: str, headers: Mapping[str, str], client: Any, ssl_context: ssl.SSLContext | None) -> Self:
        """One at this URL, with its parts as they are called above.

        Raises:
            BackendStartError: nothing can be served at such a URL, or a header cannot be sent.
        """
        if client is None and ssl_context is None and (getproxies() or not url.lower().startswith("http:")):
            ssl_context = await system_tls()
        return cls(url, headers, client, ssl_context)

    def __attrs_post_init__(self) -> None:
        try:
            self._url = httpx2.URL(self.given)
        except httpx2.InvalidURL as error:
            raise BackendStartError(f"the URL of a backend is none: {error}") from None
        if self._url.scheme not in _PORTS or not self._url.host:
            raise BackendStartError(f"{self._url.copy_with(userinfo=b'')} is no URL of HTTP with a host in it")
        self._target = self._url.raw_path.decode("ascii")
        self._exchange = self._reached_by()

    def __str__(self) -> str:
        """Without what may be secret: user, password and query."""
        return str(self._url.copy_with(userinfo=b"", query=None, fragment=None))

    async def run(self) -> None:
        """What idle connections need; runs beside the requests."""
        await self._exchange.run()

    async def aclose(self) -> None:
        """Close all connections, under whoever uses one."""
        await self._exchange.aclose()

    async def send(self, method: str, fields: Mapping[str, str], body: bytes, *, safe: bool) -> Answer:
        """One request, and what answers it once redirects were followed that stay here and keep the method.

        `safe`: it may be sent again where it is not known whether the backend has seen it. Raises as `Exchange` does.
        """
        target, followed = self._target, 0
        while True:
            try:
                answer = await self._exchange.send(method, target, fields, body)
            except AnswerLost as error:
                if not (error.stale and safe):
                    raise
                answer = await self._exchange.send(method, target, fields, body, fresh=True)
            if answer.status not in REDIRECTS:
                return answer
            following = self._next_target(method, target, answer)
            if following is None or followed == MAX_REDIRECTS:
                return answer
            await answer.aclose(done=True)
            target, followed = following, followed + 1
            if answer.status == 308:
                self._target = target

    def _reached_by(self) -> Exchange:
        """The client that was given; else our own pool, or a client of ours where the environment names a proxy."""
        if self.client is not None:
            return ClientExchange(self.client, self._origin, self._fields(host=False), owned=False)
        if self._is_proxied():
            timeout = httpx2.Timeout(CONNECT_TIMEOUT, read=None, write=None, pool=None)
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=4)
            owned = httpx2.AsyncClient(timeout=timeout, limits=limits, verify=self.ssl_context or _system_tls())
            return ClientExchange(owned, self._origin, self._fields(host=False), owned=True)
        url = self._url
        tls = (self.ssl_context or _system_tls()) if url.scheme == "https" else None
        try:
            host = url.raw_host.decode("ascii").strip("[]")
            return Pool(host, url.port or _PORTS[url.scheme], tls, self._fields(host=True))
        except ValueError as error:
            raise BackendStartError(f"the headers for {self} cannot be sent: {error}") from error

    def _next_target(self, method: str, target: str, answer: Answer) -> str | None:
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


def trusting(ca: str) -> ssl.SSLContext:
    """A context that trusts the certificates in this PEM file, and no others. Raises `ConfigError`."""
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # an ssl.SSLError is one
        raise ConfigError(f"ca: {ca}: no certificates to trust: {error.strerror or error}; name a PEM file") from error


async def system_tls() -> ssl.SSLContext:
    """What the system trusts, or what SSL_CERT_FILE and SSL_CERT_DIR name. Read once, which takes a tenth of a second,
    in a thread: not one that handlers could have used up."""
    if _read_tls.cache_info().currsize:
        return _read_tls()
    return await trio.to_thread.run_sync(_system_tls, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


def _system_tls() -> ssl.SSLContext:
    with _reading:
        return _read_tls()


@cache
def _read_tls() -> ssl.SSLContext:
    return ssl.create_default_context()

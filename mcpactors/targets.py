"""What can be mounted or proxied: `ProxyServer`, a backend with how clients share it.

Rule: descriptions only; `backends` connects to them and a runtime makes them alive. What a target means, `meaning`
says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypedDict, TypeVar, get_args

import attrs
from attrs import evolve, frozen
from mcp.client import Client as SDKClient
from mcp.client import ClientSession
from mcp_types.version import LATEST_MODERN_VERSION

from mcpactors.config import HTTPServer, StdioServer
from mcpactors.errors import ConfigError, MountError
from mcpactors.foreign import low_level, refuse_asyncio
from mcpactors.meaning import (
    ClientFactory,
    Composite,
    Target,
    as_config,
    connected,
    entry,
    is_described,
    meaning_of,
    shown,
)
from mcpactors.runtime.policy import (
    DEFAULT_LIMITS,
    FORWARD_ALL,
    BackendLimits,
    Era,
    Forwarding,
    PoolLimits,
    Sessions,
)
from mcpactors.transports.values import ProgramTransport, SDKTransport

__all__ = ["Policy", "ProxyServer", "called", "check_target", "describe"]

_POLICIES: Final = ("sessions", "forward", "pool", "era", "limits")


class Policy(TypedDict, total=False):
    """How clients share a backend, and what it may say to and ask of them: keywords of `create_proxy`.

    A feature that is None is switched off (seed 002 "Customizing Feature Support").
    """

    sessions: Sessions
    era: Era
    forward: Forwarding | Mapping[str, bool]
    pool: PoolLimits | Mapping[str, float]
    limits: BackendLimits | Mapping[str, float]
    roots: None
    sampling: None
    elicitation: None
    logging: None
    progress: None


@frozen(eq=False, init=False)
class ProxyServer:
    """A backend to be proxied: where it is, and what it is called when nothing else names it."""

    target: Target
    name: str
    sessions: Sessions | None
    """How clients share it; None: see `strategy`."""
    forward: Forwarding
    """What it may say to, and ask of, the clients behind its calls."""
    pool: PoolLimits
    era: Era
    """Which is spoken to it."""
    limits: BackendLimits | None
    """What is taken of it, and how its process is ended; None: the runtime's."""

    def __init__(
        self,
        target: object = None,
        name: str | None = None,
        *,
        client_factory: Callable[[], object] | None = None,
        sessions: Sessions | None = None,
        forward: Forwarding | Mapping[str, bool] | None = None,
        pool: PoolLimits | Mapping[str, float] | None = None,
        era: Era | None = None,
        limits: BackendLimits | Mapping[str, float] | None = None,
    ) -> None:
        """Explicit control over sessions: `client_factory` is what `ClientFactory` tells; else `target` is what
        `create_proxy` takes. What else is not said is taken from the target where that is an entry of a config.

        Raises:
            ConfigError: there are a target and a factory, or neither; no such strategy or era; or an era for a client
                that is connected already.
        """
        if client_factory is not None and target is None:
            target = ClientFactory(client_factory)
        elif client_factory is not None or target is None:
            raise ConfigError("ProxyServer takes a target or client_factory=..., one of them")
        forward, pool = _settings(Forwarding, forward, "forward"), _settings(PoolLimits, pool, "pool")
        limits = _settings(BackendLimits, limits, "limits")
        if not is_described(target):
            found = _single(target)
            target, name, sessions = found.target, name or found.name, sessions or found.sessions
            forward, pool = forward or found.forward, pool or found.pool
            era, limits = era or found.era, limits or found.limits
        name = name or "backend"
        if isinstance(target, StdioServer | HTTPServer):
            sessions, forward, pool = sessions or target.sessions, forward or target.forward, pool or target.pool
            era, limits = era or target.era, limits or target.limits
        for given, words, what in ((sessions, Sessions, "sessions"), (era, Era, "era")):
            if given is not None and given not in get_args(words):
                raise ConfigError(f"{what}: expected one of {', '.join(get_args(words))}, got {given!r}")
        if era in ("legacy", "modern") and isinstance(target, SDKClient | ClientSession):
            raise ConfigError(f"era={era!r}: this client is connected already; say so to it, Client(..., mode=...)")
        self.__attrs_init__(
            target, name, sessions, forward or FORWARD_ALL, pool or DEFAULT_LIMITS, era or "auto", limits
        )

    @property
    def strategy(self) -> Sessions:
        """`sessions`; else one connection for all where a session is a process, and one a client everywhere else."""
        if self.client is not None:
            return "shared"
        process = isinstance(self.target, StdioServer | ProgramTransport)
        return self.sessions or ("shared" if process or self.connects_once else "per_client")

    def with_policy(self, policy: Policy) -> ProxyServer:
        """The same backend with another policy. Raises `ConfigError` for what is no policy."""
        off = {name: wanted for name, wanted in policy.items() if name not in _POLICIES}
        for name, wanted in off.items():
            if name not in attrs.fields_dict(Forwarding) or wanted is not None:
                raise ConfigError(f"{name}={wanted!r} is no policy of a proxy; None switches a feature off")
        forward = _settings(Forwarding, policy.get("forward"), "forward") or self.forward
        forward = evolve(forward, **dict.fromkeys(off, False))
        sessions, pool = policy.get("sessions", self.sessions), policy.get("pool", self.pool)
        era, limits = policy.get("era", self.era), policy.get("limits", self.limits)
        return ProxyServer(
            self.target, self.name, sessions=sessions, forward=forward, pool=pool, era=era, limits=limits
        )

    def run(self, *args: Any, **options: Any) -> NoReturn:
        """Raises `MountError`: a proxy is a description, and a server serves."""
        raise MountError("a proxy is mounted, or served by a server of its own: Server.as_proxy(it).run(...)")

    @property
    def behind(self) -> Composite | None:
        """The server of ours that it is a proxy of."""
        return self.target if isinstance(self.target, Composite) else None

    @property
    def client(self) -> SDKClient | ClientSession | None:
        """The caller's own connected client, which is used as it is: one session for everybody, and never closed."""
        return self.target if isinstance(self.target, SDKClient | ClientSession) else None

    @property
    def connects_once(self) -> bool:
        """Whether only one connection to it can ever be had at a time."""
        single = isinstance(self.target, SDKTransport) and self.target.make is None
        return single or self.client is not None


Settings = TypeVar("Settings", Forwarding, PoolLimits, BackendLimits)


def _settings(kind: type[Settings], given: Settings | Mapping[str, Any] | None, called: str) -> Settings | None:
    """What is given by name, as the value that it stands for. Raises `ConfigError`."""
    if given is None or isinstance(given, kind):
        return given
    known = attrs.fields_dict(kind)
    if not isinstance(given, Mapping):
        said = f"expected a mapping or {kind.__name__}(...), got {shown(given)}"
        raise ConfigError(f"{called}: {said}; known are {', '.join(known)}")
    for name in given:
        if name not in known:
            raise ConfigError(f"{called}: there is no {name!r}; known are {', '.join(known)}")
    try:
        return kind(**given)
    except ValueError as error:
        raise ConfigError(f"{called}.{error}") from error


# --- What can be mounted ----------------------------------------------------------------------------------------------


def check_target(target: object) -> object:
    """The target itself when it can be mounted; raises `MountError` else."""
    if not isinstance(target, ProxyServer):
        refuse_asyncio(target)
        low_level(target)
    return target


def called(target: object) -> str:
    """What a target calls itself."""
    return target.name if isinstance(target, ProxyServer) else low_level(target).name


# --- Backends -----------------------------------------------------------------------------------------------------


def describe(target: object, name: str | None = None) -> ProxyServer | Mapping[str, ProxyServer]:
    """The backend that `target` means; of a config with several servers each that is not disabled, by its name.

    What a target may be, `create_proxy` tells.

    Raises:
        ConfigError: the target cannot be understood.
    """
    config = as_config(target)
    if config is None:
        if isinstance(target, ProxyServer):
            return target if name is None else evolve(target, name=name)
        if isinstance(target, SDKClient):
            if not connected(target):
                return _of_client(target, name)
            return ProxyServer(target, name or _of_client(target).name)
        found, itself = meaning_of(target)
        return ProxyServer(found, name or itself)
    wanted = {key: entry(server, key) for key, server in config.servers.items() if not server.disabled}
    if not wanted:
        raise ConfigError(f"{config.source or 'the config'} has no server that is switched on; add one to mcpServers")
    proxies = {key: ProxyServer(server, key) for key, server in wanted.items()}
    if len(proxies) > 1:
        return proxies
    [only] = proxies.values()
    return only if name is None else evolve(only, name=name)


def _single(target: object) -> ProxyServer:
    found = describe(target)
    if isinstance(found, ProxyServer):
        return found
    raise ConfigError(f"ProxyServer is one backend, and this config has {len(found)}; create_proxy(...) takes them all")


def _of_client(client: SDKClient, name: str | None = None) -> ProxyServer:
    """What a client was to be connected to, in the era that it was to speak."""
    found = describe(client.server, name)
    if not isinstance(found, ProxyServer):
        raise ConfigError("this client has several servers; give create_proxy(...) their config, not the client")
    if client.mode not in ("auto", "legacy", LATEST_MODERN_VERSION):
        raise ConfigError(f"a proxy speaks {LATEST_MODERN_VERSION} or the legacy era, not {client.mode}")
    return found if client.mode == "auto" else evolve(found, era="legacy" if client.mode == "legacy" else "modern")

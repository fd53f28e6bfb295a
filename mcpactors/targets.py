"""What can be mounted or proxied: which server an object is, which backend a description means.

Rule: descriptions only; `backends` connects to them and a runtime makes them alive. A server of ours is known here by
what it has (`Composite`), as `server` builds on this file. The SDK's private names for a server that is wrapped are
used in this file only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import (
    Any,
    Final,
    NoReturn,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeGuard,
    TypeVar,
    get_args,
    runtime_checkable,
)
from urllib.parse import urlsplit

import attrs
from attrs import evolve, frozen
from mcp.client import Client as SDKClient
from mcp.client import ClientSession
from mcp.client.stdio import StdioServerParameters
from mcp.server.lowlevel import Server as LowLevelServer
from mcp_types.version import LATEST_MODERN_VERSION
from starlette.routing import Route

from mcpactors.config import HTTPServer, MCPConfig, ModuleServer, ServerConfig, StdioServer
from mcpactors.configfile import load_config, parse_config
from mcpactors.errors import ConfigError, MountError
from mcpactors.mounts import Mounts
from mcpactors.runtime.policy import (
    DEFAULT_LIMITS,
    FORWARD_ALL,
    BackendLimits,
    Era,
    Forwarding,
    PoolLimits,
    Sessions,
)
from mcpactors.transports.http_endpoint import trusting
from mcpactors.transports.values import (
    ClientTransport,
    NodeStdioTransport,
    NpxStdioTransport,
    ProgramTransport,
    PythonStdioTransport,
    SDKTransport,
    SSETransport,
    StdioTransport,
    StreamableHttpTransport,
    UvStdioTransport,
    UvxStdioTransport,
    WSTransport,
)

__all__ = [
    "ClientFactory",
    "Composite",
    "Policy",
    "ProxyServer",
    "Target",
    "as_config",
    "called",
    "check_target",
    "describe",
    "low_level",
    "transport_of",
]

_WRAPPED_AS: Final = ("_lowlevel_server", "_mcp_server")
"""Where the SDK's `MCPServer` and FastMCP's servers keep the low-level server; neither has a public name for it."""

_POLICIES: Final = ("sessions", "forward", "pool", "era", "limits")
URL_SCHEMES: Final = ("http", "https", "ws", "wss")
SCRIPTS: Final[Mapping[str, type[PythonStdioTransport] | type[NodeStdioTransport]]] = {
    ".py": PythonStdioTransport,
    ".js": NodeStdioTransport,
    ".mjs": NodeStdioTransport,
    ".cjs": NodeStdioTransport,
}


@runtime_checkable
class Composite(Protocol):
    """A server of ours: it has others mounted on it."""

    mounts: Mounts
    routes: list[Route]


Target: TypeAlias = (
    "StdioServer | HTTPServer | ClientTransport | Composite | LowLevelServer[Any] | SDKClient | ClientSession "
    "| ClientFactory"
)


@frozen
class ClientFactory:
    """A backend that is reached by what a function gives, called once for each session that is to be opened.

    It may give an unconnected client, ours or the SDK's, or a transport, or all else that `create_proxy` takes; of a
    client that is connected already the session is used as it is (seed 002 "Explicit Session Management").
    """

    make: Callable[[], object]


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
        if not _is_described(target):
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
        said = f"expected a mapping or {kind.__name__}(...), got {_shown(given)}"
        raise ConfigError(f"{called}: {said}; known are {', '.join(known)}")
    for name in given:
        if name not in known:
            raise ConfigError(f"{called}: there is no {name!r}; known are {', '.join(known)}")
    try:
        return kind(**given)
    except ValueError as error:
        raise ConfigError(f"{called}.{error}") from error


# --- Servers of this process --------------------------------------------------------------------------------------


def low_level(target: object) -> LowLevelServer[Any]:
    """The SDK's low-level server in `target`: itself, or the one that it wraps.

    Raises:
        MountError: there is none.
    """
    server = _wrapped(target)
    if server is None:
        raise MountError(
            f"{type(target).__name__} cannot be mounted: it is neither an mcp.server.MCPServer, a low-level Server nor "
            "an object that wraps one; for a URL, a program or a config use create_proxy(...)"
        )
    return server


def _wrapped(target: object) -> LowLevelServer[Any] | None:
    if isinstance(target, LowLevelServer):
        return target
    wrapped = (getattr(target, attribute, None) for attribute in _WRAPPED_AS)
    return next((server for server in wrapped if isinstance(server, LowLevelServer)), None)


def check_target(target: object) -> object:
    """The target itself when it can be mounted; raises `MountError` else."""
    if not isinstance(target, ProxyServer):
        _refuse_asyncio(target)
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
        if isinstance(target, SDKClient) and not _connected(target):
            return _of_client(target, name)
        found, itself = _understood(target)
        return ProxyServer(found, name or itself)
    wanted = {key: _entry(server, key) for key, server in config.servers.items() if not server.disabled}
    if not wanted:
        raise ConfigError(f"{config.source or 'the config'} has no server that is switched on; add one to mcpServers")
    proxies = {key: ProxyServer(server, key) for key, server in wanted.items()}
    if len(proxies) > 1:
        return proxies
    [only] = proxies.values()
    return only if name is None else evolve(only, name=name)


def _is_described(target: object) -> TypeGuard[Target]:
    """Whether this is what `describe` makes of things, and can stay as it is."""
    if isinstance(target, SDKClient):
        return _connected(target)
    if isinstance(target, StreamableHttpTransport):
        return not target.is_plain
    if isinstance(target, ProgramTransport):  # entries of a config are made of those, and of URLs
        return False
    ours = StdioServer | HTTPServer | ClientFactory | ClientTransport | Composite
    return isinstance(target, ours | LowLevelServer | ClientSession)


def _single(target: object) -> ProxyServer:
    found = describe(target)
    if isinstance(found, ProxyServer):
        return found
    raise ConfigError(f"ProxyServer is one backend, and this config has {len(found)}; create_proxy(...) takes them all")


def _refuse_asyncio(target: object) -> None:
    """Raise `ConfigError` for what of FastMCP can only run on asyncio."""
    modules = [kind.__module__ for kind in type(target).__mro__]
    if any(module.startswith("fastmcp.client") for module in modules):
        raise ConfigError(
            f"FastMCP's {type(target).__name__} needs asyncio; give what it connects to (a URL, a script, a config), "
            "or a transport or Client of mcpactors or of the SDK"
        )
    if any(module.startswith("fastmcp.server.providers.proxy") for module in modules):
        raise ConfigError("a proxy of FastMCP needs asyncio; give create_proxy(...) what it is a proxy of")


def as_config(target: object) -> MCPConfig | None:
    """The config that `target` is, as a value, a mapping (of one entry, too) or a file. Raises `ConfigError`."""
    if isinstance(target, MCPConfig):
        return target
    if isinstance(target, StdioServer | HTTPServer | ModuleServer):
        return MCPConfig({"backend": target})
    if isinstance(target, Mapping):
        whole = target if "mcpServers" in target else {"mcpServers": {"backend": target}}
        return parse_config(whole, source="create_proxy")
    if isinstance(target, str | os.PathLike) and not _is_url(target) and Path(target).suffix == ".json":
        return load_config(target)
    return None


def _entry(server: ServerConfig, name: str) -> StdioServer | HTTPServer:
    if isinstance(server, ModuleServer):
        raise ConfigError(f"{name}: a module is not proxied; mount the server object that it has")
    return server


def _is_url(target: str | os.PathLike[str]) -> bool:
    return isinstance(target, str) and urlsplit(target).scheme.lower() in URL_SCHEMES


def _understood(target: object) -> tuple[Target, str]:
    """What a target that is no config means, and what it is called."""
    _refuse_asyncio(target)
    if isinstance(target, SDKClient):
        return target, _of_client(target).name
    if isinstance(target, ClientSession):
        return target, "session"
    if isinstance(target, str | os.PathLike):
        return _written(target)
    if isinstance(target, StdioServerParameters):
        cwd = None if target.cwd is None else os.fspath(target.cwd)
        return StdioServer(target.command, target.args, target.env or {}, cwd), Path(target.command).stem
    if isinstance(target, ProgramTransport):
        return _program(target.stdio), _name_of(target)
    if isinstance(target, StreamableHttpTransport) and target.is_plain:
        return HTTPServer(target.url, target.headers, transport="http"), _name_of(target)
    for server in (target, getattr(target, "server", None)):  # a runtime, too, has a server
        if (wrapped := _wrapped(server)) is not None:
            return server if isinstance(server, Composite) else wrapped, wrapped.name
    if isinstance(target, ClientTransport):
        return target, _name_of(target)
    if not isinstance(target, type) and (isinstance(target, AbstractAsyncContextManager) or callable(target)):
        return SDKTransport(target), "backend"
    raise ConfigError(
        f"{_shown(target)} is no target: expected a URL, the path of a .py or .js script or of a .json config, an "
        "mcpServers mapping, a transport, a client, a server or a runtime"
    )


def _connected(client: SDKClient) -> bool:
    try:
        return client.session is not None
    except RuntimeError:  # the SDK's way to say that nobody has entered it
        return False


def _of_client(client: SDKClient, name: str | None = None) -> ProxyServer:
    """What a client was to be connected to, in the era that it was to speak."""
    found = describe(client.server, name)
    if not isinstance(found, ProxyServer):
        raise ConfigError("this client has several servers; give create_proxy(...) their config, not the client")
    if client.mode not in ("auto", "legacy", LATEST_MODERN_VERSION):
        raise ConfigError(f"a proxy speaks {LATEST_MODERN_VERSION} or the legacy era, not {client.mode}")
    return found if client.mode == "auto" else evolve(found, era="legacy" if client.mode == "legacy" else "modern")


def _written(target: str | os.PathLike[str]) -> tuple[Target, str]:
    if isinstance(target, str) and _is_url(target):
        [server] = parse_config({"mcpServers": {"backend": {"url": target}}}, source="create_proxy").servers.values()
        return _entry(server, target), urlsplit(target).hostname or "backend"
    path = Path(target)
    script = SCRIPTS.get(path.suffix.lower())
    if script is None:
        raise ConfigError(
            f"{_shown(target)} is neither a URL (http, https, ws, wss) nor the path of a .py or .js script or of a "
            ".json config"
        )
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; give the script's path")
    return _program(script(os.fspath(target)).stdio), path.stem


def _program(stdio: StdioTransport) -> StdioServer:
    cwd = None if stdio.cwd is None else os.fspath(stdio.cwd)
    return StdioServer(stdio.command, stdio.args, stdio.env, cwd, limits=stdio.limits)


def _name_of(transport: ClientTransport) -> str:
    match transport:
        case NpxStdioTransport(package=package):
            return package.removeprefix("@").split("@")[0].rpartition("/")[2] or package
        case UvxStdioTransport(tool_name=tool):
            return tool
        case UvStdioTransport(command=command) | StdioTransport(command=command):
            return Path(command).stem
        case PythonStdioTransport(script_path=path) | NodeStdioTransport(script_path=path):
            return Path(path).stem
        case StreamableHttpTransport(url=url) | SSETransport(url=url) | WSTransport(url=url):
            return urlsplit(url).hostname or "backend"
    return "backend"


def _shown(target: object) -> str:
    text = repr(target) if isinstance(target, str | os.PathLike) else f"a {type(target).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def transport_of(target: StdioServer | HTTPServer | ClientTransport | ClientFactory) -> ClientTransport:
    """How to reach a backend that is not a server of this process.

    Raises:
        ConfigError: there are no certificates in the file of those that it trusts.
        MountError: a function says it anew for each session.
    """
    if isinstance(target, ClientFactory):
        raise MountError("a client_factory makes sessions for a proxy; call it, and use what it gives")
    if isinstance(target, StdioServer):
        return StdioTransport(target.command, target.args, target.env, target.cwd)
    if isinstance(target, HTTPServer):
        tls = None if target.ca is None else trusting(target.ca)
        if target.resolved_transport == "websocket":
            return WSTransport(target.url, target.headers, tls)
        if target.resolved_transport == "sse":
            return SSETransport(target.url, target.headers, tls)
        return StreamableHttpTransport(target.url, target.headers, ssl_context=tls)
    return target

"""What a target means: the value that a URL, a path, a config, a transport or a server stands for, and its name.

Rule: descriptions only, and nothing of how clients share what is meant: that is `targets`. A server of ours is known
here by what it has (`Composite`), as `server` builds on this file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeGuard, runtime_checkable
from urllib.parse import urlsplit

from attrs import frozen
from mcp.client import Client as SDKClient
from mcp.client import ClientSession
from mcp.client.stdio import StdioServerParameters
from mcp.server.lowlevel import Server as LowLevelServer
from starlette.routing import Route

from mcpactors.config import HTTPServer, MCPConfig, ModuleServer, ServerConfig, StdioServer
from mcpactors.configfile import load_config, parse_config
from mcpactors.errors import ConfigError, MountError
from mcpactors.foreign import refuse_asyncio, wrapped
from mcpactors.mounts import Mounts
from mcpactors.transports.http_client.endpoint import trusting
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
    "Target",
    "as_config",
    "connected",
    "entry",
    "is_described",
    "meaning_of",
    "shown",
    "transport_of",
]

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


def is_described(target: object) -> TypeGuard[Target]:
    """Whether this is what `meaning_of` makes of things, and can stay as it is."""
    if isinstance(target, SDKClient):
        return connected(target)
    if isinstance(target, StreamableHttpTransport):
        return not target.is_plain
    if isinstance(target, ProgramTransport):  # entries of a config are made of those, and of URLs
        return False
    ours = StdioServer | HTTPServer | ClientFactory | ClientTransport | Composite
    return isinstance(target, ours | LowLevelServer | ClientSession)


def connected(client: SDKClient) -> bool:
    """Whether somebody has entered it."""
    try:
        return client.session is not None
    except RuntimeError:  # the SDK's way to say that nobody has entered it
        return False


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


def entry(server: ServerConfig, name: str) -> StdioServer | HTTPServer:
    """The entry itself when it can be proxied; raises `ConfigError` else."""
    if isinstance(server, ModuleServer):
        raise ConfigError(f"{name}: a module is not proxied; mount the server object that it has")
    return server


def _is_url(target: str | os.PathLike[str]) -> bool:
    return isinstance(target, str) and urlsplit(target).scheme.lower() in URL_SCHEMES


def meaning_of(target: object) -> tuple[Target, str]:
    """What a target that is neither a config nor an SDK client means, and what it is called.

    Raises:
        ConfigError: it cannot be understood.
    """
    refuse_asyncio(target)
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
        if (inner := wrapped(server)) is not None:
            return server if isinstance(server, Composite) else inner, inner.name
    if isinstance(target, ClientTransport):
        return target, _name_of(target)
    if not isinstance(target, type) and (isinstance(target, AbstractAsyncContextManager) or callable(target)):
        return SDKTransport(target), "backend"
    raise ConfigError(
        f"{shown(target)} is no target: expected a URL, the path of a .py or .js script or of a .json config, an "
        "mcpServers mapping, a transport, a client, a server or a runtime"
    )


def _written(target: str | os.PathLike[str]) -> tuple[Target, str]:
    if isinstance(target, str) and _is_url(target):
        [server] = parse_config({"mcpServers": {"backend": {"url": target}}}, source="create_proxy").servers.values()
        return entry(server, target), urlsplit(target).hostname or "backend"
    path = Path(target)
    script = SCRIPTS.get(path.suffix.lower())
    if script is None:
        raise ConfigError(
            f"{shown(target)} is neither a URL (http, https, ws, wss) nor the path of a .py or .js script or of a "
            '.json config; a program is {"command": ..., "args": [...]}'
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


def shown(target: object) -> str:
    """A target, in an error."""
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

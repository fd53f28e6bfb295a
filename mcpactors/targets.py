"""What can be mounted or proxied: which server an object is, which backend a description means.

Rule: descriptions only; `backends` connects to them and a runtime makes them alive. A server of ours is known here by
what it has (`Composite`), as `server` builds on this file. The SDK's private names for a server that is wrapped are
used in this file only.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import urlsplit

from attrs import frozen
from mcp.server.lowlevel import Server as LowLevelServer
from starlette.routing import Route

from mcpactors.config import HTTPServer, MCPConfig, ModuleServer, ServerConfig, StdioServer, load_config, parse_config
from mcpactors.errors import ConfigError, MountError
from mcpactors.mounts import Mounts

__all__ = ["Composite", "ProxyServer", "called", "check_target", "describe", "low_level"]

_WRAPPED_AS: Final = ("_lowlevel_server", "_mcp_server")
"""Where the SDK's `MCPServer` and FastMCP's servers keep the low-level server; neither has a public name for it."""


@runtime_checkable
class Composite(Protocol):
    """A server of ours: it has others mounted on it."""

    mounts: Mounts
    routes: list[Route]


@frozen(eq=False)
class ProxyServer:
    """A backend to be proxied: where it is, and what it is called when nothing else names it."""

    target: StdioServer | HTTPServer | Composite | LowLevelServer[Any]
    name: str

    @property
    def behind(self) -> Composite | None:
        """The server of ours that it is a proxy of."""
        return self.target if isinstance(self.target, Composite) else None


def low_level(target: object) -> LowLevelServer[Any]:
    """The SDK's low-level server in `target`: itself, or the one that it wraps.

    Raises:
        MountError: there is none.
    """
    if isinstance(target, LowLevelServer):
        return target
    for attribute in _WRAPPED_AS:
        wrapped = getattr(target, attribute, None)
        if isinstance(wrapped, LowLevelServer):
            return wrapped
    raise MountError(
        f"{type(target).__name__} cannot be mounted: it is neither an mcp.server.MCPServer, a low-level Server nor an "
        "object that wraps one; for a URL, a program or a config use create_proxy(...)"
    )


def check_target(target: object) -> object:
    """The target itself when it can be mounted; raises `MountError` else."""
    if not isinstance(target, ProxyServer):
        low_level(target)
    return target


def called(target: object) -> str:
    """What a target calls itself."""
    return target.name if isinstance(target, ProxyServer) else low_level(target).name


def describe(target: object, name: str | None = None) -> ProxyServer | Mapping[str, ProxyServer]:
    """The backend that `target` means; of a config with several servers each that is not disabled, by its name.

    Raises:
        ConfigError: the target cannot be understood.
        MountError: the target is no server.
    """
    if isinstance(target, dict):
        whole = target if "mcpServers" in target else {"mcpServers": {"backend": target}}
        target = parse_config(whole, source="create_proxy")
    if isinstance(target, MCPConfig) and len(target.servers) > 1:
        wanted = {key: server for key, server in target.servers.items() if not server.disabled}
        return {key: _described(server, key) for key, server in wanted.items()}
    return _described(target, name)


def _described(target: object, name: str | None) -> ProxyServer:
    found, itself = _understood(target)
    if isinstance(found, ModuleServer):
        raise ConfigError(f"{itself}: a module is not proxied; mount the server object that it has")
    return ProxyServer(found, name or itself)


def _understood(target: object) -> tuple[ServerConfig | Composite | LowLevelServer[Any], str]:
    if isinstance(target, StdioServer | HTTPServer | ModuleServer):
        return target, "backend"
    if isinstance(target, str) and urlsplit(target).scheme in ("http", "https", "ws", "wss"):
        only = _only(parse_config({"mcpServers": {"backend": {"url": target}}}, source="create_proxy"))
        return only[0], urlsplit(target).hostname or "backend"
    if isinstance(target, str | Path):
        if Path(target).suffix == ".json":
            return _only(load_config(target))
        if Path(target).suffix != ".py":
            raise ConfigError(f"{target} is neither a URL nor the path of a .py script or a .json config")
        if not Path(target).is_file():
            raise ConfigError(f"{target}: there is no such file; give the script's path")
        return StdioServer(sys.executable, (str(target),)), Path(target).stem
    if isinstance(target, MCPConfig):
        return _only(target)
    server = low_level(target)
    return target if isinstance(target, Composite) else server, server.name


def _only(config: MCPConfig) -> tuple[ServerConfig, str]:
    if not config.servers:
        raise ConfigError("create_proxy needs a server and this config has none; add one to its mcpServers")
    [(name, server)] = config.servers.items()
    return server, name

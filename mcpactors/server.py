"""What can be mounted: SDK servers, objects that wrap one, and the description of a proxied backend.

Rule: descriptions only. Nothing here runs; the host turns a description into actors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import frozen
from mcp.server.lowlevel import Server as LowLevelServer

from mcpactors.config import HTTPServer, MCPConfig, ModuleServer, ServerConfig, StdioServer, parse_config
from mcpactors.errors import ConfigError, MountError

__all__ = ["ProxyServer", "create_proxy", "low_level"]

_WRAPPED_AS: Final = ("_lowlevel_server", "_mcp_server")
"""Where the SDK's `MCPServer` and FastMCP's servers keep the low-level server; neither has a public name for it."""


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


@frozen(eq=False)
class ProxyServer:
    """A backend to be proxied: where it is, and what it is called when nothing else names it."""

    target: StdioServer | HTTPServer | LowLevelServer[Any]
    name: str


def create_proxy(target: object, name: str | None = None) -> ProxyServer:
    """Describe a proxied backend (seed 001, "Mounting External Servers").

    `target`: an http(s) URL, the path of a Python script, a server's entry or a whole `mcpServers` mapping with one
    entry, an SDK server (spoken to over memory streams, with sessions of its own).

    Raises:
        ConfigError: the target cannot be understood.
        MountError: the target is no server.
    """
    found, called = _understood(target)
    if isinstance(found, ModuleServer):
        raise ConfigError(f"{called}: a module is not proxied; mount the server object that it has")
    return ProxyServer(found, name or called)


def _understood(target: object) -> tuple[ServerConfig | LowLevelServer[Any], str]:
    if isinstance(target, StdioServer | HTTPServer | ModuleServer):
        return target, "backend"
    if isinstance(target, str) and urlsplit(target).scheme in ("http", "https", "ws", "wss"):
        only = _only(parse_config({"mcpServers": {"backend": {"url": target}}}, source="create_proxy"))
        return only[0], urlsplit(target).hostname or "backend"
    if isinstance(target, str | Path):
        if Path(target).suffix != ".py":
            raise ConfigError(f"{target} is neither a URL nor the path of a .py script")
        if not Path(target).is_file():
            raise ConfigError(f"{target}: there is no such file; give the script's path")
        return StdioServer("python", (str(target),)), Path(target).stem
    if isinstance(target, MCPConfig):
        return _only(target)
    if isinstance(target, dict):
        whole = target if "mcpServers" in target else {"mcpServers": {"backend": target}}
        return _only(parse_config(whole, source="create_proxy"))
    server = low_level(target)
    return server, server.name


def _only(config: MCPConfig) -> tuple[ServerConfig, str]:
    if len(config.servers) != 1:
        raise ConfigError(
            f"create_proxy takes one server and this config has {len(config.servers)}; mount a config of several with "
            "runtime.mount_config(config)"
        )
    [(name, server)] = config.servers.items()
    return server, name

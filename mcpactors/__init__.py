"""mcpactors composes MCP servers: every mounted server and proxied backend is a supervised actor on trio.

The public names; everything else may change.
"""

from mcpactors.config import HTTPServer, MCPConfig, ModuleServer, StdioServer, load_config, parse_config
from mcpactors.errors import MCPActorsError
from mcpactors.host import Runtime, RuntimeSettings, load_snapshot, open_runtime, save_snapshot
from mcpactors.mounts import CatalogDiff, MountHandle
from mcpactors.runtime.reply import CallDeadlines
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.runtime.routing import add_resource_prefix, has_resource_prefix, remove_resource_prefix
from mcpactors.runtime.supervisor import ActorInfo
from mcpactors.runtime.visibility import ToolOverride
from mcpactors.server import Server, create_proxy, session_state
from mcpactors.targets import ProxyServer

__all__ = [
    "ActorInfo",
    "CallDeadlines",
    "CatalogDiff",
    "HTTPServer",
    "MCPActorsError",
    "MCPConfig",
    "ModuleServer",
    "MountHandle",
    "ProxyServer",
    "RestartPolicy",
    "Runtime",
    "RuntimeSettings",
    "Server",
    "StdioServer",
    "ToolOverride",
    "add_resource_prefix",
    "create_proxy",
    "has_resource_prefix",
    "load_config",
    "load_snapshot",
    "open_runtime",
    "parse_config",
    "remove_resource_prefix",
    "save_snapshot",
    "session_state",
]

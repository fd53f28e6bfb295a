"""mcpactors composes MCP servers: every mounted server and proxied backend is a supervised actor on trio.

The public names; everything else may change.
"""

import mcpactors.starting as _starting  # noqa: F401  # first: what follows takes a while

# isort: split
from mcpactors.client import Client, MemoryTransport, infer_transport
from mcpactors.config import HTTPServer, MCPConfig, ModuleServer, StdioServer
from mcpactors.configfile import load_config, parse_config
from mcpactors.errors import BackendStartError, ConfigError, MCPActorsError, MirroredComponent
from mcpactors.foreign import session_state
from mcpactors.host import Runtime, load_snapshot, open_runtime, save_snapshot
from mcpactors.mirrored import LocalCopy, Mirrored
from mcpactors.mounts import CatalogDiff, MountHandle
from mcpactors.runtime.naming import add_resource_prefix, has_resource_prefix, remove_resource_prefix
from mcpactors.runtime.policy import BackendLimits, CallLimits, ClientLimits, Forwarding, PoolLimits
from mcpactors.runtime.reply import CallDeadlines
from mcpactors.runtime.restart import RestartLimit, RestartPolicy
from mcpactors.runtime.supervisor import ActorInfo
from mcpactors.runtime.visibility import ToolOverride
from mcpactors.server import Server, create_proxy
from mcpactors.serving import serve_until_told as _serve_until_told  # noqa: F401  # what Server.run() does
from mcpactors.settings import RuntimeSettings
from mcpactors.targets import ProxyServer
from mcpactors.transports.values import (
    NodeStdioTransport,
    NpxStdioTransport,
    PythonStdioTransport,
    SSETransport,
    StdioTransport,
    StreamableHttpTransport,
    UvStdioTransport,
    UvxStdioTransport,
    WSTransport,
)

__all__ = [
    "ActorInfo",
    "BackendLimits",
    "BackendStartError",
    "CallDeadlines",
    "CallLimits",
    "CatalogDiff",
    "Client",
    "ClientLimits",
    "ConfigError",
    "Forwarding",
    "HTTPServer",
    "LocalCopy",
    "MCPActorsError",
    "MCPConfig",
    "MemoryTransport",
    "Mirrored",
    "MirroredComponent",
    "ModuleServer",
    "MountHandle",
    "NodeStdioTransport",
    "NpxStdioTransport",
    "PoolLimits",
    "ProxyServer",
    "PythonStdioTransport",
    "RestartLimit",
    "RestartPolicy",
    "Runtime",
    "RuntimeSettings",
    "SSETransport",
    "Server",
    "StdioServer",
    "StdioTransport",
    "StreamableHttpTransport",
    "ToolOverride",
    "UvStdioTransport",
    "UvxStdioTransport",
    "WSTransport",
    "add_resource_prefix",
    "create_proxy",
    "has_resource_prefix",
    "infer_transport",
    "load_config",
    "load_snapshot",
    "open_runtime",
    "parse_config",
    "remove_resource_prefix",
    "save_snapshot",
    "session_state",
]

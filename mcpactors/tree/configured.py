"""A config's servers as mounts of a runtime's own tree, and what becomes of them when the config has changed.

Rule: a server of which a changed config says the same is left alone; nothing is mounted of a config that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from mcpactors.backends import load_server
from mcpactors.config import MCPConfig, ModuleServer, ServerConfig
from mcpactors.errors import MCPActorsError
from mcpactors.isolation import isolated
from mcpactors.mounts import MountHandle, make_handle
from mcpactors.server import create_proxy
from mcpactors.targets import ProxyServer, check_target
from mcpactors.tree.forest import Forest

__all__ = ["Mounted", "mount_config"]

Mounted = Mapping[str, MountHandle | MCPActorsError]
"""What became of each server of a config."""


def mount_config(
    forest: Forest, config: MCPConfig, instead_of: Mounted | None
) -> dict[str, MountHandle | MCPActorsError]:
    """What `Runtime.mount_config` does."""
    wanted = {name: server for name, server in config.servers.items() if not server.disabled}
    before = {name: handle for name, handle in (instead_of or {}).items() if handle in forest.root.mounts}
    mounted: dict[str, MountHandle | MCPActorsError] = {}
    for name, server in wanted.items():
        try:
            mounted[name] = _mount_of(forest, name, server, len(wanted) > 1, before.get(name))
        except MCPActorsError:
            if instead_of is not None or not isinstance(server, ModuleServer):
                raise
            later = ProxyServer(client_factory=partial(_target_of, server), name=name)
            mounted[name] = _mount_of(forest, name, server, len(wanted) > 1, None, later)
    for name, handle in mounted.items():
        if isinstance(handle, MountHandle) and handle is not (old := before.get(name)):
            try:
                forest.root.mounts.put(handle, old if isinstance(old, MountHandle) else None)
            except MCPActorsError as error:
                mounted[name] = error
    for name, handle in before.items():
        if name not in mounted and isinstance(handle, MountHandle):
            forest.root.mounts.take_out(handle)
    return mounted


def _mount_of(
    forest: Forest, name: str, server: ServerConfig, named: bool, before: object, target: object = None
) -> MountHandle:
    """The mount that a config describes: the one that was there, where it is the same; else at least its actor."""
    old = before if isinstance(before, MountHandle) else None
    target = old.target if old is not None and forest.configs.get(old) == server else target
    namespace = name if named else None
    if old is not None and target is not None and old.namespace == namespace:
        return old
    handle = make_handle(
        forest.root.mounts,
        _target_of(server) if target is None else target,
        namespace,
        include_tags=server.include_tags,
        exclude_tags=server.exclude_tags,
        name=name,
    )
    if old is not None:
        handle.on_it = old.on_it  # what was mounted by the handle stays
    forest.configs[handle] = server
    return handle


def _target_of(server: ServerConfig) -> object:
    if not isinstance(server, ModuleServer):
        return create_proxy(server)
    return check_target(load_server(server)) if server.isolate is None else isolated(server)

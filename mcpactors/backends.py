"""From what a config says to something that runs: how to connect to a backend, how to load a server of this process.

Rule: the only place where a description meets a transport or an import of somebody else's module.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

from attrs import evolve
from mcp.client import Client as SDKClient
from mcp.client import ClientSession
from mcp.server.lowlevel import Server as LowLevelServer

from mcpactors.config import MCPConfig, ModuleServer
from mcpactors.configfile import parse_config
from mcpactors.errors import BackendStartError, ConfigError, MountError
from mcpactors.meaning import ClientFactory, Composite, transport_of
from mcpactors.runtime.policy import DEFAULT_BACKEND, BackendLimits, Era, OfEra
from mcpactors.targets import ProxyServer, describe
from mcpactors.transports.lines.stderr import StderrTail
from mcpactors.transports.memory import memory_client
from mcpactors.transports.streams import Streams
from mcpactors.transports.values import SSETransport, StreamableHttpTransport, WSTransport, limited

__all__ = ["Open", "connector", "example_config", "load_server"]

Connect = Callable[[], AbstractAsyncContextManager[Any]]
"""Yields the SDK's (read, write), an `HTTPDispatcher`, or a `ClientSession` that is connected already and stays so; or
an `OfEra` of one."""

MODULE_OBJECTS: Final = ("server", "mcp", "app")
"""What a module's server is called, where its config does not say."""


class Runs(Protocol):
    """A runtime, as an endpoint to connect to."""

    @property
    def server(self) -> LowLevelServer[Any]: ...


Open = Callable[..., AbstractAsyncContextManager[Runs]]
"""`open_runtime`, of which this file knows no more: takes what is to be its root."""


def connector(
    proxy: ProxyServer, stderr: StderrTail, open_runtime: Open, limits: BackendLimits = DEFAULT_BACKEND
) -> Connect:
    """How to connect to a backend; `limits` where its transport says no others.

    A server of ours is opened in a runtime of its own with all its mounts.

    Raises:
        MountError: by a transport that is not there yet.
    """
    connect = _way(proxy, stderr, open_runtime, limits)
    if proxy.era == "auto" or isinstance(proxy.target, ClientFactory):
        return connect
    return lambda: _of_era(connect, proxy.era)


@asynccontextmanager
async def _of_era(connect: Connect, era: Era) -> AsyncIterator[OfEra]:
    async with connect() as connection:
        yield OfEra(connection, era)


def _way(proxy: ProxyServer, stderr: StderrTail, open_runtime: Open, limits: BackendLimits) -> Connect:
    target = proxy.target
    if isinstance(target, LowLevelServer):
        return lambda: memory_client(target)
    if isinstance(target, Composite):
        return lambda: _composed(target, open_runtime)
    if isinstance(target, SDKClient | ClientSession):
        return lambda: nullcontext(_session_of(target))
    if isinstance(target, ClientFactory):
        return lambda: _made(target, proxy, stderr, open_runtime, limits)()
    transport = limited(transport_of(target), limits)
    if isinstance(transport, StreamableHttpTransport):
        return transport.dispatchers()
    if isinstance(transport, SSETransport | WSTransport):
        return transport.connections()
    return lambda: transport.connect(stderr)


def _session_of(client: SDKClient | ClientSession) -> ClientSession:
    """What a client that is connected already is connected by."""
    try:
        return client.session if isinstance(client, SDKClient) else client
    except RuntimeError as error:
        raise BackendStartError(f"the client is not connected (any more): {error}") from error


def _made(
    factory: ClientFactory, proxy: ProxyServer, stderr: StderrTail, open_runtime: Open, limits: BackendLimits
) -> Connect:
    name = proxy.name
    try:
        given = factory.make()
    except (ConfigError, MountError) as error:  # says by itself what is wrong: a config's module comes this way, too
        raise BackendStartError(str(error)) from error
    try:
        found = describe(given, name)
        if isinstance(found, ProxyServer) and not isinstance(found.target, ClientFactory):
            found = found if proxy.era == "auto" else evolve(found, era=proxy.era)
            return connector(found, stderr, open_runtime, found.limits or limits)
        raise BackendStartError(f"the client_factory of {name} gave several backends; it is to give one")
    except (ConfigError, MountError) as error:
        raise BackendStartError(f"the client_factory of {name} gave nothing that can be opened: {error}") from error


@asynccontextmanager
async def _composed(server: object, open_runtime: Open) -> AsyncIterator[Streams]:
    async with open_runtime(server) as runtime, memory_client(runtime.server) as streams:
        yield streams


def load_server(config: ModuleServer) -> object:
    """The server object that a config's `module` names.

    Raises:
        ConfigError: there is no such module or object, or importing it fails.
    """
    try:
        module = _import_file(Path(config.module)) if config.is_file else importlib.import_module(config.module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"module {config.module} cannot be imported: {type(error).__name__}: {error}") from error
    for attribute in (config.attribute,) if config.attribute else MODULE_OBJECTS:
        found = getattr(module, attribute, None)
        if found is not None:
            return found
    wanted = config.attribute or " or ".join(MODULE_OBJECTS)
    raise ConfigError(f"module {config.module} has no {wanted}; write it as {config.module}:NAME")


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"mcpactors_module_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def example_config() -> MCPConfig:
    """The config that is served when none is given: servers of this process, so that nothing but Python is needed."""
    servers = {name: {"module": f"mcpactors.example:{name}"} for name in ("weather", "notes")}
    return parse_config({"mcpServers": servers}, source="the built-in example")

"""`Client`: the SDK's client, to whatever `create_proxy` takes, over our transports on trio; and `infer_transport`.

Rule: how to reach a target is decided in `targets` and `transports/values`; how to speak is the SDK's. What is here is
the way from one to the other, and a connection that says why it cannot be made.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import anyio
import trio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from attrs import frozen
from mcp.client import Client as SDKClient
from mcp.client import ClientSession
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import JSONRPCRequest
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpactors.backends import load_server
from mcpactors.config import MCPConfig, ModuleServer
from mcpactors.errors import BackendStartError, ConfigError, MCPActorsError, notes_of
from mcpactors.foreign import low_level
from mcpactors.host import need_trio, open_runtime
from mcpactors.meaning import Composite, as_config, transport_of
from mcpactors.runtime.hops import HOPS, passed
from mcpactors.runtime.policy import Era
from mcpactors.server import Server, create_proxy
from mcpactors.targets import called
from mcpactors.transports.lines.stderr import StderrTail
from mcpactors.transports.memory import memory_client
from mcpactors.transports.streams import ReadStream, Streams, WriteStream
from mcpactors.transports.values import ClientTransport

__all__ = ["Client", "MemoryTransport", "infer_transport"]

logger = logging.getLogger("mcpactors")

CONNECT_TIMEOUT: Final = 30.0
"""Seconds in which a server has to answer the handshake; it may have to be downloaded first."""


def _server_in(given: object) -> object:
    """The server itself: of ours, or low-level. A runtime has one, too."""
    inner = getattr(given, "server", given)
    return inner if isinstance(inner, Composite) else low_level(inner)


@frozen
class MemoryTransport:
    """A server of this process, at the other end of memory streams.

    One of ours is opened, with all that is mounted on it, in a runtime of its own for each connection.
    """

    server: object

    @asynccontextmanager
    async def connect(self, stderr: StderrTail | None = None) -> AsyncIterator[Streams]:
        server = _server_in(self.server)
        if isinstance(server, LowLevelServer):
            async with memory_client(server) as streams:
                yield streams
        else:
            async with open_runtime(server) as runtime, memory_client(runtime.server) as streams:
                yield streams


def infer_transport(target: object) -> ClientTransport:
    """The transport that reaches `target`, which is whatever `create_proxy` takes (seed 004 "infer_transport").

    A config of several servers, and one with modules to load, is a runtime of its own, in which each of several has
    its name as a namespace.

    Raises:
        ConfigError: the target cannot be understood, or is a client that is connected already.
        MountError: by a transport that is not there yet.
    """
    return _inferred(target)[0]


def _inferred(target: object) -> tuple[ClientTransport, str, Era]:
    """The transport, what the target is called, and which era is to be spoken to it."""
    config = as_config(target)
    if config is not None:
        modules = any(isinstance(server, ModuleServer) for server in config.servers.values() if not server.disabled)
        target = _with_modules(config) if modules else config
    found = target if isinstance(target, Server) else create_proxy(target)
    if isinstance(found, Server):
        return MemoryTransport(found), called(found), "auto"
    where = found.target
    if isinstance(where, Composite | LowLevelServer):
        return MemoryTransport(where), found.name, found.era
    if isinstance(where, SDKClient | ClientSession):
        raise ConfigError("this client is connected already: use it as it is, or give what it was made from")
    return transport_of(where), found.name, found.era


def _with_modules(config: MCPConfig) -> Server:
    """A server that has each server of a config mounted, those that are loaded into this process, too."""
    whole = Server("config")
    wanted = {name: server for name, server in config.servers.items() if not server.disabled}
    for name, server in wanted.items():
        whole.mount(
            load_server(server) if isinstance(server, ModuleServer) else create_proxy(server, name),
            name if len(wanted) > 1 else None,
            include_tags=server.include_tags,
            exclude_tags=server.exclude_tags,
        )
    return whole


@dataclass
class Client(SDKClient):
    """The SDK's `mcp.Client`, with every target that `create_proxy` takes, on trio.

    `async with Client(target) as client: await client.call_tool(...)`. All options, the handlers (`sampling_callback`,
    `elicitation_callback`, `list_roots_callback`, `logging_callback`, `message_handler`) and `mode=` are the SDK's; a
    call takes its `progress_callback=`. Where `mode` is "auto", the target's `era` decides. The block is a nursery
    block: what is raised inside may come out in a group.

    Raises, when it is made: what `infer_transport` raises. When it is entered: `BackendStartError`, with the last words
    of a program that ended; RuntimeError where asyncio runs.
    """

    server: Any = field(repr=False)  # a mapping has the tokens of its servers in it
    """What to connect to."""

    read_timeout_seconds: float | None = field(default=900.0, kw_only=True)
    """Seconds that one request may take, with the time in which a user answers what it asks; None: no end."""

    connect_timeout: float = field(default=CONNECT_TIMEOUT, kw_only=True)
    """Seconds that connecting may take in all."""

    _tail: StderrTail = field(init=False, repr=False, compare=False, default_factory=StderrTail)
    _name: str = field(init=False, repr=False, compare=False, default="")
    _era: Era = field(init=False, repr=False, compare=False, default="auto")
    _answered: trio.Event = field(init=False, repr=False, compare=False, default_factory=trio.Event)
    _too_late: bool = field(init=False, repr=False, compare=False, default=False)

    def __post_init__(self) -> None:
        given = self.server
        transport, self._name, self._era = _inferred(given)
        if self.mode == "auto" and self._era == "legacy":
            self.mode = "legacy"
        here = _server_in(transport.server) if isinstance(transport, MemoryTransport) else None
        # the SDK's own way to a server of this process needs no streams
        self.server = here if isinstance(here, LowLevelServer) else self._watched(transport)
        try:
            super().__post_init__()
        finally:
            self.server = given

    async def __aenter__(self) -> Self:
        need_trio("mcpactors.Client")
        try:
            await super().__aenter__()
        except (MCPError, OSError, ExceptionGroup) as error:
            raise self._cannot(_reason(error)) from error
        self._answered.set()
        if self.mode == "auto" and self._era == "modern" and self.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            await self.__aexit__(None, None, None)
            raise self._cannot('it does not speak the modern era, as its "era" wants it to')
        return self

    @asynccontextmanager
    async def _watched(self, transport: ClientTransport) -> AsyncIterator[Streams]:
        """The connection, cancelled as a whole when the handshake is not answered in time."""
        async with trio.open_nursery() as nursery, transport.connect(self._tail) as streams:
            nursery.start_soon(self._expect_answer, nursery.cancel_scope)
            read, write = streams
            yield _Ending(read, self._name), _Counting(write)
            nursery.cancel_scope.cancel()
        if self._too_late:
            raise self._cannot(f"no answer to the handshake within {self.connect_timeout:g} s")

    async def _expect_answer(self, connection: trio.CancelScope) -> None:
        with trio.move_on_after(self.connect_timeout) as waiting:
            await self._answered.wait()
        if waiting.cancelled_caught:
            self._too_late = True
            connection.cancel()

    def _cannot(self, reason: str) -> BackendStartError:
        said = self._tail.last_words()
        return BackendStartError(
            f"cannot connect to {self._name}: {reason}" + (f"; its stderr ends: {said}" if said is not None else "")
        )

    def stderr(self) -> list[str]:
        """The last lines that the server's process, if it is one of our own, wrote to its stderr."""
        return self._tail.tail()


class _Ending(ObjectReceiveStream[SessionMessage | Exception]):
    """A read stream that just ends when its connection is lost: calls fail of that, and not the block around them."""

    def __init__(self, inner: ReadStream[SessionMessage | Exception], name: str) -> None:
        self._inner = inner
        self._name = name

    @property
    def last_context(self) -> object:
        """Of who sent the last message, where that is known: the SDK's own streams in memory tell."""
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        try:
            return await self._inner.receive()
        except anyio.BrokenResourceError as error:
            logger.warning("the connection to %s is lost: %s", self._name, error)
            raise anyio.EndOfStream from error

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Counting(ObjectSendStream[SessionMessage]):
    """A write stream that says of each request through how many gateways it came: the client may be a tool's."""

    def __init__(self, inner: WriteStream[SessionMessage]) -> None:
        self._inner = inner

    async def send(self, item: SessionMessage) -> None:
        message, hops = item.message, passed.get()
        if hops and isinstance(message, JSONRPCRequest):
            params = message.params or {}
            said = {**params, "_meta": {**(params.get("_meta") or {}), HOPS: hops}}
            item = replace(item, message=message.model_copy(update={"params": said}))
        await self._inner.send(item)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _reason(error: BaseException) -> str:
    """What the first error of ours in a group says, else the first of all."""
    leaves = [error]
    while isinstance(leaves[0], BaseExceptionGroup):
        leaves[:1] = leaves[0].exceptions
    ours = [leaf for leaf in leaves if isinstance(leaf, MCPActorsError)]
    said = str((ours or leaves)[0]) or type(leaves[0]).__name__
    return ": ".join((said, *notes_of(error)))

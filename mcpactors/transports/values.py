"""The client end of every transport as a value: how to reach a server, written down before anybody connects.

Rule: a value says where; `connect()` goes there, each time anew. The names and parameters are FastMCP's, so that the
readers of the seeds feel at home (seed 001 "Mounting npm/uvx Packages", features.md D2).
"""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from attrs import define, evolve, field, frozen

from mcpactors.errors import BackendStartError, ConfigError
from mcpactors.runtime.policy import DEFAULT_BACKEND, BackendLimits
from mcpactors.transports.http_client.either import EitherDispatcher, either_dispatcher
from mcpactors.transports.http_client.sse import sse_client
from mcpactors.transports.http_client.streams import http_client
from mcpactors.transports.lines.flood import Allowance
from mcpactors.transports.lines.stderr import StderrTail
from mcpactors.transports.stdio.child import StdioLimits, stdio_client
from mcpactors.transports.streams import Streams
from mcpactors.transports.websocket.client import websocket_client

__all__ = [
    "ClientTransport",
    "NodeStdioTransport",
    "NpxStdioTransport",
    "ProgramTransport",
    "PythonStdioTransport",
    "SDKTransport",
    "SSETransport",
    "StdioTransport",
    "StreamableHttpTransport",
    "UvStdioTransport",
    "UvxStdioTransport",
    "WSTransport",
    "limited",
]

Place = str | os.PathLike[str]
Opened = AbstractAsyncContextManager[Streams]


@runtime_checkable
class ClientTransport(Protocol):
    """Knows how to reach a server."""

    def connect(self, stderr: StderrTail | None = None) -> Opened:
        """A new connection: yields the SDK's (read, write). `stderr` keeps what a child process says there.

        Raises `BackendStartError` when there is nothing to connect to.
        """
        ...


def _texts(given: Iterable[str] | None) -> tuple[str, ...]:
    if isinstance(given, str):
        raise ConfigError(f"{given!r} is one string; arguments are a list of strings")
    return tuple(given or ())


def _variables(given: Mapping[str, str] | None) -> Mapping[str, str]:
    return MappingProxyType(dict(given or {}))


def _names_only(given: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name!r}: ..." for name in given) + "}"  # a repr ends up in logs


def _either(flag: str, values: Iterable[Place]) -> list[str]:
    return [text for value in values for text in (flag, os.fspath(value))]


def _maybe(flag: str, value: Place | None) -> list[str]:
    return [] if value is None else [flag, os.fspath(value)]


@runtime_checkable
class ProgramTransport(Protocol):
    """One that starts a program."""

    @property
    @abstractmethod
    def stdio(self) -> StdioTransport:
        """Its command line."""

    def connect(self, stderr: StderrTail | None = None) -> Opened:
        return self.stdio.connect(stderr)


@frozen
class StdioTransport(ProgramTransport):
    """A program, spoken to over its stdin and stdout; `env` is added to the few variables that it inherits of ours."""

    command: str
    args: tuple[str, ...] = field(default=(), converter=_texts)
    env: Mapping[str, str] = field(default=None, converter=_variables, repr=_names_only)
    cwd: Place | None = None
    limits: BackendLimits | None = None
    """What is taken of it, and how its process is ended; None: as the mount or the runtime says."""

    @property
    def stdio(self) -> StdioTransport:
        return self

    def connect(self, stderr: StderrTail | None = None) -> Opened:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        env = {"PATH": path, **self.env}  # as if our virtual environment were activated: `python` is our Python
        cwd = None if self.cwd is None else os.fspath(self.cwd)
        limits = StdioLimits.of(self.limits or DEFAULT_BACKEND)
        return stdio_client(self.command, self.args, env=env, cwd=cwd, stderr=stderr, limits=limits)


@frozen
class PythonStdioTransport(ProgramTransport):
    """A Python script, run by our own Python or by `python_cmd`."""

    script_path: Place
    args: tuple[str, ...] = field(default=(), converter=_texts)
    env: Mapping[str, str] = field(default=None, converter=_variables, repr=_names_only)
    cwd: Place | None = None
    python_cmd: str = sys.executable

    @property
    def stdio(self) -> StdioTransport:
        return StdioTransport(self.python_cmd, (os.fspath(self.script_path), *self.args), self.env, self.cwd)


@frozen
class NodeStdioTransport(ProgramTransport):
    """A JavaScript file, run by Node."""

    script_path: Place
    args: tuple[str, ...] = field(default=(), converter=_texts)
    env: Mapping[str, str] = field(default=None, converter=_variables, repr=_names_only)
    cwd: Place | None = None
    node_cmd: str = "node"

    @property
    def stdio(self) -> StdioTransport:
        return StdioTransport(self.node_cmd, (os.fspath(self.script_path), *self.args), self.env, self.cwd)


@frozen
class NpxStdioTransport(ProgramTransport):
    """An npm package, run by npx, which fetches it when it is not there; `project_directory` is where npx works."""

    package: str
    args: tuple[str, ...] = field(default=(), converter=_texts)
    project_directory: Place | None = None
    env_vars: Mapping[str, str] = field(default=None, converter=_variables, repr=_names_only)

    @property
    def stdio(self) -> StdioTransport:
        # -y: its question whether to install would be asked on the stdin that is ours
        return StdioTransport("npx", ("-y", self.package, *self.args), self.env_vars, self.project_directory)


@frozen
class UvxStdioTransport(ProgramTransport):
    """A Python tool, run by uvx, which fetches it when it is not there; `from_package` where its name is another."""

    tool_name: str
    tool_args: tuple[str, ...] = field(default=(), converter=_texts)
    project_directory: Place | None = None
    python_version: str | None = None
    with_packages: tuple[str, ...] = field(default=(), converter=_texts)
    from_package: str | None = None
    env_vars: Mapping[str, str] = field(default=None, converter=_variables, repr=_names_only)

    @property
    def stdio(self) -> StdioTransport:
        options = [
            *_maybe("--python", self.python_version),
            *_maybe("--from", self.from_package),
            *_either("--with", self.with_packages),
        ]
        return StdioTransport("uvx", (*options, self.tool_name, *self.tool_args), self.env_vars, self.project_directory)


@frozen
class UvStdioTransport(ProgramTransport):
    """A command or Python module in the environment that uv makes for a project: `uv run`."""

    command: str
    args: tuple[str, ...] = field(default=(), converter=_texts)
    module: bool = False
    """Whether `command` is a module's name, as after `python -m`."""
    project_directory: Place | None = None
    python_version: str | None = None
    with_packages: tuple[str, ...] = field(default=(), converter=_texts)
    with_requirements: Place | None = None
    env_vars: Mapping[str, str] = field(default=None, converter=_variables, repr=_names_only)

    @property
    def stdio(self) -> StdioTransport:
        options = [
            *_maybe("--directory", self.project_directory),
            *_maybe("--python", self.python_version),
            *_either("--with", self.with_packages),
            *_maybe("--with-requirements", self.with_requirements),
            *(["--module"] if self.module else []),
        ]
        return StdioTransport("uv", ("run", *options, self.command, *self.args), self.env_vars)


@frozen
class StreamableHttpTransport:
    """A streamable HTTP endpoint, of either era; `headers` go with every request to it and nowhere else.

    `client` is the embedding program's own `AsyncClient` of httpx or httpx2, to send requests through (its proxies,
    certificates, `Auth`, HTTP/2); it stays open, as its owner's. `ssl_context` is what TLS is done with where there is
    no client; None: what the system trusts. Raises `ConfigError` where both are given, or the client is no AsyncClient.
    """

    url: str
    headers: Mapping[str, str] = field(default=None, converter=_variables, repr=_names_only)
    client: Any = field(default=None, repr=False)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    limits: BackendLimits | None = None

    def __attrs_post_init__(self) -> None:
        if self.client is None:
            return
        if not iscoroutinefunction(getattr(self.client, "send", None)):
            raise ConfigError(f"client: expected an AsyncClient of httpx or httpx2, got {type(self.client).__name__}")
        if self.ssl_context is not None:
            raise ConfigError("ssl_context: not used beside client; give it to that client, as verify=")

    @property
    def is_plain(self) -> bool:
        """Whether an entry of a config can say as much."""
        return self.client is None and self.ssl_context is None and self.limits is None

    def connect(self, stderr: StderrTail | None = None) -> Opened:
        return http_client(lambda turn: self._wire(steadfast=True, turn=turn))

    def dispatchers(self) -> Callable[[], AbstractAsyncContextManager[EitherDispatcher]]:
        """Makes connections to one backend: what takes its calls, without streams of messages between."""
        return partial(self._wire, allowance=Allowance())

    def _wire(self, **how: Any) -> AbstractAsyncContextManager[EitherDispatcher]:
        taken = self.limits or DEFAULT_BACKEND
        return either_dispatcher(self.url, self.headers, self.client, ssl_context=self.ssl_context, taken=taken, **how)


@frozen
class SSETransport:
    """The event stream of a server of the older HTTP+SSE transport; `headers` go with every request there.

    `ssl_context` is what TLS is done with; None: what the system trusts.
    """

    url: str
    headers: Mapping[str, str] = field(default=None, converter=_variables, repr=_names_only)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    limits: BackendLimits | None = None

    def connect(self, stderr: StderrTail | None = None) -> Opened:
        return self.connections()()

    def connections(self) -> Callable[[], Opened]:
        """Makes connections to one backend."""
        how: Any = {"ssl_context": self.ssl_context, "taken": self.limits or DEFAULT_BACKEND}
        return partial(sse_client, self.url, self.headers, allowance=Allowance(), **how)


@frozen
class WSTransport:
    """A WebSocket endpoint (ws or wss), of either era; `headers` go with its handshake and nowhere else.

    `ssl_context` is what TLS is done with; None: what the system trusts.
    """

    url: str
    headers: Mapping[str, str] = field(default=None, converter=_variables, repr=_names_only)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    limits: BackendLimits | None = None

    def connect(self, stderr: StderrTail | None = None) -> Opened:
        return self.connections()()

    def connections(self) -> Callable[[], Opened]:
        """Makes connections to one backend."""
        how: Any = {"ssl_context": self.ssl_context, "taken": self.limits or DEFAULT_BACKEND}
        return partial(websocket_client, self.url, self.headers, allowance=Allowance(), **how)


def limited(transport: ClientTransport, limits: BackendLimits) -> ClientTransport:
    """The transport with these limits, where it is one of ours and does not say any itself."""
    ours = transport.stdio if isinstance(transport, ProgramTransport) else transport
    if isinstance(ours, StdioTransport | StreamableHttpTransport | SSETransport | WSTransport) and ours.limits is None:
        return evolve(ours, limits=limits)
    return ours


@define(eq=False)
class SDKTransport:
    """A transport of the SDK: an async context manager that yields (read, write), or a function that makes one.

    What was made by a function (`streamable_http_client(url)`, a `lambda`) connects as often as it is asked to.
    Another object is entered as it is, by one at a time.
    """

    given: Opened | Callable[[], Opened]
    _entered: bool = field(default=False, init=False)

    @property
    def make(self) -> Callable[[], Opened] | None:
        """Makes the context manager of a new connection; None: there is one object, which one connection can have."""
        given = self.given
        if isinstance(given, contextlib._AsyncGeneratorContextManager):
            return lambda: type(given)(given.func, given.args, given.kwds)
        return None if isinstance(given, AbstractAsyncContextManager) else given

    @asynccontextmanager
    async def connect(self, stderr: StderrTail | None = None) -> AsyncIterator[Streams]:
        if (make := self.make) is not None:
            async with _checked(make()) as streams:
                yield _two(streams)
            return
        if self._entered:
            raise BackendStartError(
                f"this {type(self.given).__name__} is connected already; for several connections give a function"
            )
        self._entered = True
        try:
            async with _checked(self.given) as streams:
                yield _two(streams)
        finally:
            self._entered = False


def _checked(made: object) -> Opened:
    if hasattr(made, "call_tool"):
        raise BackendStartError(
            f"the function gave a {type(made).__name__}, which is a client and no transport; for a function that makes "
            "clients say ProxyServer(client_factory=...)"
        )
    if isinstance(made, AbstractAsyncContextManager):
        return made
    raise BackendStartError(f"{type(made).__name__} is no transport: expected an async context manager of two streams")


def _two(streams: Any) -> Streams:
    if not isinstance(streams, tuple) or len(streams) != 2:
        raise BackendStartError(f"the transport gave {type(streams).__name__} where (read, write) was expected")
    read, write = streams
    return read, write

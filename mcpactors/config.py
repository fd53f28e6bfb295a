"""The configuration of a runtime's servers, in the `mcpServers` format other MCP clients read too, as values.

Rule: PURE. Values only; nothing is started or looked up: whether a command exists or a module imports is the host's to
find out. How a file becomes these values: configfile.py. What its text may say: written.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import attrs
from attrs import field, frozen

from mcpactors.errors import ConfigError
from mcpactors.runtime.definitions import ChangePolicy
from mcpactors.runtime.policy import (
    DEFAULT_LIMITS,
    FORWARD_ALL,
    BackendLimits,
    Era,
    Forwarding,
    PoolLimits,
    Sessions,
)
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.written import Problem, camel, is_address, is_header_value, join, nearest, not_empty, snake, split_module

__all__ = [
    "KINDS",
    "SPELLINGS",
    "Expanded",
    "HTTPServer",
    "Isolation",
    "MCPConfig",
    "ModuleServer",
    "ServerConfig",
    "StdioServer",
    "fields_of",
    "module_server",
    "unstructure",
]

Transport: TypeAlias = Literal["http", "sse", "websocket"]
Isolation: TypeAlias = Literal["process"]
_LOOKS_LIKE_MS: Final = 1000  # seconds; others write milliseconds, and nobody waits a quarter of an hour for a call


@frozen
class Expanded:
    """Marks a string in which `${NAME}` is replaced, with what the outcome must be."""

    check: Callable[[str], object] = lambda text: None


Text: TypeAlias = Annotated[str, Expanded()]
HeaderValue: TypeAlias = Annotated[str, Expanded(is_header_value)]


def _frozen_map(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(value))


def _texts(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


def _keys_only(value: Mapping[str, Any]) -> str:
    # A repr ends up in logs, and these values are where the tokens are.
    return "{" + ", ".join(f"{key!r}: ..." for key in value) + "}"


@frozen(kw_only=True)
class _Shared:
    """Fields of every server: `timeout` in seconds for a call in all (None: the runtime's), empty tags: no filter.

    `start_timeout`, `list_budget`, `restart` and `on_tool_change` are for this server where the runtime has others. A
    name of several words may be written as `startTimeout`. `extra` has the fields this format does not know, as they
    were (not copied): other clients' settings survive.
    """

    timeout: float | None = None
    start_timeout: float | None = None
    list_budget: float | None = None
    restart: RestartPolicy | None = None
    disabled: bool = False
    on_tool_change: ChangePolicy | None = None
    include_tags: tuple[str, ...] = field(default=(), converter=_texts)
    exclude_tags: tuple[str, ...] = field(default=(), converter=_texts)
    extra: Mapping[str, Any] = field(factory=dict, converter=_frozen_map, repr=_keys_only)


@frozen(kw_only=True)
class _Backend(_Shared):
    """Fields of every server that is proxied: how clients share it, and what of its own messages is passed on.

    `era`: which is spoken to it; None: "auto". `limits`: what is taken of it, and how its process is ended; None: the
    runtime's. `tags` are given to all that it offers, beside those that it has from
    there.
    """

    sessions: Sessions | None = None
    era: Era | None = None
    forward: Forwarding = FORWARD_ALL
    pool: PoolLimits = DEFAULT_LIMITS
    limits: BackendLimits | None = None
    tags: tuple[str, ...] = field(default=(), converter=_texts)


@frozen
class StdioServer(_Backend):
    """A program to run, spoken to over its stdin and stdout. `env` is added to what the host passes on."""

    command: Annotated[str, Expanded(not_empty)]
    args: tuple[Text, ...] = field(default=(), converter=_texts)
    env: Mapping[str, Text] = field(factory=dict, converter=_frozen_map, repr=_keys_only)
    cwd: Text | None = None


@frozen
class HTTPServer(_Backend):
    """A server to connect to at `url` (http, https, ws or wss). `transport` None: see `resolved_transport`.

    `ca`: a PEM file with the certificates that are trusted there, instead of those that the system trusts.
    """

    url: Annotated[str, Expanded(is_address)]
    headers: Mapping[str, HeaderValue] = field(factory=dict, converter=_frozen_map, repr=_keys_only)
    transport: Transport | None = None
    ca: Text | None = None

    @property
    def resolved_transport(self) -> Transport:
        """`transport`, or what the address says: ws(s) is WebSocket, a path ending in `/sse` SSE, all else HTTP."""
        parts = urlsplit(self.url)
        inferred: Transport = "sse" if parts.path.rstrip("/").endswith("/sse") else "http"
        return self.transport or ("websocket" if parts.scheme in ("ws", "wss") else inferred)


@frozen
class ModuleServer(_Shared):
    """A Python server to load into this process: a dotted module or a `.py` file, and the object in it.

    Our extension. `attribute` None: the host takes `server`, else `mcp`, else `app`. `isolate`: not into this process,
    but into a child process of its own; the object may then be a function that makes the server.
    """

    module: Annotated[str, Expanded(split_module)]
    attribute: str | None = None
    isolate: Isolation | None = None

    @property
    def is_file(self) -> bool:
        return self.module.endswith(".py")


ServerConfig: TypeAlias = StdioServer | HTTPServer | ModuleServer

KINDS: Final[Mapping[str, type[ServerConfig]]] = {"command": StdioServer, "url": HTTPServer, "module": ModuleServer}
SPELLINGS: Final[Mapping[type, Mapping[str, str]]] = {
    StdioServer: {"stdio": "stdio"},
    HTTPServer: {"http": "http", "streamablehttp": "http", "sse": "sse", "websocket": "websocket", "ws": "websocket"},
    ModuleServer: {"module": "module"},
}


def fields_of(kind: type[ServerConfig]) -> tuple[str, ...]:
    """What may be written for a server of this kind, its own fields first."""
    own_first = [a.name for a in sorted(attrs.fields(kind), key=lambda a: a.inherited)]
    return tuple(dict.fromkeys(n for n in [*own_first, "transport", "type"] if n not in ("extra", "attribute")))


def module_server(text: str) -> ModuleServer:
    """The server that "package.module:object" or "./file.py:object" names; nothing is imported.

    Raises:
        ConfigError: it can be no such name.
    """
    try:
        return ModuleServer(*split_module(text))
    except Problem as problem:
        raise ConfigError(str(problem)) from None


@frozen
class MCPConfig:
    """What a file says: `servers` by name in file order, disabled ones included; `extra`, unknown top-level fields.

    `settings` are those of the runtime that serves the file, as written there but with variables expanded; what they
    mean `settings_of` says. Who embeds a runtime has its own, and these are not looked at.

    Two are equal when they mean the same, wherever they came from. (Seed 002 "Configuration-Based Proxies"; C6.)
    """

    servers: Mapping[str, ServerConfig] = field(factory=dict, converter=_frozen_map)
    settings: Mapping[str, Any] = field(factory=dict, converter=_frozen_map, repr=_keys_only, kw_only=True)
    extra: Mapping[str, Any] = field(factory=dict, converter=_frozen_map, repr=_keys_only)
    source: str | None = field(default=None, eq=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each thing that is allowed and probably not meant: misspelt or another kind's fields, ms,
        nothing that is switched on."""
        found = [(join("", key), nearest(key, ["mcpServers", "settings"])) for key in self.extra]
        lines: list[str] = []
        for name, server in self.servers.items():
            path = join("mcpServers", name)
            for key in server.extra:
                if others := [json.dumps(of) for of, kind in KINDS.items() if snake(key) in fields_of(kind)]:
                    lines.append(f"{join(path, key)}: not used; it is for servers with {' or '.join(others)}")
                elif key == "auth":  # FastMCP's
                    given = '"headers": {"Authorization": "Bearer ${TOKEN}"}'
                    lines.append(f"{join(path, key)}: not used; give the token as {given}")
                else:
                    found.append((join(path, key), nearest(key, fields_of(type(server)))))
            if isinstance(server, HTTPServer) and server.ca and server.url.startswith(("http:", "ws:")):
                lines.append(f"{path}.ca: not used; the address is not one of TLS (https://, wss://)")
            if server.timeout is not None and server.timeout >= _LOOKS_LIKE_MS:
                lines.append(f"{path}.timeout: {server.timeout:g} seconds; did you mean milliseconds?")
        if self.servers and all(server.disabled for server in self.servers.values()):
            lines.append('mcpServers: every server is disabled, so nothing is served; take "disabled" out of one')
        lines += [f'{path}: unknown field, not used; did you mean "{near}"?' for path, near in found if near]
        return tuple(f"{self.source or '<config>'}: {line}" for line in lines)


_TWO_WORDS: Final = ("start_timeout", "list_budget", "on_tool_change")
"""Fields that are written in the manner of JSON; those of tags are written as FastMCP does."""
_EXPANDED_FIELDS: Final = ("command", "args", "env", "cwd", "url", "headers", "ca", "module")


def unstructure(config: MCPConfig) -> dict[str, Any]:
    """The mapping that `parse_config` makes an equal configuration of, in lists and dicts; defaults are left out.

    Variables stay expanded, so it holds the secrets they held. Unknown fields are the very objects that were given.
    """
    servers: dict[str, Any] = {}
    for name, server in config.servers.items():
        known = {key: getattr(server, key, None) for key in fields_of(type(server))}
        raw = {
            camel(key) if key in _TWO_WORDS else key: _settings(value) if attrs.has(type(value)) else value
            for key, value in known.items()
            if value not in (None, False, (), {}, FORWARD_ALL, DEFAULT_LIMITS)
        }
        if isinstance(server, ModuleServer) and server.attribute is not None:
            raw["module"] = f"{server.module}:{server.attribute}"
        servers[name] = {key: _plain(value, key in _EXPANDED_FIELDS) for key, value in raw.items()}
        servers[name] |= {key: value for key, value in server.extra.items() if key not in raw}
    settings = {"settings": _plain(config.settings, True)} if config.settings else {}
    return {"mcpServers": servers, **settings, **config.extra}


def _settings(policy: Any) -> dict[str, Any]:
    """A block of settings, without those that are as they are anyway."""
    usual = attrs.asdict(type(policy)())
    return {camel(name): value for name, value in attrs.asdict(policy).items() if value != usual[name]}


def _plain(value: Any, escaped: bool) -> Any:
    if isinstance(value, str):
        return value.replace("${", "$${") if escaped else value
    if isinstance(value, tuple | list):
        return [_plain(item, escaped) for item in value]
    return {key: _plain(item, escaped) for key, item in value.items()} if isinstance(value, Mapping) else value

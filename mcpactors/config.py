"""The configuration file: which servers a runtime mounts, in the `mcpServers` format other MCP clients read too.

Rule: everything here is a function of a mapping and an environment to frozen values; `load_config` alone reads a file.
No trio, no mcp, nothing started or looked up: whether a command exists or a module imports is the host's to find out.
Text in, `MCPConfig` or one `ConfigError` with every problem out.

Text in `command`, `args`, `env`, `cwd`, `url`, `headers`, `ca` and `module` may refer to the environment:
* `${NAME}` is the variable; unset is an error.
* `${NAME:-default}` is `default` (up to the next `}`, as it stands) when the variable is unset or empty, as in a shell.
* `$${` is the two characters `${`. A `$` or `$$` before anything else is itself. What a variable holds is not expanded.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin
from urllib.parse import urlsplit

import attrs
from attrs import field, frozen
from cattrs import BaseConverter, BaseValidationError, ClassValidationError, IterableValidationError
from cattrs.gen import make_dict_structure_fn

from mcpactors.errors import ConfigError, NamespaceError
from mcpactors.runtime.definitions import ChangePolicy
from mcpactors.runtime.naming import NAMESPACE_LENGTH, validate_namespace
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

__all__ = [
    "HTTPServer",
    "Isolation",
    "MCPConfig",
    "ModuleServer",
    "ServerConfig",
    "StdioServer",
    "load_config",
    "module_server",
    "parse_config",
    "unstructure",
]

Transport: TypeAlias = Literal["http", "sse", "websocket"]
Isolation: TypeAlias = Literal["process"]
_LOOKS_LIKE_MS: Final = 1000  # seconds; others write milliseconds, and nobody waits a quarter of an hour for a call


class _Problem(ValueError):
    """One fault of the file, at the path `at` below the value that was looked at."""

    def __init__(self, text: str, at: str = "") -> None:
        super().__init__(text)
        self.at = at


# --- Text: what it may refer to and what it must be ---------------------------------------------------------------

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\}|\$\{[^}]*\}?", re.ASCII)


class _AsWritten(dict[str, str]):
    """An environment for a server that is switched off: what is not set stays as it is written, and is no problem."""

    def __contains__(self, name: object) -> bool:
        return True

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, f"${{{name}}}")


def _expand(text: str, environ: Mapping[str, str]) -> str:
    unset: dict[str, None] = {}

    def value(match: re.Match[str]) -> str:
        name, default = match.group("name", "default")
        if match[0] == "$${":
            return "${"
        if name is None:
            raise _Problem(f"{match[0]} is no variable; write ${{NAME}} or ${{NAME:-default}}, or $${{ for a plain ${{")
        if name not in environ and default is None:
            unset[name] = None
        return environ.get(name) or default or ""

    expanded = _REFERENCE.sub(value, text)
    if unset:
        names = " and ".join(unset) + (" is" if len(unset) == 1 else " are")
        raise _Problem(f"{names} not set in the environment; give a value, or a default: ${{{next(iter(unset))}:-...}}")
    return expanded


def _not_empty(text: str) -> None:
    if not text.strip():
        raise _Problem("expected a program to run, got an empty string")


def _is_header_value(text: str) -> None:
    if "\r" in text or "\n" in text:
        raise _Problem("a header cannot hold a line break; a variable read from a file often ends in one")


def _is_address(text: str) -> None:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https", "ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not text.isprintable() or " " in text:  # the text is not shown: addresses carry keys
        raise _Problem("expected an address such as https://host/path (http, https, ws or wss)")


def _split_module(text: str) -> tuple[str, str | None]:
    """`"package.mod:object"` or `"./file.py:object"` in its two parts; a drive letter's colon separates nothing."""
    match = re.fullmatch(r"(.+?)(?::([^:/\\]*))?", text)
    module, attribute = match.groups() if match else ("", None)
    names = [] if module.endswith(".py") else module.split(".")
    names += [] if attribute is None else attribute.split(".")
    if not all(name.isidentifier() for name in names):
        raise _Problem(f'expected "package.module:object" or "./file.py:object", got {_show(text)}')
    return module, attribute


@frozen
class _Expanded:
    """Marks a string in which `${NAME}` is replaced, with what the outcome must be."""

    check: Callable[[str], object] = lambda text: None


Text: TypeAlias = Annotated[str, _Expanded()]
HeaderValue: TypeAlias = Annotated[str, _Expanded(_is_header_value)]

# --- The values ---------------------------------------------------------------------------------------------------


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

    command: Annotated[str, _Expanded(_not_empty)]
    args: tuple[Text, ...] = field(default=(), converter=_texts)
    env: Mapping[str, Text] = field(factory=dict, converter=_frozen_map, repr=_keys_only)
    cwd: Text | None = None


@frozen
class HTTPServer(_Backend):
    """A server to connect to at `url` (http, https, ws or wss). `transport` None: see `resolved_transport`.

    `ca`: a PEM file with the certificates that are trusted there, instead of those that the system trusts.
    """

    url: Annotated[str, _Expanded(_is_address)]
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

    module: Annotated[str, _Expanded(_split_module)]
    attribute: str | None = None
    isolate: Isolation | None = None

    @property
    def is_file(self) -> bool:
        return self.module.endswith(".py")


ServerConfig: TypeAlias = StdioServer | HTTPServer | ModuleServer

_KINDS: Final[Mapping[str, type[ServerConfig]]] = {"command": StdioServer, "url": HTTPServer, "module": ModuleServer}
_SPELLINGS: Final[Mapping[type, Mapping[str, str]]] = {
    StdioServer: {"stdio": "stdio"},
    HTTPServer: {"http": "http", "streamablehttp": "http", "sse": "sse", "websocket": "websocket", "ws": "websocket"},
    ModuleServer: {"module": "module"},
}


def _fields(kind: type[ServerConfig]) -> tuple[str, ...]:
    """What may be written for a server of this kind, its own fields first."""
    own_first = [a.name for a in sorted(attrs.fields(kind), key=lambda a: a.inherited)]
    return tuple(dict.fromkeys(n for n in [*own_first, "transport", "type"] if n not in ("extra", "attribute")))


def module_server(text: str) -> ModuleServer:
    """The server that "package.module:object" or "./file.py:object" names; nothing is imported.

    Raises:
        ConfigError: it can be no such name.
    """
    try:
        return ModuleServer(*_split_module(text))
    except _Problem as problem:
        raise ConfigError(str(problem)) from None


@frozen
class MCPConfig:
    """What a file says: `servers` by name in file order, disabled ones included; `extra`, unknown top-level fields.

    Two are equal when they mean the same, wherever they came from. (Seed 002 "Configuration-Based Proxies"; C6.)
    """

    servers: Mapping[str, ServerConfig] = field(factory=dict, converter=_frozen_map)
    extra: Mapping[str, Any] = field(factory=dict, converter=_frozen_map, repr=_keys_only)
    source: str | None = field(default=None, eq=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each thing that is allowed and probably not meant: misspelt fields, timeouts in milliseconds."""
        found = [(_join("", key), _near(key, ["mcpServers"])) for key in self.extra]
        lines: list[str] = []
        for name, server in self.servers.items():
            path = _join("mcpServers", name)
            found += [(_join(path, key), _near(key, _fields(type(server)))) for key in server.extra]
            if server.timeout is not None and server.timeout >= _LOOKS_LIKE_MS:
                lines.append(f"{path}.timeout: {server.timeout:g} seconds; did you mean milliseconds?")
        lines += [f'{path}: unknown field, not used; did you mean "{near}"?' for path, near in found if near]
        return tuple(f"{self.source or '<config>'}: {line}" for line in lines)


# --- Saying what is wrong -----------------------------------------------------------------------------------------


def _join(path: str, key: object) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    plain = re.fullmatch(r"[\w-]+", str(key))
    return f"{path}.{key}".lstrip(".") if plain else f"{path}[{json.dumps(str(key), ensure_ascii=False)}]"


def _below(key: object) -> str:
    return _join("$", key)[1:]


def _show(value: object, secret: bool = False) -> str:
    """A value in the file's own words. Lists and objects are only named: they may hold secrets, and pages of text."""
    if secret and isinstance(value, str):
        return "a string"
    if isinstance(value, list | tuple | Mapping):
        return "an object" if isinstance(value, Mapping) else "a list"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge number"  # Python refuses to print some of these
    short = value[:37] + "..." if isinstance(value, str) and len(value) > 40 else value
    kinds = {str: " (a string)", bool: " (a boolean)", int: " (a number)", float: " (a number)"}
    return json.dumps(short, ensure_ascii=False, default=repr) + kinds.get(type(value), "")


def _near(name: str, known: Iterable[str]) -> str | None:
    folded = {_fold(other): other for other in known}
    close = difflib.get_close_matches(_fold(name), folded, n=1, cutoff=0.8)
    return folded[close[0]] if close else None


def _fold(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _problems(error: Exception, path: str) -> Iterator[str]:
    """The lines of what cattrs raised, each with its path from the top of the file."""
    if isinstance(error, _Problem):
        where = path + error.at
        yield f"{where}: {error}" if where else str(error)
    elif isinstance(error, ClassValidationError):
        noted, plain = error.group_exceptions()
        for inner, below in [*((e, _join(path, note.name)) for e, note in noted), *((e, path) for e in plain)]:
            yield from _problems(inner, below)
    elif isinstance(error, IterableValidationError):
        for inner, key_note in error.group_exceptions()[0]:
            yield from _problems(inner, _join(path, key_note.index))
    else:
        raise error  # our fault, not the file's: it must not pass for one


def _config_error(source: str, lines: Iterable[str]) -> ConfigError:
    # backslashreplace: names from a file may hold lone surrogates, and a message must be printable anywhere.
    whole = [f"{source}: {line}".encode(errors="backslashreplace").decode() for line in lines]
    return ConfigError("\n".join(whole), data={"problems": whole})


# --- Structuring: cattrs without its coercions ("no" is not True, 5 is not "5") -------------------------------------


def _string(value: object, _: object = None) -> str:
    if isinstance(value, str):
        return value
    hint = "; put it in quotes" if isinstance(value, int | float) else "; leave it out instead" if value is None else ""
    raise _Problem(f"expected a string, got {_show(value)}{hint}")


def _boolean(value: object, _: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _Problem(f"expected true or false, got {_show(value)}")


def _seconds(value: object, _: object) -> float:
    # Compared before it is converted: an int may be larger than any float.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max:
        return float(value)
    raise _Problem(f"expected a positive number of seconds, got {_show(value)}")


def _one_of(words: Any, value: object, _: object) -> Any:
    if value is None or (isinstance(value, str) and value in get_args(words)):
        return value
    choices = ", ".join(json.dumps(name) for name in get_args(words))
    raise _Problem(f"expected {'one of ' if len(get_args(words)) > 1 else ''}{choices}, got {_show(value)}")


def _policy(value: Any, cls: Any) -> Any:
    """A block of settings of ours: nothing is unknown in it, and a feature may be switched off by `null`, too."""
    if not isinstance(value, Mapping):
        raise _Problem(f"expected an object, got {_show(value)}")
    names = [attribute.name for attribute in attrs.fields(cls)]
    given: dict[str, Any] = {}
    for key, setting in value.items():
        name = _snake(_string(key))
        if name not in names:
            near = _near(name, names)
            hint = f'did you mean "{near}"?' if near else f"known are {', '.join(names)}"
            raise _Problem(f"unknown setting; {hint}", at=_below(key))
        if name in given:
            raise _Problem("is there under two spellings; keep only one", at=_below(key))
        if cls is Forwarding and not isinstance(setting, bool | None):
            raise _Problem(f"expected true or false, got {_show(setting)}", at=_below(key))
        given[name] = setting if cls is not Forwarding else bool(setting)
    try:
        return cls(**given)
    except ValueError as error:
        name, _, said = str(error).partition(": ")
        written = next((key for key in value if _snake(key) == name), None)
        raise _Problem(said if written else str(error), at=_below(written) if written else "") from None


def _snake(name: str) -> str:
    """`startTimeout` as it is called here."""
    return re.sub(r"(?<=[a-z])[A-Z]", lambda match: f"_{match[0].lower()}", name)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _made_of(origin: object, cls: Any) -> bool:
    return get_origin(cls) is origin


def _is_choice(words: Any, cls: Any) -> bool:
    return bool(cls == words | None)


def _converter(environ: Mapping[str, str]) -> BaseConverter:
    """Made for each parse, as `environ` is part of it; so nothing goes to linecache, which would grow with reloads."""
    converter = BaseConverter()

    def text(value: object, cls: Any) -> str:
        raw = _string(value)
        if "\0" in raw or any("\ud800" <= letter <= "\udfff" for letter in raw):
            raise _Problem("holds a NUL or half a surrogate pair, which no program or server can be given")
        expanded = _expand(raw, environ)
        cls.__metadata__[0].check(expanded)
        return expanded

    def mapping(value: object, cls: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _Problem(f"expected an object, got {_show(value, secret=True)}")
        below: Any = dict.__class_getitem__(get_args(cls))
        return converter.structure(value, below)

    def strings(value: object, cls: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise _Problem(f"expected a list of strings, got {_show(value, secret=True)}")
        below: Any = list.__class_getitem__(get_args(cls)[0])
        return converter.structure(value, below)

    converter.register_structure_hook(str, _string)
    converter.register_structure_hook(bool, _boolean)
    converter.register_structure_hook(float, _seconds)
    for words in (Sessions, Era, Isolation, ChangePolicy):
        converter.register_structure_hook_func(partial(_is_choice, words), partial(_one_of, words))
    for policy in (Forwarding, PoolLimits, BackendLimits, RestartPolicy):
        converter.register_structure_hook(policy, _policy)
    for origin, hook in {Annotated: text, Mapping: mapping, tuple: strings}.items():
        converter.register_structure_hook_func(partial(_made_of, origin), hook)
    for kind in _KINDS.values():
        converter.register_structure_hook(kind, make_dict_structure_fn(kind, converter, _cattrs_use_linecache=False))

    def server(value: Any, _: object) -> ServerConfig:
        switched_off = isinstance(value, Mapping) and value.get("disabled") is True
        if switched_off and not isinstance(environ, _AsWritten):
            return _structure_server(_converter(_AsWritten(environ)), value)
        return _structure_server(converter, value)

    converter.register_structure_hook(ServerConfig, server)
    return converter


def _structure_server(converter: BaseConverter, raw: Any) -> ServerConfig:
    kind = _kind(raw)
    known = _fields(kind)
    spelt = {key: _snake(key) for key in raw if _snake(key) in known and key not in ("transport", "type")}
    values = {spelt[key]: raw[key] for key in spelt}
    values["extra"] = {key: value for key, value in raw.items() if _snake(key) not in known}
    faults: list[Exception] = [
        _Problem(f"is there as {json.dumps(name)}, too; keep only one of them", at=f".{key}")
        for key, name in spelt.items()
        if key != name and name in spelt
    ]
    try:
        transport = _transport(raw, kind)
    except _Problem as problem:
        faults.append(problem)
    try:
        server: ServerConfig = converter.structure(values, kind)
    except BaseValidationError as error:
        faults.append(_as_spelt(error, {name: key for key, name in spelt.items()}))
    if faults:
        raise ClassValidationError("server", faults, kind)
    if isinstance(server, ModuleServer):
        module, attribute = _split_module(server.module)
        return attrs.evolve(server, module=module, attribute=attribute)
    if isinstance(server, HTTPServer) and transport is not None:
        scheme = urlsplit(server.url).scheme
        if (transport == "websocket") != scheme.startswith("ws"):
            at = ".type" if raw.get("transport") is None else ".transport"
            raise _Problem(f'"{transport}" does not fit an address that begins with {scheme}://', at)
        return attrs.evolve(server, transport=transport)
    return server


def _as_spelt(error: BaseValidationError, written: Mapping[str, str]) -> BaseValidationError:
    """The error with fields named as the file spells them."""
    if isinstance(error, ClassValidationError):
        for _, note in error.group_exceptions()[0]:
            note.name = written.get(note.name, note.name)
    return error


def _kind(raw: Any) -> type[ServerConfig]:
    if not isinstance(raw, Mapping):
        raise _Problem(f'expected an object such as {{"command": "..."}}, got {_show(raw)}')
    for key in raw:
        _string(key)
    given = [key for key in _KINDS if raw.get(key) is not None]
    if len(given) == 1:
        return _KINDS[given[0]]
    if given:
        raise _Problem(f"has {' and '.join(map(json.dumps, given))}; keep only one of them")
    close = {key: _near(key, _KINDS) for key in raw if key not in _KINDS}
    meant = [f'; did you mean "{near}" by {json.dumps(key)}?' for key, near in close.items() if near]
    choices = '"command" (a program to run), "url" (a server to connect to) or "module" (Python to load here)'
    raise _Problem(f"needs one of {choices}{''.join(meant[:1])}")


def _transport(raw: Mapping[str, Any], kind: type[ServerConfig]) -> Any:
    """What `transport` and its other name `type` agree on; None when neither is there."""
    spellings = _SPELLINGS[kind]
    chosen: set[str] = set()
    for key in ("transport", "type"):
        value = raw.get(key)
        if value is not None:
            if not isinstance(value, str) or _fold(value) not in spellings:
                expected = " or ".join(json.dumps(name) for name in dict.fromkeys(spellings.values()))
                raise _Problem(f"expected {expected}, got {_show(value)}", at=f".{key}")
            chosen.add(spellings[_fold(value)])
    if len(chosen) > 1:
        raise _Problem('"transport" and "type" say different things; keep only one of them')
    return chosen.pop() if chosen else None


def _servers_of(mapping: Any) -> Any:
    """What stands below `mcpServers`, or the `_Problem` that says how to get it there."""
    if not isinstance(mapping, Mapping):
        raise _Problem(f'expected an object {{"mcpServers": {{...}}}}, got {_show(mapping)}')
    if "mcpServers" in mapping:
        return mapping["mcpServers"]
    if mapping and all(isinstance(value, Mapping) and _KINDS.keys() & value for value in mapping.values()):
        first = json.dumps(next(iter(mapping)), ensure_ascii=False)
        raise _Problem(f'the servers stand at the top; wrap them: {{"mcpServers": {{{first}: ...}}}}')
    near = [f"; rename {json.dumps(key)} to it" for key in mapping if _near(str(key), ["mcpServers"])]
    raise _Problem('"mcpServers" is missing' + (near[0] if near else '; expected {"mcpServers": {"name": {...}}}'))


def _misnamed(servers: Mapping[str, ServerConfig]) -> Iterator[str]:
    """A line for each name that cannot be a namespace, where names are to be that: where there are several."""
    named = [name for name, server in servers.items() if not server.disabled]
    for name in named if len(named) > 1 else ():
        try:
            validate_namespace(name)
        except NamespaceError:
            yield (
                f"{_join('mcpServers', name)}: of several servers each has its name before the names of its tools, so "
                "it must start with a letter or digit and consist of letters, digits, '_', '.' and '-', at most "
                f"{NAMESPACE_LENGTH} characters; rename it"
            )


# --- In and out ---------------------------------------------------------------------------------------------------


def parse_config(
    mapping: Mapping[str, Any], *, source: str = "<config>", environ: Mapping[str, str] = os.environ
) -> MCPConfig:
    """The configuration that a mapping of JSON values says; `source` is its name in messages. No servers is allowed.

    Raises ConfigError with one line for each problem: source, path, what was expected and what was found. The lines
    are also in `data["problems"]`. (Seeds 001 "mcpServers", 002 "Configuration-Based Proxies"; features.md C6.)
    """
    try:
        below = _servers_of(mapping)
    except _Problem as problem:
        raise _config_error(source, [str(problem)]) from None
    shape: Any = Mapping[str, ServerConfig]
    try:
        servers = _converter(environ).structure(below, shape)
    except (BaseValidationError, _Problem) as error:
        raise _config_error(source, _problems(error, "mcpServers")) from None  # the lines say all that the group does
    if misnamed := list(_misnamed(servers)):
        raise _config_error(source, misnamed)
    extra = {key: value for key, value in mapping.items() if key != "mcpServers"}
    return MCPConfig(servers, extra, source)


def load_config(path: str | os.PathLike[str], *, environ: Mapping[str, str] = os.environ) -> MCPConfig:
    """`parse_config` of a JSON file, with relative `cwd`, `ca` and module files taken from the file's own folder.

    Reads the file at once, so call it before the loop runs or in a thread. Raises ConfigError also for a file that
    cannot be read, is not UTF-8 or not JSON, or has one key twice in an object.
    """
    source = os.fspath(path)
    config = parse_config(_read(source), source=source, environ=environ)
    folder = os.path.dirname(os.path.abspath(source))

    def anchored(server: ServerConfig) -> ServerConfig:
        if isinstance(server, StdioServer) and server.cwd is not None:
            return attrs.evolve(server, cwd=os.path.normpath(os.path.join(folder, server.cwd)))
        if isinstance(server, HTTPServer) and server.ca is not None:
            return attrs.evolve(server, ca=os.path.normpath(os.path.join(folder, server.ca)))
        if isinstance(server, ModuleServer) and server.is_file:
            return attrs.evolve(server, module=os.path.normpath(os.path.join(folder, server.module)))
        return server

    return attrs.evolve(config, servers={name: anchored(server) for name, server in config.servers.items()})


def _read(source: str) -> Any:
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        twice.extend(key for key, count in counts.items() if count > 1)
        return dict(pairs)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        text = Path(source).read_bytes().decode("utf-8-sig")  # Windows editors begin UTF-8 files with a mark
        document = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except OSError as error:
        raise _config_error(source, [f"cannot be read: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        raise _config_error(source, [f"not UTF-8 at byte {error.start}; save the file as UTF-8"]) from error
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
        raise _config_error(source, [reason if text.strip() else "the file is empty"]) from error
    except (ValueError, RecursionError) as error:  # numbers and nesting beyond Python's limits; a NUL in the path
        raise _config_error(source, [str(error)]) from error
    if twice:
        raise _config_error(source, [f"the key {json.dumps(key)} stands twice in one object" for key in twice])
    return document


_TWO_WORDS: Final = ("start_timeout", "list_budget", "on_tool_change")
"""Fields that are written in the manner of JSON; those of tags are written as FastMCP does."""
_EXPANDED_FIELDS: Final = ("command", "args", "env", "cwd", "url", "headers", "ca", "module")


def unstructure(config: MCPConfig) -> dict[str, Any]:
    """The mapping that `parse_config` makes an equal configuration of, in lists and dicts; defaults are left out.

    Variables stay expanded, so it holds the secrets they held. Unknown fields are the very objects that were given.
    """
    servers: dict[str, Any] = {}
    for name, server in config.servers.items():
        known = {key: getattr(server, key, None) for key in _fields(type(server))}
        raw = {
            _camel(key) if key in _TWO_WORDS else key: _settings(value) if attrs.has(type(value)) else value
            for key, value in known.items()
            if value not in (None, False, (), {}, FORWARD_ALL, DEFAULT_LIMITS)
        }
        if isinstance(server, ModuleServer) and server.attribute is not None:
            raw["module"] = f"{server.module}:{server.attribute}"
        servers[name] = {key: _plain(value, key in _EXPANDED_FIELDS) for key, value in raw.items()}
        servers[name] |= {key: value for key, value in server.extra.items() if key not in raw}
    return {"mcpServers": servers, **config.extra}


def _settings(policy: Any) -> dict[str, Any]:
    """A block of settings, without those that are as they are anyway."""
    usual = attrs.asdict(type(policy)())
    return {_camel(name): value for name, value in attrs.asdict(policy).items() if value != usual[name]}


def _plain(value: Any, escaped: bool) -> Any:
    if isinstance(value, str):
        return value.replace("${", "$${") if escaped else value
    if isinstance(value, tuple):
        return [_plain(item, escaped) for item in value]
    return {key: _plain(item, escaped) for key, item in value.items()} if isinstance(value, Mapping) else value

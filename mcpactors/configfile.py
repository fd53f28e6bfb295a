"""A config file read: a mapping of JSON values to an `MCPConfig`, or one `ConfigError` with every problem in it.

Rule: everything here is a function of a mapping and an environment; `load_config` alone reads a file. cattrs structures
the values, with hooks of ours (written.py) where it would coerce.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import urlsplit

import attrs
from cattrs import BaseConverter, BaseValidationError, ClassValidationError
from cattrs.gen import make_dict_structure_fn

from mcpactors.config import (
    KINDS,
    SPELLINGS,
    HTTPServer,
    Isolation,
    MCPConfig,
    ModuleServer,
    ServerConfig,
    StdioServer,
    fields_of,
)
from mcpactors.errors import NamespaceError
from mcpactors.runtime.definitions import ChangePolicy
from mcpactors.runtime.naming import NAMESPACE_LENGTH, validate_namespace
from mcpactors.runtime.policy import BackendLimits, Era, Forwarding, PoolLimits, Sessions
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.written import (
    AsWritten,
    Problem,
    block,
    boolean,
    config_error,
    expand,
    expand_all,
    fold,
    join,
    nearest,
    one_of,
    problems,
    seconds,
    show,
    snake,
    split_module,
    string,
)

__all__ = ["load_config", "parse_config"]


def _made_of(origin: object, cls: Any) -> bool:
    return get_origin(cls) is origin


def _is_choice(words: Any, cls: Any) -> bool:
    return bool(cls == words | None)


def _converter(environ: Mapping[str, str]) -> BaseConverter:
    """Made for each parse, as `environ` is part of it; so nothing goes to linecache, which would grow with reloads."""
    converter = BaseConverter()

    def text(value: object, cls: Any) -> str:
        raw = string(value)
        if "\0" in raw or any("\ud800" <= letter <= "\udfff" for letter in raw):
            raise Problem("holds a NUL or half a surrogate pair, which no program or server can be given")
        expanded = expand(raw, environ)
        cls.__metadata__[0].check(expanded)
        return expanded

    def mapping(value: object, cls: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Problem(f"expected an object, got {show(value, secret=True)}")
        below: Any = dict.__class_getitem__(get_args(cls))
        return converter.structure(value, below)

    def strings(value: object, cls: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise Problem(f"expected a list of strings, got {show(value, secret=True)}")
        below: Any = list.__class_getitem__(get_args(cls)[0])
        return converter.structure(value, below)

    converter.register_structure_hook(str, string)
    converter.register_structure_hook(bool, boolean)
    converter.register_structure_hook(float, seconds)
    for words in (Sessions, Era, Isolation, ChangePolicy):
        converter.register_structure_hook_func(partial(_is_choice, words), partial(one_of, words))
    for policy in (Forwarding, PoolLimits, BackendLimits, RestartPolicy):
        converter.register_structure_hook(policy, block)
    for origin, hook in {Annotated: text, Mapping: mapping, tuple: strings}.items():
        converter.register_structure_hook_func(partial(_made_of, origin), hook)
    for kind in KINDS.values():
        converter.register_structure_hook(kind, make_dict_structure_fn(kind, converter, _cattrs_use_linecache=False))

    def server(value: Any, _: object) -> ServerConfig:
        switched_off = isinstance(value, Mapping) and value.get("disabled") is True
        if switched_off and not isinstance(environ, AsWritten):
            return _structure_server(_converter(AsWritten(environ)), value)
        return _structure_server(converter, value)

    converter.register_structure_hook(ServerConfig, server)
    return converter


def _structure_server(converter: BaseConverter, raw: Any) -> ServerConfig:
    kind = _kind(raw)
    known = fields_of(kind)
    spelt = {key: snake(key) for key in raw if snake(key) in known and key not in ("transport", "type")}
    values = {spelt[key]: raw[key] for key in spelt}
    values["extra"] = {key: value for key, value in raw.items() if snake(key) not in known}
    faults: list[Exception] = [
        Problem(f"is there as {json.dumps(name)}, too; keep only one of them", at=f".{key}")
        for key, name in spelt.items()
        if key != name and name in spelt
    ]
    try:
        transport = _transport(raw, kind)
    except Problem as problem:
        faults.append(problem)
    try:
        server: ServerConfig = converter.structure(values, kind)
    except BaseValidationError as error:
        faults.append(_as_spelt(error, {name: key for key, name in spelt.items()}))
    if faults:
        raise ClassValidationError("server", faults, kind)
    if isinstance(server, ModuleServer):
        module, attribute = split_module(server.module)
        return attrs.evolve(server, module=module, attribute=attribute)
    if isinstance(server, HTTPServer) and transport is not None:
        scheme = urlsplit(server.url).scheme
        if (transport == "websocket") != scheme.startswith("ws"):
            at = ".type" if raw.get("transport") is None else ".transport"
            raise Problem(f'"{transport}" does not fit an address that begins with {scheme}://', at)
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
        raise Problem(f'expected an object such as {{"command": "..."}}, got {show(raw)}')
    for key in raw:
        string(key)
    given = [key for key in KINDS if raw.get(key) is not None]
    if len(given) == 1:
        return KINDS[given[0]]
    if given:
        raise Problem(f"has {' and '.join(map(json.dumps, given))}; keep only one of them")
    close = {key: nearest(key, KINDS) for key in raw if key not in KINDS}
    meant = [f'; did you mean "{near}" by {json.dumps(key)}?' for key, near in close.items() if near]
    choices = '"command" (a program to run), "url" (a server to connect to) or "module" (Python to load here)'
    raise Problem(f"needs one of {choices}{''.join(meant[:1])}")


def _transport(raw: Mapping[str, Any], kind: type[ServerConfig]) -> Any:
    """What `transport` and its other name `type` agree on; None when neither is there."""
    spellings = SPELLINGS[kind]
    chosen: set[str] = set()
    for key in ("transport", "type"):
        value = raw.get(key)
        if value is not None:
            if not isinstance(value, str) or fold(value) not in spellings:
                expected = " or ".join(json.dumps(name) for name in dict.fromkeys(spellings.values()))
                raise Problem(f"expected {expected}, got {show(value)}", at=f".{key}")
            chosen.add(spellings[fold(value)])
    if len(chosen) > 1:
        raise Problem('"transport" and "type" say different things; keep only one of them')
    return chosen.pop() if chosen else None


def _servers_of(mapping: Any) -> Any:
    """What stands below `mcpServers`, or the `Problem` that says how to get it there."""
    if not isinstance(mapping, Mapping):
        raise Problem(f'expected an object {{"mcpServers": {{...}}}}, got {show(mapping)}')
    if "mcpServers" in mapping:
        return mapping["mcpServers"]
    if mapping and all(isinstance(value, Mapping) and KINDS.keys() & value for value in mapping.values()):
        first = json.dumps(next(iter(mapping)), ensure_ascii=False)
        raise Problem(f'the servers stand at the top; wrap them: {{"mcpServers": {{{first}: ...}}}}')
    near = [f"; rename {json.dumps(key)} to it" for key in mapping if nearest(str(key), ["mcpServers"])]
    raise Problem('"mcpServers" is missing' + (near[0] if near else '; expected {"mcpServers": {"name": {...}}}'))


def _misnamed(servers: Mapping[str, ServerConfig]) -> Iterator[str]:
    """A line for each name that cannot be a namespace, where names are to be that: where there are several."""
    named = [name for name, server in servers.items() if not server.disabled]
    for name in named if len(named) > 1 else ():
        try:
            validate_namespace(name)
        except NamespaceError:
            yield (
                f"{join('mcpServers', name)}: of several servers each has its name before the names of its tools, so "
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
    except Problem as problem:
        raise config_error(source, [str(problem)]) from None
    shape: Any = Mapping[str, ServerConfig]
    try:
        servers = _converter(environ).structure(below, shape)
    except (BaseValidationError, Problem) as error:
        raise config_error(source, problems(error, "mcpServers")) from None  # the lines say all that the group does
    if misnamed := list(_misnamed(servers)):
        raise config_error(source, misnamed)
    settings = mapping.get("settings", {})
    if not isinstance(settings, Mapping):
        raise config_error(source, [f"settings: expected an object, got {show(settings)}"])
    try:
        settings = expand_all(settings, environ)
    except Problem as problem:
        raise config_error(source, problems(problem, "settings")) from None
    extra = {key: value for key, value in mapping.items() if key not in ("mcpServers", "settings")}
    return MCPConfig(servers, extra, source, settings=settings)


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


def _not_in_json(text: str, place: int) -> str:
    """What to do about what editors take, and JSON does not: a comma after the last item, and comments."""
    after = text[place:].lstrip()
    if after.startswith(("//", "/*", "#")):
        return "; JSON has no comments, remove it"
    last = after.startswith(",") or text[:place].rstrip().endswith(",")
    return "; remove the comma after the last item" if last and after.lstrip(", \t\r\n")[:1] in ("}", "]") else ""


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
        raise config_error(source, [f"cannot be read: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        raise config_error(source, [f"not UTF-8 at byte {error.start}; save the file as UTF-8"]) from error
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}{_not_in_json(text, error.pos)}"
        raise config_error(source, [reason if text.strip() else "the file is empty"]) from error
    except (ValueError, RecursionError) as error:  # numbers and nesting beyond Python's limits; a NUL in the path
        raise config_error(source, [str(error)]) from error
    if twice:
        raise config_error(
            source, [f"the key {json.dumps(key)} stands twice in one object; rename or remove one" for key in twice]
        )
    return document

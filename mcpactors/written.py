"""What is written in a config file: text with references to the environment, plain values, blocks of settings.

Rule: PURE, and no leniency: "no" is not true, 5 is not "5". What is wrong is a `Problem` that knows its path in the
file and says what was expected there; `problems` tells all of them, a line each.

Text may refer to the environment:
* `${NAME}` is the variable; unset is an error.
* `${NAME:-default}` is `default` (up to the next `}`, as it stands) when the variable is unset or empty, as in a shell.
* `$${` is the two characters `${`. A `$` or `$$` before anything else is itself. What a variable holds is not expanded.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args
from urllib.parse import urlsplit

import attrs
from cattrs import ClassValidationError, IterableValidationError

from mcpactors.errors import ConfigError
from mcpactors.runtime.policy import Forwarding

__all__ = [
    "AsWritten",
    "Problem",
    "block",
    "boolean",
    "camel",
    "config_error",
    "expand",
    "expand_all",
    "fold",
    "is_address",
    "is_header_value",
    "join",
    "nearest",
    "not_empty",
    "one_of",
    "problems",
    "seconds",
    "show",
    "snake",
    "split_module",
    "string",
    "under",
]


class Problem(ValueError):
    """One fault of the file, at the path `at` below the value that was looked at."""

    def __init__(self, text: str, at: str = "") -> None:
        super().__init__(text)
        self.at = at


# --- Text: what it may refer to and what it must be ---------------------------------------------------------------

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\}|\$\{[^}]*\}?", re.ASCII)


class AsWritten(dict[str, str]):
    """An environment for a server that is switched off: what is not set stays as it is written, and is no problem."""

    def __contains__(self, name: object) -> bool:
        return True

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, f"${{{name}}}")


def expand(text: str, environ: Mapping[str, str]) -> str:
    unset: dict[str, None] = {}

    def value(match: re.Match[str]) -> str:
        name, default = match.group("name", "default")
        if match[0] == "$${":
            return "${"
        if name is None:
            raise Problem(f"{match[0]} is no variable; write ${{NAME}} or ${{NAME:-default}}, or $${{ for a plain ${{")
        if name not in environ and default is None:
            unset[name] = None
        return environ.get(name) or default or ""

    expanded = _REFERENCE.sub(value, text)
    if unset:
        names = " and ".join(unset) + (" is" if len(unset) == 1 else " are")
        raise Problem(f"{names} not set in the environment; give a value, or a default: ${{{next(iter(unset))}:-...}}")
    return expanded


def not_empty(text: str) -> None:
    if not text.strip():
        raise Problem("expected a program to run, got an empty string")


def is_header_value(text: str) -> None:
    if "\r" in text or "\n" in text:
        raise Problem("a header cannot hold a line break; a variable read from a file often ends in one")


def is_address(text: str) -> None:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https", "ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not text.isprintable() or " " in text:  # the text is not shown: addresses carry keys
        raise Problem("expected an address such as https://host/path (http, https, ws or wss)")


def split_module(text: str) -> tuple[str, str | None]:
    """`"package.mod:object"` or `"./file.py:object"` in its two parts; a drive letter's colon separates nothing."""
    match = re.fullmatch(r"(.+?)(?::([^:/\\]*))?", text)
    module, attribute = match.groups() if match else ("", None)
    names = [] if module.endswith(".py") else module.split(".")
    names += [] if attribute is None else attribute.split(".")
    if not all(name.isidentifier() for name in names):
        raise Problem(f'expected "package.module:object" or "./file.py:object", got {show(text)}')
    return module, attribute


# --- Saying what is wrong -----------------------------------------------------------------------------------------


def join(path: str, key: object) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    plain = re.fullmatch(r"[\w-]+", str(key))
    return f"{path}.{key}".lstrip(".") if plain else f"{path}[{json.dumps(str(key), ensure_ascii=False)}]"


def under(key: object) -> str:
    return join("$", key)[1:]


def show(value: object, secret: bool = False) -> str:
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


def nearest(name: str, known: Iterable[str]) -> str | None:
    folded = {fold(other): other for other in known}
    close = difflib.get_close_matches(fold(name), folded, n=1, cutoff=0.8)
    return folded[close[0]] if close else None


def fold(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def problems(error: Exception, path: str) -> Iterator[str]:
    """The lines of what cattrs raised, each with its path from the top of the file."""
    if isinstance(error, Problem):
        where = path + error.at
        yield f"{where}: {error}" if where else str(error)
    elif isinstance(error, ClassValidationError):
        noted, plain = error.group_exceptions()
        for inner, below in [*((e, join(path, note.name)) for e, note in noted), *((e, path) for e in plain)]:
            yield from problems(inner, below)
    elif isinstance(error, IterableValidationError):
        for inner, key_note in error.group_exceptions()[0]:
            yield from problems(inner, join(path, key_note.index))
    else:
        raise error  # our fault, not the file's: it must not pass for one


def config_error(source: str, lines: Iterable[str]) -> ConfigError:
    # backslashreplace: names from a file may hold lone surrogates, and a message must be printable anywhere.
    whole = [f"{source}: {line}".encode(errors="backslashreplace").decode() for line in lines]
    return ConfigError("\n".join(whole), data={"problems": whole})


# --- Values, without the coercions of a converter -----------------------------------------------------------------


def string(value: object, _: object = None) -> str:
    if isinstance(value, str):
        return value
    hint = "; put it in quotes" if isinstance(value, int | float) else "; leave it out instead" if value is None else ""
    raise Problem(f"expected a string, got {show(value)}{hint}")


def boolean(value: object, _: object) -> bool:
    if isinstance(value, bool):
        return value
    raise Problem(f"expected true or false, got {show(value)}")


def seconds(value: object, _: object) -> float:
    # Compared before it is converted: an int may be larger than any float.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max:
        return float(value)
    raise Problem(f"expected a positive number of seconds, got {show(value)}")


def one_of(words: Any, value: object, _: object) -> Any:
    if value is None or (isinstance(value, str) and value in get_args(words)):
        return value
    choices = ", ".join(json.dumps(name) for name in get_args(words))
    raise Problem(f"expected {'one of ' if len(get_args(words)) > 1 else ''}{choices}, got {show(value)}")


def expand_all(value: Any, environ: Mapping[str, str], at: str = "") -> Any:
    """JSON with every text in it expanded. Raises `Problem`."""
    try:
        if isinstance(value, str):
            return expand(value, environ)
    except Problem as problem:
        raise Problem(str(problem), at) from None
    if isinstance(value, list | tuple):
        return [expand_all(item, environ, f"{at}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: expand_all(item, environ, at + under(key)) for key, item in value.items()}
    return value


def block(value: Any, cls: Any) -> Any:
    """A block of settings of ours: nothing is unknown in it, and a feature may be switched off by `null`, too.

    A setting whose default is such a block is one itself; a list stands for a tuple.
    """
    if not isinstance(value, Mapping):
        raise Problem(f"expected an object, got {show(value)}")
    names = attrs.fields_dict(cls)
    given: dict[str, Any] = {}
    for key, setting in value.items():
        name = snake(string(key))
        if name not in names:
            raise Problem(f"unknown setting; {_meant(name, names)}", at=under(key))
        if name in given:
            raise Problem("is there under two spellings; keep only one", at=under(key))
        if cls is Forwarding and not isinstance(setting, bool | None):
            raise Problem(f"expected true or false, got {show(setting)}", at=under(key))
        if attrs.has(type(names[name].default)):
            try:
                setting = block(setting, type(names[name].default))
            except Problem as problem:
                raise Problem(str(problem), under(key) + problem.at) from None
        setting = tuple(setting) if isinstance(setting, list) else setting
        given[name] = setting if cls is not Forwarding else bool(setting)
    try:
        return cls(**given)
    except ValueError as error:
        name, _, said = str(error).partition(": ")
        written = next((key for key in value if snake(key) == name), None)
        raise Problem(said if written else str(error), at=under(written) if written else "") from None


def _meant(name: str, names: Iterable[str]) -> str:
    block_of, dot, inner = name.partition(".")  # as docs/settings.md has them in its table
    if dot and block_of in names:
        return f'write it as {{"{block_of}": {{"{inner}": ...}}}}'
    near = nearest(name, names)
    return f'did you mean "{near}"?' if near else f"known are {', '.join(names)}"


def snake(name: str) -> str:
    """`startTimeout` as it is called here."""
    return re.sub(r"(?<=[a-z])[A-Z]", lambda match: f"_{match[0].lower()}", name)


def camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)

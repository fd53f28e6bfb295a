"""The arrows of design.md section 2, read off the imports.

Rule: what may know what stands in the tables below and nowhere else. A new folder or module at the top of the package
needs a row in `MAY_IMPORT`; an arrow is changed there, in plain sight, with the reason in the issue's closing note.
Imports for type checking count like any other: an arrow is about what a module knows, not about what it loads.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from attrs import frozen

PACKAGE = "mcpactors"
ROOT = Path(__file__).parent.parent / PACKAGE

# A module or folder at the top of the package -> which of them it may import. What stands last knows most.
MAY_IMPORT = {
    "errors": "",
    "written": "errors runtime",
    "config": "errors runtime written",
    "configfile": "errors runtime written config",
    "mounts": "errors runtime",
    "mirrored": "errors runtime mounts",
    "foreign": "errors runtime",
    "meaning": "errors config configfile mounts foreign transports",
    "targets": "errors config runtime foreign meaning transports",
    "routes": "foreign meaning targets",
    "isolation": "errors config targets",
    "components": "errors runtime mounts mirrored targets routes",
    "server": "errors config runtime mounts mirrored targets isolation components",
    "runtime": "errors runtime",
    "snapshots": "errors runtime mounts",
    "actors": "errors runtime server actors",
    "transports": "errors runtime transports",
    "backends": "errors config configfile runtime meaning targets transports",
    "settings": "errors runtime written config",
    "tree": (
        "errors config settings runtime mounts snapshots foreign meaning targets isolation server actors "
        "transports backends tree"
    ),
    "host": (
        "errors config configfile settings runtime mounts snapshots foreign targets routes isolation server actors "
        "transports backends tree"
    ),
    "client": "errors config runtime foreign meaning targets server transports backends host",
    "example": "",
    "testing": "errors settings runtime mounts foreign targets server transports config host testing",
    "__init__": (
        "errors config configfile settings runtime mounts mirrored foreign targets server transports host client "
        "serving starting"
    ),
    "voice": "",
    "starting": "",
    "serving": "errors settings server host voice",
    "cli": "errors settings host serving starting voice",
    "__main__": "cli",
    "child": "errors config settings runtime targets backends host",
}

# Whatever the table above comes to say: these two never know each other.
STRANGERS = {("actors", "transports"), ("transports", "actors")}

# Host is the only module that knows all the others, so only who starts everything may know host;
# a client of several servers starts a runtime of its own.
KNOW_HOST = {"cli", "serving", "child", "client", "__init__", "__main__", "testing"}

# Of the world outside: what a file must not import, itself or through another module of ours.
PURE = {"config.py", "configfile.py", "written.py", "errors.py"} | {
    f"runtime/{name}.py" for name in ("naming", "routing", "visibility", "methods", "listing", "restart", "poison")
}
NOT_PURE = {"trio", "anyio", "mcp", "mcp_types"}
MCP = {"mcp", "mcp_types"}

# The host of ASGI applications: everybody enters by its `__init__`, and it knows nothing of MCP.
HTTP_HOST = f"{PACKAGE}.transports.asgi"

# Where a command imports what it runs, because the SDK takes 0.65 s to import.
MAY_IMPORT_LATE = {"cli.py"}


@frozen
class Import:
    """One import statement: in which file and line, and the dotted name of the module that it names."""

    path: str
    line: int
    target: str
    in_function: bool

    @property
    def importer(self) -> str:
        return unit_of(module_of(self.path))

    @property
    def outside(self) -> str | None:
        """The top-level name of what is imported, if that is not ours."""
        top = self.target.partition(".")[0]
        return None if top == PACKAGE else top

    @property
    def unit(self) -> str | None:
        """The row of `MAY_IMPORT` that is imported, if it is ours."""
        return unit_of(self.target) if self.outside is None else None

    def __str__(self) -> str:
        return f"{PACKAGE}/{self.path}:{self.line} imports {self.target}"


def module_of(path: str) -> str:
    """ "runtime/actor.py" is mcpactors.runtime.actor, "runtime/__init__.py" is mcpactors.runtime."""
    parts = [part for part in path.removesuffix(".py").split("/") if part != "__init__"]
    return ".".join([PACKAGE, *parts])


def unit_of(module: str) -> str:
    """The row of `MAY_IMPORT` that a module of ours belongs to."""
    return [*module.split("."), "__init__"][1]


def statements(node: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, in_function
        else:
            yield from statements(child, in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def targets(statement: ast.Import | ast.ImportFrom, path: str, modules: set[str]) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    origin = statement.module or ""
    if statement.level:
        folder = [PACKAGE, *path.split("/")[:-1]]
        origin = ".".join([*folder[: len(folder) - statement.level + 1], *filter(None, [origin])])
    for alias in statement.names:
        submodule = f"{origin}.{alias.name}"
        yield submodule if submodule in modules else origin


def read_imports(sources: Mapping[str, str]) -> list[Import]:
    """Every import of `sources`, which maps a path inside the package to its text."""
    modules = {module_of(path) for path in sources}
    return [
        Import(path, statement.lineno, target, in_function)
        for path, text in sources.items()
        for statement, in_function in statements(ast.parse(text, path))
        for target in dict.fromkeys(targets(statement, path, modules))
    ]


# --- The rules: each takes every import and yields what breaks it ---------------------------------------------------


def every_module_has_a_row(imports: list[Import]) -> Iterator[str]:
    for found in imports:
        for unit in {found.importer, found.unit} - {None} - MAY_IMPORT.keys():
            yield f"{found}: {unit} has no row in MAY_IMPORT"


def arrows_are_kept(imports: list[Import]) -> Iterator[str]:
    for found in imports:
        allowed = MAY_IMPORT.get(found.importer, "")
        if found.unit is not None and found.unit not in allowed.split():
            yield f"{found}: {found.importer} may import only: {allowed or 'nothing of ours'}"


def strangers_never_meet(imports: list[Import]) -> Iterator[str]:
    for found in imports:
        if (found.importer, found.unit) in STRANGERS:
            yield f"{found}: host hands one what it needs of the other"


def only_entry_points_know_host(imports: list[Import]) -> Iterator[str]:
    for found in imports:
        if found.unit == "host" and found.importer not in KNOW_HOST:
            yield f"{found}: only {', '.join(sorted(KNOW_HOST))} may"


def runtime_knows_no_mcp(imports: list[Import]) -> Iterator[str]:
    for found in imports:
        if found.importer == "runtime" and found.outside in MCP:
            yield f"{found}: runtime knows no MCP types"


def pure_files_are_pure(imports: list[Import]) -> Iterator[str]:
    """Followed through our own modules; the `__init__` files that Python runs on the way there do not count."""
    by_module: dict[str, list[Import]] = {}
    for found in imports:
        by_module.setdefault(module_of(found.path), []).append(found)
    for path in sorted(PURE):
        seen, waiting = {module_of(path)}, [module_of(path)]
        while waiting:
            for found in by_module.get(waiting.pop(), []):
                if found.outside in NOT_PURE:
                    yield f"{found}: {path} is PURE" + ("" if found.path == path else " and imports it")
                elif found.outside is None and found.target not in seen:
                    seen.add(found.target)
                    waiting.append(found.target)


def imports_stand_at_the_top(imports: list[Import]) -> Iterator[str]:
    for found in imports:
        if found.in_function and found.path not in MAY_IMPORT_LATE:
            yield f"{found}: inside a function"


def http_host_has_one_edge(imports: list[Import]) -> Iterator[str]:
    for found in imports:
        inside = module_of(found.path).startswith(HTTP_HOST)
        if not inside and found.target.startswith(f"{HTTP_HOST}."):
            yield f"{found}: import it from {HTTP_HOST}"
        if inside and (found.outside in MCP or (found.unit == "transports" and HTTP_HOST not in found.target)):
            yield f"{found}: any ASGI application runs on the HTTP host"


Rule = Callable[[list[Import]], Iterator[str]]
RULES: list[Rule] = [
    every_module_has_a_row,
    arrows_are_kept,
    strangers_never_meet,
    only_entry_points_know_host,
    runtime_knows_no_mcp,
    pure_files_are_pure,
    imports_stand_at_the_top,
    http_host_has_one_edge,
]

# Each rule seen red: the rule, then the files of a package that breaks it.
OFFENCES: list[tuple[Rule, dict[str, str]]] = [
    (every_module_has_a_row, {"novel.py": "import json"}),
    (every_module_has_a_row, {"host.py": "from mcpactors import novel", "novel.py": ""}),
    (arrows_are_kept, {"runtime/actor.py": "import mcpactors.config"}),
    (arrows_are_kept, {"runtime/actor.py": "from ..config import load"}),
    (arrows_are_kept, {"runtime/actor.py": "from .. import config", "config.py": ""}),
    (arrows_are_kept, {"errors.py": "from mcpactors.runtime import actor"}),
    (arrows_are_kept, {"server.py": "from mcpactors.actors.local import LocalActor"}),
    (arrows_are_kept, {"transports/edge.py": "from mcpactors import server", "server.py": ""}),
    (arrows_are_kept, {"cli.py": "def run():\n    from mcpactors.transports.stdio import child"}),
    (arrows_are_kept, {"actors/local.py": "from mcpactors import open_runtime", "__init__.py": ""}),
    (strangers_never_meet, {"actors/proxy.py": "from mcpactors.transports.stdio.child import connect"}),
    (strangers_never_meet, {"transports/edge.py": "from ..actors import proxy"}),
    (only_entry_points_know_host, {"config.py": "from mcpactors.host import Runtime"}),
    (runtime_knows_no_mcp, {"runtime/reply.py": "from mcp.types import Tool"}),
    (
        runtime_knows_no_mcp,
        {"runtime/reply.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mcp_types"},
    ),
    *((pure_files_are_pure, {path: f"import {name}"}) for path in sorted(PURE) for name in sorted(NOT_PURE)),
    (
        pure_files_are_pure,
        {
            "runtime/routing.py": "from mcpactors.runtime import tables",
            "runtime/tables.py": "from .actor import Mailbox",
            "runtime/actor.py": "import trio.lowlevel",
        },
    ),
    (
        http_host_has_one_edge,
        {"transports/edge.py": "from mcpactors.transports.asgi.wire import Wire", "transports/asgi/wire.py": ""},
    ),
    (http_host_has_one_edge, {"transports/asgi/wire.py": "from mcpactors.transports.turns import Turns"}),
    (http_host_has_one_edge, {"transports/asgi/wire.py": "import mcp_types"}),
    (imports_stand_at_the_top, {"host.py": "class Runtime:\n    async def mount(self):\n        import json"}),
]

SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sorted(ROOT.rglob("*.py"))}


def test_package_is_found_and_read() -> None:
    assert "errors.py" in SOURCES
    assert any(found.path == "runtime/restart.py" and found.target == "attrs" for found in read_imports(SOURCES))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_keeps_the_rule(rule: Rule) -> None:
    broken = list(rule(read_imports(SOURCES)))
    assert not broken, "\n".join(["", *broken])


@pytest.mark.parametrize(("rule", "sources"), OFFENCES)
def test_rule_finds_an_offence(rule: Rule, sources: dict[str, str]) -> None:
    assert len(list(rule(read_imports(sources)))) == 1


def test_every_rule_was_seen_to_find_an_offence() -> None:
    assert {rule.__name__ for rule in RULES} == {rule.__name__ for rule, _ in OFFENCES}


def test_cli_may_import_what_a_command_runs() -> None:
    imports = read_imports({"cli.py": "def serve():\n    from mcpactors.host import open_runtime"})
    assert [broken for rule in RULES for broken in rule(imports)] == []


@pytest.mark.parametrize("path", sorted(PURE))
def test_pure_file_is_where_the_table_says(path: str) -> None:
    if path not in SOURCES:
        pytest.skip(f"{PACKAGE}/{path} is not written yet")

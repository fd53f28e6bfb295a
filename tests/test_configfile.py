"""Configurations in files: where their paths begin, and what is said of a file that is none."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from mcpactors.config import ModuleServer, StdioServer
from mcpactors.configfile import load_config
from mcpactors.errors import ConfigError

EXAMPLES = Path(__file__).parent.parent / "examples"
ENVIRON = {"SET": "value", "EMPTY": "", "NESTED": "${SET}"}


def file_complaint(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "mcp.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ=ENVIRON)
    assert caught.value.message.startswith(f"{path}: ")
    return caught.value.message.removeprefix(f"{path}: ")


def test_relative_folders_and_module_files_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    servers = {
        "relative": {"command": "./x", "cwd": "../work"},
        "absolute": {"command": "x", "cwd": os.path.abspath(os.sep)},
        "nowhere": {"command": "x"},
        "file": {"module": "./sub/x.py:app"},
        "dotted": {"module": "pkg.mod:app"},
    }
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}), encoding="utf-8-sig")
    config = load_config(path)
    assert config.source == str(path)
    assert config.servers == {
        "relative": StdioServer("./x", cwd=str(tmp_path.parent / "work")),
        "absolute": StdioServer("x", cwd=os.path.abspath(os.sep)),
        "nowhere": StdioServer("x"),
        "file": ModuleServer(str(tmp_path / "sub" / "x.py"), "app"),
        "dotted": ModuleServer("pkg.mod", "app"),
    }


def test_a_file_named_without_its_folder_is_resolved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"a": {"module": "x.py"}}}')
    monkeypatch.chdir(tmp_path)
    assert load_config("mcp.json").servers["a"] == ModuleServer(os.path.join(os.getcwd(), "x.py"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b'{"mcpServers": {"a": \xff}}', "not UTF-8 at byte 21; save the file as UTF-8"),
        (b'{"mcpServers": NaN}', "NaN is not JSON"),
        (
            b'{"mcpServers": {"a": {"command": "x", "command": "y"}}}',
            'the key "command" stands twice in one object; rename or remove one',
        ),
        (
            b'{"mcpServers": {"a": {"command": 5}}}',
            "mcpServers.a.command: expected a string, got 5 (a number); put it in quotes",
        ),
        (b"[]", 'expected an object {"mcpServers": {...}}, got a list'),
    ],
)
def test_a_file_that_is_not_good_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    assert file_complaint(tmp_path, content) == message


def test_a_syntax_error_names_line_and_column(tmp_path: Path) -> None:
    message = file_complaint(tmp_path, b'{\n  "mcpServers" {}\n}')
    assert message == "line 2, column 16: not JSON: Expecting ':' delimiter"


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b'{"mcpServers": {"a": {"command": "x"},\n}}', "; remove the comma after the last item"),
        (b'{"mcpServers": {"a": {"command": "x", "args": ["y", ]}}}', "; remove the comma after the last item"),
        (b'{"mcpServers": {\n// mine\n"a": {"command": "x"}}}', "; JSON has no comments, remove it"),
        (b'{"mcpServers": {"a": {"command": "x"} # mine\n}}', "; JSON has no comments, remove it"),
        (b'{"mcpServers": {"a": {"command": , "x"}}}', ""),
    ],
)
def test_what_editors_take_and_json_does_not_is_refused_with_what_to_do(
    tmp_path: Path, content: bytes, advice: str
) -> None:
    assert re.fullmatch(r"line \d, column \d+: not JSON: [^;]+" + re.escape(advice), file_complaint(tmp_path, content))


@pytest.mark.parametrize("content", [b"[" * 1_000_000, b"1" * 5000])
def test_nesting_and_numbers_beyond_the_parser_are_refused(tmp_path: Path, content: bytes) -> None:
    assert file_complaint(tmp_path, content)


def test_a_path_that_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    for path, reason in [(tmp_path / "none.json", "No such file or directory"), (tmp_path, "Is a directory")]:
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert caught.value.message == f"{path}: cannot be read: {reason}"
    with pytest.raises(ConfigError, match="null"):
        load_config("a\0b")


def test_the_example_has_three_servers_and_no_warnings() -> None:
    config = load_config(EXAMPLES / "mcp.json")
    assert {name: type(server) for name, server in config.servers.items()} == {
        "time": StdioServer,
        "git": StdioServer,
        "notes": ModuleServer,
    }
    assert config.servers["notes"] == ModuleServer(str(EXAMPLES / "notes.py"))
    assert config.warnings == ()
    assert (EXAMPLES / "notes.py").exists()

"""What the command line takes, and what it says of arguments and files that it cannot do anything with."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from mcpactors import parse_config
from mcpactors.cli import before_the_last, main
from tests.processes import serve


def test_its_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"mcpactors {project['version']}\n"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--port", "8000"], "--port"),  # the default, and all the same it was meant
        (["--host", "127.0.0.1"], "--host"),
        (["--uds", "x"], "--uds"),
        (["--allowed-host", "a"], "--allowed-host"),
        (["--allowed-origin", "http://a"], "--allowed-origin"),
        (["--certfile", "x.pem"], "--certfile"),
        (["--keyfile", "x.pem"], "--keyfile"),
        (["--websocket", "--port", "0", "--drain", "1"], "--port, --websocket"),
    ],
)
def test_what_is_for_http_only_is_refused_over_stdio(
    given: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--transport", "stdio", *given]) == 2
    assert f"mcpactors: {named}: for HTTP only, and --transport stdio is given; leave out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "named"),
    [(["--port", "8000"], "--port"), (["--port", "0", "--host", "127.0.0.1"], "--host, --port")],
)
def test_an_address_is_refused_beside_a_unix_socket(
    given: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--uds", "/none/such/x", *given]) == 2
    assert f"mcpactors: {named}: --uds serves at a Unix socket instead; leave out" in capsys.readouterr().err


async def test_a_file_whose_servers_are_all_disabled_is_served_with_a_warning(tmp_path: Path) -> None:
    async with serve(
        {"a": {"command": "x", "disabled": True}, "b": {"module": "y", "disabled": True}}, tmp_path
    ) as served:
        await served.said("connect a client with")
        assert served.lines[0].endswith(
            'mcp.json: mcpServers: every server is disabled, so nothing is served; take "disabled" out of one'
        )


def test_a_file_with_a_server_that_is_not_disabled_is_not_warned_of() -> None:
    servers = {"a": {"command": "x", "disabled": True}, "b": {"command": "y"}}
    assert parse_config({"mcpServers": servers}).warnings == ()


TAGGED = """
from mcpactors import Server

server = Server("tagged")

@server.tool(tags={"one"})
def first() -> str:
    return "first"

@server.tool()
def second() -> str:
    return "second"

@server.prompt()
def third() -> str:
    return "third"
"""


async def test_what_filters_hide_is_not_told_to_be_served(tmp_path: Path) -> None:
    (tmp_path / "tagged.py").write_text(TAGGED)
    tagged = {"module": "./tagged.py"}
    config = {"all": tagged, "some": {**tagged, "includeTags": ["one"]}, "none": {**tagged, "includeTags": ["nope"]}}
    async with serve(config, tmp_path) as served:
        await served.said("connect a client with")
        assert served.lines[1:4] == [
            "  all   up: 2 tools, 1 prompt",
            "  some  up: 1 of 2 tools, 0 of 1 prompt, the rest is filtered out",
            "  none  up: 0 of 2 tools, 0 of 1 prompt, the rest is filtered out",
        ]


async def test_why_a_server_is_not_up_is_told_once(tmp_path: Path) -> None:
    script = "import sys; print('old', 'older', 'where', 'why', sep='\\n', file=sys.stderr); sys.exit(3)"
    dies = {"command": sys.executable, "args": ["-c", script]}
    slow = {"url": "http://127.0.0.1:9/mcp"}
    async with serve({"slow": slow, "dies": dies}, tmp_path) as served:
        await served.said("connect a client with")
        said = [line.strip() for line in served.lines if not line.startswith(("serving", "connect"))]
        assert said[1].startswith("dies  not up, is tried again: ")
        assert said[1].endswith("(its stderr ends: why)")
        assert said[2:] == ["old", "older", "where"]


@pytest.mark.parametrize(
    ("reason", "stderr", "told"),
    [
        ("gone (its stderr ends: why)", ["a", "why", "b", "", "why"], ["b"]),  # two lives that ended alike
        ("gone (its stderr ends: why)", ["1", "2", "3", "4", " why "], ["2", "3", "4"]),
        ("gone (its stderr ends: why)", ["a", "why", "next life"], ["a"]),
        ("gone (its stderr ends: why)", ["why"], []),
        ("not started within 30 s", ["1", "2", "3", "4"], ["2", "3", "4"]),
        ("not started within 30 s", [], []),
    ],
)
def test_of_a_processs_stderr_that_is_told_which_the_reason_does_not_say(
    reason: str, stderr: list[str], told: list[str]
) -> None:
    assert before_the_last(reason, stderr) == told

"""What the command line takes, and what it says of arguments and files that it cannot do anything with."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mcpactors import parse_config
from mcpactors.cli import main
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

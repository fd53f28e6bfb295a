"""D2: node, npx, uv and uvx run servers for real: packages and projects of this disk, with no registry in reach."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import trio

from mcpactors import (
    NodeStdioTransport,
    NpxStdioTransport,
    Server,
    UvStdioTransport,
    UvxStdioTransport,
    create_proxy,
    open_runtime,
)
from tests.npm import NpmUnavailable, programs
from tests.seeds import seen

BACKENDS = Path(__file__).parent.parent / "backends"
EVERYTHING = [sys.executable, str(BACKENDS / "everything.py")]
ECHO_JS = BACKENDS / "echo.js"
PATIENCE = 90.0
"""Seconds that only a failing test waits."""
BECOMES = "import os, sys\ndef main():\n    os.execv(sys.argv[1], sys.argv[1:])\n"
"""A program that becomes the one that its arguments are: the server needs what uv's environment has not."""
PROJECT = """
[project]
name = "becomes"
version = "1.0.0"
requires-python = ">=3.11"
[project.scripts]
becomes = "becomes:main"
[build-system]
requires = ["uv_build"]
build-backend = "uv_build"
"""


async def echoes(target: object) -> None:
    main = Server("Main")
    main.mount(create_proxy(target), namespace="a")
    with trio.fail_after(PATIENCE):
        async with open_runtime(main) as runtime, runtime.client() as client:
            assert await seen.call(client, "a_echo", text="one") == "one"


@pytest.fixture
def with_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        folder = programs(tmp_path / "bin")
    except NpmUnavailable as error:
        pytest.skip(str(error))
    monkeypatch.setenv("PATH", os.pathsep.join((str(folder), os.environ["PATH"])))


@pytest.mark.usefixtures("with_node")
async def test_d2_node_runs_a_script_however_it_is_written_down() -> None:
    for target in (str(ECHO_JS), ECHO_JS, NodeStdioTransport(ECHO_JS)):
        await echoes(target)


@pytest.mark.usefixtures("with_node")
async def test_d2_npx_runs_a_package(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    shutil.copy(ECHO_JS, package)
    (package / "package.json").write_text(json.dumps({"name": "says-again", "version": "1.0.0", "bin": "echo.js"}))
    env = {"npm_config_cache": str(tmp_path / "cache"), "npm_config_offline": "true"}
    await echoes(NpxStdioTransport(str(package), project_directory=tmp_path, env_vars=env))


# --- uv -----------------------------------------------------------------------------------------------------------

BESIDE = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
needs_uv = pytest.mark.skipif(
    shutil.which("uv", path=BESIDE) is None or shutil.which("uvx", path=BESIDE) is None,
    reason="the test extra has uv, and it is not installed",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "src" / "becomes").mkdir(parents=True)
    (folder / "src" / "becomes" / "__init__.py").write_text(BECOMES)
    (folder / "src" / "becomes" / "__main__.py").write_text("from becomes import main\nmain()\n")
    (folder / "pyproject.toml").write_text(PROJECT)
    return folder


def alone(tmp_path: Path) -> dict[str, str]:
    """Nothing of this machine's uv, nothing from the network, and our own Python."""
    return {
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_OFFLINE": "1",
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_CONFIG": "1",
    }


@needs_uv
@pytest.mark.parametrize("module", [False, True], ids=["script", "module"])
async def test_d2_uv_runs_what_a_project_has(project: Path, tmp_path: Path, module: bool) -> None:
    await echoes(
        UvStdioTransport("becomes", EVERYTHING, module=module, project_directory=project, env_vars=alone(tmp_path))
    )


@needs_uv
async def test_d2_uvx_runs_a_tool_of_a_package(project: Path, tmp_path: Path) -> None:
    env = alone(tmp_path)
    await echoes(UvxStdioTransport("becomes", EVERYTHING, from_package=str(project), env_vars=env))

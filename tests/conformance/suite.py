"""The official suite: how it is installed, asked, and what it writes.

Rule: it is pinned (package-lock.json) and installed beside this file (tests/npm.py). Once installed it needs nothing
but the loopback.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import trio
from attrs import field, frozen

from tests import npm
from tests.conformance.results import Check, Scenario

__all__ = ["Suite", "install"]

FOLDER: Final = Path(__file__).parent
MODULES: Final = FOLDER / "node_modules"
PACKAGE: Final = MODULES / "@modelcontextprotocol" / "conformance"
RUN_TIMEOUT: Final = 300
"""Seconds for all scenarios of a revision together; they take 4."""
SCENARIO_TIMEOUT: Final = 30
CLIENT_TIMEOUT: Final = 60
"""Seconds for one scenario; a client of ours has a process to start, with a runtime in it."""


@frozen
class Suite:
    """An installed suite."""

    node: Path
    package: Path = field(default=PACKAGE)

    @property
    def version(self) -> str:
        version: str = json.loads((self.package / "package.json").read_text())["version"]
        return version

    def required(self, revision: str, leg: str) -> list[str]:
        """The scenarios of a revision for "server" or "client", but for authorization, which has nothing to do with a
        proxy. The few that a client runs without being scored count like the others."""
        sections = self._requirements(revision)
        names = [line.removeprefix("- ") for line in sections[leg]]
        if leg == "client":
            names += self.reported(revision, leg)
        return [name for name in names if not name.startswith("auth/")]

    def reported(self, revision: str, leg: str) -> list[str]:
        """The scenarios that are run and not required, but for those of extensions."""
        entries = _entries(self._requirements(revision)["not_scored"])
        return [entry["scenario"] for entry in entries if entry["leg"] == leg and entry["reason"] != "extension"]

    def _requirements(self, revision: str) -> dict[str, list[str]]:
        return dict(_sections((self.package / "requirements" / f"{revision}.yaml").read_text()))

    async def ask_server(self, url: str, revision: str, output: Path) -> tuple[list[Scenario], list[Scenario]]:
        """Everything that the revision requires, of the server at `url`, and what is reported besides."""
        arguments = ("--url", url, "--requirements", revision, "--timeout", str(SCENARIO_TIMEOUT * 1000))
        said = await self._run(output, "server", *arguments)

        def read(names: list[str]) -> list[Scenario]:
            return [_read(output, f"server-{name}", name, said) for name in names]

        return read(self.required(revision, "server")), read(self.reported(revision, "server"))

    async def ask_client(self, command: str, name: str, revision: str, output: Path) -> Scenario:
        """One scenario, for the client that `command` starts; the suite adds the URL of its server."""
        arguments = ("--command", command, "--scenario", name, "--spec-version", revision)
        said = await self._run(output, "client", *arguments, "--timeout", str(CLIENT_TIMEOUT * 1000))
        return _read(output, name, name, said)

    async def _run(self, output: Path, *arguments: str) -> str:
        """Run it to its end; what it says goes into a file, and is returned."""
        _empty(output)
        command = [str(self.node), str(self.package / "dist" / "index.js"), *arguments, "--output-dir", str(output)]
        with trio.move_on_after(RUN_TIMEOUT) as timeout:
            done = await trio.run_process(
                command, capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=FOLDER.parent.parent
            )
        said = f"did not end within {RUN_TIMEOUT} s" if timeout.cancelled_caught else done.stdout.decode()
        (output / "said.txt").write_text(said)
        return said


def install() -> Suite:
    """The suite, installed. Raises `NpmUnavailable`."""
    return Suite(npm.install(FOLDER))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _read(output: Path, prefix: str, name: str, said: str) -> Scenario:
    """The scenario that the suite wrote into a folder of its name and the time."""
    folders = [path for path in output.glob(f"{prefix}-2*") if (path / "checks.json").exists()]
    if len(folders) != 1:
        return Scenario(name, trouble=f"the suite wrote no checks; it said: {said[-300:].strip()}")
    checks = json.loads((folders[0] / "checks.json").read_text())
    trouble = next(
        (line.strip() for line in said.splitlines() if "CLIENT TIMED OUT" in line or "WITH ERROR" in line), ""
    )
    read = [Check(each["id"], each["status"], each.get("errorMessage") or each["description"]) for each in checks]
    return Scenario(name, tuple(read), trouble)


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """The top-level keys of a requirements file, each with the lines below it that say something, stripped."""
    lines: list[str] = []
    for line in text.splitlines():
        if line and not line[0].isspace() and line.endswith(":"):
            lines = []
            yield line[:-1], lines
        elif line.strip() and not line.startswith("#"):
            lines.append(line.strip())


def _entries(lines: Sequence[str]) -> list[dict[str, str]]:
    """A list of mappings, as in `- scenario: NAME` and the lines that belong to it."""
    entries: list[dict[str, str]] = []
    for line in lines:
        if line.startswith("- "):
            entries.append({})
        key, colon, value = line.removeprefix("- ").partition(": ")
        if colon and entries:
            entries[-1][key] = value
    return entries

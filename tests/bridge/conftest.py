"""One backend process of each era that serves HTTP, for the whole folder: a process a test costs a second."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from tests.bridge.backends import ASKING, ERAS


@pytest.fixture(scope="session")
def urls() -> Iterator[Mapping[str, str]]:
    """The URL of the backend of each era."""
    processes = {
        era: subprocess.Popen(
            [sys.executable, ASKING, f"--{era}", "--http", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for era in ERAS
    }
    try:
        found = {}
        for era, process in processes.items():
            assert process.stdout is not None
            found[era] = process.stdout.readline().decode().strip()
            assert found[era], f"the {era} backend ended before it served"
        yield found
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

"""What is not on the machine is fetched, once, while other tests run already; without it a test is skipped, saying why.

Rule: who asks for a counterpart asks for its fixture, and gets the program that runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from attrs import frozen

from benchmarks._targets import FASTMCP, fastmcp_python
from tests.contract.conftest import forks
from tests.npm import NpmUnavailable, install

__all__ = ["forks"]

HERE: Final = Path(__file__).parent


@frozen
class _Fetched:
    node: Future[Path]
    fastmcp: Future[str | None]


@pytest.fixture(scope="session")
def fetched() -> Iterator[_Fetched]:
    with ThreadPoolExecutor(2) as pool:
        yield _Fetched(pool.submit(install, HERE), pool.submit(fastmcp_python))


@pytest.fixture(scope="session")
def node(fetched: _Fetched) -> str:
    """A Node beside which the packages of package.json are installed."""
    try:
        return str(fetched.node.result())
    except NpmUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def fastmcp(fetched: _Fetched) -> str:
    """A Python that has FastMCP."""
    python = fetched.fastmcp.result()
    if python is None:
        pytest.skip(f"{FASTMCP} cannot be installed here")
    return python

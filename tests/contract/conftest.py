"""One process for the whole folder that servers over stdio fork from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.forks import forking


@pytest.fixture(scope="session")
def forks() -> Iterator[str]:
    """The path of the socket at which it takes what is to be served."""
    with forking() as path:
        yield path

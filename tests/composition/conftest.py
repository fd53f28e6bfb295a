"""What compositions share: the log without the watchdog, which on a busy machine has its say at any moment."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from mcpactors.runtime.watchdog import LOG


@pytest.fixture(autouse=True)
def _no_stalls() -> Iterator[None]:
    logger = logging.getLogger(LOG)
    logger.disabled = True
    yield
    logger.disabled = False

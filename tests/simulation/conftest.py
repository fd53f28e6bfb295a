"""What simulations share: no log, as thousands of crashes, formatted, would take longer than the crashes."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    logger = logging.getLogger("mcpactors")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)

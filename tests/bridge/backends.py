"""Runtimes with one asking backend mounted, reached by each of the ways there are."""

from __future__ import annotations

import math
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from mcpactors import Runtime, RuntimeSettings, create_proxy, open_runtime
from tests.backends.asking import in_memory, make
from tests.processes import PATIENCE

__all__ = ["ASKING", "ERAS", "EVERY_ROUTE", "ROUTES", "fresh", "mounted", "proxy"]

ASKING: Final = str(Path(__file__).parent.parent / "backends" / "asking.py")
ERAS: Final = ("legacy", "modern")
ROUTES: Final = ("memory", "stdio", "http")
EVERY_ROUTE: Final = pytest.mark.parametrize("route", ROUTES)


def fresh() -> str:
    """An `id` for the journal that no other test uses: the HTTP backends are everybody's."""
    return uuid.uuid4().hex


def proxy(route: str, era: str, urls: Mapping[str, str] | None = None) -> Any:
    """A proxy of a backend of one era: in memory, a program over stdio, or one of the folder's over HTTP."""
    if route == "memory":
        server, _ = make(modern=era == "modern")
        return create_proxy(partial(in_memory, server), name="asking")
    if route == "stdio":
        return create_proxy({"command": sys.executable, "args": [ASKING, f"--{era}"]})
    assert urls is not None
    return create_proxy(urls[era])


@asynccontextmanager
async def mounted(
    route: str, era: str, urls: Mapping[str, str] | None = None, settings: RuntimeSettings | None = None
) -> AsyncIterator[Runtime]:
    """A runtime with the backend's tools under their own names."""
    async with open_runtime("main", settings=settings) as runtime:
        with trio.fail_after(math.inf if route == "memory" else PATIENCE):  # whose time may be virtual
            handle = await runtime.mount(proxy(route, era, urls))
            assert handle.state == "running", handle.info()
            yield runtime

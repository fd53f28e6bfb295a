"""The transports as a table: how each serves, and what a client is told to reach it.

Rule: a transport is one row of `ENDS`, and every test of the contract and of the bridging matrix is run for each. A
client reaches it by what `infer_transport` makes of the target: nobody here knows how.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import pytest
from attrs import field, frozen

from mcpactors.transports.asgi import HostLimits
from mcpactors.transports.http_server.serving import serve_http
from tests.contract.forks import command
from tests.contract.served import Spec, opened

__all__ = ["ENDS", "ERAS", "EVERY_END", "End"]

ERAS: Final = ("legacy", "modern")
DRAIN: Final = 0.2
"""Seconds that calls in flight have once serving ends."""

Serve = Callable[[Spec, str], AbstractAsyncContextManager[object]]
"""Serve a spec, given what the servers over stdio fork from; yields a target as `infer_transport` takes it."""


@frozen(eq=False)
class End:
    """One transport: its name, how it serves, the eras that it knows."""

    name: str
    serve: Serve = field(repr=False)
    eras: Sequence[str] = ERAS
    process: bool = False
    """Whether each connection is to a process of its own."""
    writes: bool = True
    """Whether there are bytes between the ends."""


@asynccontextmanager
async def memory(spec: Spec, forks: str) -> AsyncIterator[object]:
    async with opened(spec) as server:
        yield server


@asynccontextmanager
async def stdio(spec: Spec, forks: str) -> AsyncIterator[object]:
    yield command(forks, spec)


@asynccontextmanager
async def http(spec: Spec, forks: str) -> AsyncIterator[object]:
    async with opened(spec) as server, serve_http(server, port=0, limits=HostLimits(drain=DRAIN)) as url:
        yield {"url": url, "type": "http"}


@asynccontextmanager
async def websocket(spec: Spec, forks: str) -> AsyncIterator[object]:
    limits = HostLimits(drain=DRAIN)
    async with opened(spec) as server, serve_http(server, port=0, limits=limits, websocket=True) as url:
        yield {"url": url.replace("http", "ws", 1), "type": "websocket"}


@asynccontextmanager
async def sse(spec: Spec, forks: str) -> AsyncIterator[object]:
    async with opened(spec) as server, serve_http(server, port=0, limits=HostLimits(drain=DRAIN)) as url:
        yield {"url": url.replace("/mcp", "/sse"), "type": "sse"}


ENDS: Final = {
    end.name: end
    for end in (
        End("memory", memory, writes=False),
        End("stdio", stdio, process=True),
        End("http", http),
        End("websocket", websocket),
        End("sse", sse, eras=("legacy",)),
    )
}
EVERY_END: Any = pytest.mark.parametrize(
    ("end", "era"),
    [pytest.param(end, era, id=f"{end.name}-{era}") for end in ENDS.values() for era in end.eras],
)

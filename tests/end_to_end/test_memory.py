"""What a session that keeps a connection open costs the gateway: `serve` as a process, 2,000 real sockets at once.

Rule: what is counted is what that process has more; its clients are in ours. The figures: benchmarks/sockets.py.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trio
from trio.lowlevel import current_statistics
from trio.testing import wait_all_tasks_blocked

from benchmarks.sockets import OVER, Connection, resident, served
from mcpactors import open_runtime

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read off /proc")

FEW = 67
MANY = 600
"""Of each of three kinds, after a few whose cost is not theirs alone: 2,001 in all."""
SAMPLE = 50
SOME = 20
SETTLED = 0.2
"""Seconds of rest after which what has closed is seen to have closed."""
MOST = 24 * 1024
ARENA = 1024 * 1024
"""By so much at once Python's memory grows: what is counted of one kind may be off by that."""
HANG = 90


@asynccontextmanager
async def descriptors(number: int) -> AsyncIterator[None]:
    """So many may be open, here and in processes that are begun meanwhile."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < number:
        pytest.skip(f"{number} descriptors are not to be had")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, number), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.parametrize("what", OVER)
async def test_f43_a_session_that_says_nothing_has_one_task(what: str) -> None:
    async with open_runtime() as runtime, runtime.serve_http(port=0, websocket=True) as url:
        port = urlsplit(url).port or 0
        async with AsyncExitStack() as closing:
            closing.push_async_callback((await OVER[what](port)).aclose)
            await wait_all_tasks_blocked(SETTLED)
            before = current_statistics().tasks_living
            for _ in range(SOME):
                closing.push_async_callback((await OVER[what](port)).aclose)
            await wait_all_tasks_blocked(SETTLED)
            assert current_statistics().tasks_living == before + SOME


async def test_f43_each_of_two_thousand_sessions_on_sockets_costs_24_kib_at_most() -> None:
    async with descriptors(4000), served() as (pid, port), AsyncExitStack() as closing:
        connections: list[Connection] = []

        async def open_sessions(what: str, number: int) -> None:
            for _ in range(number):
                connection = await OVER[what](port)
                closing.push_async_callback(connection.aclose)
                connections.append(connection)

        each = {}
        with trio.fail_after(HANG):
            for what in OVER:
                await open_sessions(what, FEW)
            for what in OVER:
                before = resident(pid)
                await open_sessions(what, MANY)
                each[what] = (resident(pid) - before) / MANY
            for connection in connections[::SAMPLE]:
                await connection.ping()
        assert sum(each.values()) / len(each) <= MOST, each
        assert max(each.values()) <= MOST + ARENA / MANY, each

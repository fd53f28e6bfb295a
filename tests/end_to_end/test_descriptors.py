"""No descriptor is left: whoever looks after orphans goes on, and connections leave some to the backends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from mcpactors.transports.asgi import HostLimits, HTTPHost, Scope
from mcpactors.transports.stdio.orphans import own_orphans

FEW = 120

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc, and its limit of descriptors")


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + FEW, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_descriptors")
async def test_p6_who_looks_after_orphans_outlives_a_time_without_descriptors() -> None:
    async with trio.open_nursery() as nursery:
        async with own_orphans(nursery, look_every=0.01):
            taken = []
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            await trio.sleep(0.1)  # ten looks, each of which fails
            for descriptor in taken:
                os.close(descriptor)
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("few_descriptors")
def test_p6_connections_leave_a_quarter_of_the_descriptors_to_backends() -> None:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    host = HTTPHost(_nothing, HostLimits(), lambda scope: False)
    assert host.room == soft * 3 // 4 < host.limits.connections


async def _nothing(scope: Scope, receive: Any, send: Any) -> None: ...

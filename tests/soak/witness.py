"""A server in the gateway's own process: a sibling to call, and a witness of what that process holds.

Rule: it only looks. `books` runs on the gateway's event loop, so its answer also says that the loop turns.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path

import trio

from mcpactors import Runtime, Server
from mcpactors.runtime.supervisor import ActorInfo
from mcpactors.testing.invariants import unbalanced

server = Server("near")


@server.tool()
async def echo(text: str, seconds: float = 0) -> str:
    """Says the text back, after some seconds."""
    await trio.sleep(seconds)
    return text


@server.tool()
async def books(collect: bool = False) -> str:
    """What `tests/soak/watch.py` calls `Books`, as JSON; `collect`: after what is garbage has gone."""
    if collect:
        gc.collect()
    runtime = server.running_in[-1]
    assert isinstance(runtime, Runtime)
    rows = list(_rows(runtime.ps()))
    return json.dumps(
        {
            "unbalanced": unbalanced(runtime.ps()),
            "in_flight": sum(row.in_flight for row in rows),
            "waiting": sum(row.mailbox.waiting for row in rows),
            "states": {row.name: row.state for row in rows},
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "memory": _memory(),
        }
    )


def _memory() -> int:
    """What is resident, in KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def _rows(info: ActorInfo) -> Iterator[ActorInfo]:
    yield info
    for child in info.children:
        yield from _rows(child)

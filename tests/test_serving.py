"""What a process that serves does once, for itself."""

from __future__ import annotations

import gc
from functools import partial

import trio
import trio.testing

from mcpactors import Server


async def test_p6_what_was_imported_before_serving_is_not_looked_at_by_each_full_collection() -> None:
    gc.unfreeze()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(Server("root").run_async, "streamable-http", port=0))
            await trio.testing.wait_all_tasks_blocked()
            looked_at = len(gc.get_objects())
            assert gc.get_freeze_count() > looked_at
            nursery.cancel_scope.cancel()
    finally:
        gc.unfreeze()

"""Sync handlers in threads: a limit for each actor, and no wait for a thread that nobody waits for.

Rule: a thread cannot be stopped, only left behind. So a call that is cancelled or too late ends at once, and its thread
keeps its place under the limit of its actor until it returns: what blocks costs its own actor, and a bounded number of
threads, whatever its callers do (promise F58).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, Final

import anyio
import anyio.to_thread

__all__ = ["ThreadLimit", "in_thread", "thread_limit"]

ThreadLimit = anyio.CapacityLimiter
thread_limit: Final[ContextVar[ThreadLimit]] = ContextVar("mcpactors.thread_limit")
"""How many threads the actor that runs here may be in; set by the actor, for all of its tasks."""


def in_thread(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A sync function as an async one that runs it in a thread, under the limit of the actor that calls it.

    Outside of any actor it is what the SDK does with a sync function: anyio's common limit, and no abandoning.
    """

    @wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        call, limit = partial(function, *args, **kwargs), thread_limit.get(None)
        if limit is None:
            return await anyio.to_thread.run_sync(call)
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limit)

    return run

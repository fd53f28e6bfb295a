"""Context variables: what a call has set is gone with its life.

A backend's questions are known by the context of their call (design.md section 7): one that outlived a crash would be
taken for the call of every question that the next life asks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.reply import Outcome, ReplyChannel, Result
from mcpactors.runtime.restart import RestartPolicy
from tests.runtime.actors import Child, Script, Wire, place, supervising

call: ContextVar[str | None] = ContextVar("call", default=None)


class Noting(Wire):
    """Notes what the variable is in each life."""

    async def note(self) -> None:
        seen.append(call.get())

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with super().lifespan(), trio.open_nursery() as nursery:
            nursery.start_soon(self.note)
            yield


seen: list[str | None] = []


@pytest.mark.parametrize("ends", [True, False], ids=["answered", "in flight"])
async def test_what_a_call_has_set_is_not_there_in_the_next_life(ends: bool, autojump_clock) -> None:
    async def handle(request: Request, reply: ReplyChannel) -> Outcome:
        call.set(request.method)
        if not ends:
            await trio.sleep_forever()
        return Result({})

    seen.clear()
    async with supervising() as supervisor, trio.open_nursery() as nursery:
        child = Child(supervisor, RestartPolicy(), wire=Noting(), script=Script({"one": handle})).start()
        await child.wire.up.wait()
        for _ in range(6):  # as many at once as make every worker busy
            await place(nursery, child.ref, "one")
        await wait_all_tasks_blocked()
        child.wire.cut()
        await trio.sleep(1)
        assert child.state() == "running"
    assert seen == [None, None]

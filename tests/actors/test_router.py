"""What the router learns of its actors, and that nobody waits while it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from mcpactors.actors.router import AT_ONCE, RouterActor
from mcpactors.actors.router_ref import HELD, REMEMBERED, RouterRef
from mcpactors.runtime.actor import Actor
from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.reply import Outcome, ReplyChannel, Result
from mcpactors.runtime.routing import Listing, Mount
from tests.runtime.actors import ask, living, make_ref


class Long(Actor):
    """Lists many tools."""

    kind = "long"

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome:
        tools = tuple({"name": f"t{number}", "inputSchema": {"type": "object"}} for number in range(10 * AT_ONCE))
        return Result({"listing": Listing(tools, fresh=True, learnt_at=trio.current_time())})


async def test_p6_while_many_tools_are_seen_for_the_first_time_others_have_their_turn() -> None:
    turns, looked = 0, list[tuple[int, int]]()

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    router = RouterRef("main")
    router.look_ahead = lambda ref, tools: looked.append((turns, len(tools)))
    async with living(RouterActor(router), router), living(Long(), make_ref("long")) as long:
        router.remount(Mount(router, children=(Mount(long, "long"),)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            outcome = await ask(router, "tools/list")
            nursery.cancel_scope.cancel()
    assert isinstance(outcome, Result)
    assert len(outcome.value["tools"]) == 10 * AT_ONCE
    assert [count for _, count in looked] == [AT_ONCE] * 10
    assert looked[-1][0] - looked[0][0] >= 8, "a turn of another between two parts; of its first and last nobody knows"


@pytest.mark.parametrize(
    ("page_size", "parts", "versions"),
    [(None, 0, 1), (2, 0, REMEMBERED), (2, HELD // 3, 3), (2, 2 * HELD, 1)],
)
def test_p6_old_versions_of_a_list_are_kept_only_where_clients_can_be_between_two_pages_and_only_so_much_of_them(
    page_size: int | None, parts: int, versions: int
) -> None:
    router, far = RouterRef("main"), make_ref("far")
    RouterActor(router, page_size=page_size)
    router.remount(Mount(router, children=(Mount(far, "far"),)))
    for number in range(2 * REMEMBERED):
        items = ({"name": "t", "description": str(number)},)
        router.learn("tools", {far: Listing(items, learnt_at=number, parts=parts)})
    known = range(router.version("tools") + 1)
    kept = [version for version in known if router.recall("tools", version) is not None]
    assert kept == list(known)[-versions:]

"""A call that waits for its client's answer takes nobody's turn at an old backend (features.md C2, C5)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from mcp.shared.exceptions import MCPError

from mcpactors import create_proxy, open_runtime
from mcpactors.runtime.policy import PoolLimits
from tests.backends.asking import in_memory, make
from tests.backends.peer import Peer
from tests.bridge.clients import modern
from tests.bridge.questions import form
from tests.processes import PATIENCE

Q = [[form("one")]]
LIMITS = PoolLimits(borrowed=1, asking=1)
YES = {"action": "accept", "content": {"name": "yes"}}


def asking() -> Any:
    """A proxy of an old backend that asks, with one session to lend."""
    server, _ = make(modern=False)
    return create_proxy(partial(in_memory, server), sessions="per_client", pool=LIMITS)


async def test_a_call_that_waits_for_its_client_keeps_no_other_from_borrowing_a_session() -> None:
    async with open_runtime("main") as runtime:
        await runtime.mount(asking())
        async with modern(runtime) as client:
            with trio.fail_after(PATIENCE):
                asked = await client.begin("ask", id="a", rounds=Q)
                assert len(runtime.parked()) == 1
                for _ in range(3):
                    assert (await client.tool("told", id="a"))["structuredContent"]["ended"] == []
                done = await client.retry(asked, "ask", dict.fromkeys(asked["inputRequests"], YES), id="a", rounds=Q)
                assert "inputRequests" not in done


async def test_more_of_them_than_may_be_are_refused_at_once_with_the_setting_named() -> None:
    async with open_runtime("main") as runtime:
        await runtime.mount(asking())
        async with modern(runtime) as client:
            with trio.fail_after(PATIENCE):
                for identity in ("a", "b"):
                    await client.begin("ask", id=identity, rounds=Q)
                with pytest.raises(MCPError, match=r"wait for their clients' answers; .*pool\.asking"):
                    await client.begin("ask", id="c", rounds=Q)


@pytest.mark.parametrize("sessions", ["per_client", "per_call"])
async def test_calls_that_come_at_once_and_all_ask_have_no_more_sessions_than_may_be(sessions: Any) -> None:
    outcomes: list[str] = []
    server, _ = make(modern=False)
    target = create_proxy(partial(in_memory, server), sessions=sessions, pool=LIMITS)
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with modern(runtime) as client:

            async def begin(identity: str) -> None:
                try:
                    outcomes.append((await client.begin("ask", id=identity, rounds=Q))["resultType"])
                except MCPError as error:
                    outcomes.append(str(error.error.data["actor"]))

            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for identity in "abcde":
                        nursery.start_soon(begin, identity)
                assert sorted(outcomes) == ["backend"] * 3 + ["input_required"] * 2
                assert len(runtime.parked()) == 2


async def test_of_two_modern_clients_on_a_shared_session_none_is_asked_for_the_other() -> None:
    peer = Peer(form("one"), asks=("tools/call",))
    async with open_runtime("main") as runtime, modern(runtime) as ada, modern(runtime) as eve:
        await runtime.mount(create_proxy(peer.connect, sessions="shared"))
        with trio.fail_after(PATIENCE):
            asked = await ada.begin("tool")
            refused = await eve.begin("tool")
            assert 'sessions="per_client"' in refused["answer"]["error"]["message"]
            done = await ada.retry(asked, "tool", dict.fromkeys(asked["inputRequests"], YES))
            assert done["answer"] == {"result": YES}

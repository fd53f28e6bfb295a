"""A call that waits for its client between two requests: it is bounded, it expires, it can be seen, and it ends with
whatever ends it. Virtual time, backends and clients in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from mcp.shared.exceptions import MCPError

from mcpactors import MountHandle, Runtime, RuntimeSettings, open_runtime
from mcpactors.errors import Overloaded
from mcpactors.runtime.reply import CallDeadlines
from tests.bridge.backends import proxy
from tests.bridge.clients import ModernClient, modern
from tests.bridge.questions import ROOTS, form

ONE, TWO = form("one"), form("two")
YES = {"action": "accept", "content": {"name": "yes"}}
EXPIRY = 600.0


@asynccontextmanager
async def crossed(**settings: Any) -> AsyncIterator[tuple[Runtime, ModernClient, MountHandle]]:
    """A modern client of a legacy backend."""
    async with open_runtime("main", settings=RuntimeSettings(**settings)) as runtime:
        handle = await runtime.mount(proxy("memory", "legacy"))
        async with modern(runtime) as client:
            yield runtime, client, handle


async def journal(client: ModernClient, identity: str) -> Any:
    return (await client.tool("told", id=identity))["structuredContent"]


def answers_to(asked: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(asked["inputRequests"], YES)


async def refused(client: ModernClient, asked: dict[str, Any], name: str, **arguments: Any) -> MCPError:
    with pytest.raises(MCPError) as caught:
        await client.retry(asked, name, answers_to(asked), **arguments)
    return caught.value


# --- Expiry -------------------------------------------------------------------------------------------------------


async def test_a_call_that_nobody_comes_back_for_is_cancelled_at_its_expiry_and_not_before(autojump_clock) -> None:
    async with crossed() as (runtime, client, _):
        asked = await client.begin("ask", id="a", rounds=[[ONE]])
        await trio.sleep(EXPIRY - 1)
        assert len(runtime.parked()) == 1
        assert (await journal(client, "a"))["ended"] == []
        await trio.sleep(2)
        assert runtime.parked() == ()
        assert (await journal(client, "a"))["ended"] == ["cancelled"]
        error = await refused(client, asked, "ask", id="a", rounds=[[ONE]])
        assert error.code == -32602
        assert "its call has ended; begin the call anew" in error.message


async def test_a_call_that_expires_hears_no_refusal_before_its_cancellation(autojump_clock) -> None:
    async with crossed() as (_, client, _):
        calls = [str(number) for number in range(7)]  # trio runs tasks in any order: one call might have luck
        for identity in calls:
            client_asked = await client.begin("ask", id=identity, rounds=[[ONE]])
            assert client_asked["resultType"] == "input_required"
        await trio.sleep(EXPIRY + 1)
        assert [(await journal(client, identity))["ended"] for identity in calls] == [["cancelled"]] * 7


async def test_a_retry_just_before_the_expiry_goes_on(autojump_clock) -> None:
    async with crossed() as (_, client, _):
        asked = await client.begin("ask", id="a", rounds=[[ONE]])
        await trio.sleep(EXPIRY - 1)
        result = await client.retry(asked, "ask", answers_to(asked), id="a", rounds=[[ONE]])
        assert result["structuredContent"]["answers"] == [[YES]]


async def test_time_in_the_parking_is_not_the_calls_own(autojump_clock) -> None:
    deadlines = CallDeadlines(idle=5, total=20)
    async with crossed(deadlines=deadlines) as (_, client, _):
        asked = await client.begin("ask", id="a", rounds=[[ONE]] * 3)
        for _ in range(3):
            await trio.sleep(100)
            asked = await client.retry(asked, "ask", answers_to(asked), id="a", rounds=[[ONE]] * 3)
        assert asked["structuredContent"]["answers"] == [[YES]] * 3


async def test_one_expiry_takes_nothing_from_the_others(autojump_clock) -> None:
    async with crossed() as (runtime, client, _):
        await client.begin("ask", id="a", rounds=[[ONE]])
        await trio.sleep(EXPIRY / 2)
        asked = await client.begin("ask", id="b", rounds=[[TWO]])
        await trio.sleep(EXPIRY / 2 + 1)
        assert [call.questions for call in runtime.parked()] == [("elicitation/create",)]
        result = await client.retry(asked, "ask", answers_to(asked), id="b", rounds=[[TWO]])
        assert result["structuredContent"]["answers"] == [[YES]]


async def test_a_question_asked_again_and_again_has_one_expiry_all_the_same(autojump_clock) -> None:
    async with crossed() as (_, client, _):
        asked = await client.begin("ask", id="a", rounds=[[ONE]])
        await trio.sleep(EXPIRY - 1)
        again = await client.retry(asked, "ask", {}, id="a", rounds=[[ONE]])
        await trio.sleep(2)
        assert (await journal(client, "a"))["ended"] == ["cancelled"]
        error = await refused(client, again, "ask", id="a", rounds=[[ONE]])
        assert "begin the call anew" in error.message


# --- Their number -------------------------------------------------------------------------------------------------


async def test_as_many_calls_are_parked_as_may_and_the_next_question_is_refused(autojump_clock) -> None:
    async with crossed(parked=2) as (runtime, client, _):
        first = await client.begin("ask", id="a", rounds=[[ONE]])
        await client.begin("ask", id="b", rounds=[[ONE]])
        third = await client.begin("ask", id="c", rounds=[[ONE], [ROOTS]])
        for [answer] in third["structuredContent"]["answers"]:
            assert answer["error"]["code"] == Overloaded.code
            assert "as many calls wait for their clients' answers as may; retry later" in answer["error"]["message"]
        assert len(runtime.parked()) == 2
        assert (await client.tool("told", id="a"))["content"] == [{"type": "text", "text": "told"}]
        await client.retry(first, "ask", answers_to(first), id="a", rounds=[[ONE]])
        fourth = await client.begin("ask", id="d", rounds=[[ONE]])
        assert fourth["resultType"] == "input_required"


# --- What ends it -------------------------------------------------------------------------------------------------


async def test_a_question_that_is_withdrawn_while_it_is_parked_leaves_its_result_for_the_retry(autojump_clock) -> None:
    async with crossed() as (runtime, client, _):
        asked = await client.begin("hold", id="a", question=ONE)
        await client.tool("release", id="a")
        await trio.testing.wait_all_tasks_blocked()
        [row] = runtime.parked()
        assert row.questions == ()
        result = await client.retry(asked, "hold", answers_to(asked), id="a", question=ONE)
        assert result["content"] == [{"type": "text", "text": "released"}]
        assert result["structuredContent"] == {"answer": None}
        assert runtime.parked() == ()


async def test_unmounting_waits_for_a_parked_call_as_for_any_other_and_then_cancels_it(autojump_clock) -> None:
    async with crossed(drain=30) as (runtime, client, handle):
        asked = await client.begin("ask", id="a", rounds=[[ONE]])
        other = await client.begin("ask", id="b", rounds=[[ONE]])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.unmount)
            await trio.sleep(29)
            result = await client.retry(asked, "ask", answers_to(asked), id="a", rounds=[[ONE]])
            assert result["structuredContent"]["answers"] == [[YES]]
            await trio.sleep(2)
            error = await refused(client, other, "ask", id="b", rounds=[[ONE]])
            assert "asking went down while it held the call: the outcome is unknown" in error.message
        assert runtime.parked() == ()


async def test_a_runtime_that_closes_leaves_no_parked_call(autojump_clock) -> None:
    async with crossed() as (runtime, client, _):
        await client.begin("ask", id="a", rounds=[[ONE]])
        await client.begin("ask", id="b", rounds=[[ONE]])
    assert runtime.parked() == ()


async def test_a_client_that_leaves_while_its_request_is_open_cancels_the_call_that_was_parked_before(
    autojump_clock,
) -> None:
    async with crossed() as (runtime, client, _):
        asked = await client.begin("ask", id="a", rounds=[[ONE], [TWO]])
        with trio.move_on_after(0):
            await client.retry(asked, "ask", answers_to(asked), id="a", rounds=[[ONE], [TWO]])
        await trio.testing.wait_all_tasks_blocked()
        assert runtime.parked() == ()
        assert (await journal(client, "a"))["ended"] == ["cancelled"]


# --- What is seen of it -------------------------------------------------------------------------------------------


async def test_parked_calls_are_shown_by_the_runtime_and_by_ps(autojump_clock) -> None:
    async with crossed() as (runtime, client, _):
        await client.begin("ask", id="a", rounds=[[ONE, ROOTS]])
        await trio.sleep(10)
        await client.begin("hold", id="b", question=ONE)
        await trio.sleep(5)
        oldest, newest = runtime.parked()
        assert (oldest.method, oldest.name) == ("tools/call", "ask")
        assert sorted(oldest.questions) == ["elicitation/create", "roots/list"]
        assert (newest.name, newest.questions) == ("hold", ("elicitation/create",))
        assert oldest.since == pytest.approx(15, abs=0.1)
        assert oldest.expires == pytest.approx(EXPIRY - 15, abs=0.1)
        [row] = runtime.ps().children
        assert row.asking == 2

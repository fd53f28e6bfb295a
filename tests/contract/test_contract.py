"""The contract of every transport, in both eras: what a client and our endpoint may expect of what is between them.

Rule: one test a promise, run for each row of `ends.ENDS`; no test knows which transport it is. Real time, loopback.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from mcp.shared.exceptions import MCPError
from pydantic_core import PydanticSerializationError

from tests.contract.clients import Client, connected
from tests.contract.ends import EVERY_END, End
from tests.contract.served import TOOLS
from tests.processes import PATIENCE

pytestmark = [EVERY_END, pytest.mark.filterwarnings("ignore:The logging capability")]
MEBIBYTE = 2**20
STRANGE = '\u2028 \u2029 \x00 \x1b \x7f \ufeff \U0001f388 e\u0301 \uffff "\\/ \r\n\t'


@asynccontextmanager
async def served(end: End, forks: str) -> AsyncIterator[Any]:
    """The tools, served; yields what a client is told to reach them."""
    with trio.fail_after(PATIENCE):
        async with end.serve(TOOLS, forks) as target:
            yield target


def text(result: Mapping[str, Any]) -> str:
    """What a tool has said."""
    assert not result.get("isError"), result
    [part] = result["content"]
    said: str = part["text"]
    return said


async def told(client: Client, what: str, number: int) -> list[str]:
    """Wait until the server tells so many calls that are "held", or have "ended" by being cancelled."""
    while True:
        keys: list[str] = (await client.tool("told"))["structuredContent"][what]
        if len(keys) >= number:
            return sorted(keys)


async def accept(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    assert method == "elicitation/create"
    assert params is not None
    return {"action": "accept", "content": {"name": f"to {params['message']}"}}


async def test_c3_lists_and_calls(end: End, era: str, forks: str) -> None:
    async with served(end, forks) as target, connected(target, era) as (client, _):
        listed = await client.request("tools/list")
        assert {"echo", "ask"} <= {tool["name"] for tool in listed["tools"]}
        assert text(await client.tool("echo", text="hello")) == "hello"
        with pytest.raises(MCPError, match="nothing") as unknown:
            await client.request("prompts/get", {"name": "nothing"})
        assert unknown.value.code == -32602
        assert text(await client.tool("echo", text="again")) == "again"


async def test_c4_progress_and_log_lines_come_in_order_and_before_the_result(end: End, era: str, forks: str) -> None:
    async with served(end, forks) as target, connected(target, era, log_level="info") as (client, _):
        params = {"name": "steps", "arguments": {"number": 5}, "_meta": {"progressToken": "mine"}}
        assert text(await client.complete("tools/call", params)) == "done"
        assert client.progress() == [("mine", step) for step in range(5)]
        assert client.logged() == [{"step": step} for step in range(5)]


async def test_c4_questions_are_put_and_their_answers_come_back(end: End, era: str, forks: str) -> None:
    async with served(end, forks) as target, connected(target, era, accept) as (client, _):
        assert text(await client.tool("ask", questions=["one", "two \u2028"])) == "to one, to two \u2028"
        assert [method for method, _ in client.asked] == ["elicitation/create"] * 2


async def test_c4_a_call_that_is_cancelled_ends_where_it_runs_and_no_other_does(end: End, era: str, forks: str) -> None:
    kept: list[str] = []
    async with served(end, forks) as target, connected(target, era) as (client, _):

        async def keep() -> None:
            kept.append(text(await client.tool("hold", key="kept")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            async with trio.open_nursery() as given_up:
                given_up.start_soon(lambda: client.tool("hold", key="given up"))
                await told(client, "held", 2)
                given_up.cancel_scope.cancel()
            assert await told(client, "ended", 1) == ["given up"]
            await client.tool("let_go", key="kept")
        assert kept == ["kept"]
        assert await told(client, "ended", 1) == ["given up"]


async def test_p12_a_result_of_eight_mebibytes_comes_whole(end: End, era: str, forks: str) -> None:
    async with served(end, forks) as target, connected(target, era) as (client, _):
        said = text(await client.tool("big", size=8 * MEBIBYTE))
        assert said == "0123456789abcdef" * (MEBIBYTE // 2)
        assert text(await client.tool("echo", text="after")) == "after"


async def test_f12_every_text_that_json_can_say_passes_unchanged(end: End, era: str, forks: str) -> None:
    async with served(end, forks) as target, connected(target, era) as (client, _):
        assert text(await client.tool("echo", text=STRANGE)) == STRANGE


async def test_f12_what_json_cannot_say_is_refused_where_it_is_said_and_costs_its_own_call_only(
    end: End, era: str, forks: str
) -> None:
    async with served(end, forks) as target, connected(target, era) as (client, _):
        if end.writes:
            with pytest.raises((MCPError, PydanticSerializationError), match="surrogates not allowed"):
                await client.tool("echo", text="half \ud800 a pair")
        else:
            assert text(await client.tool("echo", text="half \ud800 a pair")) == "half \ud800 a pair"
        assert text(await client.tool("echo", text="after")) == "after"


async def test_f14_of_two_hundred_calls_of_two_clients_with_the_same_ids_each_has_its_own_answer(
    end: End, era: str, forks: str
) -> None:
    async with served(end, forks) as target, connected(target, era) as (one, _), connected(target, era) as (two, _):
        answers: dict[str, str] = {}

        async def call(client: Client, said: str) -> None:
            answers[said] = text(await client.tool("echo", text=said))

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(call, one, f"one {number}")
                nursery.start_soon(call, two, f"two {number}")
        assert len(answers) == 200
        assert all(said == answer for said, answer in answers.items())


async def test_f21_a_client_that_stops_reading_keeps_nobody_waiting_but_itself(end: End, era: str, forks: str) -> None:
    answers: list[int] = []
    async with served(end, forks) as target, connected(target, era) as (other, _):
        async with connected(target, era) as (client, faucet), trio.open_nursery() as nursery:

            async def call() -> None:
                answers.append(len(text(await client.tool("big", size=MEBIBYTE))))

            faucet.shut()
            for _ in range(8):
                nursery.start_soon(call)
            for number in range(50):
                assert text(await other.tool("echo", text=str(number))) == str(number)
            assert answers == []
            faucet.open()
        assert answers == [MEBIBYTE] * 8
        assert text(await other.tool("echo", text="after")) == "after"

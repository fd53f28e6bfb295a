"""`requestState` is good for one retry of the very call it was given for, as it was given, and for nothing else.

Promises F36 and F37. Backends and clients in memory.
"""

from __future__ import annotations

import base64
import string
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.shared.exceptions import MCPError

from tests.bridge.backends import mounted
from tests.bridge.clients import ModernClient, modern
from tests.bridge.questions import form

ONE = form("one")
CALL: dict[str, Any] = {"id": "a", "rounds": [[ONE]]}
YES = {"action": "accept", "content": {"name": "yes"}}
ALPHABET = string.ascii_letters + string.digits + "-_"


async def retried(client: ModernClient, token: Any, name: str = "ask", **arguments: Any) -> dict[str, Any]:
    """A retry that answers everything, with this state."""
    return await client.retry({"requestState": token}, name, {"q1": YES}, **(arguments or CALL))


async def refused(client: ModernClient, token: Any, name: str = "ask", **arguments: Any) -> MCPError:
    with pytest.raises(MCPError, match=r"[Ii]nvalid or expired requestState") as caught:
        await retried(client, token, name, **arguments)
    assert caught.value.code == -32602
    assert caught.value.data == {"reason": "invalid_request_state"}
    return caught.value


def flips(token: str) -> Iterator[str]:
    """Every token with one byte of the sealed text, or one character of the token, another than it was."""
    raw = base64.urlsafe_b64decode(token[3:] + "=" * (-len(token[3:]) % 4))
    for place in range(len(raw)):
        for bit in (1, 128):
            changed = bytearray(raw)
            changed[place] ^= bit
            yield token[:3] + base64.urlsafe_b64encode(bytes(changed)).decode().rstrip("=")
    for place, old in enumerate(token):
        yield token[:place] + ("A" if old != "A" else "B") + token[place + 1 :]
        yield token[:place] + token[place + 1 :]


async def test_f36_a_token_with_any_byte_changed_is_refused_and_the_call_stays_parked(autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        asked = await client.begin("ask", **CALL)
        for forged in flips(asked["requestState"]):
            await refused(client, forged)
        assert len(runtime.parked()) == 1
        result = await retried(client, asked["requestState"])
        assert result["structuredContent"]["answers"] == [[YES]]


@settings(max_examples=30)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(["put", "drop", "insert", "swap"]), st.sampled_from(ALPHABET)),
        min_size=1,
        max_size=4,
    )
)
def test_f36_no_mutation_of_a_token_is_accepted(edits: list[tuple[int, str, str]]) -> None:
    async def run() -> None:
        async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
            token = (await client.begin("ask", **CALL))["requestState"]
            forged = list(token)
            for place, what, letter in edits:
                place %= len(forged)
                if what == "swap":
                    forged[place], forged[-1] = forged[-1], forged[place]
                else:
                    forged[place : place + (what != "insert")] = [] if what == "drop" else [letter]
            if "".join(forged) != token:
                await refused(client, "".join(forged))
            assert len(runtime.parked()) == 1
            assert (await retried(client, token))["structuredContent"]["answers"] == [[YES]]

    trio.run(run)


async def test_f37_a_token_is_used_once(autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        asked = await client.begin("ask", **CALL)
        await retried(client, asked["requestState"])
        error = await refused(client, asked["requestState"])
        assert "it was used already, or its call has ended; begin the call anew" in error.message
        told = await client.tool("told", id="a")
        assert told["structuredContent"]["runs"] == 1


async def test_f37_the_token_of_one_round_is_not_good_for_the_next(autojump_clock) -> None:
    call: dict[str, Any] = {"id": "a", "rounds": [[ONE], [ONE]]}
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        first = await client.begin("ask", **call)
        second = await client.retry(first, "ask", {"q1": YES}, **call)
        await refused(client, first["requestState"], **call)
        result = await client.retry(second, "ask", {"q2": YES}, **call)
        assert result["structuredContent"]["answers"] == [[YES], [YES]]


async def test_f37_of_two_retries_at_once_exactly_one_goes_on(autojump_clock) -> None:
    outcomes: list[Any] = []
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        asked = await client.begin("ask", **CALL)

        async def one() -> None:
            try:
                outcomes.append((await retried(client, asked["requestState"]))["resultType"])
            except MCPError as error:
                outcomes.append(error.code)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        told = await client.tool("told", id="a")
        assert told["structuredContent"]["runs"] == 1
    assert sorted(map(str, outcomes)) == ["-32602"] * 4 + ["complete"]


async def test_f37_a_token_is_bound_to_the_tool_its_arguments_and_the_method(autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        asked = await client.begin("ask", **CALL)
        token = asked["requestState"]
        await refused(client, token, "hold", **CALL)
        await refused(client, token, id="b", rounds=[[ONE]])
        await refused(client, token, **CALL, more=1)
        for method, named in (("prompts/get", {"name": "ask"}), ("resources/read", {"uri": "note://one"})):
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await client.request(method, {**named, "requestState": token, "inputResponses": {"q1": YES}})
        assert len(runtime.parked()) == 1
        reordered = dict(reversed(CALL.items()))
        assert (await retried(client, token, **reordered))["structuredContent"]["answers"] == [[YES]]


@pytest.mark.parametrize(
    "state",
    ["", "v1.", "parked:", "visited", "passed:x", "x" * 2**20, 7, 1.5, True, [], {}, ["parked:x"], "\ud800"],
    ids=lambda state: repr(state)[:20],
)
async def test_f36_what_is_no_token_is_refused_however_long_it_is(state: Any, autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        await client.begin("ask", **CALL)
        await refused(client, state)
        assert len(runtime.parked()) == 1


async def test_f37_a_key_in_plain_text_is_refused_and_so_is_another_runtimes_token(autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        await client.begin("ask", **CALL)
        [key] = runtime._parking._entries
        await refused(client, f"parked:{key}")
        async with mounted("memory", "legacy") as other, modern(other) as stranger:
            asked = await stranger.begin("ask", **CALL)
            await refused(client, asked["requestState"])
            assert (len(runtime.parked()), len(other.parked())) == (1, 1)


async def test_a_null_state_is_none_and_begins_the_call_anew(autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime) as client:
        await client.begin("ask", **CALL)
        again = await retried(client, None)
        assert again["resultType"] == "input_required"
        assert len(runtime.parked()) == 2
        told = await client.tool("told", id="a")
        assert told["structuredContent"]["runs"] == 2
        assert all("requestState" not in params for params in told["structuredContent"]["received"])

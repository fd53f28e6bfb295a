"""A backend that says what no backend should: its own call suffers at most, and ps counts it (real processes)."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from tests.blocking.test_huge_results import forget_peak, peak
from tests.faults.helpers import Ward, ended, linux_only, ward

FLAT = 48
"""MiB that our memory may peak above what it was, of 64 that are read: a line up to its limit of 16, and moving it."""
REPLY = b'{"jsonrpc":"2.0","id":%ID%,"result":{"content":[]}}'


def lines(*texts: bytes) -> list[str]:
    return [base64.b64encode(text).decode() for text in texts]


async def alive(sick: Ward) -> None:
    """Both children answer."""
    for child in ("sick", "well"):
        assert (await sick.call("echo", child, value=child))["value"] == child


async def test_f6_rubbish_is_skipped_and_counted_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    async with ward() as sick:
        rubbish = (b"Starting on port 8000", b"\xff", b"\xef\xbb\xbf{}", b"", b"[]", b"[" * 1000, b'"\x00"')
        assert await sick.call("say", lines=lines(*rubbish)) == {"said": 7}
        counts = {"not_json": 2, "bad_utf8": 1, "bom": 1, "blank": 1, "not_jsonrpc": 1, "too_deep": 1}
        assert sick.dropped() == counts
        assert sick.dropped("well") == {}
        assert "dropped a line from 'sick': it is not JSON" in caplog.text  # the mount's name: not what its program is
        assert sick.restarts() == 0
        await alive(sick)


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":%ID%,"result":{"content":[nope]}}',
        b'{"jsonrpc":"2.0","id":%ID%,"result":{"content":[]},"result":{"content":[]}}',
        b'{"jsonrpc":"2.0","id":%ID%,"result":{"content":[],"_meta":{"a":1e400}}}',
        b'{"jsonrpc":"2.0","id":%ID%,"result":{"content":' + b"[" * 200 + b"]" * 200 + b"}}",
    ],
    ids=["no JSON", "a key twice", "a number too large", "too deep"],
)
async def test_f7_f10_f62_a_reply_that_cannot_be_read_fails_its_call_now(line: bytes) -> None:
    async with ward() as sick:
        with pytest.raises(MCPError, match="The reply of 'sick' could not be read"):
            await sick.call("say", lines=lines(line))
        await alive(sick)
        assert sick.dropped()["duplicate_reply"] == 1  # the one that came after the broken one
        assert sick.restarts() == 0


async def test_f8_a_line_of_64_mib_fails_its_call_and_one_below_the_limit_passes() -> None:
    async with ward() as sick:
        with pytest.raises(MCPError, match="too long"):
            await sick.call("say_long", mebibytes=64)
        assert len(await sick.call("say_long", mebibytes=4)) == 4 << 20
        assert (sick.dropped(), sick.restarts()) == ({"too_long": 1}, 0)
        await alive(sick)


@linux_only
async def test_f9_whoever_writes_an_endless_line_costs_no_memory_and_is_given_up_and_started_again() -> None:
    async with ward() as sick:
        pid = (await sick.call("echo"))["pid"]
        forget_peak()
        before = peak()
        with pytest.raises(MCPError, match="outcome is unknown"):
            await sick.call("endless")
        await ended(pid)
        assert peak() - before < FLAT
        await sick.pid_of_next_life(pid)
        await alive(sick)


async def test_f15_to_f17_replies_that_nobody_waits_for_are_counted() -> None:
    async with ward() as sick:
        with pytest.raises(ValueError, match="not enough values"):  # the first of the three has no content
            await sick.call("say", lines=lines(REPLY, REPLY, REPLY.replace(b"%ID%", b"999")))
        await alive(sick)
        assert sick.dropped() == {"duplicate_reply": 2, "unknown_reply": 1}


@pytest.mark.parametrize("end", ["close_stdin", "close_stdout"])
async def test_f18_half_a_connection_is_none(end: str) -> None:
    async with ward() as sick:
        pid = (await sick.call("echo"))["pid"]
        with pytest.raises(MCPError, match="outcome is unknown"):
            await sick.call(end)
        await ended(pid)
        await sick.pid_of_next_life(pid)
        await alive(sick)


async def test_what_a_backend_asks_and_does_not_read_the_answers_to_is_bounded() -> None:
    async with ward() as sick:
        asked: Any = await sick.call("ask_and_never_read", requests=5000)
        assert asked == {"asked": 5000}
        assert sick.dropped()["too_many_requests"] > 1000
        assert (await sick.call("echo", "well", value=1))["value"] == 1

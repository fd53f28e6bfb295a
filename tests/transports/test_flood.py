"""What of a flood is not parsed: nobody hears the difference; and how long a flood waits, in numbers of lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import JSONRPCRequest, JSONRPCResponse

from mcpactors.runtime.reply import CallDeadlines
from mcpactors.transports.lines.flood import (
    AHEAD,
    AT_ONCE,
    BURST,
    FEW,
    HASTE,
    LOGS_KEPT,
    LONGEST,
    SAID,
    SHARE,
    STEP,
    Allowance,
    Steps,
    cost,
    thinned,
)
from mcpactors.transports.lines.framing import LongLine
from mcpactors.transports.lines.streams import StdioLimits, StdioReader, StdioWriter
from tests.growth import linear

PROGRESS, LOG, CHANGED = "notifications/progress", "notifications/message", "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
COALESCED = (PROGRESS, CHANGED, UPDATED)


def read(line: bytes | LongLine) -> Any:
    """The message; None: it is none."""
    try:
        message = json.loads(line) if isinstance(line, bytes) else None
    except ValueError:
        return None
    return message if isinstance(message, dict) and message.get("jsonrpc") == "2.0" else None


def token_of(line: bytes) -> object:
    message = read(line) or {}
    return None if "id" in message else (message.get("params") or {}).get("progressToken")


# Few tokens and few numbers, so that lines replace each other; all that a writer may do differently with one message.
tokens = st.sampled_from([1, 2, 12, "1", "a", 'a"', "é", None, 1.0, True])
texts = st.sampled_from(["", "é\u2028", '"progressToken":1,', "\\", "\\u0069d", '{"id":5}', "notifications/progress"])


def members(**of: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of them, in any order."""
    return st.permutations(list(of)).flatmap(lambda keys: st.fixed_dictionaries({key: of[key] for key in keys}))


def notification(method: str, params: st.SearchStrategy[Any] | None) -> st.SearchStrategy[dict[str, Any]]:
    of = {"jsonrpc": st.just("2.0"), "method": st.just(method)}
    return members(**of) if params is None else members(**of, params=params)


progress = notification(
    PROGRESS,
    st.one_of(
        members(progressToken=tokens, progress=st.integers(0, 3)),
        members(progressToken=tokens, progress=st.integers(0, 3), message=texts),
        members(progressToken=tokens, _meta=st.dictionaries(st.sampled_from(["progressToken", "id"]), tokens)),
        members(progress=st.integers(0, 3), _meta=st.fixed_dictionaries({"progressToken": tokens})),
    ),
)
messages = st.one_of(
    progress,
    notification(LOG, st.fixed_dictionaries({"level": st.just("info"), "data": texts})),
    notification(CHANGED, None),
    notification(UPDATED, st.fixed_dictionaries({"uri": st.sampled_from(["a://b", "a://c"])})),
    members(jsonrpc=st.just("2.0"), id=tokens, result=st.fixed_dictionaries({"data": texts})),
    members(jsonrpc=st.just("2.0"), id=tokens, method=st.sampled_from([PROGRESS, "ping"])),
)
good = st.builds(
    lambda message, spaced, plain, before: (
        before + json.dumps(message, separators=None if spaced else (",", ":"), ensure_ascii=plain)
    ).encode(),
    messages,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", " ", "\t"]),
)
bad = st.one_of(
    good.flatmap(lambda line: st.builds(lambda end: line[:end], st.integers(0, len(line)))),
    st.sampled_from([b"", b"rubbish", b"\xff", b"1", b'"a"', b'{"jsonrpc":"2.0","method":"notifications/progress"']),
)
read_at_once = st.lists(st.one_of(good, good, good, bad, st.just(LongLine(b"{", b"}", 9))), max_size=12)


def heard(lines: Iterable[bytes | LongLine]) -> list[Any]:
    """What is left once it is coalesced: the last progress of a call and one of equal changes, before all else."""
    kept: list[Any] = []
    later: set[str] = set()
    for message in reversed([message for line in lines if (message := read(line)) is not None]):
        method = message["method"] if "id" not in message else None
        token = token_of(json.dumps(message).encode())
        if method == PROGRESS and (isinstance(token, bool) or not isinstance(token, int | str)):
            continue  # of no call
        key = json.dumps([method, token if method == PROGRESS else message])
        if method not in COALESCED:
            later.clear()
        elif key in later:
            continue
        later.add(key)
        kept.append(message)
    return kept[::-1]


@given(read_at_once)
def test_p5_what_is_heard_is_the_same_whether_or_not_needless_lines_are_parsed(lines: list[bytes | LongLine]) -> None:
    kept = thinned(lines, token_of)
    assert heard(kept) == heard(lines)
    rest = iter(lines)
    assert all(any(line is each for each in rest) for line in kept), "in their order, and nothing new"


@given(st.lists(good, max_size=12), st.integers(0, 3))
def test_p5_of_log_messages_the_last_are_kept_and_nothing_else_is_lost(lines: list[bytes], most: int) -> None:
    kept = thinned(lines, token_of, most)

    def is_log(line: bytes) -> bool:
        return bool(read(line).get("method") == LOG)

    logs = [line for line in lines if is_log(line)]
    places = [id(line) for line in kept]
    assert {id(line) for line in logs[max(len(logs) - most, 0) :]} <= set(places)
    assert heard(kept) == heard([line for line in lines if id(line) in places or not is_log(line)])


def line(method: str, **params: Any) -> bytes:
    message = {"jsonrpc": "2.0", "method": method} | ({"params": params} if params else {})
    return json.dumps(message, separators=(",", ":")).encode()


def step(token: int | str, number: int) -> bytes:
    return line(PROGRESS, progressToken=token, progress=number)


REPLY = b'{"jsonrpc":"2.0","id":1,"result":{}}'


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([step(1, 1), step(2, 1), step(1, 2), step(1, 3)], [1, 3]),
        ([step(1, 1), step("1", 1), step(1, 2)], [1, 2]),
        ([step(1, 1), step(1, 2), REPLY, step(1, 3), step(1, 4)], [1, 2, 4]),
        ([step(1, 1), step(1, 2)[:-1], b"rubbish", step(1, 3)[:-1]], [0, 1, 2, 3]),
        ([step(1, 1), step(1, 2), b"rubbish", step(1, 3)[:-1]], [1, 2, 3]),
        ([line(CHANGED), step(1, 1), line(CHANGED), line(UPDATED, uri="a"), line(CHANGED)], [1, 3, 4]),
        ([line(LOG, data=1), step(1, 1), line(LOG, data=2), step(1, 2), line(LOG, data=3)], [3, 4]),
        ([step(1, 1)[:-1] + b',"id":5}', step(1, 2)], [0, 1]),
        ([line(PROGRESS, _meta={"progressToken": 1}, progressToken=2), step(1, 2)], [0, 1]),
    ],
    ids=[
        "last of a call",
        "1 is not '1'",
        "before its result",
        "cut lines",
        "a cut line",
        "changes",
        "one log",
        "a request",
        "a token within",
    ],
)
def test_what_is_dropped_and_what_is_not(lines: list[bytes], kept: list[int]) -> None:
    assert thinned(lines, token_of, 1) == [lines[place] for place in kept]


@pytest.mark.parametrize(
    "lines",
    [
        lambda count: [step(number % 7, number) for number in range(count)],
        lambda count: [step(number, number) for number in range(count)],
        lambda count: [step(1, number)[:-1] for number in range(count)],
        lambda count: [line(UPDATED, uri=str(number)) for number in range(count)],
        lambda count: [b" " * (40 * count)] * 3,
    ],
    ids=["few calls", "many calls", "cut lines", "many changes", "space"],
)
def test_a_look_at_lines_takes_linear_time(lines: Callable[[int], list[bytes]]) -> None:
    def work(count: int) -> Callable[[], object]:
        given = lines(count)
        return lambda: thinned(given, token_of)

    assert linear(work, 250)


# --- How long to wait -------------------------------------------------------------------------------------------------


def test_p6_of_a_burst_a_twentieth_of_a_second_has_no_more_than_twice_what_it_has_at_once() -> None:
    allowance, now, ends, each = Allowance(), 0.0, list[float](), 0.0003
    while not allowance.strained:
        now += allowance.wait(now)
        allowance.spend(each)
        ends.append(now)
    most = max(sum(first <= end <= first + 0.05 for end in ends) for first in ends)
    assert AT_ONCE < most * each <= AT_ONCE + 0.05 * HASTE + each
    assert now == pytest.approx((BURST / 4 - AT_ONCE) / HASTE, rel=0.1)


@pytest.mark.parametrize("read_costs", [0.0001, 0.0003, 0.0004])
def test_p6_whoever_goes_on_gets_a_small_share_of_the_time(read_costs: float) -> None:
    allowance, now, reads = Allowance(), 0.0, 5_000
    for _ in range(reads):
        while (wait := allowance.wait(now)) > 0:
            now += wait
        allowance.spend(read_costs)
    assert now == pytest.approx((reads * read_costs - BURST) / SHARE, rel=0.02)


def test_the_longest_wait_is_bounded_and_silence_makes_good() -> None:
    allowance = Allowance()
    allowance.spend(cost(SAID, 1 << 40))
    assert allowance.wait(0) == pytest.approx(LONGEST)
    assert allowance.wait(LONGEST) == 0
    assert allowance.strained
    assert allowance.wait(LONGEST + BURST / SHARE) == 0
    assert not allowance.strained


def test_p6_who_has_flooded_has_nothing_for_the_next_flood_until_it_was_silent_for_long() -> None:
    allowance, each = Allowance(), BURST / 10
    for _ in range(11):
        allowance.spend(each, flood=1)
    pause = BURST / 5 / SHARE
    assert allowance.wait(pause) == 0
    allowance.spend(each)  # what is no flood has what has grown anew
    assert allowance.wait(pause + 1) == 0
    allowance.spend(each / 10, flood=1)
    assert allowance.wait(pause + 1) == pytest.approx(LONGEST, rel=0.01)
    silence = pause + 2 + BURST / 4 / SHARE
    assert allowance.wait(silence) == 0
    allowance.spend(each / 10, flood=1)
    assert allowance.wait(silence + 1) == 0


# --- As it is read ----------------------------------------------------------------------------------------------------


async def read_all(data: bytes, asked: int = 2) -> tuple[list[Any], StdioReader]:
    send, receive = trio.testing.memory_stream_one_way_pair()
    writer = StdioWriter(1024)
    for number in range(asked):
        writer.owed.sent(JSONRPCRequest(jsonrpc="2.0", id=number, method="tools/call"))
    reader = StdioReader("backend", receive, writer, StdioLimits())
    await send.send_all(data)
    await send.aclose()
    return [item.message async for item in reader if isinstance(item, SessionMessage)], reader


async def test_f4_f5_what_is_dropped_is_counted_and_is_no_rubbish(autojump_clock: trio.testing.MockClock) -> None:
    said = [*(step(7, number) for number in range(100)), *[line(CHANGED)] * 100, REPLY]
    messages, reader = await read_all(b"\n".join([*said, b""]))
    assert [type(message).__name__ for message in messages] == [*["JSONRPCNotification"] * 2, "JSONRPCResponse"]
    assert messages[0].params["progress"] == 99
    seen = reader.statistics()
    assert (seen.lines, seen.coalesced, seen.skipped) == (201, 198, {})
    assert trio.current_time() == 0


async def test_f4_a_reply_behind_a_hundred_thousand_lines_of_progress_is_half_a_second_late(
    autojump_clock: trio.testing.MockClock,
) -> None:
    messages, _ = await read_all(b"\n".join([*[step(7, 1_000)] * 100_000, REPLY, b""]))
    assert messages[-1].id == 1
    assert 0.1 < trio.current_time() < 0.6


@pytest.mark.parametrize("said", [step(7, 1) + b"\n", b"a line for whoever looks\n"], ids=["progress", "rubbish"])
@pytest.mark.parametrize("pause", [0.0, 7.0])
async def test_p6_of_a_flood_that_goes_on_a_pipe_a_second_is_read_in_pieces_also_after_pauses(
    pause: float, said: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    read = Counter[int]()
    largest = Counter[int]()

    class Floods(trio.abc.ReceiveStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            assert max_bytes is not None
            turn, within = divmod(trio.current_time(), 1 + pause)
            if within >= 1:
                turn += 1
                await trio.sleep_until(turn * (1 + pause))
            await trio.lowlevel.checkpoint()
            read[int(turn)] += max_bytes
            largest[int(turn)] = max(largest[int(turn)], max_bytes)
            return said * (max_bytes // len(said)) if turn < 40 else b""

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async for _ in StdioReader("backend", Floods(), StdioWriter(1024), StdioLimits()):
        pass
    later = range(20, 40)
    assert max(read[turn] for turn in later) <= 65536 * 4 / 3
    assert sum(read[turn] for turn in later) / len(later) > 65536 / 2
    assert max(largest[turn] for turn in later) <= 65536 // 4


async def test_f6_a_reply_behind_a_hundred_thousand_lines_of_rubbish_comes_before_its_call_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    messages, _ = await read_all(b"a line for whoever looks\n" * 100_000 + REPLY + b"\n")
    assert messages[-1].id == 1
    assert trio.current_time() < CallDeadlines().idle


async def test_p6_a_backend_of_many_calls_that_each_tell_their_progress_does_not_flood(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls, seconds = 64, 60
    send, receive = trio.testing.memory_stream_one_way_pair()
    writer = StdioWriter(1024)
    for number in range(calls):
        writer.owed.sent(JSONRPCRequest(jsonrpc="2.0", id=number, method="tools/call"))
    reader = StdioReader("backend", receive, writer, StdioLimits())

    async def work() -> None:
        for number in range(int(seconds / STEP)):
            await trio.sleep(STEP)
            await send.send_all(b"".join(step(token, number) + b"\n" for token in range(calls)))
        await send.send_all(REPLY + b"\n")
        await send.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        async for item in reader:
            assert isinstance(item, SessionMessage)
    assert trio.current_time() == pytest.approx(seconds, abs=0.01)


@pytest.mark.parametrize("params", [{"progressToken": 1, "progress": 1}, {"level": "info", "data": ""}])
async def test_p6_what_takes_long_to_parse_is_waited_for_though_it_is_one_line(
    params: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    method = PROGRESS if "progress" in params else LOG
    said = line(method, **params, _meta={"much": [[]] * 100_000})
    messages, _ = await read_all(b"\n".join([*[said] * AHEAD, b""]))
    assert len(messages) == AHEAD
    assert trio.current_time() > 0.5


async def test_p6_who_has_flooded_once_and_now_prints_a_line_a_call_has_its_calls_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    send, receive = trio.testing.memory_stream_one_way_pair()
    writer = StdioWriter(1024)
    reader = StdioReader("backend", receive, writer, StdioLimits())
    result = b'{"jsonrpc":"2.0","id":%d,"result":{"much":"' + b"x" * 20_000 + b'"}}'
    began, late = list[float](), list[float]()

    async def work() -> None:
        await send.send_all((step(7, 1) + b"\n") * 300_000)
        for number in range(1_000):
            await trio.sleep(0.25)
            writer.owed.sent(JSONRPCRequest(jsonrpc="2.0", id=number, method="tools/call"))
            began.append(trio.current_time())
            await send.send_all(b"\n".join([*[step(number, 1)] * 3, b"a line for whoever looks", result % number, b""]))
        await send.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        async for item in reader:
            assert isinstance(item, SessionMessage)
            if isinstance(item.message, JSONRPCResponse):
                late.append(trio.current_time() - began[len(late)])
    assert late[0] > 1, "it has flooded"
    assert len(late) == 1_000
    assert max(late[600:]) < 0.5


async def test_p6_who_says_what_costs_much_is_read_in_smaller_pieces(autojump_clock: trio.testing.MockClock) -> None:
    sizes: list[int] = []

    class Says(trio.abc.ReceiveStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            assert max_bytes is not None
            sizes.append(max_bytes)
            said = (b"rubbish" if len(sizes) < 20 else step(7, 1)) + b"\n"
            return said * (max_bytes // len(said)) if len(sizes) < 40 else b""

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    assert [item async for item in StdioReader("backend", Says(), StdioWriter(1024), StdioLimits())]
    assert sizes[0] == sizes[-1] == max(sizes)
    assert set(sizes[10:20]) == {max(sizes) // 16} == {min(sizes)}


async def test_a_client_that_cancels_much_does_not_flood(autojump_clock: trio.testing.MockClock) -> None:
    send, receive = trio.testing.memory_stream_one_way_pair()
    reader = StdioReader("the client", receive, StdioWriter(1024), StdioLimits(), serving=True)
    gone = line("notifications/cancelled", requestId=7) + b"\n"
    await send.send_all(gone * 20_000)
    await send.aclose()
    assert len([item async for item in reader]) == 20_000
    assert trio.current_time() == 0


def test_p6_as_many_tokens_have_steps_as_there_are_calls_and_each_no_more_than_are_passed_on() -> None:
    def heard(times: float, tokens: Callable[[int], object], calls: int) -> int:
        steps = Steps()
        every = STEP / times
        return sum(steps.is_one(tokens(number), calls, number * every) for number in range(int(10 / every)))

    assert heard(1, lambda number: 7, 1) == 10 / STEP
    assert heard(50, lambda number: 7, 1) == pytest.approx(10 / STEP + AHEAD, abs=1)
    assert heard(50, lambda number: number, 4) <= 4 * 10 / STEP  # made up
    assert heard(1, lambda number: 7, 0) == 0
    assert heard(1, lambda number: [7], 1) == 0
    assert heard(64, lambda number: number % 64, 64) == 64 * 10 / STEP


async def test_every_step_of_a_short_way_is_heard() -> None:
    steps = [step(7, number) for number in range(FEW - 1)]
    messages, reader = await read_all(b"\n".join([*steps, REPLY, b""]))
    assert [message.params["progress"] for message in messages[:-1]] == list(range(FEW - 1))
    assert reader.statistics().coalesced == 0


async def test_f4_a_flood_of_logs_waits_and_keeps_the_last_of_each_read(autojump_clock: trio.testing.MockClock) -> None:
    count = 20_000
    messages, reader = await read_all(
        b"".join(line(LOG, data=number) + b"\n" for number in range(count)) + REPLY + b"\n"
    )
    numbers = [message.params["data"] for message in messages[:-1]]
    assert messages[-1].id == 1
    assert numbers == sorted(numbers)
    assert numbers[-LOGS_KEPT:] == list(range(count - LOGS_KEPT, count))
    assert BURST / 4 / cost(SAID, 100) < len(numbers) < count / 4
    assert reader.statistics().coalesced == count - len(numbers)


@pytest.mark.parametrize(
    ("lines", "waits"),
    [
        (b"rubbish\n" * 40_000, True),
        (REPLY + b"\n", False),
        ((REPLY + b"\n") * 40_000, True),
        (b'{"jsonrpc":"2.0","method":"a"}\n' * 10_000, True),
        (b"".join(REPLY.replace(b"1", b"%d" % number) + b"\n" for number in range(10_000)), False),
    ],
    ids=["rubbish", "a reply", "unwanted replies", "notifications", "wanted replies"],
)
async def test_p6_what_nobody_waits_for_is_waited_for(
    lines: bytes, waits: bool, autojump_clock: trio.testing.MockClock
) -> None:
    await read_all(lines, asked=10_000)
    assert (trio.current_time() > 0) == waits

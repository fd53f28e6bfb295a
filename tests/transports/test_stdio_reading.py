"""Lines of a peer, read from memory: what is refused, skipped, answered or handed on.

Rule: what is read is bytes, through the reader that reads pipes. Real children: test_stdio.py.
"""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import JSONRPCError, JSONRPCRequest, JSONRPCResponse

from mcpactors.transports.owed import Owed
from mcpactors.transports.stdio.child import (
    StdioLimits,
    StdioReader,
    StdioWriter,
)


def request(request_id: int | str, method: str = "ping") -> SessionMessage:
    return SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=request_id, method=method))


# --- Reading, from memory -----------------------------------------------------------------------------------------


def reader_of(limits: StdioLimits | None = None) -> tuple[trio.testing.MemorySendStream, StdioReader]:
    send, receive = trio.testing.memory_stream_one_way_pair()
    writer = StdioWriter(1024)
    for number in (0, 1, 2, 7, "\0"):
        writer.owed.sent(request(number).message)
    return send, StdioReader("backend", receive, writer, limits or StdioLimits())


async def read_all(data: bytes, limits: StdioLimits | None = None) -> tuple[list[Any], StdioReader]:
    send, reader = reader_of(limits)
    await send.send_all(data)
    await send.aclose()
    return [item.message async for item in reader if isinstance(item, SessionMessage)], reader


GOOD = b'{"jsonrpc":"2.0","id":1,"result":{"ok":true}}'


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"", "blank"),
        (b"  \r", "blank"),
        (b"Starting server", "not_json"),
        (b"[INFO] ready", "not_json"),
        (b'{"jsonrpc":"2.0","method":"a\x00b"}', "not_json"),
        (b'{"jsonrpc":"2.0","method":"\\ud800"}', "not_json"),
        (b"[]", "not_jsonrpc"),
        (b"42", "not_jsonrpc"),
        (b'{"jsonrpc":"1.0","id":1,"result":{}}'.replace(b'"id":1,', b""), "not_jsonrpc"),
        (b"\xff\xfe", "bad_utf8"),
        (b'{"jsonrpc":"2.0","method":"\xc3"}', "bad_utf8"),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"a"}', "bom"),
        (b"[" * 129, "too_deep"),
        (b"[1," + b"[" * 128 + b"]" * 129, "too_deep"),
        (b"[" * 1_000_000, "too_many"),
        (b'{"jsonrpc":"2.0","method":"a","params":' + b'{"a":' * 128 + b"1" + b"}" * 129, "too_deep"),
        (b"[" + b"{}," * 125_001, "too_many"),
        (b"x" * (17 << 20), "too_long"),
    ],
    ids=lambda value: str(value[:40]) if isinstance(value, bytes) else value,
)
async def test_f6_f10_f12_a_line_that_cannot_be_read_is_skipped_and_counted_and_the_session_lives(
    line: bytes, kind: str
) -> None:
    messages, reader = await read_all(line + b"\n" + GOOD + b"\n")
    assert [message.id for message in messages] == [1]
    assert (reader.statistics().lines, reader.statistics().skipped) == (2, {kind: 1})


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":7,"result":{"a":nope}}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":"\xff"}}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":"\\ud800"}}',
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":7,"result":{}}',
        b'{"jsonrpc":"2.0","id":7,"result":"not an object"}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":' + b"[" * 128 + b"]" * 128 + b"}}",
        b'{"result":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b'},"jsonrpc":"2.0","id":7}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":[' + b"{}," * 125_000 + b"0]}}",
        b'{"result":{"a":[' + b"0," * 250_000 + b'0]},"jsonrpc":"2.0","id":7}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":"' + b"x" * (16 << 20) + b'"}}',
        b'{"result":{"a":"' + b"x" * (64 << 20) + b'"},"jsonrpc":"2.0","id":7}',
    ],
    ids=lambda line: str(line[:50]),
)
async def test_f7_f10_f12_a_reply_that_cannot_be_read_fails_its_call_now(line: bytes) -> None:
    messages, reader = await read_all(line + b"\n" + GOOD + b"\n")
    failed, good = messages
    assert isinstance(failed, JSONRPCError)
    assert (failed.id, failed.error.code) == (7, -32700)
    assert "'backend' could not be read" in failed.error.message
    assert good.id == 1
    assert reader.statistics().salvaged == 1


async def test_p6_a_reply_of_too_many_parts_fails_its_call_with_the_limit_and_a_long_text_is_one_part() -> None:
    many = b'{"jsonrpc":"2.0","id":7,"result":{"a":[' + b"{}," * 50 + b"0]}}"
    text = b'{"jsonrpc":"2.0","id":1,"result":{"a":"' + b"{}," * 50 + b'"}}'
    [failed, good], _ = await read_all(many + b"\n" + text + b"\n", StdioLimits(parts=100))
    assert "have too many parts (the limit is 100)" in failed.error.message
    assert good.id == 1


async def test_f12_what_is_legal_passes_unchanged() -> None:
    line = (
        '{"jsonrpc":"2.0","id":"\\u0000","result":{"a":"\u2028\u0085\\u0000","n":123456789012345678901234567890}}\r\n'
    )
    [message], reader = await read_all(line.encode())
    assert message.id == "\0"
    assert message.result == {"a": "\u2028\u0085\0", "n": 123456789012345678901234567890}
    assert reader.statistics().skipped == {}


async def test_nesting_at_the_limit_is_read() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"result":{"a":' + b"[" * 126 + b"]" * 126 + b"}}\n"
    messages, _ = await read_all(line)
    assert isinstance(messages[0], JSONRPCResponse)


async def test_a_line_without_its_newline_at_the_end_is_not_a_message() -> None:
    messages, reader = await read_all(GOOD + b"\n" + GOOD.replace(b"1", b"2"))
    assert len(messages) == 1
    assert reader.statistics().skipped == {"unfinished": 1}


async def test_an_endless_line_ends_the_stream_as_a_crash_that_names_the_backend() -> None:
    limits = StdioLimits(line=1 << 16, endless=1 << 20)
    send, reader = reader_of(limits)
    await send.send_all(b"x" * ((1 << 20) + (1 << 17)))
    with pytest.raises(anyio.BrokenResourceError, match=r"'backend' wrote .* without a newline"):
        await reader.receive()
    with pytest.raises(anyio.EndOfStream):
        await reader.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await reader.writer.send(request(8))


async def test_the_end_of_stdout_is_the_end_of_writing_too() -> None:
    _, reader = await read_all(b"")
    with pytest.raises(anyio.EndOfStream):
        await reader.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await reader.writer.send(request(8))


async def test_a_child_that_talks_on_after_it_closed_its_stdin_is_cut_off() -> None:
    send, reader = reader_of()
    reader.writer.hang_up()
    received = 0
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            while True:
                await send.send_all(GOOD.replace(b"true", b'"' + b"x" * 10_000 + b'"') + b"\n")
                await trio.lowlevel.checkpoint()

        nursery.start_soon(flood)
        async for _ in reader:
            received += 1
        nursery.cancel_scope.cancel()
    assert received <= 65536 // 10_000  # what a pipe holds


async def test_a_closed_reader_says_so_also_to_the_task_that_waits_in_it() -> None:
    _, reader = reader_of()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await reader.receive()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await reader.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await reader.receive()


async def test_a_flood_of_lines_leaves_other_tasks_their_turns() -> None:
    send, reader = reader_of()
    await send.send_all(b"rubbish\n" * 800 + b'{"jsonrpc":"2.0","method":"a"}\n' * 200)
    turns = 0
    async with trio.open_nursery() as nursery:

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(count)
        for _ in range(200):
            await reader.receive()
        nursery.cancel_scope.cancel()
    assert turns >= 240


async def test_a_cancelled_receive_loses_no_message() -> None:
    send, reader = reader_of()
    await send.send_all(b"".join(GOOD.replace(b"1", b"%d" % number, 1) + b"\n" for number in range(3)))
    await reader.receive()
    with trio.CancelScope() as scope:
        scope.cancel()
        await reader.receive()
    assert scope.cancelled_caught
    await send.aclose()
    assert len([item async for item in reader]) == 2


async def test_one_warning_a_kind_is_logged_and_never_the_line(caplog: pytest.LogCaptureFixture) -> None:
    await read_all(b"password=1234\n" * 50)
    assert len(caplog.records) == 1
    assert "1234" not in caplog.text


# --- What it asks, and what nobody asked ----------------------------------------------------------------------------


async def taken(data: bytes, limits: StdioLimits, **options: Any) -> tuple[list[Any], StdioReader, list[Any]]:
    """What is read of `data`, by whom, and what the peer is answered meanwhile."""
    send, receive = trio.testing.memory_stream_one_way_pair()
    writer = StdioWriter(limits.outgoing, Owed(limits.requests, limits.request_bytes))
    writer.owed.sent(request(1).message)
    reader = StdioReader("backend", receive, writer, limits, **options)
    messages: list[Any] = []

    async def read() -> None:
        async for item in reader:
            assert isinstance(item, SessionMessage)
            messages.append(item.message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await send.send_all(data)
        await trio.testing.wait_all_tasks_blocked()
        answers = [json.loads(line) for line in writer._lines]
        nursery.cancel_scope.cancel()
    return messages, reader, answers


async def test_f15_to_f17_replies_that_nobody_waits_for_are_dropped_and_counted() -> None:
    messages, reader = await read_all((GOOD + b"\n") * 3 + GOOD.replace(b":1", b":99") + b"\n")
    assert [message.id for message in messages] == [1]
    assert reader.statistics().skipped == {"duplicate_reply": 2, "unknown_reply": 1}


async def test_a_broken_reply_that_nobody_waits_for_fails_no_call() -> None:
    messages, reader = await read_all(b'{"jsonrpc":"2.0","id":99,"result":{"a":nope}}\n')
    assert messages == []
    assert reader.statistics().skipped == {"not_json": 1, "unknown_reply": 1}


def pings(count: int, size: int = 0) -> bytes:
    return b"".join(
        b'{"jsonrpc":"2.0","id":"p%d","method":"ping","params":{"a":"%s"}}\n' % (number, b"x" * size)
        for number in range(count)
    )


@pytest.mark.parametrize(("limits", "taken_of_100"), [({"requests": 10}, 10), ({"request_bytes": 1000}, 10)])
async def test_requests_beyond_the_bound_are_refused_at_once(limits: dict[str, Any], taken_of_100: int) -> None:
    messages, reader, answers = await taken(pings(100, 50), StdioLimits(**limits))
    assert len(messages) == taken_of_100
    assert reader.statistics().skipped == {"too_many_requests": 100 - taken_of_100}
    assert [answer["id"] for answer in answers] == [f"p{number}" for number in range(taken_of_100, 100)]
    assert {answer["error"]["code"] for answer in answers} == {-32004}


async def test_a_peer_that_asks_and_never_reads_holds_a_bounded_part_of_our_memory() -> None:
    limits = StdioLimits(requests=10, outgoing=1000)
    _, reader, answers = await taken(pings(200), limits)
    assert len(json.dumps(answers)) < 2 * limits.outgoing
    assert reader.statistics().skipped == {"too_many_requests": 190}


async def test_f13_the_second_of_two_requests_with_one_id_is_refused() -> None:
    first, other = b'{"jsonrpc":"2.0","id":1,"method":"a"}\n', b'{"jsonrpc":"2.0","id":"1","method":"b"}\n'
    messages, _, answers = await taken(first + first + other, StdioLimits())
    assert [(message.id, message.method) for message in messages] == [(1, "a"), ("1", "b")]
    assert [(answer["id"], answer["error"]["code"]) for answer in answers] == [(1, -32600)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"a":nope}}', -32700),
        (b'{"method":"ping","params":{"a":' + b"[" * 1000 + b"]" * 1000 + b'},"jsonrpc":"2.0","id":5}', -32700),
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"a":1e400}}', -32700),
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":7}', -32600),
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{},"params":{}}', -32600),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_f7_f10_a_request_that_cannot_be_read_is_answered(line: bytes, code: int) -> None:
    messages, _, answers = await taken(line + b"\n", StdioLimits())
    assert messages == []
    assert [(answer["id"], answer["error"]["code"]) for answer in answers] == [(5, code)]


@pytest.mark.parametrize(("serving", "answers"), [(True, [(None, -32700), (None, -32600)]), (False, [])])
async def test_rubbish_is_answered_only_where_every_line_is_a_message(serving: bool, answers: list[Any]) -> None:
    too_long = b'{"jsonrpc":"2.0","id":"%s","method":"ping"}' % (b"x" * 1025)
    _, reader, said = await taken(b"\nrubbish\n" + too_long + b"\n", StdioLimits(), serving=serving)
    assert [(answer["id"], answer["error"]["code"]) for answer in said] == answers
    assert reader.statistics().skipped == {"blank": 1, "not_json": 1, "long_id": 1}

"""The stdio client: its two streams over memory, then real child processes (`scripts/child.py`), in real time.

Rule: nothing sleeps and no time is asserted. `HANG` only ends a test that would hang; a pid's end is waited for by
pidfd. Never with `autojump_clock`: a virtual clock does not wait for a real process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from mcp import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from mcpactors.errors import BackendStartError
from mcpactors.transports.owed import Owed
from mcpactors.transports.stdio.child import (
    StderrTail,
    StdioLimits,
    StdioReader,
    StdioWriter,
    child_environment,
    stdio_client,
)

CHILD = str(Path(__file__).parent / "scripts" / "child.py")
HANG = 60
QUICK = StdioLimits(exit_grace=0.3, term_grace=0.3)
PATIENT = StdioLimits(exit_grace=HANG)  # a child that goes by itself is given the time to do so on a slow machine


def request(request_id: int | str, method: str = "ping") -> SessionMessage:
    return SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=request_id, method=method))


def note(method: str) -> SessionMessage:
    return SessionMessage(JSONRPCNotification(jsonrpc="2.0", method=method))


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
        await reader.writer.send(note("a"))


async def test_the_end_of_stdout_is_the_end_of_writing_too() -> None:
    _, reader = await read_all(b"")
    with pytest.raises(anyio.EndOfStream):
        await reader.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await reader.writer.send(note("a"))


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


# --- Writing, to memory -------------------------------------------------------------------------------------------


class Gate(trio.abc.SendStream):
    """A child's stdin that takes one write each time it is opened."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.open, self.close = trio.open_memory_channel[None](1000)
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.close.receive()
        self.writes.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()

    @property
    def lines(self) -> list[bytes]:
        return b"".join(self.writes).splitlines()


async def test_what_gathers_while_a_write_is_under_way_goes_in_one_write() -> None:
    gate, writer = Gate(), StdioWriter(1 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, gate)
        await writer.send(note("first"))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(10):
            await writer.send(note(str(number)))
        gate.open.send_nowait(None)
        gate.open.send_nowait(None)
        await writer.aclose()
    assert [write.count(b"\n") for write in gate.writes] == [1, 10]
    assert gate.lines[0] == b'{"jsonrpc":"2.0","method":"first"}'
    assert gate.closed


async def test_senders_wait_in_their_order_while_the_bound_is_exceeded() -> None:
    gate, writer = Gate(), StdioWriter(100)
    accepted: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, gate)

        async def send(number: int) -> None:
            await writer.send(note(f"{number:060}"))
            accepted.append(number)

        for number in range(6):  # each is a little less than the bound: two fit
            nursery.start_soon(send, number)
            await trio.testing.wait_all_tasks_blocked()
        assert accepted == [0, 1]
        for _ in range(6):
            gate.open.send_nowait(None)
            await trio.testing.wait_all_tasks_blocked()
        assert accepted == list(range(6))
        await writer.aclose()
    assert [int(line.split(b'"')[-2]) for line in gate.lines] == list(range(6))


async def test_one_write_makes_room_for_as_many_as_fit() -> None:
    gate, writer = Gate(), StdioWriter(100)
    accepted: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, gate)
        await writer.send(note("x" * 200))

        async def send(number: int) -> None:
            await writer.send(note(f"{number:010}"))  # 44 bytes: three reach the bound
            accepted.append(number)

        for number in range(5):
            nursery.start_soon(send, number)
            await trio.testing.wait_all_tasks_blocked()
        gate.open.send_nowait(None)
        await trio.testing.wait_all_tasks_blocked()
        assert accepted == [0, 1, 2]
        nursery.cancel_scope.cancel()
        gate.open.send_nowait(None)
        gate.open.send_nowait(None)
        writer.close()


async def test_a_write_that_fails_is_the_end_of_sending() -> None:
    send, receive = trio.testing.memory_stream_one_way_pair()
    receive.close()
    writer = StdioWriter(1024)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, send)
        await writer.send(note("never read"))
        await writer.wait_broken()
    with pytest.raises(anyio.BrokenResourceError):
        await writer.send(note("late"))


async def test_a_message_larger_than_the_bound_is_sent() -> None:
    gate, writer = Gate(), StdioWriter(10)
    gate.open.send_nowait(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, gate)
        await writer.send(note("a" * 1000))
        await writer.aclose()
    assert len(gate.lines) == 1


async def test_a_cancelled_send_has_sent_nothing() -> None:
    gate, writer = Gate(), StdioWriter(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, gate)
        with trio.CancelScope() as scope:
            scope.cancel()
            await writer.send(note("cancelled, with room for it"))
        assert scope.cancelled_caught
        await writer.send(note("first"))
        async with trio.open_nursery() as senders:
            senders.start_soon(writer.send, note("cancelled while it waits"))
            await trio.testing.wait_all_tasks_blocked()
            senders.cancel_scope.cancel()
        gate.open.send_nowait(None)
        await writer.aclose()
    assert gate.lines == [b'{"jsonrpc":"2.0","method":"first"}']


@pytest.mark.parametrize(
    ("end", "error"), [("close", anyio.ClosedResourceError), ("hang_up", anyio.BrokenResourceError)]
)
async def test_a_waiting_sender_is_told_of_the_end(end: str, error: type[Exception]) -> None:
    writer = StdioWriter(10)
    await writer.send(note("first"))
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(error):
                await writer.send(note("waits"))

        nursery.start_soon(send)
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        getattr(writer, end)()
    with pytest.raises(error):
        await writer.send(note("late"))


# --- Real processes -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def child(
    mode: str, limits: StdioLimits = QUICK, stderr: StderrTail | None = None
) -> AsyncIterator[tuple[StdioReader, StdioWriter]]:
    with trio.fail_after(HANG):
        async with stdio_client(sys.executable, ["-S", CHILD, mode], limits=limits, stderr=stderr) as streams:
            yield streams


@asynccontextmanager
async def dispatching(read: StdioReader, write: StdioWriter) -> AsyncIterator[JSONRPCDispatcher]:
    dispatcher: JSONRPCDispatcher = JSONRPCDispatcher(read, write)

    async def refuse(*_: object) -> dict[str, Any]:
        raise AssertionError("these children ask nothing")

    async def ignore(*_: object) -> None:
        pass

    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: dispatcher.run(refuse, ignore, task_status=task_status))
        yield dispatcher
        nursery.cancel_scope.cancel()


async def announced(read: StdioReader) -> int:
    """The pid in the child's first message."""
    item = await read.receive()
    assert isinstance(item, SessionMessage)
    assert isinstance(item.message, JSONRPCNotification)
    assert item.message.params is not None
    return int(item.message.params["pid"])


def runs(pid: int) -> bool:
    """Whether the process lives; one that only waits to be reaped by init does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def test_a_real_server_answers_through_the_dispatcher() -> None:
    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    with trio.fail_after(HANG):
        async with stdio_client(sys.executable, ["-m", "mcp_server_time"], limits=PATIENT) as (read, write):
            async with dispatching(read, write) as dispatcher:
                answer = await dispatcher.send_raw_request("initialize", client)
                assert answer["protocolVersion"] == "2025-11-25"
                await dispatcher.notify("notifications/initialized", None)
                listed = await dispatcher.send_raw_request("tools/list", None)
    assert {tool["name"] for tool in listed["tools"]} == {"get_current_time", "convert_time"}
    assert read.statistics().skipped == {}


async def test_rubbish_before_a_reply_costs_nothing_but_its_count() -> None:
    async with child("rubbish") as (read, write), dispatching(read, write) as dispatcher:
        assert (await dispatcher.send_raw_request("ping", None))["method"] == "ping"
        skipped = {"not_json": 2, "bad_utf8": 1, "bom": 1, "blank": 1, "too_deep": 1, "not_jsonrpc": 1}
        assert read.statistics().skipped == skipped


async def test_a_broken_reply_fails_its_own_call() -> None:
    async with child("broken_reply") as (read, write), dispatching(read, write) as dispatcher:
        for _ in range(2):
            with pytest.raises(MCPError) as caught:
                await dispatcher.send_raw_request("ping", None)
            assert caught.value.error.code == -32700


@pytest.mark.parametrize("mode", ["closes_stdin", "closes_stdin_and_floods", "closes_stdout", "dies"])
async def test_a_child_that_is_half_gone_is_gone_for_the_call_in_flight(mode: str) -> None:
    async with child(mode) as (read, write), dispatching(read, write) as dispatcher:
        with pytest.raises(MCPError) as caught:
            await dispatcher.send_raw_request("ping", None)
        assert caught.value.error.code == -32000
        with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):
            await write.send(note("late"))


async def test_f1_a_child_that_died_is_gone_though_its_helper_keeps_the_pipes_and_its_last_words_are_heard() -> None:
    async with child("helped") as (read, write), dispatching(read, write) as dispatcher:
        assert await dispatcher.send_raw_request("ping", None) == {"method": "ping"}
        assert await dispatcher.send_raw_request("die", None) == {"method": "die"}
        with pytest.raises(MCPError, match=r"^Connection closed$"):
            await dispatcher.send_raw_request("ping", None)


async def test_what_a_child_said_before_it_closed_its_stdin_is_read_however_late() -> None:
    async with child("closes_stdin", StdioLimits(exit_grace=0, term_grace=HANG, last_words=0.01)) as (read, write):
        await write.send(request(1))
        await write.wait_broken()
        # Whoever watches the pipes has nothing left to do: the last words are over, and nobody has read yet.
        await trio.testing.wait_all_tasks_blocked(cushion=0.1)
        await announced(read)
        with pytest.raises(anyio.EndOfStream):
            await read.receive()


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


@pytest.mark.parametrize("mode", ["closes_stdin", "closes_stdout", "dies"])
async def test_half_gone_is_gone_also_while_nobody_writes(mode: str) -> None:
    async with child(mode) as (read, write):
        await write.send(request(1))
        with pytest.raises(StopAsyncIteration):
            while True:
                await anext(read)
        with pytest.raises(anyio.BrokenResourceError):
            await write.send(note("late"))


# --- Their end ----------------------------------------------------------------------------------------------------


async def test_a_child_that_goes_when_stdin_closes_is_not_signalled() -> None:
    tail = StderrTail()
    async with child("echo", PATIENT, tail) as (_, write):
        await write.send(note("accepted before leaving"))
    assert tail.tail() == ["heard accepted before leaving"]


async def test_a_child_that_blocks_on_a_full_stdout_can_still_go_by_itself() -> None:
    tail = StderrTail()
    async with child("blocked", PATIENT, tail) as (read, _):
        await announced(read)
    assert tail.tail() == ["went by itself"]


async def test_a_child_that_ignores_the_closing_of_stdin_gets_sigterm() -> None:
    tail = StderrTail()
    async with child("deaf", StdioLimits(exit_grace=0, term_grace=HANG), tail) as (read, _):
        await announced(read)
    assert tail.tail() == ["terminated"]


@pytest.mark.parametrize("mode", ["stubborn", "leaves_a_grandchild", "keeps_a_grandchild"])
async def test_whoever_ignores_sigterm_is_gone_after_leaving(mode: str) -> None:
    async with child(mode) as (read, _):
        pid = await announced(read)
        assert runs(pid)
    assert not runs(pid)


async def test_a_grandchild_is_gone_also_when_its_parent_died_long_ago() -> None:
    async with child("keeps_a_grandchild") as (read, _):
        pid = await announced(read)
        os.kill(os.getpgid(pid), signal.SIGKILL)
        assert runs(pid)
    assert not runs(pid)


async def test_sigterm_goes_to_the_whole_group() -> None:
    tail = StderrTail()
    async with child("keeps_a_polite_grandchild", StdioLimits(exit_grace=0, term_grace=HANG), tail) as (read, _):
        await announced(read)
    assert tail.tail() == ["terminated"]


async def test_a_grandchild_that_left_the_session_is_gone_too() -> None:
    async with child("loses_a_grandchild") as (read, _):
        pid = await announced(read)
        assert runs(pid)
    assert not runs(pid)


async def test_leaving_by_cancellation_takes_the_child_along() -> None:
    with trio.CancelScope() as scope:
        async with child("stubborn") as (read, _):
            pid = await announced(read)
            scope.cancel()
            await read.receive()
    assert scope.cancelled_caught
    assert not runs(pid)


async def test_what_was_accepted_before_a_cancellation_is_written() -> None:
    tail = StderrTail()
    with trio.CancelScope() as scope:
        async with child("echo", PATIENT, tail) as (_, write):
            await write.send(note("last"))
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert tail.tail() == ["heard last"]


async def test_an_error_inside_comes_out_in_one_group_and_the_child_is_gone() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="ours")):
        async with child("stubborn") as (read, _):
            pid = await announced(read)
            raise ValueError("ours")
    assert not runs(pid)


async def test_a_child_that_does_not_read_holds_up_its_senders_but_not_the_leaving() -> None:
    async with child("stubborn") as (read, write):
        await announced(read)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write.send, note("x" * (4 << 20)))
                nursery.start_soon(write.send, note("waits"))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    with pytest.raises(anyio.ClosedResourceError):
        await write.send(note("late"))


async def test_a_session_may_be_left_at_once() -> None:
    for _ in range(12):  # which of our tasks starts first is random
        async with child("echo", PATIENT):
            pass


async def test_twenty_sessions_leave_no_descriptor() -> None:
    async def session(mode: str) -> None:
        async with child(mode) as (read, write):
            await write.send(request(1))
            await read.receive()

    def descriptors() -> list[str]:
        return sorted(os.listdir("/proc/self/fd"))

    await session("echo")
    before = descriptors()
    for mode in ["echo"] * 18 + ["stubborn", "closes_stdin"]:
        await session(mode)
    with pytest.raises(BackendStartError):
        async with stdio_client("no-such-command"):
            pass
    assert descriptors() == before


def test_f46_the_default_ladder_takes_at_most_three_and_a_half_seconds() -> None:
    limits = StdioLimits()
    assert limits.exit_grace + limits.term_grace + limits.kill_grace + limits.last_words <= 3.5


# --- stderr, environment, start -----------------------------------------------------------------------------------


async def test_stderr_is_drained_and_its_tail_kept() -> None:
    tail = StderrTail()
    async with child("chatters", PATIENT, tail) as (read, write):
        await write.send(request(1))
        await read.receive()
    assert len(tail.tail()) == 200
    assert tail.tail()[-3:] == ["line 99999", "bad byte \ufffd", "unfinished"]


async def test_the_last_words_on_stderr_are_heard() -> None:
    tail = StderrTail()
    async with child("has_last_words", StdioLimits(exit_grace=HANG, last_words=HANG), tail):
        pass
    assert tail.tail()[-1] == "the last"


async def test_one_tail_serves_one_life_after_the_other() -> None:
    tail = StderrTail()
    for life in "12":
        code = f"import sys; sys.stderr.write('life {life}, unfinished')"
        with trio.fail_after(HANG):
            async with stdio_client(sys.executable, ["-S", "-c", code], stderr=tail, limits=PATIENT):
                pass
    assert tail.tail() == ["life 1, unfinished", "life 2, unfinished"]


async def test_the_traceback_of_a_child_that_crashes_at_its_start_is_whole_after_leaving() -> None:
    tail = StderrTail()
    async with child("crashes", PATIENT, tail) as (read, _):
        with pytest.raises(anyio.EndOfStream):
            await read.receive()
    assert tail.tail()[0].startswith("Traceback")
    assert tail.tail()[-1] == "RuntimeError: no API key"


@pytest.mark.parametrize(("level", "said"), [(logging.DEBUG, 1), (logging.INFO, 0)])
async def test_stderr_is_logged_at_debug(level: int, said: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(level, "mcpactors.stderr")
    async with child("echo", PATIENT) as (_, write):
        await write.send(note("hello"))
    assert sum(record.getMessage().endswith("heard hello") for record in caplog.records) == said


async def test_a_child_sees_the_allow_list_and_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("LC_TIME", "C")
    with trio.fail_after(HANG):
        async with stdio_client(sys.executable, [CHILD, "echo"], env={"GIVEN": "1"}, limits=PATIENT) as (read, write):
            async with dispatching(read, write) as dispatcher:
                seen = (await dispatcher.send_raw_request("env", None))["env"]
    assert "SECRET_TOKEN" not in seen
    assert (seen["LC_TIME"], seen["GIVEN"], seen["PATH"]) == ("C", "1", os.environ["PATH"])


@pytest.mark.parametrize(
    ("ours", "extra", "seen"),
    [
        (
            {"HOME": "/h", "AWS_SECRET": "x", "LANG": "C", "LC_ALL": "C"},
            None,
            {"HOME": "/h", "LANG": "C", "LC_ALL": "C"},
        ),
        ({"HOME": "/h"}, {"HOME": "/other", "AWS_SECRET": "x"}, {"HOME": "/other", "AWS_SECRET": "x"}),
        ({"TERM": "() { :; }"}, None, {}),
    ],
)
def test_the_environment_is_an_allow_list_and_what_is_given_wins(
    ours: Mapping[str, str], extra: Mapping[str, str] | None, seen: dict[str, str]
) -> None:
    assert child_environment(ours, extra) == seen


@pytest.mark.parametrize(
    ("command", "cwd", "message"),
    [
        ("no-such-command", None, "'no-such-command': no such command. Install it"),
        (CHILD, None, "it may not be executed. Make it executable"),
        (sys.executable, "/no/such/folder", "its working directory '/no/such/folder' cannot be entered"),
        ("nul\0byte", None, "Try the same command"),
    ],
)
async def test_a_command_that_cannot_be_started_says_what_to_do(command: str, cwd: str | None, message: str) -> None:
    with pytest.raises(BackendStartError) as caught:
        async with stdio_client(command, cwd=cwd):
            pass
    assert message in str(caught.value)


async def test_the_working_directory_is_the_one_given(tmp_path: Path) -> None:
    tail = StderrTail()
    code = "import os, sys; sys.stderr.write(os.getcwd())"
    with trio.fail_after(HANG):
        async with stdio_client(sys.executable, ["-c", code], cwd=tmp_path, stderr=tail, limits=PATIENT):
            pass
    assert tail.tail() == [str(tmp_path)]

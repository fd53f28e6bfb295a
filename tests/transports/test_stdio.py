"""The stdio client with real child processes (`scripts/child.py`), in real time. Its streams over memory:
test_stdio_reading.py, test_stdio_writing.py.

Rule: nothing sleeps and no time is asserted. `HANG` only ends a test that would hang; a pid's end is waited for by
pidfd. Never with `autojump_clock`: a virtual clock does not wait for a real process.
"""

from __future__ import annotations

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
from mcp_types.jsonrpc import JSONRPCNotification, JSONRPCRequest

from mcpactors.errors import BackendStartError
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
        ("./no-such", "/", "'./no-such': no such command, '/no-such' is not there. Correct the path, or set `cwd`"),
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


async def test_a_script_whose_interpreter_is_missing_is_not_said_to_be_missing(tmp_path: Path) -> None:
    script = tmp_path / "server.sh"
    script.write_text("#!/no/such/python\n")
    script.chmod(0o700)
    with pytest.raises(BackendStartError, match="its first line names a program that is not there"):
        async with stdio_client(str(script)):
            pass


async def test_the_working_directory_is_the_one_given(tmp_path: Path) -> None:
    tail = StderrTail()
    code = "import os, sys; sys.stderr.write(os.getcwd())"
    with trio.fail_after(HANG):
        async with stdio_client(sys.executable, ["-c", code], cwd=tmp_path, stderr=tail, limits=PATIENT):
            pass
    assert tail.tail() == [str(tmp_path)]

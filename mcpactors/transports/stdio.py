"""A backend that is a child process: the client end of MCP's stdio transport.

Rule: whatever the child does, the caller's side ends in bounded time and nothing of the child is left. The nursery is
opened and left in `stdio_client` alone; reading has no task and no queue of its own; a line that cannot be read never
ends the session. MCP 2025-11-25: basic/transports "stdio", basic/lifecycle "shutdown". Promises F6-F12, F18, F46-F49.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from types import MappingProxyType
from typing import Final, Self

import anyio
import trio
from attrs import define, field, frozen
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import PARSE_ERROR, ErrorData, JSONRPCError, JSONRPCMessage, jsonrpc_message_adapter
from pydantic import ValidationError

from mcpactors.errors import BackendStartError
from mcpactors.transports.framing import (
    BOM,
    WHY,
    LineFramer,
    LongLine,
    Skip,
    StderrTail,
    salvage_id,
    text,
    too_deep,
    why_not_json,
)

__all__ = [
    "ReadStatistics",
    "StderrTail",
    "StdioLimits",
    "StdioReader",
    "StdioWriter",
    "child_environment",
    "stdio_client",
]

logger = logging.getLogger("mcpactors.stdio")
stderr_logger = logging.getLogger("mcpactors.stderr")

_MIB: Final = 1024 * 1024
_CHUNK: Final = 65536  # a pipe holds no more on Linux
_SIGKILL: Final = 9  # `signal` has no name for it on Windows


@frozen
class StdioLimits:
    """Sizes in bytes, times in seconds. The four times together bound how long leaving `stdio_client` takes."""

    line: int = 16 * _MIB
    """A longer line is dropped while it is read."""
    endless: int = 64 * _MIB
    """So much dropped of one line, and still no newline: the child is given up."""
    depth: int = 128
    outgoing: int = _MIB
    """`send` waits while this much has not gone to the child."""
    last_words: float = 0.1
    """How long is read on after stdin broke; and stderr, after the child went."""
    exit_grace: float = 1.0
    """From the closing of stdin to SIGTERM."""
    term_grace: float = 2.0
    """From SIGTERM to SIGKILL."""
    kill_grace: float = 0.4
    """From SIGKILL to giving the process up as unkillable."""


@frozen
class ReadStatistics:
    """What came from the child so far: all `lines`, those `skipped` by kind, and the calls failed for one of those."""

    lines: int
    skipped: Mapping[Skip, int]
    salvaged: int


# --- The two streams ----------------------------------------------------------------------------------------------


@define(eq=False)
class StdioWriter:
    """Messages to the child: the SDK's `WriteStream`. What gathers while one write is under way goes in the next.

    `limit` is in bytes; one message more may be held than it allows.
    """

    limit: int
    broken: trio.Event = field(factory=trio.Event, init=False)
    _closed: bool = field(default=False, init=False)
    _lines: list[bytes] = field(factory=list, init=False)
    _held: int = field(default=0, init=False)
    _work: trio.Event = field(factory=trio.Event, init=False)
    _room: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    async def send(self, item: SessionMessage, /) -> None:
        """Waits for room; who waits is served in the order of asking. What returned is accepted, not delivered.

        Raises anyio.BrokenResourceError when the child no longer reads, anyio.ClosedResourceError after `aclose`.
        """
        await trio.lowlevel.checkpoint()  # first, so that a cancelled send has sent nothing
        self._check()
        line = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        if self._held >= self.limit:
            await self._room.park()
            self._check()
        self._lines.append(line)
        self._held += len(line)
        self._work.set()
        self._make_room()

    async def aclose(self) -> None:
        """No more is accepted; what was accepted is still written, then the child's stdin is closed."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """`aclose`, without waiting for anything."""
        self._closed = True
        self._wake_all()

    def hang_up(self) -> None:
        """The child is dead to us: what was not written yet is dropped."""
        self.broken.set()
        self._lines.clear()
        self._wake_all()

    async def run(self, stdin: trio.abc.SendStream) -> None:
        """Writes until closed or broken. Shielded: what was accepted before a cancellation is written; `stdin`'s
        closing, at the latest at the end of the ladder, ends it."""
        with trio.CancelScope(shield=True):
            async with stdin:
                while await self._gathered():
                    data = b"".join(self._lines)
                    self._lines.clear()
                    try:
                        await stdin.send_all(data)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        self.hang_up()
                    self._held -= len(data)
                    self._make_room()

    async def _gathered(self) -> bool:
        while not self._lines and not self._closed and not self.broken.is_set():
            self._work = trio.Event()
            await self._work.wait()
        return bool(self._lines)

    def _check(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self.broken.is_set():
            raise anyio.BrokenResourceError

    def _make_room(self) -> None:
        if self._held < self.limit:
            self._room.unpark()  # one; it passes on what room it leaves

    def _wake_all(self) -> None:
        self._work.set()
        self._room.unpark_all()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@define(eq=False)
class StdioReader:
    """Messages from the child: the SDK's `ReadStream`, for one reading task. Reads `stdout` itself."""

    name: str
    stdout: trio.abc.ReceiveStream
    writer: StdioWriter
    limits: StdioLimits
    _framer: LineFramer = field(init=False)
    _lines: deque[bytes | LongLine] = field(factory=deque, init=False)
    _seen: int = field(default=0, init=False)
    _skipped: Counter[Skip] = field(factory=Counter, init=False)
    _salvaged: int = field(default=0, init=False)
    _afterwards: int = field(default=0, init=False)
    _reading: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._framer = LineFramer(self.limits.line)

    def statistics(self) -> ReadStatistics:
        return ReadStatistics(self._seen, MappingProxyType(dict(self._skipped)), self._salvaged)

    async def receive(self) -> SessionMessage | Exception:
        """The next message; for a reply that cannot be read but whose id can, an error with that id.

        Raises anyio.EndOfStream when the child is gone, anyio.ClosedResourceError after `aclose`, and
        anyio.BrokenResourceError when it writes an endless line.
        """
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._lines:
                await trio.lowlevel.checkpoint()  # a flood of lines, good or bad, leaves the others their turns
            elif not await self._fill():
                raise anyio.ClosedResourceError if self._closed else anyio.EndOfStream
            if self._lines and (message := self._read(self._lines.popleft())) is not None:
                return SessionMessage(message)

    async def _fill(self) -> bool:
        """Reads once. False when there is nothing more to come."""
        if self._ended:
            await trio.lowlevel.checkpoint()
            return False
        self._reading = True
        try:
            data = await self._receive_some()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            data = b""
        finally:
            self._reading = False
        if not data:
            self._end()
            return False
        self._lines.extend(self._framer.feed(data))
        if self._framer.unfinished - self.limits.line > self.limits.endless:
            self._end()
            raise anyio.BrokenResourceError(
                f"{self.name!r} wrote {self._framer.unfinished} bytes on stdout without a newline; it was given up. "
                "Messages are one line each: see what this server prints."
            )
        return True

    async def _receive_some(self) -> bytes:
        if not self.writer.broken.is_set():
            return bytes(await self.stdout.receive_some(_CHUNK))
        # The child stopped listening. What it said before is a pipe's worth at most; what it says now is not heard.
        data = b""
        with trio.move_on_after(self.limits.last_words):
            if self._afterwards < _CHUNK:
                data = bytes(await self.stdout.receive_some(_CHUNK - self._afterwards))
        self._afterwards += len(data)
        return data

    async def wake(self) -> None:
        """Ends the `receive` that is waiting, if one is: nothing but the closing of the pipe wakes it."""
        if self._reading:
            await self.stdout.aclose()

    def _end(self) -> None:
        """Half a connection is none: nothing can be asked of a child whose answers cannot come."""
        self._ended = True
        self.writer.hang_up()
        if self._framer.unfinished:
            self._seen += 1
            self._skip("unfinished")

    def _read(self, line: bytes | LongLine) -> JSONRPCMessage | None:
        self._seen += 1
        if isinstance(line, LongLine):
            return self._refuse("too_long", line)
        if too_deep(line, self.limits.depth):
            return self._refuse("too_deep", line)
        try:
            return jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]["type"]
            return self._refuse(why_not_json(line) if fault == "json_invalid" else "not_jsonrpc", line)

    def _refuse(self, kind: Skip, line: bytes | LongLine) -> JSONRPCMessage | None:
        self._skip(kind)
        found = salvage_id(line.removeprefix(BOM) if isinstance(line, bytes) else line)
        if found is None:
            return None
        self._salvaged += 1
        message = f"The reply of {self.name!r} could not be read: {WHY[kind]}."
        return JSONRPCError(jsonrpc="2.0", id=found, error=ErrorData(code=PARSE_ERROR, message=message))

    def _skip(self, kind: Skip) -> None:
        self._skipped[kind] += 1
        if self._skipped[kind] == 1:  # once a kind: rubbish comes in floods
            logger.warning("skipped a line from %r: %s; more of the kind are only counted", self.name, WHY[kind])

    async def aclose(self) -> None:
        """Nothing more is received. The pipe stays open, to be drained: its closing could kill a child at work."""
        self._closed = True
        await self.wake()
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


# --- The process --------------------------------------------------------------------------------------------------

Pipes = tuple[trio.abc.SendStream, trio.abc.ReceiveStream, trio.abc.ReceiveStream]

_POSIX_ENV: Final = "HOME LANG LOGNAME PATH SHELL TERM TMPDIR USER"
_WINDOWS_ENV: Final = (
    "APPDATA HOMEDRIVE HOMEPATH LANG LOCALAPPDATA PATH PATHEXT PROCESSOR_ARCHITECTURE SYSTEMDRIVE SYSTEMROOT TEMP TMP "
    "USERNAME USERPROFILE"
)
_INHERITED: Final = frozenset((_WINDOWS_ENV if sys.platform == "win32" else _POSIX_ENV).split())


def child_environment(ours: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child sees: an allow-list from `ours` (no secret of ours is inherited by chance), then `extra`."""
    inherited = {
        name: value
        for name, value in ours.items()
        if (name in _INHERITED or name.startswith("LC_")) and not value.startswith("()")  # "()": a shell function
    }
    return inherited | dict(extra or {})


@asynccontextmanager
async def stdio_client(
    command: str,
    args: Sequence[str] = (),
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stderr: StderrTail | None = None,
    limits: StdioLimits = StdioLimits(),
) -> AsyncIterator[tuple[StdioReader, StdioWriter]]:
    """Starts `command` (no shell, a session of its own) and yields the streams from and to it.

    It is a nursery block: an exception from inside comes out in a group. Leaving it takes the child's whole process
    group down, within `limits`, also when cancelled. Raises BackendStartError when the command cannot be started.
    """
    process = await _start(command, args, child_environment(os.environ, env), cwd)
    stdin, stdout, stderr_pipe = pipes = _pipes(process)
    writer = StdioWriter(limits.outgoing)
    reader = StdioReader(command, stdout, writer, limits)
    heard = trio.Event()
    # Nothing waits between the start and the `try`: a cancellation there would leave the child behind.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, stdin)
        nursery.start_soon(_listen_to_stderr, stderr_pipe, command, stderr or StderrTail(), heard)
        nursery.start_soon(_notice_closed_stdin, stdin, writer)
        nursery.start_soon(_wake_after_last_words, reader)
        try:
            yield reader, writer
        finally:
            with trio.CancelScope(shield=True):
                writer.close()
                await _end(process, pipes, limits, heard)
            nursery.cancel_scope.cancel()


async def _start(command: str, args: Sequence[str], env: dict[str, str], cwd: str | Path | None) -> trio.Process:
    try:
        if sys.platform == "win32":
            return await trio.lowlevel.open_process(
                [command, *args], stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env, cwd=cwd
            )
        return await trio.lowlevel.open_process(
            [command, *args], stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True, env=env, cwd=cwd
        )
    except (OSError, ValueError) as error:
        raise BackendStartError(_cannot_start(error, command, cwd)) from error


def _pipes(process: trio.Process) -> Pipes:
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None  # we asked for all three
    assert stdout is not None
    assert stderr is not None
    return stdin, stdout, stderr


def _cannot_start(error: OSError | ValueError, command: str, cwd: str | Path | None) -> str:
    if cwd is not None and isinstance(error, OSError) and error.filename == str(cwd):
        return f"cannot start {command!r}: its working directory {str(cwd)!r} cannot be entered. Correct `cwd`."
    if isinstance(error, FileNotFoundError):
        return f"cannot start {command!r}: no such command. Install it, or give its full path or a PATH in `env`."
    if isinstance(error, PermissionError):
        return f"cannot start {command!r}: it may not be executed. Make it executable (chmod +x)."
    return f"cannot start {command!r}: {error}. Try the same command and arguments in a terminal."


async def _listen_to_stderr(stream: trio.abc.ReceiveStream, name: str, tail: StderrTail, heard: trio.Event) -> None:
    """Always drained: a child blocked on a full stderr answers nothing. Shielded: its last words count most."""
    with trio.CancelScope(shield=True), suppress(trio.ClosedResourceError, trio.BrokenResourceError):
        while data := await stream.receive_some(_CHUNK):
            _log(name, tail.feed(bytes(data)))
    _log(name, tail.end())
    heard.set()


def _log(name: str, lines: list[bytes]) -> None:
    if stderr_logger.isEnabledFor(logging.DEBUG):
        for line in lines:
            stderr_logger.debug("%s: %s", name, text(line))


async def _notice_closed_stdin(stdin: trio.abc.SendStream, writer: StdioWriter) -> None:
    """A child that closed its stdin is noticed now and not at the next write, which may never come."""
    if sys.platform != "win32" and isinstance(stdin, trio.lowlevel.FdStream) and stdin.fileno() >= 0:  # -1: closed
        with suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_readable(stdin.fileno())  # our end of a pipe is "readable" only once it broke
            writer.hang_up()


async def _wake_after_last_words(reader: StdioReader) -> None:
    """Half a connection is none: a reader that waits for a child which no longer listens is told so."""
    await reader.writer.broken.wait()
    await trio.sleep(reader.limits.last_words)
    await reader.wake()


# --- Its end ------------------------------------------------------------------------------------------------------


async def _end(process: trio.Process, pipes: Pipes, limits: StdioLimits, heard: trio.Event) -> None:
    """The ladder. The writer has been told to close stdin; call it shielded."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_discard, pipes[1])
        try:
            for patience, last_resort in (limits.exit_grace, signal.SIGTERM), (limits.term_grace, _SIGKILL):
                with trio.move_on_after(patience) as waiting:
                    await _exited(process)
                if not waiting.cancelled_caught:
                    break
                _signal_group(process, last_resort)
            await _reap_group(process, limits.kill_grace)
            with trio.move_on_after(limits.last_words):
                await heard.wait()
        finally:
            for pipe in pipes:
                await pipe.aclose()
            nursery.cancel_scope.cancel()


async def _discard(stdout: trio.abc.ReceiveStream) -> None:
    """A child that is blocked writing cannot see that its stdin was closed."""
    with suppress(trio.ClosedResourceError, trio.BrokenResourceError, trio.BusyResourceError):
        while await stdout.receive_some(_CHUNK):
            pass


async def _exited(process: trio.Process) -> None:
    """Until the process exits; not reaped where that can be told apart, so that its group's number stays its own."""
    if not await _exit_seen(process.pid):
        await process.wait()


async def _exit_seen(pid: int) -> bool:
    """True once the process runs no more, whoever is to reap it; False at once where that cannot be watched."""
    if sys.platform != "linux":
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    return True


async def _reap_group(process: trio.Process, patience: float) -> None:
    """Whoever is left in the group was left by its leader: SIGKILL, also after a leader that went by itself."""
    _signal_group(process, _SIGKILL)
    with trio.move_on_after(patience):
        await process.wait()
        if _signal_group(process, 0):  # death takes a moment; those are reaped by init, which may take its time
            for pid in _members(process.pid):
                await _exit_seen(pid)
        return
    logger.warning("process group %d is still there after SIGKILL; it was left behind", process.pid)


def _members(group: int) -> list[int]:
    members: list[int] = []
    if sys.platform == "linux":
        for name in os.listdir("/proc"):
            with suppress(ValueError, OSError):  # not a process; one that has just gone
                if os.getpgid(int(name)) == group:
                    members.append(int(name))
    return members


def _signal_group(process: trio.Process, number: int) -> bool:
    """Whether there was anybody to signal."""
    if sys.platform == "win32":
        process.kill()
        return False
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # PermissionError: on macOS, a group of zombies
        return False
    return True

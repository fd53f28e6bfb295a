"""A backend that is a child process: the client end of MCP's stdio transport.

Rule: whatever the child does, the caller's side ends in bounded time and nothing of the child is left. The nursery is
opened and left in `stdio_client` alone. MCP 2025-11-25: basic/transports "stdio", basic/lifecycle "shutdown".
Promises F18, F46-F49.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Final

import trio

from mcpactors.errors import BackendStartError
from mcpactors.runtime.watchdog import LOG, MARK
from mcpactors.transports.lines.flood import DROPPED, MANY, Allowance, cost
from mcpactors.transports.lines.stderr import StderrTail, text
from mcpactors.transports.lines.streams import ReadStatistics, StdioLimits, StdioReader, StdioWriter
from mcpactors.transports.owed import Owed
from mcpactors.transports.stdio.looking import Family
from mcpactors.transports.stdio.processes import LEADERS, VARIABLE, new_mark, signal_all

__all__ = [
    "ReadStatistics",
    "StderrTail",
    "StdioLimits",
    "StdioReader",
    "StdioWriter",
    "child_environment",
    "listen_to_stderr",
    "stdio_client",
    "wake_after_last_words",
]

logger = logging.getLogger("mcpactors.stdio")
stderr_logger = logging.getLogger("mcpactors.stderr")
watchdog_logger = logging.getLogger(LOG)

_MARK: Final = MARK.encode()
_CHUNK: Final = 65536  # a pipe holds no more on Linux
_SOON: Final = 0.02
"""Seconds between two reads, at most, of what a child that is being ended says on stderr."""
_SIGKILL: Final = 9  # `signal` has no name for it on Windows

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
    group down, within `limits`, also when cancelled; where the child has hung up before, how it ended is noted on the
    exception (PEP 678). Raises BackendStartError when the command cannot be started.
    """
    mark = new_mark()
    marks = os.environ.get(VARIABLE, "") + mark
    process = await _start(command, args, {**child_environment(os.environ, env), VARIABLE: marks}, cwd)
    LEADERS.add(process.pid)
    stdin, stdout, stderr_pipe = pipes = _pipes(process)
    tail = StderrTail() if stderr is None else stderr
    writer = StdioWriter(limits.outgoing, Owed(limits.requests, limits.request_bytes))
    name = tail.of or command
    reader = StdioReader(name, stdout, writer, limits, tail.dropped)
    heard, ends = trio.Event(), trio.Event()
    kin = Family(process.pid, mark)
    # Nothing waits between the start and the `try`: a cancellation there would leave the child behind.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, stdin, kin.living)  # once stdin is closed, it may go
        nursery.start_soon(listen_to_stderr, stderr_pipe, name, tail, heard, ends)
        nursery.start_soon(_notice_closed_stdin, stdin, writer)
        nursery.start_soon(_notice_exit, process.pid, writer)
        nursery.start_soon(wake_after_last_words, reader)
        ending = None
        try:
            try:
                yield reader, writer
            finally:
                with trio.CancelScope(shield=True):
                    writer.close()
                    ends.set()
                    ending = await _end(process, kin, pipes, limits, heard)
                    LEADERS.discard(process.pid)
                nursery.cancel_scope.cancel()
        except BaseException as error:
            if writer.lost and ending is not None:
                error.add_note(ending)
            raise


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
    if isinstance(error, FileNotFoundError) and " " in command:
        program, *args = command.split()
        return f"cannot start {command!r}: no such command. Give the program, {program!r}, and `args`: {args}."
    if isinstance(error, FileNotFoundError) and os.path.dirname(command):
        path = os.path.normpath(os.path.join(cwd or os.getcwd(), command))
        if os.path.exists(path):
            return f"cannot start {command!r}: its first line names a program that is not there. Correct that line."
        if not os.path.isabs(command):
            return f"cannot start {command!r}: no such command, {path!r} is not there. Correct the path, or set `cwd`."
    if isinstance(error, FileNotFoundError):
        return f"cannot start {command!r}: no such command. Install it, or give its full path or a PATH in `env`."
    if isinstance(error, PermissionError):
        return f"cannot start {command!r}: it may not be executed. Make it executable (chmod +x)."
    return f"cannot start {command!r}: {error}. Try the same command and arguments in a terminal."


async def listen_to_stderr(
    stream: trio.abc.ReceiveStream, name: str, tail: StderrTail, heard: trio.Event, ends: trio.Event
) -> None:
    """Always drained: a child blocked on a full stderr answers nothing. One that floods it waits, as it does that
    floods its stdout: its siblings' time is worth more. Shielded: its last words count most."""
    allowance = Allowance()
    with trio.CancelScope(shield=True), suppress(trio.ClosedResourceError, trio.BrokenResourceError):
        while data := await stream.receive_some(_CHUNK):
            lines = tail.feed(bytes(data))
            _log(name, lines, tail)
            allowance.wait(trio.current_time())  # what has grown by now is spent first
            allowance.spend(cost(len(lines) * DROPPED, len(data)), flood=len(data) if len(lines) >= MANY else 0)
            if (wait := allowance.wait(trio.current_time())) > 0:
                with trio.move_on_after(wait):
                    await ends.wait()
                    await trio.sleep(min(wait, _SOON))
    _log(name, tail.end(), tail)
    heard.set()


def _log(name: str, lines: list[bytes], tail: StderrTail) -> None:
    if tail.isolated and (said := [line for line in lines if line.startswith(_MARK)]):
        told = "\n".join(text(line.removeprefix(_MARK)) for line in said)  # what comes together belongs together
        watchdog_logger.warning("%s, in its own process: %s", name, told)
    if stderr_logger.isEnabledFor(logging.DEBUG):
        for line in lines:
            stderr_logger.debug("%s: %s", name, text(line))


async def _notice_closed_stdin(stdin: trio.abc.SendStream, writer: StdioWriter) -> None:
    """A child that closed its stdin is noticed now and not at the next write, which may never come."""
    if sys.platform != "win32" and isinstance(stdin, trio.lowlevel.FdStream) and stdin.fileno() >= 0:  # -1: closed
        with suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_readable(stdin.fileno())  # our end of a pipe is "readable" only once it broke
            writer.hang_up()


async def _notice_exit(pid: int, writer: StdioWriter) -> None:
    """A child that is gone is noticed though a helper of its own has inherited its pipes, and keeps them open."""
    if await _exit_seen(pid):
        writer.hang_up()


async def wake_after_last_words(reader: StdioReader) -> None:
    """Half a connection is none: a reader that waits for a child which no longer listens is told so."""
    await reader.writer.wait_broken()
    await trio.sleep(reader.limits.last_words)
    await reader.wake()


# --- Its end ------------------------------------------------------------------------------------------------------


async def _end(process: trio.Process, kin: Family, pipes: Pipes, limits: StdioLimits, heard: trio.Event) -> str | None:
    """The ladder; returns how the process ended, where that is known. The writer has been told to look for `kin` and
    to close stdin; call it shielded."""
    by_itself = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_discard, pipes[1])
        try:
            for patience, last_resort in (limits.exit_grace, signal.SIGTERM), (limits.term_grace, _SIGKILL):
                with trio.move_on_after(patience) as waiting:
                    await kin.asked.wait()  # unless it never reads what is still to be written to it
                    waiting.deadline = trio.current_time() + patience  # its time begins with the end of its stdin
                    await _exited(process)
                if not waiting.cancelled_caught:
                    break
                by_itself = False
                await kin.living()
                _signal_group(process, last_resort)
            await _reap(process, kin, limits.kill_grace)
            with trio.move_on_after(limits.last_words):
                await heard.wait()
        finally:
            for pipe in pipes:
                await pipe.aclose()
            nursery.cancel_scope.cancel()
    return _ending(process.returncode) if by_itself else "its process ran on"


def _ending(code: int | None) -> str | None:
    """For people; `code` is negative for a signal, as `subprocess` has it."""
    if code is None or code >= 0:
        return None if code is None else f"its process exited with {code}"
    with suppress(ValueError):  # a signal without a name: SIGRTMIN + 1
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process was ended by signal {-code}"


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


async def _reap(process: trio.Process, kin: Family, patience: float) -> None:
    """Whoever is left of the family: SIGKILL, also after a leader that went by itself. Its number is reaped last."""
    _signal_group(process, _SIGKILL)
    left = await kin.living()  # however long that takes: none of them is left without its signal
    with trio.move_on_after(patience) as waiting:
        while left:
            signal_all(left, _SIGKILL)
            for each in left:
                await _exit_seen(each.pid)
                if each.pid != process.pid:
                    with suppress(ChildProcessError):  # an orphan is somebody's: ours, if we are the subreaper
                        os.waitpid(each.pid, os.WNOHANG)  # noqa: ASYNC222 (it does not wait)
            left = await kin.living()
        await process.wait()
    if waiting.cancelled_caught:
        logger.warning("processes of %d are still there after SIGKILL; they were left behind", process.pid)


def _signal_group(process: trio.Process, number: int) -> None:
    if sys.platform == "win32":
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: on macOS, a group of zombies
        os.killpg(process.pid, number)

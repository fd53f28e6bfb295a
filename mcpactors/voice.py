"""What a program says on stderr, written by a thread of its own: whoever reads it may stop reading, or go.

Rule: saying something never waits and never fails. Above the bound lines are dropped and counted; the count is said as
soon as there is room. (A client that starts us over stdio often reads no stderr at all: 64 KiB later a plain `print`
would stop the loop for good.)
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

__all__ = ["Voice", "say"]

HELD: Final = 1000
"""Lines that wait to be written, at most."""
LAST_WORDS: Final = 1.0
"""Seconds that the end waits for what was said last."""


class Voice(logging.Handler):
    """Writes lines, and records of logging, to a stream that may block or be closed."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(HELD)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="stderr", daemon=True)

    @classmethod
    @contextmanager
    def on_stderr(cls) -> Iterator[Voice]:
        """Have a voice while the block lasts; what was said last is written, if somebody reads it."""
        voice = cls(sys.stderr)
        voice._thread.start()
        _speaking.append(voice)
        try:
            yield voice
        finally:
            _speaking.remove(voice)
            try:
                voice._lines.put(None, timeout=LAST_WORDS)
            except queue.Full:  # nobody reads
                return
            voice._thread.join(LAST_WORDS)

    def say(self, line: str) -> None:
        """One line for people."""
        if self._dropped and not self._lines.full():
            dropped, self._dropped = self._dropped, 0
            self._put(f"({dropped} lines were dropped: stderr was not read)")
        self._put(line)

    def emit(self, record: logging.LogRecord) -> None:
        """One record; see `logging.Handler`."""
        try:
            line = self.format(record)
        except Exception:  # a record that cannot be formatted is a fault of who logs; it must not end what it tells of
            line = f"{record.levelname} {record.name}: {record.msg!r} cannot be formatted"
        self.say(line)

    def _put(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except (OSError, ValueError):  # whoever read it has gone; what is said from now on is for nobody
                pass


_speaking: Final[list[Voice]] = []
"""The voice of this process, where it has one."""


def say(line: str) -> None:
    """One line for people, on stderr: stdout may be the wire."""
    if _speaking:
        _speaking[-1].say(line)
    else:
        print(line, file=sys.stderr, flush=True)

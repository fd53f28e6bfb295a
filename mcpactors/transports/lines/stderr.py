"""What a child process says beside its messages: the last of its stderr, and what of its stdout was none.

Rule: pure, and bounded whatever it says. Promise F6.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from attrs import define, field

from mcpactors.transports.lines.framing import Skip

__all__ = ["StderrTail", "text", "words_of"]

LAST_WORDS: Final = 200
"""Characters of its last line that an error repeats."""


@define(eq=False)
class StderrTail:
    """The last lines that a child wrote on stderr: at most `max_lines`, of `max_bytes` together. Outlives the child.

    With them, how many lines of its stdout were `dropped`, by why: the other things it said that were no message.
    """

    max_lines: int = 200
    max_bytes: int = 65536
    of: str | None = field(default=None, kw_only=True)
    """Whose it is, for the log: half of all servers are called npx. None: its command says it."""
    isolated: bool = field(default=False, kw_only=True)
    """It is one of ours (`isolate="process"`), and has a watchdog."""
    dropped: Counter[Skip] = field(factory=Counter, init=False)
    _lines: deque[bytes] = field(factory=deque, init=False)
    _held: int = field(default=0, init=False)
    _partial: bytearray = field(factory=bytearray, init=False)

    def feed(self, data: bytes) -> list[bytes]:
        """Takes what was read; returns the lines that ended in it."""
        *ended, rest = data.split(b"\n")
        if ended:
            ended[0] = bytes(self._partial) + ended[0]
            self._partial.clear()
        for line in ended[-self.max_lines :]:  # a flood costs no more than what is kept of it
            self._keep(line)
        self._partial += rest
        if len(self._partial) > self.max_bytes:
            del self._partial[: -self.max_bytes]
        self._trim()
        return ended

    def end(self) -> list[bytes]:
        """The child is gone: what it said last is a line too."""
        return self.feed(b"\n") if self._partial else []

    def tail(self) -> list[str]:
        """The lines kept, oldest first; bytes that are not UTF-8 are replaced."""
        unfinished = [bytes(self._partial)] if self._partial else []
        return [text(line) for line in [*self._lines, *unfinished][-self.max_lines :]]

    def last_words(self) -> str | None:
        """What its last line says that says something."""
        return next((said for line in reversed(self.tail()) if (said := words_of(line))), None)

    def _keep(self, line: bytes) -> None:
        line = line[-self.max_bytes :]
        self._lines.append(line)
        self._held += len(line)
        self._trim()

    def _trim(self) -> None:
        room = self.max_bytes - len(self._partial)
        while self._lines and (self._held > room or len(self._lines) > self.max_lines):
            self._held -= len(self._lines.popleft())


def words_of(line: str) -> str:
    """What a line says, in an error: Python prints an exception group behind bars, over dashes."""
    return line.lstrip(" |+-").rstrip()[:LAST_WORDS]


def text(line: bytes) -> str:
    """What a person is shown of bytes that should be UTF-8."""
    return line.decode(errors="replace").removesuffix("\r")

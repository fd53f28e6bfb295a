"""The two streams of a peer at the end of two pipes: messages from it, and (lines/writing.py) messages to it.

Rule: reading has no task and no queue of its own; a line that cannot be read never ends the session, and what the peer
asks takes bounded memory whether or not it reads. Promises F6-F18.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final

import anyio
import trio
from anyio.abc import ObjectReceiveStream
from attrs import define, field, frozen
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import from_json

from mcpactors.runtime.methods import CANCELLED
from mcpactors.transports.lines.flood import (
    DEAR,
    DROPPED,
    FEW,
    LOGS_KEPT,
    LONGEST,
    MANY,
    READ,
    SAID,
    SKIPPED,
    SMALL,
    Allowance,
    Steps,
    cost,
    flood_of,
    parsing,
    size_of,
    thinned,
)
from mcpactors.transports.lines.framing import BOM, WHY, LineFramer, LongLine, Skip, why_not_json
from mcpactors.transports.lines.limits import StdioLimits
from mcpactors.transports.lines.salvage import salvage_id
from mcpactors.transports.lines.shape import misshapen
from mcpactors.transports.lines.strict import fault, long_id
from mcpactors.transports.lines.writing import StdioWriter
from mcpactors.transports.owed import refusal

__all__ = ["ReadStatistics", "StdioLimits", "StdioReader", "StdioWriter"]

logger = logging.getLogger("mcpactors.stdio")

_CHUNK: Final = 65536  # a pipe holds no more on Linux
_LEAST: Final = _CHUNK // 16  # of a peer each of whose reads costs others more than `DEAR`
_JSON: Final = tuple(bytes([first]) for first in b' \t\r{["-0123456789tfnNI')  # how JSON begins; most rubbish does not
_OPENING: Final = (b"{", b" ", b"\t", b"\r", b"[[", b"[{")  # how messages begin, and what nests
_SKIPS: Final = 16  # lines that cannot be read take together no longer than a message
_NO_REQUEST: Final = ("not_jsonrpc", "repeated_key", "ambiguous", "long_id")


@frozen
class ReadStatistics:
    """What came so far: all `lines`, those `skipped` by kind, and the calls failed for one of those."""

    lines: int
    skipped: Mapping[Skip, int]
    salvaged: int
    coalesced: int
    """Lines that others after them made needless (`lines/flood.py`)."""


def _rubbish(line: bytes | LongLine, limits: StdioLimits) -> Skip | None:
    """Why a line is no message, if that shows at its beginning, as with most that was never meant to be one."""
    if isinstance(line, LongLine) or line.startswith(_OPENING) or b'"id"' in line:
        return None
    if line.startswith(_JSON):
        if misshapen(line, limits.depth, limits.parts) is not None:
            return None
        with suppress(ValueError):
            from_json(line)
            return "not_jsonrpc"
    return why_not_json(line)


def _parsed(line: bytes | LongLine, limits: StdioLimits) -> JSONRPCMessage | Skip:
    """The message that a line is, or why it is none."""
    if isinstance(line, LongLine):
        return "too_long"
    if (wrong := misshapen(line, limits.depth, limits.parts)) is not None:
        return wrong
    if not line.startswith(_JSON):
        return why_not_json(line)
    try:  # not `validate_json`, which reads the whole line anew for each kind of message that it may be
        message = jsonrpc_message_adapter.validate_python(from_json(line), by_name=False)
    except ValidationError:
        return "not_jsonrpc"
    except ValueError:
        return why_not_json(line)
    return fault(line) or message


@define(eq=False)
class StdioReader(ObjectReceiveStream[SessionMessage | Exception]):
    """Messages from the peer: the SDK's `ReadStream`, for one reading task. Reads `stdout` itself.

    What it drops it counts in `skipped`. With `serving` the peer is a client: it is told also of what nobody can tell
    the id of, and may close its end of one pipe and still read from the other.
    """

    name: str
    stdout: trio.abc.ReceiveStream
    writer: StdioWriter
    limits: StdioLimits
    skipped: Counter[Skip] = field(factory=Counter)
    serving: bool = False
    _framer: LineFramer = field(init=False)
    _wanted: tuple[type, ...] = field(init=False)  # what may come as often as it likes
    _lines: list[bytes | LongLine] = field(factory=list, init=False)  # the first is the last
    _seen: int = field(default=0, init=False)
    _salvaged: int = field(default=0, init=False)
    _coalesced: int = field(default=0, init=False)
    _allowance: Allowance = field(factory=Allowance)
    _steps: Steps = field(factory=Steps, init=False)
    _many: bool = field(default=False, init=False)  # lines were read at once
    _taken: float = field(default=0.0, init=False)  # what the last read cost others
    _size: int = field(default=_CHUNK, init=False)
    _data: bytes = field(default=b"", init=False)  # what has been read, while that waits
    _afterwards: int = field(default=0, init=False)
    _reading: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._framer = LineFramer(self.limits.line)
        self._wanted = (JSONRPCResponse, JSONRPCError, *([JSONRPCRequest] if self.serving else []))

    def statistics(self) -> ReadStatistics:
        return ReadStatistics(self._seen, MappingProxyType(dict(self.skipped)), self._salvaged, self._coalesced)

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
            elif not self._data and not await self._fill():
                raise anyio.ClosedResourceError if self._closed else anyio.EndOfStream
            elif (wait := self._allowance.wait(trio.current_time())) > 0:
                await trio.sleep(wait)  # and their time
                continue
            else:
                self._split()
            for _ in range(min(len(self._lines), _SKIPS)):
                if (message := self._read(self._lines.pop())) is not None:
                    return SessionMessage(message)

    async def _fill(self) -> bool:
        """Reads once. False when there is nothing more to come."""
        if self._ended:
            await trio.lowlevel.checkpoint()
            return False
        self._size = max(self._size // 2, _LEAST) if self._taken > DEAR else min(self._size * 2, _CHUNK)
        self._taken = 0.0
        self._reading = True
        try:
            self._data = await self._receive_some()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            self._data = b""
        finally:
            self._reading = False
        if not self._data:
            self._end()
            return False
        return True

    def _split(self) -> None:
        data, self._data = self._data, b""
        self._take(self._framer.feed(data))
        if self._framer.unfinished - self.limits.line > self.limits.endless:
            self._end()
            raise anyio.BrokenResourceError(
                f"{self.name!r} wrote {self._framer.unfinished} bytes on stdout without a newline; it was given up. "
                "Messages are one line each: see what this server prints."
            )

    def _spend(self, seconds: float, flood: int = 0) -> None:
        self._taken += self._allowance.spend(seconds, LONGEST * self._size / _CHUNK, flood)

    def _take(self, lines: Sequence[bytes | LongLine]) -> None:
        if (floods := self._allowance.strained) or len(lines) > FEW:
            read = lines
            lines = thinned(read, self._token_of, LOGS_KEPT if floods else math.inf)
            if dropped := len(read) - len(lines):
                self._seen += dropped
                self._coalesced += dropped
                self._spend(READ + dropped * DROPPED, flood_of(read, lines))
        self._many = len(lines) >= MANY
        self._lines = list(reversed(lines))

    async def _receive_some(self) -> bytes:
        if not self.writer.broken:
            return bytes(await self.stdout.receive_some(self._size))
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
        if not self.serving:
            self.writer.hang_up()
        if self._framer.unfinished:
            self._seen += 1
            self._skip("unfinished")

    def _read(self, line: bytes | LongLine) -> JSONRPCMessage | None:
        self._seen += 1
        size = size_of(line)
        if (kind := _rubbish(line, self.limits)) is not None:
            self._complain(kind, None)
            self._spend(cost(SKIPPED, size), size if self._many else 0)
            return None
        read = _parsed(line, self.limits)
        message = self._refuse(read, line) if isinstance(read, str) else self._admit(read, size)
        if isinstance(message, self._wanted):
            return message
        if not self._is_waited_for(message):
            self._spend(cost(SKIPPED if message is None else SAID, size) + parsing(line))
        elif size > SMALL:
            self._spend(cost(parsing(line), size))
        return message

    def _is_waited_for(self, message: JSONRPCMessage | None) -> bool:
        if not isinstance(message, JSONRPCNotification):
            return False
        if message.method != "notifications/progress":
            return self.serving and message.method == CANCELLED  # as often as the client asks
        token = (message.params or {}).get("progressToken")
        return self._steps.is_one(token, self.writer.owed.waiting, trio.current_time())

    def _token_of(self, line: bytes) -> object:
        read = _parsed(line, self.limits)
        return read.params.get("progressToken") if isinstance(read, JSONRPCNotification) and read.params else None

    def _admit(self, message: JSONRPCMessage, size: int) -> JSONRPCMessage | None:
        """What has been read, if it can be taken: who asks too much is refused, replies that nobody waits for end."""
        owed = self.writer.owed
        if isinstance(message, JSONRPCNotification):
            owed.cancelled(message)
        elif isinstance(message, JSONRPCRequest):
            if long_id(message.id, self.limits.id):
                self._complain("long_id", None)
                return None
            if (refused := owed.asked(message.id, size)) is not None:
                self._skip(refused)
                self.writer.offer(refusal(message.id, refused))
                return None
        elif (unwanted := owed.unwanted(message.id)) is not None:
            self._skip(unwanted)
            return None
        return message

    def _refuse(self, kind: Skip, line: bytes | LongLine) -> JSONRPCMessage | None:
        """A line that cannot be read: whoever waits for it is told, at either side, if that can be found out."""
        bare = line.removeprefix(BOM) if isinstance(line, bytes) else line
        found = salvage_id(bare)
        if found is None:
            self._complain(kind, salvage_id(bare, "request"))
            return None
        self._skip(kind)
        self._salvaged += 1
        message = f"The reply of {self.name!r} could not be read: {self._why(kind)}."
        error = JSONRPCError(jsonrpc="2.0", id=found, error=ErrorData(code=PARSE_ERROR, message=message))
        return self._admit(error, 0)

    def _complain(self, kind: Skip, request: int | str | None) -> None:
        """Answer what may have been a request; nothing is said of what was none, unless to a client."""
        self._skip(kind)
        if request is not None or (self.serving and kind not in ("blank", "unfinished")):
            code = INVALID_REQUEST if kind in _NO_REQUEST else PARSE_ERROR
            said = ErrorData(code=code, message=f"The message could not be read: {self._why(kind)}.")
            self.writer.offer(JSONRPCError(jsonrpc="2.0", id=request, error=said))

    def _why(self, kind: Skip) -> str:
        limits = self.limits
        if self.serving and kind == "not_json":
            return "it is not JSON"  # what is said of a program's stdout is nothing to a client
        known: dict[Skip, int] = {"too_deep": limits.depth, "too_many": limits.parts, "too_long": limits.line}
        limit = (known | {"long_id": limits.id}).get(kind)
        return WHY[kind] if limit is None else f"{WHY[kind]} (the limit is {limit})"

    def _skip(self, kind: Skip) -> None:
        self.skipped[kind] += 1
        if self.skipped[kind] == 1:  # once a kind: rubbish comes in floods
            logger.warning("dropped a line from %r: %s; more of the kind are only counted", self.name, self._why(kind))

    async def aclose(self) -> None:
        """Nothing more is received. The pipe stays open, to be drained: its closing could kill a child at work."""
        self._closed = True
        await self.wake()
        await trio.lowlevel.checkpoint()

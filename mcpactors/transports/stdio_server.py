"""Serving one client on this process's own stdin and stdout.

Rule: the SDK's server end does the wire, and keeps stray prints off it. What cannot be written as JSON costs its own
call only: the SDK's writer would end, and with it the whole process. Stdin is read in a thread that nobody waits for,
so that a client which says nothing does not keep us; to stop is to read no further once what it asked is answered.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

import trio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import (
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)
from pydantic_core import PydanticSerializationError

from mcpactors.errors import ActorStopped
from mcpactors.transports.streams import ReadStream, Streams, WriteStream

__all__ = ["serve_stdio"]

logger = logging.getLogger("mcpactors")

CHUNK: Final = 65536
LINE_LIMIT: Final = 16 * 1024 * 1024
TOO_LONG: Final = "a line of more than 16 MiB"


async def serve_stdio(server: Server[Any], stopping: trio.Event | None = None, drain: float = 30.0) -> None:
    """Serve until the client closes our stdin, or until `stopping` is set.

    Then nothing new is begun, and what the client has asked has `drain` seconds to be answered.
    """
    with _own_stdin() as lines:
        given: Any = lines  # the SDK iterates over it, and does nothing else with it
        client: AbstractAsyncContextManager[Streams] = stdio_server(given)
        async with client as (read, write), trio.open_nursery() as nursery:
            desk = _Desk(read, write)
            if stopping is not None:
                nursery.start_soon(desk.drain, stopping, drain, lines)
            await server.run(desk, _Writable(write, desk), server.create_initialization_options())
            nursery.cancel_scope.cancel()


class _Lines:
    """The lines of our stdin, until its end or ours; one that is too long comes as `TOO_LONG`, which is no JSON."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()
        self._searched = 0
        self._skipping = False
        self._ended = False
        self._reading = trio.CancelScope()

    def end(self) -> None:
        """Read no further. The thread that waits for the next line is left behind; it ends with the process."""
        self._ended = True
        self._reading.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while (end := self._pending.find(b"\n", self._searched)) < 0:
            self._searched = len(self._pending)
            if self._searched > LINE_LIMIT:
                self._pending.clear()
                self._searched, self._skipping = 0, True
            if not (chunk := await self._read()):
                raise StopAsyncIteration
            self._pending += chunk
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        self._searched = 0
        whole, self._skipping = not self._skipping, False
        return line.decode(errors="replace") if whole else TOO_LONG

    async def _read(self) -> bytes:
        if not self._ended:
            with trio.CancelScope() as self._reading:
                # by the descriptor: the interpreter cannot end while a thread waits inside of a file object
                return await trio.to_thread.run_sync(os.read, self._descriptor, CHUNK, abandon_on_cancel=True)
        return b""


@contextmanager
def _own_stdin() -> Iterator[_Lines]:
    """Read what is stdin now; meanwhile everybody else finds it empty, as the SDK has it with stdout."""
    wire = os.dup(0)  # never closed: a thread may still wait in it
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        yield _Lines(wire)
    finally:
        os.dup2(wire, 0)


class _Desk:
    """The read stream, with a count of what the client has asked and not been answered."""

    def __init__(self, read: ReadStream[SessionMessage | Exception], write: WriteStream[SessionMessage]) -> None:
        self._read = read
        self._write = write
        self._open: set[tuple[type, object]] = set()
        self._stopping = False
        self._idle = trio.Event()

    @property
    def last_context(self) -> Any:
        """The SDK's dispatcher wants it of its read stream."""
        return getattr(self._read, "last_context", None)

    async def drain(self, stopping: trio.Event, patience: float, lines: _Lines) -> None:
        """Once `stopping` is set, end the reading as soon as nothing is open, or when the patience is over."""
        await stopping.wait()
        self._stopping = True
        with trio.move_on_after(patience):
            while self._open:
                self._idle = trio.Event()
                await self._idle.wait()
        lines.end()

    def answered(self, request_id: object) -> None:
        """This request has its answer, or needs none any more."""
        self._open.discard((type(request_id), request_id))
        if not self._open:
            self._idle.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except (trio.EndOfChannel, StopAsyncIteration):
            raise StopAsyncIteration from None

    async def receive(self) -> SessionMessage | Exception:
        while True:
            item = await anext(aiter(self._read))
            message = item.message if isinstance(item, SessionMessage) else None
            if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
                self.answered((message.params or {}).get("requestId"))
            elif isinstance(message, JSONRPCRequest):
                if self._stopping:
                    await self._turn_away(message)
                    continue
                self._open.add((type(message.id), message.id))
            return item

    async def _turn_away(self, request: JSONRPCRequest) -> None:
        said = ErrorData(code=ActorStopped.code, message="this server is stopping: nothing new is begun")
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._write.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=request.id, error=said)))

    async def aclose(self) -> None:
        await self._read.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _Writable:
    """A write stream that passes on what can be written, and for a result that cannot, an error."""

    def __init__(self, inner: WriteStream[SessionMessage], desk: _Desk) -> None:
        self._inner = inner
        self._desk = desk

    async def send(self, item: SessionMessage) -> None:
        try:
            item.message.model_dump_json(by_alias=True, exclude_unset=True)
        except (PydanticSerializationError, UnicodeError, ValueError) as error:
            logger.warning("a message cannot be written as JSON: %s", error)
            if not isinstance(item.message, JSONRPCResponse):
                return
            said = ErrorData(code=INTERNAL_ERROR, message="the result cannot be written as JSON (no valid Unicode?)")
            item = SessionMessage(JSONRPCError(jsonrpc="2.0", id=item.message.id, error=said))
        await self._inner.send(item)
        if isinstance(item.message, JSONRPCResponse | JSONRPCError):
            self._desk.answered(item.message.id)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

"""One client, or one backend, at the other end of two streams of lines: how it is connected to, how a client is served.

Rule: knows of no descriptors and no sockets; a line is a message, in either direction. What cannot be written as JSON
costs its own call only. To stop is to read no further once what was asked is answered. Promises F6 to F13, P10.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import trio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp.server.lowlevel import Server
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types.jsonrpc import (
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)
from pydantic_core import PydanticSerializationError
from trio.abc import ReceiveStream, SendStream

from mcpactors.errors import ActorStopped
from mcpactors.transports.owed import CANCELLED, Owed
from mcpactors.transports.stdio_streams import StdioLimits, StdioReader, StdioWriter

__all__ = ["close_written", "connected", "serve_duplex"]

logger = logging.getLogger("mcpactors")

_MARK: Final = "\0"


async def serve_duplex(
    server: Server[Any],
    incoming: ReceiveStream,
    outgoing: SendStream,
    limits: StdioLimits,
    stopping: trio.Event | None = None,
    drain: float = 30.0,
    metadata: ServerMessageMetadata | None = None,
) -> None:
    """Serve a client until `incoming` ends, or until `stopping` is set; closes both streams.

    Then nothing new is begun, and what the client has asked has `drain` seconds to be answered. `metadata` goes with
    every message: what the SDK's server may know of the connection.
    """
    options = server.create_initialization_options()
    async with connected("the client", incoming, outgoing, limits, serving=True) as (reader, writer):
        async with trio.open_nursery() as nursery:
            desk = Desk(reader, writer, metadata)
            if stopping is not None:
                nursery.start_soon(desk.drain, stopping, drain)
            await server.run(desk, Counter(desk), options)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(
    name: str, incoming: ReceiveStream, outgoing: SendStream, limits: StdioLimits, *, serving: bool
) -> AsyncIterator[tuple[StdioReader, StdioWriter]]:
    """Messages on two streams of lines, which are closed afterwards. What was accepted is written, in bounded time."""
    writer = StdioWriter(limits.outgoing, Owed(limits.requests, limits.request_bytes))
    reader = StdioReader(name, incoming, writer, limits, serving=serving)
    written = trio.Event()

    async def write() -> None:
        await writer.run(outgoing)
        written.set()
        await reader.wake()  # a peer that takes nothing has gone

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        try:
            yield reader, writer
        finally:
            await close_written(writer, written, outgoing, incoming, limits.exit_grace)
            nursery.cancel_scope.cancel()


async def close_written(
    writer: StdioWriter, written: trio.Event, outgoing: SendStream, incoming: ReceiveStream, patience: float
) -> None:
    """Close both streams once what was accepted is `written`, or after `patience` seconds; also when cancelled."""
    with trio.CancelScope(shield=True):
        writer.close()
        with trio.move_on_after(patience):
            await written.wait()
        await outgoing.aclose()
        await incoming.aclose()


class Desk(ObjectReceiveStream[SessionMessage | Exception]):
    """The read stream: takes what the client asks, and turns it away once this process is stopping."""

    def __init__(self, reader: StdioReader, writer: StdioWriter, metadata: ServerMessageMetadata | None) -> None:
        self._reader = reader
        self._metadata = metadata
        self.writer = writer
        self._stopping = False
        self._idle = trio.Event()

    async def drain(self, stopping: trio.Event, patience: float) -> None:
        """Once `stopping` is set, end the reading as soon as nothing is open, or when the patience is over."""
        await stopping.wait()
        self._stopping = True
        with trio.move_on_after(patience):
            while self.writer.owed.open:
                self._idle = trio.Event()
                await self._idle.wait()
        await self._reader.aclose()

    def look(self) -> None:
        """Something has been answered, or needs no answer any more."""
        if not self.writer.owed.open:
            self._idle.set()

    async def receive(self) -> SessionMessage | Exception:
        while True:
            try:
                item = await self._reader.receive()
            except anyio.BrokenResourceError as error:
                logger.error("%s", error)
                raise anyio.EndOfStream from None
            assert isinstance(item, SessionMessage)
            self.look()
            if not (self._stopping and isinstance(item.message, JSONRPCRequest)):
                return SessionMessage(_apart(item.message), self._metadata)
            said = ErrorData(code=ActorStopped.code, message="this server is stopping: nothing new is begun")
            await self.writer.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=item.message.id, error=said)))

    async def aclose(self) -> None:
        await self._reader.aclose()


class Counter(ObjectSendStream[SessionMessage]):
    """The write stream: passes on what can be written, and for a result that cannot, an error."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def send(self, item: SessionMessage) -> None:
        message = _as_given(item.message)
        try:
            await self._desk.writer.send(SessionMessage(message))
        except (PydanticSerializationError, UnicodeError, ValueError) as error:
            logger.warning("a message cannot be written as JSON: %s", error)
            if isinstance(message, JSONRPCResponse):
                said = "the result cannot be written as JSON (no valid Unicode?)"
                failed = ErrorData(code=INTERNAL_ERROR, message=said)
                failure = JSONRPCError(jsonrpc="2.0", id=message.id, error=failed)
                await self._desk.writer.send(SessionMessage(failure))
        self._desk.look()

    async def aclose(self) -> None:
        await self._desk.writer.aclose()


# --- Ids: the SDK's dispatcher takes "1" for 1, and a client may use both at once -----------------------------------


def _apart(message: JSONRPCMessage) -> JSONRPCMessage:
    """With an id that the dispatcher cannot take for another one."""
    if isinstance(message, JSONRPCRequest) and (marked := _marked(message.id)) is not message.id:
        return message.model_copy(update={"id": marked})
    if isinstance(message, JSONRPCNotification) and message.method == CANCELLED and message.params:
        given_up = message.params.get("requestId")
        return message.model_copy(update={"params": {**message.params, "requestId": _marked(given_up)}})
    return message


def _as_given(message: JSONRPCMessage) -> JSONRPCMessage:
    """With the id that the client has given, where its own stands."""
    if isinstance(message, JSONRPCResponse | JSONRPCError) and (given := _unmarked(message.id)) is not message.id:
        return message.model_copy(update={"id": given})
    if isinstance(message, JSONRPCNotification) and message.params:
        meta = message.params.get("_meta")
        if isinstance(meta, dict) and (own := meta.get(SUBSCRIPTION_ID_META_KEY)) is not None:
            meta = {**meta, SUBSCRIPTION_ID_META_KEY: _unmarked(own)}
            return message.model_copy(update={"params": {**message.params, "_meta": meta}})
    return message


def _marked(identity: Any) -> Any:
    if not isinstance(identity, str) or not (isinstance(coerce_request_id(identity), int) or identity[:1] == _MARK):
        return identity
    return _MARK + identity


def _unmarked(identity: Any) -> Any:
    return identity[1:] if isinstance(identity, str) and identity[:1] == _MARK else identity

"""An HTTP backend for who wants two streams of messages, as `Client(url)` and the SDK's sessions do.

Rule: the wire is that of the backends (`http_client/either.py`); here a message becomes a call of it, and what it
says becomes a message. Each request is a task, which asks; each question of the server waits here for the message that
answers it. No more is held than is read: who reads the server's streams waits for who reads these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import anyio
import trio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from attrs import define, field
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import RequestId
from mcp_types.jsonrpc import (
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from mcpactors.errors import BackendStartError
from mcpactors.runtime.methods import CANCELLED
from mcpactors.transports.answering import Message, Questions
from mcpactors.transports.http_client.client import Turn
from mcpactors.transports.http_client.either import EitherDispatcher
from mcpactors.transports.streams import Streams

__all__ = ["http_client"]

HELD: Final = 64
"""Messages that wait to be read before the server's streams are not read on."""
MOST: Final = 4096
"""Notifications that are held, whatever comes: SSE has one stream for all, which is read on for the answers in it."""

Opened = AbstractAsyncContextManager[EitherDispatcher]


@asynccontextmanager
async def http_client(open_wire: Callable[[Turn], Opened]) -> AsyncIterator[Streams]:
    """The streams from and to a server; a nursery block. `open_wire` is told what to await between reads of a stream.

    A request that fails is answered with an error, and the next one is sent all the same.
    """
    arrivals = _Arrivals()
    async with open_wire(arrivals.turn) as wire, trio.open_nursery() as nursery:
        outgoing = _Outgoing(wire, arrivals, nursery)
        await nursery.start(outgoing.listen)
        yield arrivals, outgoing
        nursery.cancel_scope.cancel()


@define(eq=False)
class _Arrivals(ObjectReceiveStream[SessionMessage | Exception]):
    """The SDK's `ReadStream`, for one reading task."""

    _held: deque[SessionMessage] = field(factory=deque, init=False)
    _reader: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _writers: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _ended: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)

    async def turn(self) -> None:
        """Wait until what has come is being read."""
        await trio.lowlevel.checkpoint()
        while len(self._held) >= HELD and not self._closed:
            await self._writers.park()

    def put(self, message: JSONRPCMessage) -> None:
        if not self._closed and (len(self._held) < MOST or not isinstance(message, JSONRPCNotification)):
            self._held.append(SessionMessage(message))
            self._reader.unpark()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._reader.unpark_all()

    async def receive(self) -> SessionMessage | Exception:
        await trio.lowlevel.checkpoint()
        while not self._held:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._ended:
                raise anyio.EndOfStream
            await self._reader.park()
        message = self._held.popleft()
        if len(self._held) < HELD:
            self._writers.unpark_all()
        return message

    async def aclose(self) -> None:
        self._closed = True
        self._held.clear()
        self._reader.unpark_all()
        self._writers.unpark_all()
        await trio.lowlevel.checkpoint()


@define(eq=False)
class _Outgoing(ObjectSendStream[SessionMessage]):
    """The SDK's `WriteStream`."""

    _wire: EitherDispatcher
    _arrivals: _Arrivals
    _nursery: trio.Nursery
    _asking: dict[RequestId, trio.CancelScope] = field(factory=dict, init=False)
    _questions: Questions = field(factory=Questions, init=False)
    _closed: bool = field(default=False, init=False)

    async def listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        """What the server says by itself, until the connection is lost."""
        try:
            await self._wire.run(self._ask_client, self._tell_client, task_status=task_status)
        except BackendStartError:
            self._arrivals.end()

    async def send(self, item: SessionMessage) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise anyio.ClosedResourceError
        message = item.message
        headers = item.metadata.headers if isinstance(item.metadata, ClientMessageMetadata) else None
        if isinstance(message, JSONRPCRequest):
            scope = self._asking[message.id] = trio.CancelScope()  # it may be given up before its task begins
            self._nursery.start_soon(self._ask_server, message, headers or {}, scope)
        elif isinstance(message, JSONRPCNotification):
            await self._tell_server(message, headers or {})
        else:
            self._questions.take(message)

    async def aclose(self) -> None:
        self._closed = True
        await trio.lowlevel.checkpoint()

    # --- To the server --------------------------------------------------------------------------------------------

    async def _ask_server(self, request: JSONRPCRequest, headers: dict[str, str], scope: trio.CancelScope) -> None:
        said: JSONRPCResponse | JSONRPCError
        try:
            with scope:
                try:
                    result = await self._wire.send_raw_request(
                        request.method,
                        request.params,
                        {
                            "request_id": request.id,
                            "headers": headers,
                            "cancel_on_abandon": request.method != "initialize",
                        },
                    )
                    said = JSONRPCResponse(jsonrpc="2.0", id=request.id, result=result)
                except MCPError as error:
                    said = JSONRPCError(jsonrpc="2.0", id=request.id, error=error.error)
                self._arrivals.put(said)
        finally:
            if self._asking.get(request.id) is scope:
                del self._asking[request.id]

    async def _tell_server(self, message: JSONRPCNotification, headers: dict[str, str]) -> None:
        if message.method == CANCELLED:
            given_up = cancelled_request_id_from_params(message.params)
            if given_up is not None and given_up in self._asking:
                self._asking[given_up].cancel()  # the wire tells the server, in the way of its era
            return
        await self._wire.notify(message.method, message.params, {"headers": headers})

    # --- From the server ------------------------------------------------------------------------------------------

    def _tell_client(self, method: str, params: Mapping[str, Any] | None) -> bool:
        if method != CANCELLED:  # it names a question by the server's id for it; it is withdrawn by ours
            said = None if params is None else dict(params)
            self._arrivals.put(JSONRPCNotification(jsonrpc="2.0", method=method, params=said))
        return True

    async def _ask_client(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        async def say(said: Message) -> None:
            self._arrivals.put((JSONRPCRequest if "id" in said else JSONRPCNotification)(**said))

        return await self._questions.ask(method, params, say)

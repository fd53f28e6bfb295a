"""The actor that runs an SDK server of this process, in a lifespan of its own.

Rule: the server is called through the SDK's own `serve_one`, so schemas, validation, `Context` and middleware are the
SDK's; what the server sends while it works goes to the reply channel of the call (design.md section 6). The SDK's
provisional surfaces `serve_one`, `Connection` and `DispatchContext` are used in this file only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import anyio
import trio
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp.shared.message import MessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.version import LATEST_MODERN_VERSION
from pydantic import ValidationError

from mcpactors.actors.paging import read_all
from mcpactors.runtime.actor import Actor, Caller, Request
from mcpactors.runtime.methods import CATALOG
from mcpactors.runtime.reply import PROGRESS, Failure, Outcome, ReplyChannel, Result
from mcpactors.runtime.routing import Listing

__all__ = ["LocalActor"]

_ASKS: Final = TransportContext(kind="mcpactors", can_send_request=True)
_CANNOT_ASK: Final = TransportContext(kind="mcpactors", can_send_request=False)
_OWN_ENVELOPE: Final = {PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION, CLIENT_CAPABILITIES_META_KEY: {}}
_request_ids = count(1)


class _CallContext:
    """The SDK's `DispatchContext` (and `Outbound`) for one call: everything the server sends goes to the reply."""

    __slots__ = ("_cancel_requested", "_reply", "message_metadata", "request_id", "transport")

    def __init__(self, reply: ReplyChannel, caller: Caller) -> None:
        self._reply = reply
        self._cancel_requested: anyio.Event | None = None
        self.request_id = next(_request_ids)
        self.transport = _ASKS if caller.can_be_asked else _CANNOT_ASK
        self.message_metadata: MessageMetadata = None

    @property
    def can_send_request(self) -> bool:
        return self.transport.can_send_request and not self._reply.finished

    @property
    def cancel_requested(self) -> anyio.Event:
        """Never set: a caller that leaves cancels the task itself."""
        if self._cancel_requested is None:
            self._cancel_requested = anyio.Event()
        return self._cancel_requested

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if not self.can_send_request:
            raise NoBackChannelError(method)
        outcome = await self._reply.question(method, params)
        if isinstance(outcome, Failure):
            raise MCPError(outcome.code, outcome.message, outcome.data)
        return dict(outcome.value)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        self._reply.notice(method, params or {})
        await trio.lowlevel.checkpoint()  # so that whoever reads gets its turn

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        said: dict[str, Any] = {"progress": progress}
        if total is not None:
            said["total"] = total
        if message is not None:
            said["message"] = message
        await self.notify(PROGRESS, said)


class LocalActor(Actor):
    """Runs one low-level SDK server: its lifespan is the actor's, every request is served in a task of its own."""

    kind = "local"

    def __init__(self, server: Server[Any]) -> None:
        self._server = server
        self._state: Any = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with self._server.lifespan(self._server) as self._state:
            yield

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome:
        try:
            if request.method == CATALOG:
                return Result({"listing": await self._listing(request, reply)})
            return Result(await self._serve(request.method, request.params, request.caller, reply))
        except (MCPError, ValidationError) as error:
            said = handler_exception_to_error_data(error)
            assert said is not None
            return Failure(said.code, said.message, said.data)

    async def _serve(
        self, method: str, params: Mapping[str, Any], caller: Caller, reply: ReplyChannel
    ) -> dict[str, Any]:
        context = _CallContext(reply, caller)
        connection = Connection.from_envelope(caller.revision, caller.info, caller.capabilities, outbound=context)
        return await serve_one(self._server, context, method, params, connection=connection, lifespan_state=self._state)

    async def _listing(self, request: Request, reply: ReplyChannel) -> Listing:
        """Ask the server what it has now: a plain SDK server does not say when that changes."""

        async def page(method: str, params: dict[str, Any]) -> Mapping[str, Any] | None:
            try:
                return await self._serve(method, {**params, "_meta": _OWN_ENVELOPE}, Caller(), reply)
            except MCPError as error:
                if error.code == METHOD_NOT_FOUND:
                    return None
                raise

        items, _ = await read_all(request.params["kind"], page)
        return Listing(items, fresh=False, learnt_at=trio.current_time())

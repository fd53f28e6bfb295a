"""The wire to an HTTP backend of which nobody has said whether it is streamable HTTP or the older HTTP+SSE.

Rule: found out as the spec says (2025-11-25, basic/transports "Backwards Compatibility"): where an `initialize` that is
posted is answered with HTTP 400, 404 or 405 and no JSON-RPC, the same URL is asked for an event stream, whose first
event says where to post. What was found holds for this connection.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context
from functools import partial
from typing import Any, Final

import anyio
import trio
from attrs import define, field
from mcp.shared.dispatcher import CallOptions, DispatchContext, OnNotifyIntercept
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext

from mcpactors.errors import BackendStartError
from mcpactors.runtime.policy import DEFAULT_BACKEND, BackendLimits
from mcpactors.transports.http_client.client import HTTPDispatcher, Turn, http_dispatcher
from mcpactors.transports.http_client.heard import OnRequest
from mcpactors.transports.http_client.sse import sse_client
from mcpactors.transports.lines.flood import Allowance
from mcpactors.transports.streams import Streams

__all__ = ["EitherDispatcher", "either_dispatcher"]

logger = logging.getLogger("mcpactors")

OLD_TIMEOUT: Final = 5.0
"""Seconds for a server of the old transport to say where to post, within the time of the handshake."""
NOT_STREAMABLE: Final = (400, 404, 405)


@asynccontextmanager
async def either_dispatcher(
    url: str,
    headers: Mapping[str, str] | None = None,
    client: Any = None,
    *,
    ssl_context: ssl.SSLContext | None = None,
    steadfast: bool = False,
    turn: Turn | None = None,
    taken: BackendLimits = DEFAULT_BACKEND,
    allowance: Allowance | None = None,
) -> AsyncIterator[EitherDispatcher]:
    """As `http_dispatcher`, for a URL that may be that of an HTTP+SSE stream."""
    both: Any = {"ssl_context": ssl_context, "taken": taken, "allowance": allowance}
    old = partial(sse_client, url, headers, client, connect_timeout=OLD_TIMEOUT, **both)
    async with http_dispatcher(url, headers, client, steadfast=steadfast, turn=turn, **both) as http:
        yield EitherDispatcher(http, old)


@define(eq=False)
class EitherDispatcher:
    """Streamable HTTP until an `initialize` shows that it is not that."""

    _http: HTTPDispatcher
    _open_old: Callable[[], AbstractAsyncContextManager[Streams]]
    _ended: bool = field(default=False, init=False)
    _sse: JSONRPCDispatcher[TransportContext] | None = field(default=None, init=False)
    _nursery: trio.Nursery | None = field(default=None, init=False)
    _on: tuple[OnRequest, OnNotifyIntercept] | None = field(default=None, init=False)
    _lost: BackendStartError | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """What the backend is called in errors."""
        return self._http.name

    @name.setter
    def name(self, name: str) -> None:
        self._http.name = name

    @property
    def renews(self) -> bool:
        """Whether a session that the backend has forgotten can be begun anew here."""
        return self._sse is None

    @property
    def gone(self) -> bool:
        """Whether the connection has ended, so that nothing can be sent any more."""
        return self._ended or (self._http.gone if self._sse is None else self._sse._closed)

    @property
    def sender(self) -> Context | None:
        """The context of the call on whose stream the last message came; over SSE there is one stream for all."""
        return self._http.sender if self._sse is None else None

    async def run(
        self,
        on_request: OnRequest,
        on_notification: OnNotifyIntercept,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until the backend is lost. Raises `BackendStartError` then."""
        self._on = (on_request, on_notification)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self._speak_http)
                task_status.started()
        finally:
            self._ended, self._nursery = True, None
        raise self._lost or BackendStartError(f"{self.name} closed the connection")

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """One request; its result as it came. Raises `MCPError`."""
        if self._sse is None:
            try:
                return await self._http.send_raw_request(method, params, opts)
            except MCPError as error:
                if method != "initialize" or not _is_refusal(error):
                    raise
                if not await self._turn():
                    raise
        assert self._sse is not None
        return await self._sse.send_raw_request(method, params, opts)

    async def notify(
        self, method: str, params: Mapping[str, Any] | None = None, opts: CallOptions | None = None
    ) -> None:
        """One notification."""
        await (self._http if self._sse is None else self._sse).notify(method, params, opts)

    def forget_session(self) -> None:
        """The backend has forgotten the session; the next `initialize` begins another."""
        self._http.forget_session()

    async def _turn(self) -> bool:
        """Whether the backend is of the old transport; then that is spoken from now on."""
        assert self._nursery is not None
        try:
            await self._nursery.start(self._speak_sse)
        except* BackendStartError as group:
            logger.debug("%s is no server of the old transport either: %s", self.name, group.exceptions)
        return self._sse is not None

    async def _speak_http(self, *, task_status: trio.TaskStatus[None]) -> None:
        assert self._on is not None and self._nursery is not None
        try:
            await self._http.run(*self._on, task_status=task_status)
        except BackendStartError as error:
            self._lost = error
        if self._sse is None:
            self._nursery.cancel_scope.cancel()

    async def _speak_sse(self, *, task_status: trio.TaskStatus[None]) -> None:
        assert self._on is not None and self._nursery is not None
        on_request, on_notification = self._on

        async def asked(
            context: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
        ) -> dict[str, Any]:
            return await on_request(method, params)

        try:
            async with self._open_old() as (read, write):
                self._sse = JSONRPCDispatcher(read, write)
                await self._sse.run(asked, _ignore, on_notification, task_status=task_status)
        except* anyio.BrokenResourceError as group:
            self._lost = BackendStartError(str(_first(group)))
        self._nursery.cancel_scope.cancel()


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _is_refusal(error: MCPError) -> bool:
    """Whether HTTP said it, and no JSON-RPC."""
    return isinstance(error.data, Mapping) and error.data.get("status") in NOT_STREAMABLE


async def _ignore(context: object, method: str, params: object) -> None:
    """Notifications are taken by the intercept, in order; none is left for the dispatcher."""

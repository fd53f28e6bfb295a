"""What one connection of ours to a backend speaks: its era found by asking, and requests with what that era wants.

Rule: nothing of calls or clients here. Private names of the SDK's dispatcher are used in this file only: the public
ones say nothing of a reply that comes too late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, Protocol

import anyio
import trio
from mcp.shared.dispatcher import CallOptions, DispatchContext, OnNotifyIntercept, coerce_request_id
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    INVALID_REQUEST,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    ErrorData,
    RequestId,
)
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)

from mcpactors.actors.backend import OUR_INFO, Introduction, mapping
from mcpactors.errors import CONNECTION_CLOSED, BackendStartError, SessionForgotten, SessionInDoubt
from mcpactors.runtime.circles import ASKING
from mcpactors.runtime.methods import CANCELLED
from mcpactors.runtime.policy import Era

__all__ = ["Dispatcher", "OverStreams", "StreamWire", "envelope", "mirrored_arguments", "says_closed"]

PROBE_TIMEOUT: Final = 5.0
"""Seconds a backend may take to say whether it speaks the modern protocol, before the old one is tried."""
HANDSHAKE_TIMEOUT: Final = 15.0
DOUBT_TIMEOUT: Final = 5.0
"""Seconds a backend may take to say that it still knows the session."""
CLOSED: Final = (CONNECTION_CLOSED, "Connection closed")
"""What the SDK's dispatcher says to whoever waits when the connection ends; a backend may say so, too."""
FORGOTTEN: Final = (INVALID_REQUEST, "Session terminated")
"""What the SDK's HTTP client makes of a 404 on a session; a backend may say so, too."""


def envelope(capabilities: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `_meta` that every modern request carries (MCP 2026-07-28, basic/index)."""
    return {
        PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
        CLIENT_INFO_META_KEY: dict(info or OUR_INFO),
        CLIENT_CAPABILITIES_META_KEY: dict(capabilities),
    }


def says_closed(error: MCPError, gone: bool) -> bool:
    """Whether an error is the end of the connection, or could not be written for it, and not a backend's own words."""
    unwritten = isinstance(error.__context__, anyio.BrokenResourceError | anyio.ClosedResourceError)
    return (error.code, error.message) == CLOSED and (gone or unwritten)


OnRequest = Callable[[str, Mapping[str, Any] | None], Awaitable[dict[str, Any]]]
"""Answers a request of the backend: method and params. Raises `MCPError`."""
Admit = Callable[[Mapping[str, Any]], object]
"""Raises `BackendStartError` when what the backend says of itself is why it cannot be one."""


class Dispatcher(Protocol):
    """What carries requests to a backend and its messages here: the SDK's `Dispatcher`, and what we want besides."""

    name: str
    """What the backend is called in errors."""

    @property
    def renews(self) -> bool:
        """Whether a session that the backend has forgotten can be begun anew on it."""
        ...

    @property
    def gone(self) -> bool:
        """Whether the connection has ended, so that nothing can be sent any more."""
        ...

    @property
    def sender(self) -> Context | None:
        """The context of the request on whose stream the last message came; None where there is no such thing."""
        ...

    async def run(
        self, on_request: OnRequest, on_notification: OnNotifyIntercept, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Until the connection ends; notifications are taken in their order."""
        ...

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]: ...

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None: ...

    def forget_session(self) -> None:
        """The next `initialize` begins another."""
        ...


class _Telling(JSONRPCDispatcher[TransportContext]):
    """The SDK's dispatcher; tells which requests are given up, and which replies come."""

    gave_up: Callable[[RequestId], None]
    replied: Callable[[RequestId], None]

    async def notify(self, method: str, params: Mapping[str, Any] | None, *more: Any, **options: Any) -> None:
        if method == CANCELLED and params is not None:
            self.gave_up(params["requestId"])
        await super().notify(method, params, *more, **options)

    def _resolve_pending(self, request_id: RequestId | None, outcome: dict[str, Any] | ErrorData) -> None:
        super()._resolve_pending(request_id, outcome)
        if request_id is not None:
            self.replied(coerce_request_id(request_id))


class OverStreams:
    """A `Dispatcher` over two streams of messages: the SDK's.

    `gave_up` is called in the task of a request that is given up, before the peer is told; `replied` at each reply,
    with the id of its request.
    """

    renews: bool = False

    def __init__(
        self, read: Any, write: Any, gave_up: Callable[[RequestId], None], replied: Callable[[RequestId], None]
    ) -> None:
        self.name = ""
        self._read = read
        self._dispatcher = _Telling(read, write)
        self._dispatcher.gave_up, self._dispatcher.replied = gave_up, replied
        if (owed := getattr(write, "owed", None)) is not None:
            owed.late = replied  # those do not come to the dispatcher
        self.send_raw_request = self._dispatcher.send_raw_request
        self.notify = self._dispatcher.notify

    @property
    def gone(self) -> bool:
        return self._dispatcher._closed

    @property
    def sender(self) -> Context | None:
        context: Context | None = getattr(self._read, "last_context", None)
        return context

    async def run(
        self, on_request: OnRequest, on_notification: OnNotifyIntercept, *, task_status: trio.TaskStatus[None]
    ) -> None:
        async def asked(
            context: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
        ) -> dict[str, Any]:
            return await on_request(method, params)

        await self._dispatcher.run(asked, _ignore, on_notification, task_status=task_status)

    def forget_session(self) -> None:
        """It has none of its own."""


class StreamWire:
    """A connection of ours."""

    tells: bool = True
    """Whether what the backend says by itself comes to us."""
    modern: bool = True
    revision: str = LATEST_MODERN_VERSION
    server: Mapping[str, Any] = {}
    """What the backend said of itself: its `server/discover` or `initialize` result."""

    def __init__(self, name: str, dispatcher: Dispatcher, schema_of: Callable[[str], Any], admit: Admit) -> None:
        self._name = dispatcher.name = name
        self._admit = admit
        self._schema_of = schema_of
        self._mirrored: dict[str, tuple[Any, Mapping[tuple[str, ...], str]]] = {}
        self._dispatcher = dispatcher
        self._scope = trio.CancelScope()
        self._why = f"{name} closed the connection"
        self._lost = False
        self._hello: Mapping[str, Any] = {}
        self._session = 0  # how often one was begun anew
        self._renewing: trio.Event | None = None
        self.renewed: Callable[[], None] = lambda: None
        """Called when a session that the backend had forgotten was begun anew: it knows nothing of what it was told."""

    @property
    def gone(self) -> bool:
        """Whether the connection has ended: who calls now comes too late for this life."""
        return self._dispatcher.gone

    @property
    def sender(self) -> Context | None:
        """The context of the request on whose stream the last message came; None where the wire has no such thing."""
        return self._dispatcher.sender

    async def run(
        self,
        on_request: OnRequest,
        on_notification: OnNotifyIntercept,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Read until the connection ends; raises `BackendStartError` then."""
        try:
            with self._scope:
                await self._dispatcher.run(on_request, on_notification, task_status=task_status)
        finally:
            self._lost = True
        raise BackendStartError(self._why)

    def end(self, why: str) -> None:
        """Give the connection up."""
        self._why = why
        self._scope.cancel()

    async def negotiate(
        self, introduction: Introduction, capabilities: Mapping[str, Any], expects_legacy: bool, era: Era
    ) -> None:
        """Find out which era the backend speaks: by `server/discover`, then by the handshake; by one, if told which.

        A backend that refuses the handshake as too old has locked itself to the modern era (its answer to the probe
        came too late): it is asked once more. Raises `BackendStartError`.
        """
        if era == "modern":
            if (why := await self._probe(HANDSHAKE_TIMEOUT)) is not None:
                raise BackendStartError(f'{self._name} does not speak the modern era, as its "era" wants it to: {why}')
            return
        if era == "auto" and not expects_legacy and await self._probe() is None:
            return
        self._hello = {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": dict(capabilities),
            "clientInfo": dict(introduction.info),
            "_meta": dict(ASKING),
        }
        try:
            await self._shake_hands()
        except MCPError as error:
            if era == "auto" and error.code == UNSUPPORTED_PROTOCOL_VERSION and await self._probe() is None:
                return
            wanted = ', which its "era" wants' if era == "legacy" else ""
            raise BackendStartError(f"{self._name} does not answer the handshake{wanted}: {error.message}") from error

    async def _shake_hands(self) -> None:
        said = await self._dispatcher.send_raw_request(
            "initialize", self._hello, {"timeout": HANDSHAKE_TIMEOUT, "cancel_on_abandon": False}
        )
        revision = said.get("protocolVersion", "")
        if revision not in HANDSHAKE_PROTOCOL_VERSIONS:
            raise BackendStartError(f"{self._name} speaks protocol {revision!r}, which is not one we know")
        self._admit(said)
        self.server, self.modern, self.revision = said, False, revision
        await self.notify("notifications/initialized")

    async def _probe(self, within: float = PROBE_TIMEOUT, again: bool = True) -> str | None:
        """Why the backend does not speak the modern era, None if it does: it is asked, once more where it refuses and
        names our version of it."""
        try:
            found = await self.send(
                "server/discover", {"_meta": envelope({}) | ASKING}, {"timeout": within, "cancel_on_abandon": False}
            )
        except MCPError as error:
            if self._lost:
                raise BackendStartError(f"{self._name} closed the connection when it was asked who it is") from error
            if error.code == BackendStartError.code and mapping(error.data).get("actor") == self._name:
                raise BackendStartError(error.message) from error  # nobody is there
            supported = mapping(error.data).get("supported") if error.code == UNSUPPORTED_PROTOCOL_VERSION else None
            named = isinstance(supported, list) and LATEST_MODERN_VERSION in supported
            return await self._probe(within, again=False) if named and again else error.message
        versions = found.get("supportedVersions")
        if not isinstance(versions, list) or not any(version in versions for version in MODERN_PROTOCOL_VERSIONS):
            return f"its versions are {versions!s:.80}"
        self._admit(found)
        self.server = found
        return None

    async def send(self, method: str, params: Mapping[str, Any], opts: CallOptions | None = None) -> dict[str, Any]:
        """One request to the backend, with the headers that its era wants over HTTP. Raises `MCPError`."""
        while self._renewing is not None:
            await self._renewing.wait()
        headers = {MCP_PROTOCOL_VERSION_HEADER: self.revision}
        if self.modern:
            headers[MCP_METHOD_HEADER] = method
            key = NAME_BEARING_METHODS.get(method)
            if key is not None and isinstance(name := params.get(key), str):
                headers[MCP_NAME_HEADER] = encode_header_value(name)
                if method == "tools/call":
                    headers.update(self._param_headers(name, params.get("arguments") or {}))
        options: CallOptions = {**(opts or {}), "headers": headers}
        session = self._session
        try:
            return await self._dispatcher.send_raw_request(method, params, options)
        except MCPError as error:
            if not isinstance(error, SessionForgotten):
                if self._doubtful(error):
                    await self._settle_doubt(session)
                raise
        await self._renew(session)
        headers[MCP_PROTOCOL_VERSION_HEADER] = self.revision
        return await self._dispatcher.send_raw_request(method, params, options)  # it was not carried out

    def _doubtful(self, error: MCPError) -> bool:
        """Whether an error may say that the session is forgotten, and may be about what was asked."""
        if self._dispatcher.renews:
            return isinstance(error, SessionInDoubt)
        return not self.modern and (error.code, error.message) == FORGOTTEN

    async def _settle_doubt(self, session: int) -> None:
        """Ask for a `ping`: who answers it knows the session. What was asked before is not sent again either way."""
        if self._session != session or self._renewing is not None:
            return
        headers = {MCP_PROTOCOL_VERSION_HEADER: self.revision}
        try:
            await self._dispatcher.send_raw_request("ping", {}, {"timeout": DOUBT_TIMEOUT, "headers": headers})
        except MCPError as error:
            if not isinstance(error, SessionForgotten) and not self._doubtful(error):
                return
            if self._dispatcher.renews:
                with suppress(BackendStartError):  # the call's own error says more
                    await self._renew(session)
            else:
                self.end(f"{self._name} has forgotten the session")

    async def _renew(self, forgotten: int) -> None:
        """Begin the session anew, once however many find that it is forgotten. Raises `BackendStartError`."""
        while self._renewing is not None:
            await self._renewing.wait()
        if self._session != forgotten:
            return
        self._renewing = trio.Event()
        try:
            self._dispatcher.forget_session()
            await self._shake_hands()
            self._session += 1
            self.renewed()
        except (MCPError, BackendStartError) as error:
            why = f"{self._name} has forgotten the session and begins no other: {error.message}"
            self.end(why)
            raise BackendStartError(why) from error
        finally:
            self._renewing.set()
            self._renewing = None

    def _param_headers(self, name: str, arguments: Mapping[str, Any]) -> dict[str, str]:
        schema = self._schema_of(name)
        known = self._mirrored.get(name)
        if known is None or known[0] is not schema:
            known = self._mirrored[name] = (schema, mirrored_arguments(schema))
        return mcp_param_headers(known[1], arguments) if known[1] else {}

    def lost(self, error: MCPError) -> bool:
        """Whether a request failed because the connection has ended."""
        return says_closed(error, self.gone)

    async def notify(self, method: str) -> None:
        """One notification without params to the backend."""
        await self._dispatcher.notify(method, None, {"headers": {MCP_PROTOCOL_VERSION_HEADER: self.revision}})


def mirrored_arguments(schema: Any) -> Mapping[tuple[str, ...], str]:
    """The arguments of a tool that stand in headers, too: path -> header. None of a schema that marks any wrongly."""
    return x_mcp_header_map(schema) if find_invalid_x_mcp_header(schema) is None else {}


async def _ignore(context: object, method: str, params: object) -> None:
    """Notifications are taken by the intercept, in order; none is left for the dispatcher."""

"""What one connection to a backend speaks: its era found by asking, and requests with what that era wants.

Rule: nothing of calls or clients here. `StreamWire` is a connection of ours; `ClientWire` a client of the SDK's that
the embedding program has connected: it keeps its own name, capabilities and answers, and is never closed. Private names
of the SDK's `ClientSession` are used in this file only, because its public ones do not relay a request whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, Final

import trio
from mcp.client import ClientSession
from mcp.client.session import ClientRequestContext
from mcp.shared.dispatcher import CallOptions, OnNotifyIntercept, OnRequest
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
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    ErrorData,
    InputRequest,
)
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)
from pydantic import TypeAdapter, ValidationError

from mcpactors.actors.backend import OUR_INFO, Introduction, mapping
from mcpactors.errors import BackendStartError, InvalidParams
from mcpactors.runtime.reply import Failure, Outcome, Result

__all__ = ["ClientWire", "StreamWire", "Wire", "envelope"]

PROBE_TIMEOUT: Final = 5.0
"""Seconds a backend may take to say whether it speaks the modern protocol, before the old one is tried."""
HANDSHAKE_TIMEOUT: Final = 15.0

_input_request: TypeAdapter[InputRequest] = TypeAdapter(InputRequest)


def envelope(capabilities: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `_meta` that every modern request carries (MCP 2026-07-28, basic/index)."""
    return {
        PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
        CLIENT_INFO_META_KEY: dict(info or OUR_INFO),
        CLIENT_CAPABILITIES_META_KEY: dict(capabilities),
    }


class StreamWire:
    """A connection of ours: two streams of messages, and the SDK's dispatcher on them."""

    tells: bool = True
    """Whether what the backend says by itself comes to us."""
    modern: bool = True
    revision: str = LATEST_MODERN_VERSION
    server: Mapping[str, Any] = {}
    """What the backend said of itself: its `server/discover` or `initialize` result."""

    def __init__(self, name: str, read: Any, write: Any, schema_of: Callable[[str], Any]) -> None:
        self._name = name
        self._read = read
        self._schema_of = schema_of
        self._dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(read, write)
        self._scope = trio.CancelScope()
        self._why = f"{name} closed the connection"
        self._lost = False

    @property
    def sender(self) -> Context | None:
        """The context of the request on whose stream the last message came; None where the wire has no such thing."""
        context: Context | None = getattr(self._read, "last_context", None)
        return context

    async def run(
        self,
        on_request: OnRequest,
        on_notification: OnNotifyIntercept,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Read until the connection ends; raises `BackendStartError` then."""
        try:
            with self._scope:
                await self._dispatcher.run(on_request, _ignore, on_notification, task_status=task_status)
        finally:
            self._lost = True
        raise BackendStartError(self._why)

    def end(self, why: str) -> None:
        """Give the connection up."""
        self._why = why
        self._scope.cancel()

    async def negotiate(
        self, introduction: Introduction, capabilities: Mapping[str, Any], expects_legacy: bool
    ) -> None:
        """Find out which era the backend speaks: by `server/discover`, then by the handshake.

        A backend that refuses the handshake as too old has locked itself to the modern era (its answer to the probe
        came too late): it is asked once more. Raises `BackendStartError`.
        """
        if not expects_legacy and await self._probe():
            return
        hello = {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": dict(capabilities),
            "clientInfo": dict(introduction.info),
        }
        try:
            said = await self._dispatcher.send_raw_request(
                "initialize", hello, {"timeout": HANDSHAKE_TIMEOUT, "cancel_on_abandon": False}
            )
        except MCPError as error:
            if error.code == UNSUPPORTED_PROTOCOL_VERSION and await self._probe():
                return
            raise BackendStartError(f"{self._name} does not answer the handshake: {error.message}") from error
        revision = said.get("protocolVersion", "")
        if revision not in HANDSHAKE_PROTOCOL_VERSIONS:
            raise BackendStartError(f"{self._name} speaks protocol {revision!r}, which is not one we know")
        self.server, self.modern, self.revision = said, False, revision
        await self.notify("notifications/initialized")

    async def _probe(self, again: bool = True) -> bool:
        """Ask whether the backend speaks the modern era; once more where it refuses and names our version of it."""
        try:
            found = await self.send(
                "server/discover", {"_meta": envelope({})}, {"timeout": PROBE_TIMEOUT, "cancel_on_abandon": False}
            )
        except MCPError as error:
            if self._lost:
                raise BackendStartError(f"{self._name} closed the connection when it was asked who it is") from error
            supported = mapping(error.data).get("supported") if error.code == UNSUPPORTED_PROTOCOL_VERSION else None
            named = isinstance(supported, list) and LATEST_MODERN_VERSION in supported
            return named and again and await self._probe(again=False)
        versions = found.get("supportedVersions")
        if not isinstance(versions, list) or not any(version in versions for version in MODERN_PROTOCOL_VERSIONS):
            return False
        self.server = found
        return True

    async def send(self, method: str, params: Mapping[str, Any], opts: CallOptions | None = None) -> dict[str, Any]:
        """One request to the backend, with the headers that its era wants over HTTP. Raises `MCPError`."""
        headers = {MCP_PROTOCOL_VERSION_HEADER: self.revision}
        if self.modern:
            headers[MCP_METHOD_HEADER] = method
            key = NAME_BEARING_METHODS.get(method)
            if key is not None and isinstance(name := params.get(key), str):
                headers[MCP_NAME_HEADER] = encode_header_value(name)
                if method == "tools/call":
                    headers.update(self._param_headers(name, params.get("arguments") or {}))
        options: CallOptions = {**(opts or {}), "headers": headers}
        return await self._dispatcher.send_raw_request(method, params, options)

    def _param_headers(self, name: str, arguments: Mapping[str, Any]) -> dict[str, str]:
        schema = self._schema_of(name)
        if schema is None or find_invalid_x_mcp_header(schema):
            return {}
        return mcp_param_headers(x_mcp_header_map(schema), arguments)

    async def notify(self, method: str) -> None:
        """One notification without params to the backend."""
        await self._dispatcher.notify(method, None, {"headers": {MCP_PROTOCOL_VERSION_HEADER: self.revision}})


class ClientWire:
    """A connected client of the SDK's: what is sent goes through it, and it answers the backend's questions itself."""

    def __init__(self, client: ClientSession) -> None:
        self._client = client
        said = client.discover_result or client.initialize_result
        self.modern = client.protocol_version in MODERN_PROTOCOL_VERSIONS
        self.server: Mapping[str, Any] = (
            said.model_dump(by_alias=True, mode="json", exclude_none=True) if said is not None else {}
        )

    tells: bool = False
    sender: Context | None = None

    async def send(self, method: str, params: Mapping[str, Any], opts: CallOptions | None = None) -> dict[str, Any]:
        """One request, stamped as all of this client's are. Raises `MCPError`."""
        data: dict[str, Any] = {"method": method, "params": {**params, "_meta": dict(params.get("_meta") or {})}}
        options: CallOptions = {**(opts or {})}
        self._client._stamp(data, options)
        try:
            return await self._client._dispatcher.send_raw_request(method, data["params"], options)
        except RuntimeError as error:  # it has not been entered, or somebody has left it
            raise BackendStartError(f"the client is not connected: {error}") from error

    async def question(self, method: str, params: Mapping[str, Any] | None) -> Outcome:
        """What this client answers to a question that a modern backend puts into a result."""
        try:
            asked = _input_request.validate_python({"method": method, "params": params})
        except ValidationError as error:
            return Failure(InvalidParams.code, f"{method}: {error.errors()[0]['msg']}")
        answer = await self._client.dispatch_input_request(
            ClientRequestContext(session=self._client, request_id=0), asked
        )
        if isinstance(answer, ErrorData):
            return Failure(answer.code, answer.message, answer.data)
        return Result(answer.model_dump(by_alias=True, mode="json", exclude_none=True))

    async def notify(self, method: str) -> None:
        """Nothing is told: what this client says of itself is its owner's business."""

    def end(self, why: str) -> None:
        """It is not ours to close."""


Wire = StreamWire | ClientWire


async def _ignore(context: object, method: str, params: object) -> None:
    """Notifications are taken by the intercept, in order; none is left for the dispatcher."""

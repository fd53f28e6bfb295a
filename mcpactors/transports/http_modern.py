"""One request of a modern client over HTTP: a POST that stands for itself.

Rule: what a request has to be is judged by the SDK's rules (`mcp.shared.inbound`), before anything runs. Then it has a
task, beside that of its HTTP request, which waits for what there is to send and for the client's leaving: that cancels
the call. A call that ends before it has told anything is answered with JSON and the status that its error means. MCP
2026-07-28, basic/transports "Streamable HTTP".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import anyio
import trio
from attrs import define, field
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data, serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_PARAM_HEADER_PREFIX,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    InboundModernRoute,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import HEADER_MISMATCH, INVALID_REQUEST, ErrorData, JSONRPCNotification, JSONRPCRequest, RequestId
from pydantic import ValidationError
from starlette.requests import Request

from mcpactors.errors import INTERNAL_ERROR
from mcpactors.transports.http_exchange import Send
from mcpactors.transports.http_outlet import COMMENT, EVENT_FIELDS, Outlet, as_event
from mcpactors.transports.http_reply import as_json, respond
from mcpactors.transports.http_session import Serving

__all__ = ["answer_modern"]

logger = logging.getLogger("mcpactors.http")

_PARAM: Final = MCP_PARAM_HEADER_PREFIX.lower()
_INVALID_BODY: Final = InboundLadderRejection(
    INVALID_REQUEST, "Body must be a single JSON-RPC request or notification object"
)


async def answer_modern(serving: Serving, said: Any, request: Request, send: Send) -> None:
    """Answer a POST that may be answered with JSON and with events; `said` is its body."""
    if isinstance(said, dict) and "id" not in said:
        await _acknowledge(said, request, send)
        return
    try:
        asked = JSONRPCRequest.model_validate(said)
    except ValidationError:
        await _reject(send, None, _INVALID_BODY)
        return
    judged = _judged(serving.server, asked, said, request)
    if isinstance(judged, InboundLadderRejection):
        await _reject(send, asked.id, judged)
        return
    call = _Call(asked.id, request, Outlet(serving.comment))
    serving.nursery.start_soon(call.run, serving, asked, judged)
    await call.follow(send)


@define(eq=False)
class _Call:
    """The SDK's `DispatchContext` of one request: what it tells goes out on its response."""

    request_id: RequestId
    _request: Request
    _outlet: Outlet
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _status: int = field(default=200, init=False)
    _json: bytes = field(default=b"", init=False)

    @property
    def transport(self) -> TransportContext:
        return TransportContext(kind="streamable-http", can_send_request=False, headers=self._request.headers)

    @property
    def message_metadata(self) -> ServerMessageMetadata:
        return ServerMessageMetadata(request_context=self._request)

    @property
    def can_send_request(self) -> bool:
        return False

    @property
    def cancel_requested(self) -> anyio.Event:
        """Nobody waits for it: who is cancelled is cancelled."""
        return anyio.Event()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        said = {"jsonrpc": "2.0", "method": method}
        try:
            self._outlet.put(as_event(as_json(said if params is None else {**said, "params": params})))
        except ValueError as error:
            logger.warning("%s cannot be written as JSON: %s", method, error)
        await self._outlet.room()

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """A client that wants to be told has a token, and is told by `notify`."""

    # --- Its two tasks ----------------------------------------------------------------------------------------------

    async def run(self, serving: Serving, asked: JSONRPCRequest, route: InboundModernRoute) -> None:
        """Find the answer."""
        connection = Connection.from_envelope(route.protocol_version, route.client_info, route.client_capabilities)
        with self._scope:
            try:
                result = await serve_one(
                    serving.server,
                    self,
                    asked.method,
                    asked.params,
                    connection=connection,
                    lifespan_state=serving.state,
                )
            except Exception as error:
                self._fail(modern_error_data(error))
            else:
                try:
                    self._json = as_json({"jsonrpc": "2.0", "id": self.request_id, "result": result})
                except ValueError as error:
                    logger.warning("the answer to %s cannot be written as JSON: %s", asked.method, error)
                    unsaid = "the result cannot be written as JSON (no valid Unicode?)"
                    self._fail(ErrorData(code=INTERNAL_ERROR, message=unsaid))
        self._outlet.end()

    async def follow(self, send: Send) -> None:
        """Send it, and what is told before. The client's leaving, and whatever else ends this, cancels the call."""
        receive, outlet = self._request.receive, self._outlet
        try:
            if not await outlet.stirred(receive):
                return
            if outlet.over:
                await respond(send, self._status, self._json)
                return
            if not outlet.waiting:
                outlet.put(COMMENT)
            await send({"type": "http.response.start", "status": 200, "headers": EVENT_FIELDS})
            await outlet.feed(receive, send, lambda: as_event(self._json))
        finally:
            self._scope.cancel()
            outlet.leave()

    def _fail(self, error: ErrorData) -> None:
        self._status, self._json = _failed(self.request_id, error)


# --- What may be answered without having run ------------------------------------------------------------------------


def _judged(
    server: Server[Any], asked: JSONRPCRequest, said: Mapping[str, Any], request: Request
) -> InboundModernRoute | InboundLadderRejection:
    headers = request.headers
    twice = find_duplicated_routing_header(headers.items())
    if twice is not None:
        return InboundLadderRejection(HEADER_MISMATCH, f"{twice} header appears more than once")
    route = classify_inbound_request(said, headers=dict(headers))
    if isinstance(route, InboundLadderRejection) or asked.method != "tools/call":
        return route
    return _wrong_params(server, asked, headers) or route


def _wrong_params(
    server: Server[Any], asked: JSONRPCRequest, headers: Mapping[str, str]
) -> InboundLadderRejection | None:
    """What is wrong with the `Mcp-Param-*` headers of a call, by the tool's schema."""
    params = asked.params or {}
    name, arguments = params.get("name"), params.get("arguments")
    if server.get_tool_input_schema is None or not isinstance(name, str) or not isinstance(arguments or {}, Mapping):
        return None
    if not arguments and not any(header.startswith(_PARAM) for header in headers):
        return None
    schema = server.get_tool_input_schema(name)
    return None if schema is None else validate_mcp_param_headers(schema, arguments or {}, headers)


async def _acknowledge(said: Mapping[str, Any], request: Request, send: Send) -> None:
    """Of a notification there is nothing to do: who gives up a call of this era closes its stream."""
    try:
        JSONRPCNotification.model_validate(said)
    except ValidationError:
        await _reject(send, None, _INVALID_BODY)
        return
    rejected = unsupported_protocol_version_rejection(request.headers.get(MCP_PROTOCOL_VERSION_HEADER, ""))
    if rejected is not None:
        await _reject(send, None, rejected)
    else:
        await respond(send, 202)


async def _reject(send: Send, identity: RequestId | None, why: InboundLadderRejection) -> None:
    error = ErrorData(code=why.code, message=why.message, data=why.data)
    await respond(send, *_failed(identity, error))


def _failed(identity: RequestId | None, error: ErrorData) -> tuple[int, bytes]:
    """The status and the body that tell of an error."""
    said = {"jsonrpc": "2.0", "id": identity, "error": error.model_dump(by_alias=True, mode="json", exclude_none=True)}
    return ERROR_CODE_HTTP_STATUS.get(error.code, 200), as_json(said)

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

from attrs import define, field
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
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
from mcp_types import HEADER_MISMATCH, INVALID_REQUEST, JSONRPCNotification, JSONRPCRequest, RequestId
from pydantic import ValidationError
from starlette.requests import Request

from mcpactors.transports.answering import CLOSED, Channel, Message, Serving, failed, notification, unwritable
from mcpactors.transports.asgi import Send, unread_of
from mcpactors.transports.http_server.outlet import COMMENT, EVENT_FIELDS, Outlet, as_event
from mcpactors.transports.http_server.reply import as_json, respond

__all__ = ["answer_modern"]

logger = logging.getLogger("mcpactors.http")

_PARAM: Final = MCP_PARAM_HEADER_PREFIX.lower()
_INVALID_BODY: Final = InboundLadderRejection(
    INVALID_REQUEST, "Body must be a single JSON-RPC request or notification object"
)


async def answer_modern(serving: Serving, said: Any, request: Request, send: Send, comment: float) -> None:
    """Answer a POST that may be answered with JSON and with events. `said` is its body; `comment`: see `Outlet`."""
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
    outlet = Outlet(comment, unread_of(request.scope))

    async def tell(method: str, params: Mapping[str, Any] | None) -> None:
        try:
            outlet.put(as_event(as_json(notification(method, params))))
        except ValueError as error:
            logger.warning("%s cannot be written as JSON: %s", method, error)
        await outlet.room()

    transport = TransportContext(kind="streamable-http", can_send_request=False, headers=request.headers)
    channel = Channel(transport, asked.id, ServerMessageMetadata(request_context=request), tell)
    call = _Call(channel, outlet)
    serving.nursery.start_soon(call.run, serving, asked, judged)
    await call.follow(request, send)


@define(eq=False)
class _Call:
    """A request that runs, and its response."""

    _channel: Channel
    _outlet: Outlet
    _status: int = field(default=200, init=False)

    async def run(self, serving: Serving, asked: JSONRPCRequest, route: InboundModernRoute) -> None:
        """Find the answer."""
        connection = Connection.from_envelope(route.protocol_version, route.client_info, route.client_capabilities)
        answer = await serving.answer_modern(connection, self._channel, asked)
        self._status, said = _as_sent(answer or failed(asked.id, CLOSED))  # which nobody reads: the client has left
        self._outlet.end(said)

    async def follow(self, request: Request, send: Send) -> None:
        """Send it, and what is told before. The client's leaving, and whatever else ends this, cancels the call."""
        receive, outlet = request.receive, self._outlet
        try:
            if not await outlet.stirred(receive):
                return
            if outlet.over:
                await respond(send, self._status, outlet.take_last())
                return
            if not outlet.waiting:
                outlet.put(COMMENT)
            await send({"type": "http.response.start", "status": 200, "headers": EVENT_FIELDS})
            await outlet.feed(receive, send)
        finally:
            self._channel.scope.cancel()
            outlet.leave()


def _as_sent(answer: Message) -> tuple[int, bytes]:
    try:
        return _status(answer), as_json(answer)
    except ValueError as error:
        unsaid = unwritable(answer, error)
        return _status(unsaid), as_json(unsaid)


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
    error = {"code": why.code, "message": why.message}
    said = {"jsonrpc": "2.0", "id": identity, "error": error if why.data is None else {**error, "data": why.data}}
    await respond(send, _status(said), as_json(said))


def _status(said: Mapping[str, Any]) -> int:
    return ERROR_CODE_HTTP_STATUS.get(said["error"]["code"], 200) if "error" in said else 200

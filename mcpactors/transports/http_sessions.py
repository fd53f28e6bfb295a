"""The sessions of old clients over streamable HTTP: the SDK's, with what it leaves open.

Rule: private names of the SDK's session manager and transport are used in this file only. Ours are the judging of
bodies, one id in flight once, and streams that are resumed: the SDK keeps one event store for all sessions, in which
streams of different clients have the same name, and loses what is sent between a replay and what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast
from uuid import uuid4

import trio
from attrs import frozen
from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http import (
    LAST_EVENT_ID_HEADER,
    MCP_SESSION_ID_HEADER,
    EventMessage,
    EventStore,
    StreamableHTTPServerTransport,
)
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import INVALID_REQUEST, JSONRPCRequest, RequestId
from starlette.requests import Request

from mcpactors.errors import OVERLOADED
from mcpactors.transports.http_body import BODY_LIMIT, BadBody, error_body, read_body
from mcpactors.transports.http_events import STANDALONE, Emit, EventLimits, EventLog, Place, SessionEvents, send_events
from mcpactors.transports.http_exchange import Message, Receive, Scope, Send

__all__ = ["SessionLimits", "Sessions", "refuse"]

UNGUARDED: Final = TransportSecuritySettings(enable_dns_rebinding_protection=False)
"""The SDK's checks come after the body, and for the endpoint only: http_guard.py has ours."""
RETRY: Final = 1000
"""Milliseconds after which a client is to ask again for a stream that has ended before its response."""
_SAID: Final = "mcpactors.said"
"""In a scope: the JSON of the body."""


@frozen
class SessionLimits:
    """Of the sessions of one endpoint; promise F43."""

    count: int = 10_000
    """Who would begin another one gets 503."""
    idle: float = 30 * 60.0
    """Seconds without a request in flight or an open stream, after which a session is forgotten."""
    asked: int = 1024
    """Requests of one session that may be unanswered."""
    events: EventLimits = EventLimits()


class Sessions(StreamableHTTPSessionManager):
    """Both eras on one endpoint."""

    def __init__(self, server: Server[Any], limits: SessionLimits = SessionLimits()) -> None:
        super().__init__(
            server,
            security_settings=UNGUARDED,
            retry_interval=RETRY,
            session_idle_timeout=limits.idle,
            max_sessions=limits.count,
            max_request_body_size=BODY_LIMIT,
        )
        self.limits = limits
        self.log = EventLog(limits.events)

    async def _handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request whose body, within its limit, is there."""
        if scope["method"] == "POST":
            message = await receive()
            if message["type"] == "http.disconnect" or message.get("more_body"):
                return  # it has left half-way
            try:
                scope[_SAID] = read_body(message["body"])
            except BadBody as bad:
                await refuse(send, 400, bad.code, bad.message, bad.id)
                return
            receive = _again(message, receive)
        await super()._handle_request(scope, receive, send)

    def _admit_session(self, requestor: AuthorizationContext | None) -> Session | None:
        if len(self._server_instances) >= self.limits.count:
            return None
        identity = uuid4().hex
        session = Session(identity, self.log.session(), self.limits)
        if requestor is not None:
            self._session_owners[identity] = requestor
        self._server_instances[identity] = session
        return session


class Session(StreamableHTTPServerTransport):
    """One session."""

    def __init__(self, identity: str, events: SessionEvents, limits: SessionLimits) -> None:
        super().__init__(
            identity,
            event_store=cast(EventStore, events),  # what it asks of one; to replay is ours
            security_settings=UNGUARDED,
            retry_interval=RETRY,
            idle_timeout=limits.idle,
        )
        self._events = events
        self._most = limits.asked
        self._resumed: dict[str, trio.CancelScope] = {}
        self._named: dict[str, trio.Event] = {}  # by the first event of a stream, which says its id

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = scope.get(_SAID)
        if scope["method"] == "GET" and LAST_EVENT_ID_HEADER not in Request(scope).headers:
            self._give_up(STANDALONE)
        if not isinstance(said, Mapping) or not isinstance(said.get("method"), str) or said.get("id") is None:
            await super().handle_request(scope, receive, send)
            return
        identity = said["id"]
        key = str(identity)  # for the SDK, too, 1 and "1" are one
        if key in self._events.asked or key == STANDALONE:
            await refuse(send, 400, INVALID_REQUEST, f"the id {identity!r} is that of a request in flight", identity)
            return
        if len(self._events.asked) >= self._most:
            await refuse(send, 503, OVERLOADED, "more requests are unanswered than a session may have", identity)
            return
        self._events.ask(key, keep=said["method"] != "initialize")  # whose client has no session to ask again in

        named = self._named[key] = trio.Event()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                self._events.answered(key)  # it was refused before anybody began it
            await send(message)
            if message.get("body"):
                named.set()

        try:
            await super().handle_request(scope, receive, watched)
        finally:
            named.set()
            if self._named.get(key) is named:
                del self._named[key]

    def close_sse_stream(self, request_id: str | int) -> None:
        super().close_sse_stream(request_id)
        self._give_up(str(request_id))

    def _create_session_message(
        self, message: JSONRPCRequest, request: Request, request_id: RequestId, protocol_version: str
    ) -> SessionMessage:
        """With a way to close the stream that waits until the client knows what to come again with."""
        item = super()._create_session_message(message, request, request_id, protocol_version)
        named = self._named.get(str(request_id))
        if named is None or not isinstance(item.metadata, ServerMessageMetadata) or not item.metadata.close_sse_stream:
            return item

        async def close() -> None:
            await named.wait()
            self.close_sse_stream(request_id)

        item.metadata.close_sse_stream = close
        return item

    async def terminate(self) -> None:
        for key in tuple(self._resumed):
            self._give_up(key)
        self._events.clear()
        await super().terminate()

    def _create_event_data(self, event_message: EventMessage) -> dict[str, Any]:
        text = self._events.text_of(event_message.event_id)
        if text is None:
            return super()._create_event_data(event_message)
        return {"event": "message", "data": text, "id": event_message.event_id}

    async def _replay_events(self, last_event_id: str, request: Request, send: Send) -> None:
        """Go on with a stream; whoever had it before has it no more."""
        place = self._events.place(last_event_id)
        if place is None:
            await refuse(send, 400, INVALID_REQUEST, "what came after that event is not kept (any more)")
            return
        if place.key is not None:
            self.close_sse_stream(place.key)
        assert self.mcp_session_id is not None
        fields = [(MCP_SESSION_ID_HEADER.encode(), self.mcp_session_id.encode())]

        async def feed(emit: Emit) -> None:
            await self._follow(place, emit)

        await send_events(request.receive, send, feed, fields)

    async def _follow(self, place: Place, emit: Emit) -> None:
        if place.key is None:
            await self._events.follow(place, emit)
            return
        with trio.CancelScope() as scope:
            self._resumed[place.key] = scope
            try:
                await self._events.follow(place, emit)
            finally:
                if self._resumed.get(place.key) is scope:
                    del self._resumed[place.key]

    def _give_up(self, key: str) -> None:
        if (scope := self._resumed.pop(key, None)) is not None:
            scope.cancel()


async def refuse(send: Send, status: int, code: int, message: str, identity: int | str | None = None) -> None:
    """Answer with a JSON-RPC error."""
    body = error_body(code, message, identity)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def _again(message: Message, receive: Receive) -> Receive:
    """`receive`, which gives `message` first."""
    first = [message]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay

"""The wire towards a backend over streamable HTTP, of both eras (MCP 2026-07-28 and 2025-11-25, basic/transports).

Rule: the POST of a call is made, and its reply read, in the task of that call: no task, no stream, no queue between.
So the fault of one reply is the fault of one call, and a message that comes on a call's stream comes in its context.
The backend is lost when no connection can be had (calls that are being answered are waited for), or when its stream
beside the calls says that the session is forgotten; all else is told to whoever asked. Nothing that may have been
carried out is sent again, but for `SAFE` methods on a connection that turns out to have been closed while it was idle.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from itertools import count
from typing import Any, Final

import trio
from attrs import Factory, define, field
from mcp.shared.dispatcher import CallOptions, OnNotifyIntercept, run_notify_intercept
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import RequestId
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic_core import to_json

from mcpactors.errors import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    REQUEST_TIMEOUT,
    UNAVAILABLE,
    BackendStartError,
)
from mcpactors.transports.event_stream import EventReader, EventTooLong
from mcpactors.transports.http_endpoint import MAX_REDIRECTS, REDIRECTS, Endpoint
from mcpactors.transports.http_faults import (
    Unreadable,
    error_in,
    is_forgotten,
    kind_of,
    lost,
    read_message,
    refusal,
    strange,
)
from mcpactors.transports.http_pool import Answer, AnswerLost, Exchange, NotReached, PoolClosed

__all__ = ["HTTPDispatcher", "http_dispatcher"]

logger = logging.getLogger("mcpactors")

BODY_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one JSON reply, and of one event."""
ERROR_LIMIT: Final = 64 * 1024
"""Bytes that are read of what comes with a refusal."""
TELL_TIMEOUT: Final = 10.0
"""Seconds for what we tell or answer a backend, which it has only to accept."""
LEAVE_TIMEOUT: Final = 2.0
"""Seconds for the last word on a call that is given up, and on a session."""
QUESTIONS: Final = 64
"""Requests of a backend that are looked after at once; its streams are not read on while there are more."""
RETRY: Final = 1.0
MAX_RETRY: Final = 30.0
RESUMPTIONS: Final = 2
"""How often in a row a stream is asked for again without anything new on it."""
LASTING: Final = "subscriptions/listen"
SAFE: Final = frozenset(
    {
        "ping",
        "server/discover",
        "tools/list",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "completion/complete",
        LASTING,
    }
)
"""Methods that change nothing at the backend (RFC 9110 9.2.2: they may be sent again)."""
CLOSED: Final = (CONNECTION_CLOSED, "Connection closed")
FORGOTTEN: Final = (INVALID_REQUEST, "Session terminated")
"""The words of the SDK for these, by which they are known."""

_POST: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
_GET: Final = {"accept": "text/event-stream", "cache-control": "no-store"}
_FAILED: Final = (NotReached, AnswerLost, PoolClosed)

OnRequest = Callable[[str, Mapping[str, Any] | None], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def http_dispatcher(
    url: str, headers: Mapping[str, str] | None = None, client: Any = None
) -> AsyncIterator[HTTPDispatcher]:
    """What speaks to the backend at `url`; `headers` go with every request there and nowhere else.

    `client` is an `AsyncClient` of httpx or httpx2 to send through (its authentication, proxies, certificates); it
    stays its owner's. Connections are made when they are needed. Raises `BackendStartError`: the URL is none.
    """
    endpoint = Endpoint(url, headers or {})
    exchange = endpoint.exchange(client)
    dispatcher = HTTPDispatcher(endpoint, exchange)
    try:
        yield dispatcher
    finally:
        try:
            await dispatcher.leave()
        finally:
            await exchange.aclose()


@define(eq=False)
class _Ask:
    """One request of ours."""

    id: RequestId
    method: str
    fields: Mapping[str, str]
    body: bytes
    modern: bool
    session: str | None


@define(eq=False)
class HTTPDispatcher:
    """Requests and notifications to a backend, and what it says by itself. Of use while `run` runs."""

    _endpoint: Endpoint
    _exchange: Exchange
    name: str = field(default=Factory(lambda self: str(self._endpoint), takes_self=True), init=False)
    """What the backend is called in errors."""
    renews: bool = field(default=True, init=False)
    """Whether a session that the backend has forgotten can be begun anew here."""
    _ids: count[int] = field(factory=lambda: count(1), init=False)
    _session: str | None = field(default=None, init=False)
    _version: str | None = field(default=None, init=False)  # of a session
    _aside: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _nursery: trio.Nursery | None = field(default=None, init=False)
    _context: Context = field(factory=copy_context, init=False)
    _answering: int = field(default=0, init=False)
    _unreachable: str | None = field(default=None, init=False)
    _over: trio.Event = field(factory=trio.Event, init=False)
    _asked: dict[RequestId, trio.CancelScope] = field(factory=dict, init=False)
    _room: trio.Semaphore = field(factory=lambda: trio.Semaphore(QUESTIONS), init=False)
    _on_request: OnRequest = field(init=False)
    _on_notification: OnNotifyIntercept = field(init=False)

    async def run(
        self,
        on_request: OnRequest,
        on_notification: OnNotifyIntercept,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Look after what is beside the calls. Raises `BackendStartError` when the backend is lost."""
        self._on_request, self._on_notification, self._context = on_request, on_notification, copy_context()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._exchange.run)
                task_status.started()
                await self._over.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
        raise BackendStartError(self._unreachable or f"{self.name} was given up")

    @property
    def sender(self) -> Context:
        """The context of the call on whose stream a notification has come, while it is being taken."""
        return copy_context()

    # --- To the backend -------------------------------------------------------------------------------------------

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """One request; its result as it came. Raises `MCPError`: the backend's own, or one that names the fault."""
        options = opts or {}
        ask = self._ask(method, params, options)
        timeout = options.get("timeout")
        counts = method != LASTING
        self._answering += counts
        try:
            if timeout is None:
                return await self._carry(ask, options)
            with trio.move_on_after(timeout):
                return await self._carry(ask, options)
            raise MCPError(REQUEST_TIMEOUT, f"Request {method!r} timed out")
        finally:
            self._answering -= counts
            if self._unreachable is not None and not self._answering:
                self._over.set()

    async def notify(
        self, method: str, params: Mapping[str, Any] | None = None, opts: CallOptions | None = None
    ) -> None:
        """One notification. It is not known whether it was heeded: what goes wrong is logged."""
        headers = (opts or {}).get("headers") or {}
        if method == "notifications/initialized":
            self._version = headers.get(MCP_PROTOCOL_VERSION_HEADER)
        said: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        await self._tell(said if params is None else {**said, "params": params}, headers)
        if method == "notifications/initialized" and self._session is not None and self._nursery is not None:
            self._aside = trio.CancelScope()
            # In the context of the connection: what comes there belongs to no call, not even to one that renewed it.
            self._context.run(self._nursery.start_soon, self._hear_aside, self._session)

    def forget_session(self) -> None:
        """The backend has forgotten the session; the next `initialize` begins another."""
        self._session = self._version = None
        self._aside.cancel()

    async def leave(self) -> None:
        """End the session, if there is one and the backend is there."""
        if self._session is None or self._unreachable is not None:
            return
        with trio.move_on_after(LEAVE_TIMEOUT) as scope:
            scope.shield = True
            try:
                answer = await self._open("DELETE", self._of_session({}), b"", safe=True)
                await answer.aclose(done=True)
            except _FAILED as error:
                logger.debug("%s: the session was not ended: %s", self.name, error)

    def _ask(self, method: str, params: Mapping[str, Any] | None, options: CallOptions) -> _Ask:
        headers = options.get("headers") or {}
        identity = options.get("request_id")
        if identity is None:
            identity = next(self._ids)
        said: dict[str, Any] = {"jsonrpc": "2.0", "id": identity, "method": method}
        if params:
            said["params"] = params
        try:
            body = to_json(said)
        except ValueError as error:
            raise MCPError(INVALID_PARAMS, f"{method}: its params cannot be written as JSON: {error}") from error
        fields = {**_POST, **headers}
        modern = headers.get(MCP_PROTOCOL_VERSION_HEADER) in MODERN_PROTOCOL_VERSIONS
        session = None if modern or method == "initialize" else self._session
        if session is not None:
            fields["mcp-session-id"] = session
        return _Ask(identity, method, fields, body, modern, session)

    def _of_session(self, fields: Mapping[str, str]) -> dict[str, str]:
        fields = dict(fields)
        if self._session is not None:
            fields["mcp-session-id"] = self._session
        if self._version is not None:
            fields[MCP_PROTOCOL_VERSION_HEADER] = self._version
        return fields

    async def _carry(self, ask: _Ask, options: CallOptions) -> dict[str, Any]:
        try:
            answer = await self._open("POST", ask.fields, ask.body, safe=ask.method in SAFE)
            return await self._reply(ask, answer)
        except trio.Cancelled:  # a modern backend sees it by the stream that is closed
            if not ask.modern and options.get("cancel_on_abandon", True):
                await self._withdraw(ask)
            raise
        except NotReached as error:
            raise MCPError(UNAVAILABLE, self._lose(error), {"actor": self.name}) from error
        except AnswerLost as error:
            raise lost(self.name, str(error)) from error
        except (Unreadable, EventTooLong) as error:
            raise strange(self.name, f"sent {error}") from error
        except PoolClosed:
            raise MCPError(*CLOSED) from None

    async def _withdraw(self, ask: _Ask) -> None:
        """Say that nobody waits any more, before anybody acts on it here."""
        params = {"requestId": ask.id, "reason": "nobody waits for it any more"}
        with trio.move_on_after(LEAVE_TIMEOUT) as scope:
            scope.shield = True
            await self._tell({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

    async def _tell(self, said: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """A message that has no reply: a notification, or our answer to a request."""
        fields = {**self._of_session(_POST), **(headers or {})}
        try:
            with trio.move_on_after(TELL_TIMEOUT):
                answer = await self._open("POST", fields, to_json(said), safe=False)
                await answer.aclose(done=True)
                if answer.status >= 300:
                    logger.debug("%s refused %s: HTTP %d", self.name, said.get("method", "an answer"), answer.status)
        except _FAILED as error:
            logger.debug("%s did not take %s: %s", self.name, said.get("method", "an answer"), error)

    async def _open(self, method: str, fields: Mapping[str, str], body: bytes, *, safe: bool) -> Answer:
        """Send, and follow redirects that stay on this origin; an answer that is another redirect is given back."""
        target = self._endpoint.target
        for _ in range(MAX_REDIRECTS + 1):
            try:
                answer = await self._exchange.send(method, target, fields, body)
            except AnswerLost as error:
                if not (error.stale and safe):
                    raise
                answer = await self._exchange.send(method, target, fields, body, fresh=True)
            self._unreachable = None
            if answer.status not in REDIRECTS:
                return answer
            following = self._endpoint.next_target(method, target, answer)
            if following is None:
                return answer
            await answer.aclose(done=True)
            target = following
            if answer.status == 308:
                self._endpoint.target = target
        return answer

    def _lose(self, error: NotReached) -> str:
        """Nobody is there any more: over, once the calls that are being answered have ended."""
        self._unreachable = f"{self.name} cannot be reached at {self._endpoint}: {error}"
        if not self._answering:
            self._over.set()
        return self._unreachable

    # --- From the backend -----------------------------------------------------------------------------------------

    async def _reply(self, ask: _Ask, answer: Answer) -> dict[str, Any]:
        """The result in the answer to a POST."""
        kind = kind_of(answer.fields)
        if kind == "text/event-stream" and answer.status == 200:
            return await self._follow(ask, answer)
        done = False
        try:
            if not 200 <= answer.status < 300:
                raise await self._refused(ask, answer, kind)
            if answer.status == 202:
                raise strange(self.name, "answered a request with 202 Accepted, after which no reply comes")
            if kind != "application/json":
                expected = "where JSON or an event stream was expected"
                raise strange(self.name, f"answered with {kind or 'a body of no stated type'} {expected}")
            said = read_message(await self._body(answer, BODY_LIMIT))
            done = True
        finally:
            await answer.aclose(done=done)
        if ask.method == "initialize":
            self._session = answer.fields.get("mcp-session-id") or None
        return self._result(ask, said)

    def _result(self, ask: _Ask, said: Mapping[str, Any]) -> dict[str, Any]:
        error = said.get("error")
        identity = said.get("id")
        if identity != ask.id and str(identity) != str(ask.id) and not (identity is None and error is not None):
            raise strange(self.name, "replied with the id of another request")
        if error is not None:
            raise error_in(said) or strange(self.name, "sent an error without a code and a message")
        result = said.get("result")
        if not isinstance(result, dict):
            raise strange(self.name, "sent a reply that is neither a result nor an error")
        return result

    async def _body(self, answer: Answer, limit: int) -> bytes:
        if answer.fields.get("content-encoding", "identity").lower() != "identity":
            raise strange(self.name, "compressed its reply, although that was not asked for")
        body = await answer.receive()
        pieces = [body]
        size = len(body)
        while body and (body := await answer.receive()):
            pieces.append(body)
            size += len(body)
            if size > limit:
                raise Unreadable(f"more than {limit} bytes")
        return b"".join(pieces)

    async def _refused(self, ask: _Ask, answer: Answer, kind: str) -> MCPError:
        """The error in the body, or the one that the status stands for."""
        error = None
        if kind == "application/json":
            with suppress(Unreadable, AnswerLost, MCPError):
                error = error_in(read_message(await self._body(answer, ERROR_LIMIT)))
        if ask.session is not None and is_forgotten(answer.status, error):
            return MCPError(*FORGOTTEN)
        return error or refusal(self.name, answer.status, answer.fields)

    async def _follow(self, ask: _Ask, answer: Answer) -> dict[str, Any]:
        """The result on a stream, which may be cut and resumed where the backend numbers its events (2025-11-25)."""
        if ask.method == "initialize":
            self._session = answer.fields.get("mcp-session-id") or None
        reader = EventReader(BODY_LIMIT)
        seen, tries = reader.last_id, 0
        while True:
            why = "ended the stream of a call before its reply was there"
            said = None
            try:
                if kind_of(answer.fields) == "text/event-stream":
                    said = await self._events(answer, reader, ask)
            except AnswerLost as error:
                why = str(error)
            finally:
                await answer.aclose(done=said is not None)
            if said is not None:
                return self._result(ask, said)
            tries = 1 if reader.last_id != seen else tries + 1
            if ask.modern or reader.last_id is None or tries > RESUMPTIONS:
                raise lost(self.name, why)
            seen = reader.last_id
            await trio.sleep(min(reader.retry or RETRY, MAX_RETRY))
            answer = await self._open("GET", {**self._of_session(_GET), "last-event-id": seen}, b"", safe=True)

    async def _events(self, answer: Answer, reader: EventReader, ask: _Ask | None) -> dict[str, Any] | None:
        """Take what comes in its order, up to the response to `ask`; None: the stream ended before."""
        if answer.fields.get("content-encoding", "identity").lower() != "identity":
            raise strange(self.name, "compressed its reply, although that was not asked for")
        while data := await answer.receive():
            for event in reader.feed(data):
                if not event.data or event.kind != b"message":
                    continue
                try:
                    said = read_message(event.data)
                    if "method" in said:
                        await self._take(said, ask)
                    elif ask is not None:
                        return said
                except Unreadable as error:
                    if ask is not None:
                        raise
                    logger.debug("%s sent %s on the stream beside its calls", self.name, error)
        return None

    async def _take(self, said: Mapping[str, Any], ask: _Ask | None) -> None:
        """A request or notification of the backend."""
        method, params = said["method"], said.get("params")
        if not isinstance(method, str) or not (params is None or isinstance(params, dict)):
            raise Unreadable("JSON that is no JSON-RPC 2.0 message")
        if "id" not in said:
            if method == "notifications/cancelled":
                self._call_off(params or {})
            run_notify_intercept(self._on_notification, method, params)
            return
        identity = said["id"]
        if not isinstance(identity, int | str) or (ask is not None and ask.modern):
            raise Unreadable("a request, which has no place in the reply to one")
        await self._room.acquire()
        if self._nursery is None:
            self._room.release()
        else:
            self._nursery.start_soon(self._look_after, identity, method, params)

    def _call_off(self, params: Mapping[str, Any]) -> None:
        identity = params.get("requestId")
        scope = self._asked.get(identity) if isinstance(identity, int | str) else None
        if scope is not None:
            scope.cancel()

    async def _look_after(self, identity: RequestId, method: str, params: Mapping[str, Any] | None) -> None:
        """Answer a request of the backend; one that it has cancelled is not answered."""
        said: dict[str, Any] = {"jsonrpc": "2.0", "id": identity}
        try:
            with trio.CancelScope() as scope:
                self._asked[identity] = scope
                try:
                    said["result"] = await self._on_request(method, params)
                except MCPError as error:
                    said["error"] = error.error.model_dump(by_alias=True, mode="json", exclude_none=True)
                except Exception:
                    logger.exception("%s of %s could not be answered", method, self.name)
                    said["error"] = {"code": INTERNAL_ERROR, "message": f"{method} could not be answered"}
                finally:
                    if self._asked.get(identity) is scope:
                        del self._asked[identity]
                await self._tell(said)
        finally:
            self._room.release()

    async def _hear_aside(self, session: str) -> None:
        """The stream beside the calls: opened again whenever it ends, from where it ended."""
        reader, wait, had = EventReader(BODY_LIMIT), RETRY, False
        with self._aside:
            while True:
                resume = {} if reader.last_id is None else {"last-event-id": reader.last_id}
                try:
                    answer = await self._open("GET", {**self._of_session(_GET), **resume}, b"", safe=True)
                except NotReached as error:
                    self._lose(error)
                    return
                except PoolClosed:
                    return
                except AnswerLost:
                    pass
                else:
                    try:
                        if answer.status == 200 and kind_of(answer.fields) == "text/event-stream":
                            wait, had = RETRY, True
                            await self._events(answer, reader, None)
                        elif answer.status < 500 and answer.status != 429:
                            if had and answer.status == 404:
                                self._forgotten()
                            return  # it has no such stream, or not any more
                    except (AnswerLost, MCPError, EventTooLong, PoolClosed):
                        reader = EventReader(BODY_LIMIT, reader.last_id)
                    finally:
                        await answer.aclose(done=False)
                await trio.sleep(min(max(reader.retry or 0.0, wait), MAX_RETRY))
                wait = min(wait * 2, MAX_RETRY)

    def _forgotten(self) -> None:
        """Begin anew while nobody asks anything; a call that runs, or comes first, will see to it."""
        if not self._answering:
            self._unreachable = f"{self.name} has forgotten the session"
            self._over.set()

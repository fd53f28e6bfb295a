"""The wire towards a backend over streamable HTTP, of both eras (MCP 2026-07-28 and 2025-11-25, basic/transports).

Rule: the POST of a call is made, and its reply read, in the task of that call: no task, no stream, no queue between.
So the fault of one reply is the fault of one call, and a message that comes on a call's stream comes in its context.
The backend is lost when no connection can be had (calls that are being answered are waited for), or when its stream
beside the calls says that the session is forgotten; all else is told to whoever asked. Nothing that may have been
carried out is sent again, but for `SAFE` methods on a connection that turns out to have been closed while it was idle.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from itertools import count
from typing import Any, Final

import trio
from attrs import Factory, define, field
from mcp.shared.dispatcher import CallOptions, OnNotifyIntercept
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from pydantic_core import to_json

from mcpactors.errors import CONNECTION_CLOSED, REQUEST_TIMEOUT, UNAVAILABLE, BackendStartError
from mcpactors.runtime.methods import CANCELLED
from mcpactors.runtime.policy import DEFAULT_BACKEND, BackendLimits
from mcpactors.transports.http_client.arrivals import Arrivals
from mcpactors.transports.http_client.ask import GET_FIELDS, POST_FIELDS, Ask
from mcpactors.transports.http_client.endpoint import Endpoint
from mcpactors.transports.http_client.event_stream import EventReader, EventTooLong
from mcpactors.transports.http_client.faults import (
    Unreadable,
    body_of,
    error_in,
    kind_of,
    lost,
    read_message,
    refusal,
    refused_in_session,
    result_in,
    said_in,
    strange,
)
from mcpactors.transports.http_client.heard import Heard, OnRequest
from mcpactors.transports.http_client.pace import Pace, Turn
from mcpactors.transports.http_client.pool import Answer, AnswerLost, NotReached, PoolClosed
from mcpactors.transports.lines.flood import Allowance

__all__ = ["HTTPDispatcher", "Turn", "http_dispatcher"]

logger = logging.getLogger("mcpactors")

TELL_TIMEOUT: Final = 10.0
"""Seconds for what we tell or answer a backend, which it has only to accept."""
LEAVE_TIMEOUT: Final = 2.0
"""Seconds for the last word on a call that is given up, and on a session."""
ASIDE_TIMEOUT: Final = 1.0
"""Seconds that the first call waits for the stream beside the calls: some servers say nothing on it at first."""
RETRY: Final = 1.0
MAX_RETRY: Final = 30.0
LEAST_RETRY: Final = 0.2
"""Seconds between two streams, also for a server that wants none: `retry: 0` was hundreds of requests a second."""
RESUMPTIONS: Final = 2
"""How often in a row a stream is asked for again without anything new on it."""
CLOSED: Final = (CONNECTION_CLOSED, "Connection closed")
"""The SDK's words for it."""

_FAILED: Final = (NotReached, AnswerLost, PoolClosed)


@asynccontextmanager
async def http_dispatcher(
    url: str,
    headers: Mapping[str, str] | None = None,
    client: Any = None,
    *,
    ssl_context: ssl.SSLContext | None = None,
    steadfast: bool = False,
    turn: Turn | None = None,
    taken: BackendLimits = DEFAULT_BACKEND,
    allowance: Allowance | None = None,
) -> AsyncIterator[HTTPDispatcher]:
    """What speaks to the backend at `url`; `headers` go with every request there and nowhere else.

    `client` is an `AsyncClient` of httpx or httpx2 to send through (its authentication, proxies, certificates); it
    stays its owner's. `ssl_context` is what TLS is done with else; None: what the system trusts. Connections are made
    when they are needed. `steadfast`: a backend that cannot be reached fails calls and nothing more. `turn` is awaited
    whenever some of a stream has been taken, by who takes all of it; None: it is read as those of backends are, of
    whose floods most is dropped (`pace.py`), and which have one `allowance` for all their sessions. Raises
    `BackendStartError`: the URL is none.
    """
    endpoint = await Endpoint.at(url, headers or {}, client, ssl_context)
    dispatcher = HTTPDispatcher(endpoint, steadfast, turn, taken, allowance or Allowance())
    try:
        yield dispatcher
    finally:
        try:
            await dispatcher.leave()
        finally:
            await endpoint.aclose()


@define(eq=False)
class HTTPDispatcher:
    """Requests and notifications to a backend, and what it says by itself. Of use while `run` runs."""

    _endpoint: Endpoint
    _steadfast: bool = False
    _turn: Turn | None = None
    _taken: BackendLimits = DEFAULT_BACKEND
    _allowance: Allowance = field(factory=Allowance)
    name: str = field(default=Factory(lambda self: str(self._endpoint), takes_self=True), init=False)
    """What the backend is called in errors."""
    renews: bool = field(default=True, init=False)
    """Whether a session that the backend has forgotten can be begun anew here."""
    gone: bool = field(default=False, init=False)
    """Each request has a connection of its own, or of the pool: that there are no more is seen when one is taken."""
    _ids: count[int] = field(factory=lambda: count(1), init=False)
    _session: str | None = field(default=None, init=False)
    _version: str | None = field(default=None, init=False)  # of a session
    _aside: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _nursery: trio.Nursery | None = field(default=None, init=False)
    _context: Context = field(factory=copy_context, init=False)
    _answering: int = field(default=0, init=False)
    _gone: str | None = field(default=None, init=False)
    _over: trio.Event = field(factory=trio.Event, init=False)
    _arrivals: Arrivals = field(init=False)

    async def run(
        self,
        on_request: OnRequest,
        on_notification: OnNotifyIntercept,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Look after what is beside the calls. Raises `BackendStartError` when the backend is lost."""
        self._context = copy_context()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                pace = Pace(self._taken, lambda: self._answering, self._turn, self._allowance)
                heard = Heard(nursery, on_request, on_notification, self._tell)
                self._arrivals = Arrivals(self.name, self._taken, pace, heard)
                nursery.start_soon(self._endpoint.run)
                task_status.started()
                await self._over.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
        raise BackendStartError(self._gone or f"{self.name} was given up")

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
        ask = Ask.of(options.get("request_id") or next(self._ids), method, params, options, self._session)
        timeout = options.get("timeout")
        counts = not ask.lasts
        self._answering += counts
        try:
            if timeout is None:
                return await self._carry(ask)
            with trio.move_on_after(timeout):
                return await self._carry(ask)
            raise MCPError(REQUEST_TIMEOUT, f"Request {method!r} timed out")
        finally:
            self._answering -= counts
            if self._gone is not None:
                self._end_if_idle()

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
            opened = trio.Event()
            self._context.run(self._nursery.start_soon, self._hear_aside, opened)
            with trio.move_on_after(ASIDE_TIMEOUT):  # what a server asks before it has the stream is lost with some
                await opened.wait()

    def forget_session(self) -> None:
        """The backend has forgotten the session; the next `initialize` begins another."""
        self._session = self._version = None
        self._aside.cancel()

    async def leave(self) -> None:
        """End the session, if there is one and the backend is there."""
        if self._session is None or self._gone is not None:
            return
        with trio.move_on_after(LEAVE_TIMEOUT) as scope:
            scope.shield = True
            try:
                answer = await self._open("DELETE", self._of_session({}))
                await answer.aclose(done=True)
            except _FAILED as error:
                logger.debug("%s: the session was not ended: %s", self.name, error)

    def _of_session(self, fields: Mapping[str, str]) -> dict[str, str]:
        fields = dict(fields)
        if self._session is not None:
            fields["mcp-session-id"] = self._session
        if self._version is not None:
            fields[MCP_PROTOCOL_VERSION_HEADER] = self._version
        return fields

    async def _carry(self, ask: Ask) -> dict[str, Any]:
        try:
            return await (self._ask(ask) if ask.session is None else self._ask_in_session(ask))
        except trio.Cancelled:  # a modern backend sees it by the stream that is closed
            if ask.cancels and not ask.modern:
                await self._withdraw(ask)
            raise
        except NotReached as error:
            raise MCPError(UNAVAILABLE, self._unreached(error), {"actor": self.name}) from error
        except AnswerLost as error:
            raise lost(self.name, str(error)) from error
        except (Unreadable, EventTooLong) as error:
            raise strange(self.name, f"sent {error}") from error
        except PoolClosed:
            self.gone = True
            raise MCPError(*CLOSED) from None

    async def _ask(self, ask: Ask) -> dict[str, Any]:
        answer = await self._open("POST", ask.fields, ask.body, safe=ask.safe)
        return await self._reply(ask, answer)

    async def _ask_in_session(self, ask: Ask) -> dict[str, Any]:
        with self._arrivals.elsewhere(ask) as awaited:
            with awaited.scope:
                return await self._ask(ask)
            return result_in(self.name, ask.id, awaited.said)

    async def _withdraw(self, ask: Ask) -> None:
        """Say that nobody waits any more, before anybody acts on it here."""
        params = {"requestId": ask.id, "reason": "nobody waits for it any more"}
        with trio.move_on_after(LEAVE_TIMEOUT) as scope:
            scope.shield = True
            await self._tell({"jsonrpc": "2.0", "method": CANCELLED, "params": params})

    async def _tell(self, said: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """A message that has no reply: a notification, or our answer to a request."""
        fields = {**self._of_session(POST_FIELDS), **(headers or {})}
        try:
            with trio.move_on_after(TELL_TIMEOUT):
                answer = await self._open("POST", fields, to_json(said), safe=False)
                await answer.aclose(done=True)
                if answer.status >= 300:
                    logger.debug("%s refused %s: HTTP %d", self.name, said.get("method", "an answer"), answer.status)
        except _FAILED as error:
            logger.debug("%s did not take %s: %s", self.name, said.get("method", "an answer"), error)

    async def _open(self, method: str, fields: Mapping[str, str], body: bytes = b"", *, safe: bool = True) -> Answer:
        gone = self._gone
        answer = await self._endpoint.send(method, fields, body, safe=safe)
        if gone is self._gone:
            self._gone = None  # it is there again
        return answer

    def _unreached(self, error: NotReached) -> str:
        return self._lose(f"cannot be reached at {self._endpoint}: {error}")

    def _lose(self, why: str) -> str:
        """It is over, once the calls that are being answered have ended and if none has found it to be there again."""
        self._gone = f"{self.name} {why}"
        self._end_if_idle()
        return self._gone

    def _end_if_idle(self) -> None:
        if not self._answering and not self._steadfast:
            self._over.set()

    # --- From the backend -----------------------------------------------------------------------------------------

    async def _reply(self, ask: Ask, answer: Answer) -> dict[str, Any]:
        """The result in the answer to a POST."""
        kind = kind_of(answer.fields)
        if kind == "text/event-stream" and answer.status == 200:
            return await self._follow(ask, answer)
        done = False
        try:
            if not 200 <= answer.status < 300:
                body = await said_in(answer)
                if ask.session is not None and (error := refused_in_session(ask.id, answer.status, body)) is not None:
                    raise error
                raise error_in(body) or refusal(self.name, answer.status, answer.fields)
            if answer.status == 202:
                raise strange(self.name, "answered a request with 202 Accepted, after which no reply comes")
            if kind != "application/json":
                expected = "where JSON or an event stream was expected"
                raise strange(self.name, f"answered with {kind or 'a body of no stated type'} {expected}")
            whole = await body_of(self.name, answer, self._taken.message, self._allowance.room)
            said = read_message(whole, self._taken)
            done = True
        finally:
            await answer.aclose(done=done)
        if ask.method == "initialize":
            self._session = answer.fields.get("mcp-session-id") or None
        return result_in(self.name, ask.id, said)

    async def _follow(self, ask: Ask, answer: Answer) -> dict[str, Any]:
        """The result on a stream, which may be cut and resumed where the backend numbers its events (2025-11-25)."""
        if ask.method == "initialize":
            self._session = answer.fields.get("mcp-session-id") or None
        reader = EventReader(self._taken.message)
        tries = 0
        while True:
            said, why, seen = None, "ended the stream of a call before its reply was there", reader.last_id
            try:
                if kind_of(answer.fields) == "text/event-stream":
                    said = await self._arrivals.read(answer, reader, ask)
            except AnswerLost as error:
                why = str(error)
            finally:
                await answer.aclose(done=said is not None)
            if said is not None:
                return result_in(self.name, ask.id, said)
            tries = 1 if reader.last_id != seen else tries + 1
            if ask.modern or reader.last_id is None or tries > RESUMPTIONS:
                raise lost(self.name, why)
            reader = reader.resumed()
            try:
                await trio.sleep(min(max(reader.pause(RETRY), LEAST_RETRY), MAX_RETRY))
                answer = await self._open("GET", self._to_stream(reader))
            except NotReached as error:
                self._unreached(error)
                raise lost(self.name, why) from error

    async def _hear_aside(self, opened: trio.Event) -> None:
        """The stream beside the calls: opened again whenever it ends, from where it ended."""
        reader, wait, had = EventReader(self._taken.message), RETRY, False
        with self._aside:
            while True:
                begun = trio.current_time()
                try:
                    try:
                        answer = await self._open("GET", self._to_stream(reader))
                    finally:
                        opened.set()
                    if answer.status != 200 and answer.status < 500 and answer.status != 429:
                        await answer.aclose(done=False)
                        if had and answer.status == 404:
                            self._lose("has forgotten the session")
                        return  # it has no such stream, or not any more
                    had = had or answer.status == 200
                    await self._hear_out(answer, reader)
                except NotReached as error:
                    self._unreached(error)
                    if not self._steadfast:
                        return
                except PoolClosed:
                    return
                except AnswerLost as error:
                    logger.debug("%s: the stream beside its calls: %s", self.name, error)
                reader = reader.resumed()
                if trio.current_time() - begun > MAX_RETRY:
                    wait = RETRY
                await trio.sleep(min(max(reader.pause(wait), LEAST_RETRY), MAX_RETRY))
                wait = min(2 * wait, MAX_RETRY)

    async def _hear_out(self, answer: Answer, reader: EventReader) -> None:
        try:
            if answer.status == 200 and kind_of(answer.fields) == "text/event-stream":
                await self._arrivals.read(answer, reader, None)
        except (MCPError, EventTooLong) as error:
            logger.debug("%s: the stream beside its calls: %s", self.name, error)
        finally:
            await answer.aclose(done=False)

    def _to_stream(self, reader: EventReader) -> dict[str, str]:
        """The fields of a GET for what comes after the last event."""
        fields = self._of_session(GET_FIELDS)
        if reader.last_id is not None:
            fields["last-event-id"] = reader.last_id
        return fields

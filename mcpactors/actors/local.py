"""The actor that runs an SDK server of this process, in a lifespan of its own.

Rule: the server is called through the SDK's own `ServerRunner`, so schemas, validation, `Context` and middleware are
the SDK's; what the server sends while it works goes to the reply channel of the call (design.md section 6). The SDK's
provisional surfaces `ServerRunner`, `Connection` and `DispatchContext` are used in this file only.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from itertools import count
from typing import Any, Final

import anyio
import trio
from attrs import frozen
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.connection import Connection
from mcp.server.context import CallNext, ServerMiddleware, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, aclose_shielded
from mcp.server.subscriptions import SubscriptionBus
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp.shared.message import MessageMetadata, ServerMessageMetadata
from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.methods import is_input_required
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from mcpactors.actors.paging import CHANGES, UPDATED, read_all
from mcpactors.actors.rounds import INPUT_REQUIRED, answer_rounds
from mcpactors.errors import NotFound
from mcpactors.runtime.actor import Actor, relay
from mcpactors.runtime.hops import hops_of, passed
from mcpactors.runtime.mailbox import Caller, Request
from mcpactors.runtime.methods import CATALOG, NAMED, readdressed
from mcpactors.runtime.naming import Kind, unknown
from mcpactors.runtime.reply import CLOSE_STREAM, PROGRESS, Failure, Outcome, ReplyChannel, Result
from mcpactors.runtime.routing import Listing
from mcpactors.runtime.threads import ThreadLimit, thread_limit

__all__ = ["LocalActor", "LocalServer"]

_ASKS: Final = TransportContext(kind="mcpactors", can_send_request=True)
_CANNOT_ASK: Final = TransportContext(kind="mcpactors", can_send_request=False)
_OWN_ENVELOPE: Final = {PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION, CLIENT_CAPABILITIES_META_KEY: {}}
_OLD_CALLER: Final = Caller(revision=LATEST_HANDSHAKE_VERSION)
SESSIONS_KEPT: Final = 10_000
_EVENTS: Final[Mapping[type, tuple[Kind, ...]]] = {
    ToolsListChanged: ("tools",),
    PromptsListChanged: ("prompts",),
    ResourcesListChanged: ("resources", "templates"),
}
_ABOUT_RESOURCES: Final = ("resources/read", "resources/list", "resources/templates/list", "resources/subscribe")
_request_ids = count(1)


@frozen(kw_only=True)
class LocalServer:
    """An SDK server as an actor runs it."""

    server: Server[Any]
    middleware: tuple[ServerMiddleware[Any], ...] = ()
    """What its author put around it; it goes around calls to what is mounted below, too."""
    tells: bool = False
    """Whether it says when its own components change; then what it listed is not asked for again."""
    after: trio.Event | None = None
    """Set when an earlier actor of the same server has ended: a server has one lifespan at a time."""
    bus: SubscriptionBus | None = None
    """Where the server publishes its changes (the SDK's `ctx.notify_*`)."""
    changed: Callable[[tuple[Kind, ...]], None] = lambda kinds: None
    """Called when lists of these kinds are not what they were."""
    updated: Callable[[str], None] = lambda uri: None
    """Called when what is at one of its URIs has changed."""
    threads: ThreadLimit | None = None
    """How many threads its sync handlers may be in; a thread whose call is over counts, in the next life, too."""
    adopt: Callable[[], None] = lambda: None
    """Puts the sync handlers that the server has now under that limit."""


class _Runner(ServerRunner[Any]):
    """The SDK's runner of one request, which lets `input_required` out to the legacy era, too."""

    def _serialize(self, method: str, version: str, result: Any) -> dict[str, Any]:
        return super()._serialize(method, LATEST_MODERN_VERSION if is_input_required(result) else version, result)


async def _close_stream(reply: ReplyChannel) -> None:
    """The server wants to be polled: the client's stream ends, and it asks for the rest (2025-11-25, SEP-1699)."""
    reply.notice(CLOSE_STREAM, {})
    await trio.lowlevel.checkpoint()


class _CallContext:
    """The SDK's `DispatchContext` (and `Outbound`) for one call: everything the server sends goes to the reply.

    Change notices go to whoever listens instead; a server may keep this and send them long after the call.
    """

    __slots__ = ("_cancel_requested", "_local", "_reply", "message_metadata", "request_id", "transport")

    def __init__(self, reply: ReplyChannel, caller: Caller, local: LocalServer) -> None:
        self._reply = reply
        self._local = local
        self._cancel_requested: anyio.Event | None = None
        self.request_id = next(_request_ids)
        self.transport = _ASKS if caller.can_be_asked else _CANNOT_ASK
        self.message_metadata: MessageMetadata = None
        if caller.session is not None:  # whoever has one may come again for what it missed
            self.message_metadata = ServerMessageMetadata(close_sse_stream=partial(_close_stream, reply))

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
        if method in CHANGES:
            self._local.changed(CHANGES[method])
        elif method == UPDATED:
            self._local.updated(str((params or {}).get("uri")))
        else:
            self._reply.notice(method, params or {})
        await trio.lowlevel.checkpoint()  # so that whoever reads gets its turn

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        said: dict[str, Any] = {"progress": progress}
        if total is not None:
            said["total"] = total
        if message is not None:
            said["message"] = message
        await self.notify(PROGRESS, said)


def _nothing_there(request: Request) -> NotFound:
    """What a server without such components at all says of one; that it has no such method is between it and us."""
    kind, key = NAMED[request.method]
    return unknown(kind, request.params[key])


_passing: ContextVar[tuple[Request, ReplyChannel]] = ContextVar("mcpactors.passing")
"""The call that a server's middleware is put around, on its way to what is mounted below."""


async def _pass_on(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> dict[str, Any]:
    """The innermost middleware of a server for what is mounted below it: the call goes on, and its answer back."""
    request, reply = _passing.get()
    (target, own), *onward = request.onward
    params = readdressed(ctx.method, ctx.params or {}, own)
    outcome = await relay(target, Request(ctx.method, params, request.caller, tuple(onward)), reply)
    if isinstance(outcome, Failure):
        raise MCPError(outcome.code, outcome.message, outcome.data)
    return dict(outcome.value)


class LocalActor(Actor):
    """Runs one low-level SDK server: its lifespan is the actor's, every request is served in a task of its own."""

    kind = "local"

    def __init__(self, local: LocalServer) -> None:
        self._local = local
        self._state: Any = None
        self._watched: Counter[str] = Counter()
        self._sessions: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._wrapper: Server[Any] = Server(local.server.name, version=local.server.version)
        self._wrapper.middleware[:] = [*local.middleware, _pass_on]

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        local = self._local
        if local.after is not None:
            await local.after.wait()
        if local.threads is not None:
            thread_limit.set(local.threads)  # for the tasks of this life: each begins with the context of this one
            local.adopt()
        async with local.server.lifespan(local.server) as self._state:
            forget = local.bus.subscribe(self._on_event) if local.bus is not None else None
            try:
                yield
            finally:
                if forget is not None:
                    forget()

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome:
        passed.set(hops_of(request.params) + 1)
        try:
            if request.method == CATALOG:
                return Result({"listing": await self._listing(request, reply)})
            if request.onward:
                _passing.set((request, reply))
                return Result(await self._serve(self._wrapper, request.method, request.params, request.caller, reply))
            if request.method in ("resources/subscribe", "resources/unsubscribe"):
                return await self._watch(request, reply)
            return await self._answer(request, reply)
        except (MCPError, ValidationError) as error:
            said = handler_exception_to_error_data(error)
            assert said is not None
            if said.code == METHOD_NOT_FOUND and request.method in NAMED and not self._serves(request.method):
                raise _nothing_there(request) from None
            return Failure(said.code, said.message, said.data)

    async def _answer(self, request: Request, reply: ReplyChannel) -> Outcome:
        """Have the server answer; where it wants input by a result, a legacy caller is asked in its stead."""
        server, method, caller = self._local.server, request.method, request.caller
        result = await self._serve(server, method, request.params, caller, reply)
        if result.get("resultType") != INPUT_REQUIRED or caller.revision in MODERN_PROTOCOL_VERSIONS:
            return Result(result)

        async def again(more: dict[str, Any]) -> dict[str, Any]:
            return await self._serve(server, method, {**request.params, **more}, caller, reply)

        return await answer_rounds(server.name, result, again, reply)

    def _serves(self, method: str) -> bool:
        return self._local.server.get_request_handler(method) is not None

    async def _serve(
        self, server: Server[Any], method: str, params: Mapping[str, Any], caller: Caller, reply: ReplyChannel
    ) -> dict[str, Any]:
        auth_context_var.set(caller.user)  # also when there is none: the task may have been begun in somebody's call
        context = _CallContext(reply, caller, self._local)
        connection = Connection.from_envelope(caller.revision, caller.info, caller.capabilities, outbound=context)
        if caller.session is not None:
            connection.state = self._session_state(caller.session)
        runner = _Runner(server, connection, self._state)
        try:
            return await runner.on_request(context, method, params)
        finally:
            del runner.on_request  # a circle, that only a collection of garbage would end
            await aclose_shielded(connection)

    def _session_state(self, session: str) -> dict[str, Any]:
        """What the server keeps for one client session; that of the session that was longest away goes first."""
        state = self._sessions.setdefault(session, {})
        self._sessions.move_to_end(session)
        if len(self._sessions) > SESSIONS_KEPT:
            self._sessions.popitem(last=False)
        return state

    async def _watch(self, request: Request, reply: ReplyChannel) -> Outcome:
        """Count who watches a URI; the server itself is told of the first and the last, if it wants to know."""
        if not any(map(self._serves, _ABOUT_RESOURCES)):
            raise _nothing_there(request)
        uri, begins = str(request.params["uri"]), request.method == "resources/subscribe"
        if not begins and not self._watched[uri]:
            return Result({})
        self._count_watcher(uri, 1 if begins else -1)
        if self._watched[uri] == (1 if begins else 0) and self._serves(request.method):
            try:
                await self._serve(self._local.server, request.method, {"uri": uri}, _OLD_CALLER, reply)
            except BaseException:
                self._count_watcher(uri, -1 if begins else 0)  # it was refused: nobody watches by that
                raise
        return Result({})

    def _count_watcher(self, uri: str, change: int) -> None:
        self._watched[uri] += change
        if not self._watched[uri]:
            del self._watched[uri]

    def _on_event(self, event: ServerEvent) -> None:
        if isinstance(event, ResourceUpdated):
            self._local.updated(event.uri)
        elif type(event) in _EVENTS:
            self._local.changed(_EVENTS[type(event)])

    async def _listing(self, request: Request, reply: ReplyChannel) -> Listing:
        """Ask the server what it has now: a plain SDK server does not say when that changes."""

        async def page(method: str, params: dict[str, Any]) -> Mapping[str, Any] | None:
            try:
                asked = {**params, "_meta": _OWN_ENVELOPE}
                return await self._serve(self._local.server, method, asked, Caller(), reply)
            except MCPError as error:
                if error.code == METHOD_NOT_FOUND:
                    return None
                raise

        self._local.adopt()  # what was added meanwhile
        asked_at = trio.current_time()  # of two that are asked for at once, the later one is the newer one
        read = await read_all(request.params["kind"], page, check=False)
        return Listing(read.items, fresh=self._local.tells, learnt_at=asked_at, parts=read.parts)

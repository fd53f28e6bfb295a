"""Where a client meets the runtime: one client request becomes one `Envelope`, and what comes back becomes MCP of
that client's revision: shaping.py. How a client is asked: asking.py. Where a modern one's calls wait for its answers:
parking.py. What clients watch: watching.py. What the edge stands before: surroundings.py.

Rule: the transports have the wire (sessions, streams, header checks) and enter the SDK's server for each request; its
outermost middleware is ours and takes every request before a handler or a model sees it, so that what is relayed is
relayed whole. What a request means in its era is known here only. The SDK's provisional surfaces `Server.middleware`,
`ServerSession`'s request channel and its connection's state are used in this file only.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Final

import trio
from attrs import evolve
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity, authenticated_principal
from mcp.shared.dispatcher import DispatchContext
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    METHOD_NOT_FOUND,
    SERVER_INFO_META_KEY,
    CompletionsCapability,
    EmptyResult,
    LoggingCapability,
    PromptsCapability,
    ResourcesCapability,
    ServerCapabilities,
    ToolsCapability,
)
from mcp_types.methods import CLIENT_REQUESTS, INPUT_REQUIRED_METHODS, SPEC_CLIENT_METHODS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpactors.errors import InvalidParams, MCPActorsError
from mcpactors.runtime.circles import asked_for_gateways, with_gateways
from mcpactors.runtime.hops import arrived, hops_of
from mcpactors.runtime.mailbox import ActorRef, Caller, Envelope, Request
from mcpactors.runtime.reply import CallDeadlines, Failure, Replies, Result
from mcpactors.transports.answering import Channel
from mcpactors.transports.asgi import STOPPING
from mcpactors.transports.asking import (
    INPUT_REQUIRED,
    LOG_LEVELS,
    CallClient,
    input_requests,
    line_to,
    refuse_all,
    without_visits,
)
from mcpactors.transports.changes import Teller
from mcpactors.transports.parking import OpenCall
from mcpactors.transports.shaping import PASSED, VISITED, Shaping
from mcpactors.transports.surroundings import Face, Surroundings
from mcpactors.transports.turns import Turn, TurnsOfAll
from mcpactors.transports.watching import Watching, check_watched, let_go

__all__ = ["edge_server"]

PARKED: Final = "parked:"
"""What `requestState` holds under our seal before the key of a parked call; else it is `PASSED` or `VISITED`."""
SDK_ANSWERS: Final = frozenset({"initialize", "server/discover", "ping"})
_CALLER: Final = "mcpactors.caller"
_CHANGES: Final = "mcpactors.changes"
_session_numbers = count(1)

_Context = ServerRequestContext[Any, Any]


class _EdgeServer(Server[Any]):
    """The SDK's server with nothing behind it but the edge."""

    def __init__(self, face: Face, edge: _Edge) -> None:
        self._face = face
        super().__init__(face.name, version=face.version, get_tool_input_schema=face.tool_schema)
        self.middleware[:] = [edge]

    @property
    def instructions(self) -> str | None:  # what is mounted has a say in it
        return self._face.instructions()

    @instructions.setter
    def instructions(self, value: str | None) -> None:
        """The SDK's constructor sets it."""

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> ServerCapabilities:
        """Tools, prompts and resources always: they can be mounted at any time."""
        return ServerCapabilities(
            tools=ToolsCapability(list_changed=True),
            prompts=PromptsCapability(list_changed=True),
            resources=ResourcesCapability(list_changed=True, subscribe=True),
            completions=CompletionsCapability() if self._face.completions() else None,
            logging=LoggingCapability(),
        )


def edge_server(
    ref: ActorRef, face: Face, surroundings: Surroundings, deadlines: CallDeadlines = CallDeadlines()
) -> Server[Any]:
    """A server for the SDK's transports and its in-memory `Client`, every request of which goes to `ref`."""
    return _EdgeServer(face, _Edge(ref, face, surroundings, deadlines))


class _Edge:
    """The middleware: takes requests, sends on what the runtime says, and speaks the client's revision."""

    def __init__(self, ref: ActorRef, face: Face, surroundings: Surroundings, deadlines: CallDeadlines) -> None:
        self._ref = ref
        self._surroundings = surroundings
        self._deadlines = deadlines
        self._turns = TurnsOfAll(surroundings.in_flight, deadlines.idle)
        self._own = face.own
        self._shaping = Shaping({"name": face.name, "version": face.version}, face.completions)
        self._parking = surroundings.parking
        self._watching = Watching(ref, surroundings.listen)
        keys = surroundings.state_keys or [secrets.token_hex(32)]
        seal = RequestStateSecurity(keys=list(keys), ttl=deadlines.question)
        self._sealed = RequestStateBoundary(seal, default_audience=face.name)

    async def __call__(self, ctx: _Context, call_next: CallNext) -> HandlerResult:
        method, revision = ctx.method, ctx.protocol_version
        connection: Connection = ctx.session._connection
        if ctx.request_id is None:
            if method == "notifications/initialized":
                self._tell_changes_to(connection)
            elif method == "notifications/roots/list_changed" and (known := connection.state.get(_CALLER)):
                self._surroundings.roots_changed(known.session)
            return await call_next(ctx)
        if method in SDK_ANSWERS:
            if method == "ping":
                return await call_next(ctx)
            if method == "initialize":  # who reads for the client waits for it: there is one at a time
                return await self._introduced(ctx, call_next)
            return await self._in_turn(ctx, lambda turn: self._introduced(ctx, call_next))
        if method in SPEC_CLIENT_METHODS and (method, revision) not in CLIENT_REQUESTS:
            raise MCPError(METHOD_NOT_FOUND, f"{method} is not a method of MCP {revision}", method)
        params = ctx.params or {}
        if not isinstance(params.get("_meta", {}), Mapping):
            raise MCPError(InvalidParams.code, f"{method} takes params._meta as an object")
        try:
            counted = arrived(params, self._surroundings.hop_limit)
        except MCPActorsError as error:
            raise MCPError(error.code, error.message, error.data) from error
        if counted is not params:
            params = counted
            ctx = replace(ctx, params=params)
        caller = self._caller(ctx, params)
        if method == "logging/setLevel":
            return _set_level(connection, caller, params)
        if method == "subscriptions/listen":
            return await self._listen(ctx, params, caller)
        if method in INPUT_REQUIRED_METHODS:
            return await self._in_turn(ctx, partial(self._begin, ctx, caller, params))
        return await self._in_turn(ctx, partial(self._ask, ctx, Request(method, params, caller)))

    async def _in_turn(self, ctx: _Context, answer: Callable[[Turn | None], Awaitable[HandlerResult]]) -> HandlerResult:
        """A request, once it is its turn among those of its connection."""
        params = ctx.params or {}
        turns = self._turns.of(ctx.session._connection, by_gateway=hops_of(params) > 0)
        if turns is None:
            return await answer(None)
        try:
            turn = await turns.take(self._surroundings.goes_to(ctx.method, params))
        except MCPActorsError as error:
            raise MCPError(error.code, error.message, error.data) from error
        try:
            return await answer(turn)
        finally:
            channel = ctx.session._request_outbound
            if isinstance(channel, Channel):  # until then it is in memory, and the client may be one that does not read
                channel.taken = turn.give_back
            else:
                turn.give_back()

    async def _begin(
        self, ctx: _Context, caller: Caller, params: Mapping[str, Any], turn: Turn | None
    ) -> HandlerResult:
        if caller.revision in MODERN_PROTOCOL_VERSIONS:
            return await self._sealed(ctx, partial(self._call_in_rounds, caller))
        return await self._call(ctx, Request(ctx.method, params, caller), turn)

    async def _ask(self, ctx: _Context, request: Request, turn: Turn | None) -> HandlerResult:
        """A list, a completion, or what a client watches."""
        state: Mapping[str, Any] = ctx.session._connection.state
        uri = request.params.get("uri")
        if request.method == "resources/unsubscribe" and not let_go(state.get(_CHANGES), uri):
            return EmptyResult()  # nothing to end here: it is counted who watches, and others may go on
        if request.method != "resources/subscribe":
            return await self._call(ctx, request, turn)
        check_watched([uri], state.get(_CHANGES))
        result = await self._call(ctx, request, turn)
        await self._watching.remember(state.get(_CHANGES), request.params["uri"])
        return result

    async def _introduced(self, ctx: _Context, call_next: CallNext) -> HandlerResult:
        """What this says of itself; the root's own middleware may refuse to."""
        own = self._own()
        if own is not None:
            with suppress(MCPActorsError):  # it is down, and what is mounted on it is not
                outcome = await own.ask(Request(ctx.method, ctx.params or {}, Caller(ctx.protocol_version)))
                if isinstance(outcome, Failure):
                    raise MCPError(outcome.code, outcome.message, outcome.data)
        said = await call_next(ctx)
        if isinstance(said, dict) and asked_for_gateways(ctx.params or {}):
            return with_gateways(said, *self._surroundings.gateways())
        return said

    # --- Changes --------------------------------------------------------------------------------------------------

    def _tell_changes_to(self, connection: Connection) -> None:
        """From now on this old session is told of changes."""
        if _CHANGES in connection.state:
            return
        teller = Teller(self._surroundings.listen, connection.notify, self._surroundings.spawn)
        connection.state[_CHANGES] = teller.changes

        async def end() -> None:
            teller.end()
            await self._watching.forget(tuple(teller.changes.uris))

        connection.exit_stack.push_async_callback(end)

    async def _listen(self, ctx: _Context, params: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """Serve `subscriptions/listen` until one side ends it."""
        channel: DispatchContext[TransportContext] = ctx.session._request_outbound
        meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}

        async def notify(method: str, said: Mapping[str, Any]) -> None:
            await channel.notify(method, {**said, "_meta": meta})

        endings = (self._surroundings.closing, *_front_stopping(ctx))
        await self._watching.listen(params, caller, notify, endings)
        return {"resultType": "complete", "_meta": {**meta, SERVER_INFO_META_KEY: self._shaping.stamp}}

    # --- Calls ----------------------------------------------------------------------------------------------------

    async def _call(self, ctx: _Context, request: Request, turn: Turn | None = None) -> dict[str, Any]:
        """A call that ends with the request that began it."""
        client = self._client(ctx, request.caller, turn)
        with self._begun(request) as replies:
            await client.converse(replies)
        return self._shaping.answer(request, replies)

    async def _call_in_rounds(self, caller: Caller, ctx: _Context) -> dict[str, Any]:
        """A modern call, which may end a request by `input_required` and go on with the retry.

        What stands in `requestState` is under a seal of ours: the key of a call that is parked here, or the state of a
        backend that speaks the modern era itself.
        """
        params = dict(ctx.params or {})
        state = params.get("requestState")
        if state is None:
            params.pop("requestState", None)  # null is none, as the seal has it
        if isinstance(state, str) and state.startswith(PARKED):
            call = self._resumed(params, state.removeprefix(PARKED))
        else:
            if isinstance(state, str) and state.startswith(PASSED):
                params["requestState"] = state.removeprefix(PASSED)
            elif state == VISITED:
                params = without_visits(params)
            request = Request(ctx.method, params, caller)
            call = OpenCall(request, self._begun(request))
        client = self._client(ctx, caller)
        with ExitStack() as leaves:
            leaves.enter_context(call.replies)
            while await client.gather(call):
                if (full := self._parking.refusal(client_of := _client_of(ctx))) is None:
                    key = self._parking.park(call, client_of)
                    leaves.pop_all()  # from now on it is the parking's to leave
                    asked = {"resultType": INPUT_REQUIRED, "inputRequests": input_requests(call)}
                    return self._shaping.result(call.request, {**asked, "requestState": PARKED + key})
                refuse_all(call, full)
        return self._shaping.answer(call.request, call.replies, client.refused)

    def _begun(self, request: Request) -> Replies:
        replies = Replies(self._deadlines, self._surroundings.calls)
        try:
            self._ref.offer(Envelope(request, replies.channel))
        except MCPActorsError as error:
            raise MCPError(error.code, error.message, error.data) from error
        return replies

    def _resumed(self, params: Mapping[str, Any], key: str) -> OpenCall:
        """The parked call that a retry goes on with, given the answers that came with it."""
        answers = params.get("inputResponses") or {}
        if not isinstance(answers, Mapping) or not all(isinstance(answer, Mapping) for answer in answers.values()):
            raise MCPError(InvalidParams.code, "inputResponses is an object that has an object for each input request")
        call = self._parking.take(key)
        if call is None:
            said = "Invalid or expired requestState: it was used already, or its call has ended; begin the call anew"
            raise MCPError(InvalidParams.code, said, {"reason": "invalid_request_state"})
        for name, answer in answers.items():
            if name in call.asked:
                call.asked[name].answer(Result(answer))
        return call

    def _caller(self, ctx: _Context, params: Mapping[str, Any]) -> Caller:
        """The facts about the client: each modern request carries them, an old session keeps them."""
        connection, revision, user = ctx.session._connection, ctx.protocol_version, auth_context_var.get()
        if revision in MODERN_PROTOCOL_VERSIONS:
            meta = params.get("_meta") or {}
            return Caller(
                revision,
                capabilities=meta.get(CLIENT_CAPABILITIES_META_KEY) or {},
                info=meta.get(CLIENT_INFO_META_KEY),
                principal=authenticated_principal(ctx),
                log_level=meta.get(LOG_LEVEL_META_KEY),
                can_be_asked=True,
                user=user,
            )
        known: Caller | None = connection.state.get(_CALLER)
        if known is None:
            said = connection.client_params
            hello = said.model_dump(by_alias=True, mode="json", exclude_none=True) if said is not None else {}
            session = f"session-{next(_session_numbers)}"
            known = connection.state[_CALLER] = Caller(
                revision,
                capabilities=hello.get("capabilities", {}),
                info=hello.get("clientInfo"),
                principal=authenticated_principal(ctx),
                session=session,
                can_be_asked=True,
            )
            connection.exit_stack.callback(self._surroundings.client_left, session)
            line = line_to(connection, known, lambda: connection.state[_CALLER].log_level)
            self._surroundings.client_came(session, line)
        return known if known.user is user else evolve(known, user=user)  # a session outlives its tokens

    def _client(self, ctx: _Context, caller: Caller, turn: Turn | None = None) -> CallClient:
        state = ctx.session._connection.state

        def log_level() -> str | None:  # an old session may set it while the call runs
            known: Caller = state.get(_CALLER, caller)
            return known.log_level

        channel, params = ctx.session._request_outbound, ctx.params or {}
        return CallClient(channel, caller, params, log_level, ctx.close_sse_stream, turn)


def _client_of(ctx: _Context) -> Hashable:
    """Who has a share of what all clients share: a principal, else a machine. None: what serves has one client."""
    scope: Mapping[str, Any] = ctx.request.scope if ctx.request is not None else {}
    address = scope.get("client")
    return authenticated_principal(ctx) or (address[0] if address else None)


def _front_stopping(ctx: _Context) -> Sequence[trio.Event]:
    """Set when the front that took the request stops, where fronts come and go: see http_server/serving.py."""
    state: Mapping[str, Any] = ctx.request.scope.get("state", {}) if ctx.request is not None else {}
    return [state[STOPPING]] if STOPPING in state else []


def _set_level(connection: Connection, caller: Caller, params: Mapping[str, Any]) -> EmptyResult:
    level = params.get("level")
    if level not in LOG_LEVELS:
        error = InvalidParams(f"logging/setLevel needs params.level: one of {', '.join(LOG_LEVELS)}")
        raise MCPError(error.code, error.message)
    connection.state[_CALLER] = evolve(caller, log_level=level)
    return EmptyResult()

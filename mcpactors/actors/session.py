"""One connection to a backend: its era, the calls in flight on it, and whose message is whose.

Rule: a session is entered and left in one task and nobody else awaits on its connection (design.md section 4, rule 3).
Ids and progress tokens of clients never reach the backend, each call gets new ones (rule 7). Results are relayed as the
dicts that came, never through a model. With `proxy.py` this is all that knows the eras of backends (section 6).
"""

from __future__ import annotations

import logging
import math
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, Final

import trio
from attrs import field, frozen
from mcp.shared.dispatcher import CallOptions, DispatchContext
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
    LOG_LEVEL_META_KEY,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    URL_ELICITATION_REQUIRED,
)
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)

from mcpactors.actors.rounds import INPUT_REQUIRED, answer_rounds
from mcpactors.errors import CONNECTION_CLOSED, ActorCrashed, BackendStartError, CallTimeout, QuestionRefused
from mcpactors.runtime.actor import Caller, Request, part
from mcpactors.runtime.policy import FORWARD_ALL, Forwarding, PoolLimits, Sessions
from mcpactors.runtime.reply import PROGRESS, Failure, Outcome, ReplyChannel, Result
from mcpactors.runtime.routing import Kind

__all__ = [
    "OURS",
    "OUR_INFO",
    "Backend",
    "BackendSession",
    "Connect",
    "Introduction",
    "RootsChanged",
    "SessionEnded",
    "envelope",
    "mapping",
]

logger = logging.getLogger("mcpactors")

Connect = Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]
"""Opens a connection: an async context manager that yields the SDK's (read, write) of `SessionMessage`."""

PROBE_TIMEOUT: Final = 5.0
"""Seconds a backend may take to say whether it speaks the modern protocol, before the old one is tried."""
HANDSHAKE_TIMEOUT: Final = 15.0
LEAVE_TIMEOUT: Final = 5.0
"""Seconds that closing a session may take: over HTTP the backend is told of it."""
OUTSIDE_TIMEOUT: Final = 600.0
"""Seconds a client may take to answer what a backend asks while no call runs."""
ENVELOPE: Final = (PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY, LOG_LEVEL_META_KEY)
DISPATCHER_CLOSED: Final = (CONNECTION_CLOSED, "Connection closed")
"""What the SDK's dispatcher says to whoever waits when the connection ends."""
COMPLETED: Final = "notifications/elicitation/complete"
ROOTS_CHANGED: Final = "notifications/roots/list_changed"
SENT_AWAY: Final = 256
"""Elicitations by URL, at most, of which it is remembered whose they are."""
QUESTIONS: Final = frozenset({"sampling/createMessage", "elicitation/create", "roots/list"})
OUR_INFO: Final = {"name": "mcpactors", "version": "0.1.0"}
OUR_CAPABILITIES: Final[Mapping[str, Any]] = {
    "sampling": {"tools": {}, "context": {}},
    "elicitation": {"form": {}, "url": {}},
    "roots": {"listChanged": False},
}
"""What a shared old session is told once for everybody; what one caller cannot do is refused when it is asked."""


@frozen(eq=False)
class _Call:
    """One call that the backend is working on."""

    reply: ReplyChannel
    caller: Caller


_current: ContextVar[_Call | None] = ContextVar("mcpactors.call", default=None)
"""The call on whose HTTP stream a message came. Over stdio nothing on the wire says it (building-blocks.md)."""


@frozen
class Introduction:
    """How a session introduces itself to a backend of the old era, and whose it is."""

    capabilities: Mapping[str, Any]
    info: Mapping[str, Any]
    session: str | None = None
    """The client session that it belongs to."""
    key: str | None = None
    """Says for whose calls it may be lent."""


@frozen
class SessionEnded:
    """Tells a proxy that this client session is over."""

    session: str


@frozen
class RootsChanged:
    """Tells a proxy that the client of this session says that its roots have changed."""

    session: str


OURS: Final = Introduction(OUR_CAPABILITIES, OUR_INFO)


AskClient = Callable[[str, str, Mapping[str, Any] | None], Awaitable[Outcome]]
TellClient = Callable[[str, str, Mapping[str, Any]], None]


@frozen(kw_only=True, eq=False)
class Backend:
    """What a proxy stands before; it outlives the proxy's lives."""

    connect: Connect
    timeout: float | None = None
    """Seconds for one call in all, where this backend's are fewer than the runtime's."""
    over_http: bool = False
    """Whether some arguments are to go into headers."""
    sessions: Sessions = "shared"
    forward: Forwarding = FORWARD_ALL
    limits: PoolLimits = field(factory=PoolLimits)
    start_timeout: float = 15.0
    """Seconds a session beside the main one may take to open."""
    watched: Counter[str] = field(factory=Counter)
    """How many clients watch which of its URIs; watched anew in every life."""
    changed: Callable[[tuple[Kind, ...]], None] = lambda kinds: None
    """Called when lists of these kinds are not what they were."""
    updated: Callable[[str], None] = lambda uri: None
    """Called when what is at one of its URIs has changed."""
    introduced: Callable[[Mapping[str, Any]], None] = lambda said: None
    """Called at every start with what the backend said of itself: its `server/discover` or `initialize` result."""
    ask_client: AskClient = field(default=lambda session, method, params: _nobody(session, method, params))
    """Puts a question to a client session while none of its calls is running."""
    tell_client: TellClient = lambda session, method, params: None
    """Sends a client session a notification that belongs to no running call of it; must not wait."""


Hears = Callable[[str, Mapping[str, Any]], None]
"""Takes a notification that belongs to no call: method and params."""


class BackendSession:
    """One connection to a backend. It is of use while the block of `open` lasts."""

    modern: bool = True
    revision: str = LATEST_MODERN_VERSION
    server: Mapping[str, Any] = {}
    """What the backend said of itself: its `server/discover` or `initialize` result."""

    def __init__(
        self,
        name: str,
        backend: Backend,
        introduction: Introduction = OURS,
        hears: Hears = lambda method, params: None,
        schema_of: Callable[[str], Any] = lambda tool: None,
        expects_legacy: bool = False,
    ) -> None:
        self._name = name
        self._backend = backend
        self._forward = backend.forward
        self._hears = hears
        self._schema_of = schema_of
        self.options: CallOptions = {} if backend.timeout is None else {"timeout": backend.timeout}
        self._tokens = count(1)
        self._calls: dict[int, _Call] = {}
        self._sent_away: OrderedDict[str, str] = OrderedDict()
        self._lost = False
        self._expects_legacy = expects_legacy
        self._let_go = trio.Event()
        self._settled = trio.Event()
        self._is_open = False
        self._not_opened: BackendStartError | None = None
        self.introduction = introduction
        self.ended = False
        """Whether it is closed for good; only of one that `hold` keeps."""
        self.knows_roots = False
        """Whether the backend has asked for roots on it: what it does afterwards may depend on whose they were."""
        self.used_at = trio.current_time()
        """When its last call ended; kept by whoever lends it."""

    # --- The connection -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Be connected while the block lasts. The backend closes the connection: the block is cancelled, and this
        raises.

        Raises:
            BackendStartError: the backend does not say what it speaks, or has closed the connection.
        """
        async with self._backend.connect() as (read, write), trio.open_nursery() as nursery:
            self._read = read
            self._dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(read, write)
            await nursery.start(self._run)
            await self._negotiate()
            self._is_open = True
            self._settled.set()
            yield
            nursery.cancel_scope.cancel()

    async def hold(self, forget: Callable[[BackendSession], None]) -> None:
        """Be connected, in a task of its own, until let go. Its loss costs its own calls only: nothing is raised."""
        _current.set(None)  # this task was started by a call, and is not its
        late = f"{self._name} did not open a session within {self._backend.start_timeout:g} s"
        self._not_opened = BackendStartError(late)
        try:
            with trio.CancelScope(deadline=trio.current_time() + self._backend.start_timeout) as scope:
                async with self.open():
                    scope.deadline = math.inf
                    await self._let_go.wait()
                    scope.deadline = trio.current_time() + LEAVE_TIMEOUT
        except BaseException as error:
            passing, own = part(error)
            while isinstance(own, BaseExceptionGroup):
                own = own.exceptions[0]
            self._not_opened = BackendStartError(f"{self._name} did not open a session: {own}")
            logger.info("%s: a session ended: %s", self._name, own)
            if passing is not None:
                raise passing from None
        finally:
            self.ended = True
            self._settled.set()
            forget(self)

    def let_go(self) -> None:
        """Close what `hold` keeps open."""
        self._let_go.set()

    @property
    def busy(self) -> bool:
        """Whether calls are in flight on it."""
        return bool(self._calls)

    async def _run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await self._dispatcher.run(
                self._on_request,
                _ignore,
                self._on_notification,
                task_status=task_status,
            )
        finally:
            self._lost = True
        raise BackendStartError(f"{self._name} closed the connection")

    async def _negotiate(self) -> None:
        """Find out which era the backend speaks: by `server/discover`, then by the handshake.

        A backend that refuses the handshake as too old has locked itself to the modern era (its answer to the probe
        came too late): it is asked once more.
        """
        if not self._expects_legacy and await self._probe():
            return
        hello = {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": self._forward.allowed(self.introduction.capabilities),
            "clientInfo": self.introduction.info,
        }
        try:
            self.server = await self._dispatcher.send_raw_request(
                "initialize", hello, {"timeout": HANDSHAKE_TIMEOUT, "cancel_on_abandon": False}
            )
        except MCPError as error:
            if error.code == UNSUPPORTED_PROTOCOL_VERSION and await self._probe():
                return
            raise BackendStartError(f"{self._name} does not answer the handshake: {error.message}") from error
        self.modern = False
        self.revision = self.server.get("protocolVersion", "")
        if self.revision not in HANDSHAKE_PROTOCOL_VERSIONS:
            raise BackendStartError(f"{self._name} speaks protocol {self.revision!r}, which is not one we know")
        await self._dispatcher.notify("notifications/initialized", None, {"headers": self._version_header()})

    async def _probe(self) -> bool:
        """Ask whether the backend speaks the modern era."""
        try:
            found = await self.send(
                "server/discover", {"_meta": envelope({})}, {"timeout": PROBE_TIMEOUT, "cancel_on_abandon": False}
            )
        except MCPError as error:
            if self._lost:
                raise BackendStartError(f"{self._name} closed the connection when it was asked who it is") from error
            return False
        versions = found.get("supportedVersions")
        if not isinstance(versions, list) or not any(version in versions for version in MODERN_PROTOCOL_VERSIONS):
            return False
        self.server = found
        return True

    def _version_header(self) -> dict[str, str]:
        return {MCP_PROTOCOL_VERSION_HEADER: self.revision}

    async def send(self, method: str, params: Mapping[str, Any], opts: CallOptions | None = None) -> dict[str, Any]:
        """One request to the backend, with the headers that its era wants over HTTP.

        Raises:
            MCPError: what the backend answered, or that it did not.
        """
        headers = self._version_header()
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

    # --- Calls ----------------------------------------------------------------------------------------------------

    async def call(self, request: Request, reply: ReplyChannel) -> Outcome:
        """Carry one request of a client to the backend; what it says meanwhile goes to `reply`."""
        token = next(self._tokens)
        call = self._calls[token] = _Call(reply, request.caller)
        _current.set(call)
        try:
            if not self._is_open:
                await self._until_open()
            params = self._params(request, token)
            result = await self.send(request.method, params, self.options)
            if result.get("resultType") != INPUT_REQUIRED or request.caller.revision in MODERN_PROTOCOL_VERSIONS:
                return Result(result)

            async def again(more: dict[str, Any]) -> dict[str, Any]:
                return await self.send(request.method, {**params, **more}, self.options)

            return await answer_rounds(self._name, result, again, reply)
        except MCPError as error:
            if error.code == URL_ELICITATION_REQUIRED:
                for sent in mapping(error.data).get("elicitations") or ():
                    self._remember(sent, request.caller.session)
            return self.failure(error)
        finally:
            del self._calls[token]

    async def _until_open(self) -> None:
        """Wait until it has opened. Meanwhile the call counts: a backend may ask its client as soon as it is."""
        await self._settled.wait()
        if not self._is_open and self._not_opened is not None:
            raise self._not_opened

    def _params(self, request: Request, token: int) -> dict[str, Any]:
        """The params as this backend's era wants them, with a progress token of ours."""
        meta = dict(mapping(request.params.get("_meta")))
        caller = request.caller
        if not self.modern:
            for key in ENVELOPE:
                meta.pop(key, None)
        elif PROTOCOL_VERSION_META_KEY not in meta:
            meta |= envelope(caller.capabilities, caller.info)
            meta[LOG_LEVEL_META_KEY] = caller.log_level or "debug"  # an old client hears all until it says otherwise
        if self._forward is not FORWARD_ALL:
            self._withhold(meta)
        if self._forward.progress:
            meta["progressToken"] = token
        return {**request.params, "_meta": meta}

    def _withhold(self, meta: dict[str, Any]) -> None:
        """Do not tell the backend of what is switched off for it."""
        if CLIENT_CAPABILITIES_META_KEY in meta:
            meta[CLIENT_CAPABILITIES_META_KEY] = self._forward.allowed(mapping(meta[CLIENT_CAPABILITIES_META_KEY]))
        if not self._forward.logging:
            meta.pop(LOG_LEVEL_META_KEY, None)
        if not self._forward.progress:
            meta.pop("progressToken", None)

    async def roots_changed(self) -> None:
        """Tell the backend that the roots of this session's client have changed."""
        await self._settled.wait()
        if self._is_open and not self.modern:
            await self._dispatcher.notify(ROOTS_CHANGED, None, {"headers": self._version_header()})

    def failure(self, error: MCPError) -> Failure:
        """What a call ends with that the backend, or the connection, has refused."""
        if error.code == CallTimeout.code and "timeout" in self.options and error.data is None:
            said = f"{self._name} did not answer within {self.options['timeout']:g} s, its own timeout"
            return Failure.of(CallTimeout(f"{said}; the call was cancelled there and its outcome is unknown"))
        if (error.code, error.message) == DISPATCHER_CLOSED:
            return Failure.of(
                ActorCrashed(
                    f"{self._name} lost its connection while it held the call: the outcome is unknown, and nothing "
                    "was retried",
                    {"actor": self._name},
                )
            )
        return Failure(error.code, error.message, error.data)

    # --- What the backend sends by itself -------------------------------------------------------------------------

    async def _on_request(
        self, context: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        if method == "ping":
            return {}
        if method not in QUESTIONS:
            raise MCPError(METHOD_NOT_FOUND, f"{method} is not a method of this client", method)
        if not self._forward.passes(method):
            raise MCPError(QuestionRefused.code, f"{method} is switched off for {self._name}, by forward= of its mount")
        self.knows_roots = self.knows_roots or method == "roots/list"
        call = _current.get() or self._only_call()
        if call is None and not self._calls and self.introduction.session is not None:
            return await self._ask_outside(self.introduction.session, method, params)
        if call is None:
            refused = QuestionRefused(
                f"{method} cannot be given to a client: calls of several clients are running on this connection and "
                'nothing says which of them asks; mount this backend with sessions="per_client"'
                if self._calls
                else f"{method} cannot be given to a client: no call is running"
            )
            raise MCPError(refused.code, refused.message)
        self._remember(params, call.caller.session)
        return _answer(await call.reply.question(method, params))

    async def _ask_outside(self, session: str, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask the client that this session belongs to, while none of its calls is running."""
        with trio.move_on_after(OUTSIDE_TIMEOUT):
            return _answer(await self._backend.ask_client(session, method, params))
        raise MCPError(QuestionRefused.code, f"the client did not answer {method} within {OUTSIDE_TIMEOUT:g} s")

    def _on_notification(self, method: str, params: Mapping[str, Any] | None) -> bool:
        """Take a notification in the order of the wire; sync, so none overtakes another or the result."""
        said = params or {}
        if not self._forward.passes(method):
            return True
        if method == PROGRESS:
            token = said.get("progressToken")
            call = self._calls.get(token) if isinstance(token, int) else None
            if call is not None:
                call.reply.notice(method, {key: value for key, value in said.items() if key != "progressToken"})
        elif method == "notifications/message":
            context = getattr(self._read, "last_context", None)
            call = (context.get(_current) if context is not None else None) or self._only_call()
            if call is not None:
                call.reply.notice(method, said)
            elif self.introduction.session is not None:
                self._backend.tell_client(self.introduction.session, method, said)
        elif method == COMPLETED:
            self._completed(said)
        else:
            self._hears(method, said)
        return True

    def _remember(self, params: object, session: str | None) -> None:
        """Note who was sent to a URL, so that the same client is told when it is done there."""
        said = mapping(params)
        key = said.get("elicitationId")
        if session is not None and said.get("mode") == "url" and isinstance(key, str):
            self._sent_away[key] = session
            if len(self._sent_away) > SENT_AWAY:
                self._sent_away.popitem(last=False)

    def _completed(self, said: Mapping[str, Any]) -> None:
        """A client has done what it was sent to a URL for: it alone is told, by a call of its own if one is running."""
        session = self._sent_away.pop(str(said.get("elicitationId")), None)
        if session is None:
            return
        for call in self._calls.values():
            if call.caller.session == session:
                call.reply.notice(COMPLETED, said)
                return
        self._backend.tell_client(session, COMPLETED, said)

    def _only_call(self) -> _Call | None:
        """The call that a message belongs to which does not say so: the only one, or any of one client's only."""
        calls = list(self._calls.values())
        if len(calls) == 1:
            return calls[0]
        sessions = {call.caller.session for call in calls}
        return calls[-1] if len(sessions) == 1 and None not in sessions else None


def _answer(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        raise MCPError(outcome.code, outcome.message, outcome.data)
    return dict(outcome.value)


async def _nobody(session: str, method: str, params: Mapping[str, Any] | None) -> Outcome:
    return Failure.of(QuestionRefused(f"{method} cannot be given to a client: no call is running"))


def mapping(value: object) -> Mapping[str, Any]:
    """The value when it is an object; else an empty one: what a peer says is not always what it should be."""
    return value if isinstance(value, Mapping) else {}


def envelope(capabilities: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `_meta` that every modern request carries (MCP 2026-07-28, basic/index)."""
    return {
        PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
        CLIENT_INFO_META_KEY: dict(info or OUR_INFO),
        CLIENT_CAPABILITIES_META_KEY: dict(capabilities),
    }


async def _ignore(context: object, method: str, params: object) -> None:
    """Notifications are taken by the intercept, in order; none is left for the dispatcher."""

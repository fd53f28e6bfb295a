"""The actor in front of a backend: its connection is its lifespan.

Rule: the connection is entered and left in this actor's own task and nobody else awaits on it (design.md section 4,
rule 3). A lost connection is a crash; nothing is retried. Ids and progress tokens of clients never reach the backend,
each call gets new ones (rule 7). Results are relayed as the dicts that came, never through a model. Towards backends
this is the only file that knows eras (design.md section 6).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
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
)
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)

from mcpactors.actors.paging import CHANGES, UPDATED, read_all
from mcpactors.errors import (
    CONNECTION_CLOSED,
    ActorCrashed,
    BackendStartError,
    CallTimeout,
    MCPActorsError,
    QuestionRefused,
)
from mcpactors.runtime.actor import Actor, Caller, Request
from mcpactors.runtime.methods import CATALOG
from mcpactors.runtime.reply import PROGRESS, Failure, Outcome, ReplyChannel, Result
from mcpactors.runtime.routing import Kind, Listing

__all__ = ["Backend", "Connect", "ProxyActor"]

logger = logging.getLogger("mcpactors")

Connect = Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]
"""Opens a connection: an async context manager that yields the SDK's (read, write) of `SessionMessage`."""

PROBE_TIMEOUT: Final = 5.0
"""Seconds a backend may take to say whether it speaks the modern protocol, before the old one is tried."""
HANDSHAKE_TIMEOUT: Final = 15.0
LIST_TIMEOUT: Final = 30.0
ENVELOPE: Final = (PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY, LOG_LEVEL_META_KEY)
TELLS: Final[Mapping[str, tuple[Kind, ...]]] = {
    "toolsListChanged": ("tools",),
    "promptsListChanged": ("prompts",),
    "resourcesListChanged": ("resources", "templates"),
}
DISPATCHER_CLOSED: Final = (CONNECTION_CLOSED, "Connection closed")
"""What the SDK's dispatcher says to whoever waits when the connection ends."""
QUESTIONS: Final = frozenset({"sampling/createMessage", "elicitation/create", "roots/list"})
OUR_INFO: Final = {"name": "mcpactors", "version": "0.1.0"}
OUR_CAPABILITIES: Final[Mapping[str, Any]] = {
    "sampling": {"tools": {}, "context": {}},
    "elicitation": {"form": {}, "url": {}},
    "roots": {"listChanged": False},
}
"""What a legacy backend is told once for everybody; what one caller cannot do is refused when it is asked."""


@frozen(eq=False)
class _Call:
    """One call that the backend is working on."""

    reply: ReplyChannel
    caller: Caller


_current: ContextVar[_Call] = ContextVar("mcpactors.call")
"""The call on whose HTTP stream a message came. Over stdio nothing on the wire says it (building-blocks.md)."""


@frozen(kw_only=True, eq=False)
class Backend:
    """What a proxy stands before; it outlives the proxy's lives."""

    connect: Connect
    timeout: float | None = None
    """Seconds for one call in all, where this backend's are fewer than the runtime's."""
    over_http: bool = False
    """Whether some arguments are to go into headers."""
    watched: Counter[str] = field(factory=Counter)
    """How many clients watch which of its URIs; watched anew in every life."""
    changed: Callable[[tuple[Kind, ...]], None] = lambda kinds: None
    """Called when lists of these kinds are not what they were."""
    updated: Callable[[str], None] = lambda uri: None
    """Called when what is at one of its URIs has changed."""
    introduced: Callable[[Mapping[str, Any]], None] = lambda said: None
    """Called at every start with what the backend said of itself: its `server/discover` or `initialize` result."""


class ProxyActor(Actor):
    """Holds one connection to a backend and relays calls to it."""

    kind = "proxy"

    def __init__(self, name: str, backend: Backend) -> None:
        self._name = name
        self._backend = backend
        self._options: CallOptions = {} if backend.timeout is None else {"timeout": backend.timeout}
        self._tokens = count(1)
        self._calls: dict[int, _Call] = {}
        self._listings: dict[Kind, Listing] = {}
        self._fresh_until: dict[Kind, float] = {}
        self._learning: dict[Kind, trio.Event] = {}
        self._unlearnt: dict[Kind, MCPActorsError] = {}
        self._lost = False

    # --- The connection -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with self._backend.connect() as (read, write), trio.open_nursery() as nursery:
            self._read = read
            self._nursery = nursery
            self._dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(read, write)
            await nursery.start(self._run)
            await self._negotiate()
            self._backend.introduced(self.server)
            if self.modern:
                nursery.start_soon(self._listen)
            else:
                for uri in +self._backend.watched:
                    nursery.start_soon(self._watch_again, uri)
            yield
            nursery.cancel_scope.cancel()

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
        if await self._probe():
            return
        hello = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": OUR_CAPABILITIES, "clientInfo": OUR_INFO}
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
            found = await self._send(
                "server/discover", {"_meta": _envelope({})}, {"timeout": PROBE_TIMEOUT, "cancel_on_abandon": False}
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

    modern: bool = True
    revision: str = LATEST_MODERN_VERSION
    server: Mapping[str, Any] = {}
    """What the backend said of itself: its `server/discover` or `initialize` result."""

    def _version_header(self) -> dict[str, str]:
        return {MCP_PROTOCOL_VERSION_HEADER: self.revision}

    async def _send(self, method: str, params: Mapping[str, Any], opts: CallOptions | None = None) -> dict[str, Any]:
        """One request to the backend, with the headers that its era wants over HTTP."""
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
        known = self._listings.get("tools")
        for tool in known.items if known else ():
            if tool.get("name") == name:
                schema = tool.get("inputSchema")
                return (
                    {} if find_invalid_x_mcp_header(schema) else mcp_param_headers(x_mcp_header_map(schema), arguments)
                )
        return {}

    # --- Calls ----------------------------------------------------------------------------------------------------

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome:
        if request.method == CATALOG:
            return Result({"listing": await self._listing(request.params["kind"])})
        if self._backend.over_http and self.modern and request.method == "tools/call" and "tools" not in self._listings:
            await self._listing("tools")  # the schemas say which arguments go into headers
        if request.method in ("resources/subscribe", "resources/unsubscribe"):
            return await self._watch(request)
        token = next(self._tokens)
        call = self._calls[token] = _Call(reply, request.caller)
        _current.set(call)
        try:
            return Result(await self._send(request.method, self._params(request, token), self._options))
        except MCPError as error:
            return self._failure(error)
        finally:
            del self._calls[token]

    def _params(self, request: Request, token: int) -> dict[str, Any]:
        """The params as this backend's era wants them, with a progress token of ours."""
        meta = dict(_mapping(request.params.get("_meta")))
        caller = request.caller
        if not self.modern:
            for key in ENVELOPE:
                meta.pop(key, None)
        elif PROTOCOL_VERSION_META_KEY not in meta:
            meta |= _envelope({}, caller.info)
            meta[LOG_LEVEL_META_KEY] = caller.log_level or "debug"  # an old client hears all until it says otherwise
        meta["progressToken"] = token
        return {**request.params, "_meta": meta}

    def _failure(self, error: MCPError) -> Failure:
        if error.code == CallTimeout.code and "timeout" in self._options and error.data is None:
            said = f"{self._name} did not answer within {self._options['timeout']:g} s, its own timeout"
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
        call = _current.get(None) or self._only_call()
        if call is None:
            refused = QuestionRefused(
                f"{method} cannot be given to a client: calls of several clients are running on this connection and "
                'nothing says which of them asks; mount this backend with sessions="per_client"'
                if self._calls
                else f"{method} cannot be given to a client: no call is running"
            )
            raise MCPError(refused.code, refused.message)
        outcome = await call.reply.question(method, params)
        if isinstance(outcome, Failure):
            raise MCPError(outcome.code, outcome.message, outcome.data)
        return dict(outcome.value)

    def _on_notification(self, method: str, params: Mapping[str, Any] | None) -> bool:
        """Take a notification in the order of the wire; sync, so none overtakes another or the result."""
        said = params or {}
        if method == PROGRESS:
            token = said.get("progressToken")
            call = self._calls.get(token) if isinstance(token, int) else None
            if call is not None:
                call.reply.notice(method, {key: value for key, value in said.items() if key != "progressToken"})
        elif method == "notifications/subscriptions/acknowledged":
            honoured = _mapping(said.get("notifications"))
            self._told_of = frozenset(kind for word, kinds in TELLS.items() if honoured.get(word) for kind in kinds)
            if self._listings:  # learnt while nobody told of changes
                self._fresh_until.clear()
                self._backend.changed(tuple(self._listings))
        elif method in CHANGES:
            for kind in CHANGES[method]:
                self._fresh_until.pop(kind, None)
            self._backend.changed(CHANGES[method])
        elif method == UPDATED:
            self._backend.updated(str(said.get("uri")))
        elif method == "notifications/message":
            context = getattr(self._read, "last_context", None)
            call = (context.get(_current) if context is not None else None) or self._only_call()
            if call is not None:
                call.reply.notice(method, said)
        return True

    def _only_call(self) -> _Call | None:
        """The call that a message belongs to which does not say so: the only one, or any of one client's only."""
        calls = list(self._calls.values())
        if len(calls) == 1:
            return calls[0]
        sessions = {call.caller.session for call in calls}
        return calls[-1] if len(sessions) == 1 and None not in sessions else None

    # --- The catalog ----------------------------------------------------------------------------------------------

    async def _listing(self, kind: Kind) -> Listing:
        """What the backend offers of one kind: fetched once however many ask, kept until it changes."""
        if self._is_fresh(kind):
            return self._listings[kind]
        event = self._learning.get(kind)
        if event is None:
            event = self._learning[kind] = trio.Event()
            self._nursery.start_soon(self._learn, kind, event)
        await event.wait()
        if kind in self._unlearnt or kind not in self._listings:
            raise self._unlearnt.get(kind) or BackendStartError(f"{self._name} went down while it was asked for {kind}")
        return self._listings[kind]

    def _is_fresh(self, kind: Kind) -> bool:
        return kind in self._listings and trio.current_time() < self._fresh_until.get(kind, 0.0)

    async def _learn(self, kind: Kind, event: trio.Event) -> None:
        async def page(method: str, params: dict[str, Any]) -> Mapping[str, Any] | None:
            try:
                asked = {**params, "_meta": _envelope({})} if self.modern else params
                return await self._send(method, asked, {"timeout": LIST_TIMEOUT})
            except MCPError as error:
                if error.code == METHOD_NOT_FOUND:
                    return None
                raise BackendStartError(f"{self._name} does not say what it offers: {error.message}") from error

        self._unlearnt.pop(kind, None)
        self._fresh_until[kind] = float("inf")  # a change notice that comes while we read takes this away again
        try:
            items, ttl = await read_all(kind, page, check=True) if self._offers(kind) else ((), None)
            self._keep(kind, items, ttl)
        except MCPActorsError as error:
            self._fresh_until.pop(kind, None)
            self._unlearnt[kind] = error
        except Exception as error:
            self._fresh_until.pop(kind, None)
            said = f"{self._name} lists {kind} in a way that cannot be read: {type(error).__name__}"
            self._unlearnt[kind] = BackendStartError(said)
        finally:
            del self._learning[kind]
            event.set()

    def _keep(self, kind: Kind, items: tuple[Mapping[str, Any], ...], ttl_ms: int | None) -> None:
        now = trio.current_time()
        told = kind in self._fresh_until and (not self.modern or kind in self._told_of)
        if not told:
            self._fresh_until[kind] = now + (ttl_ms or 0) / 1000
        self._listings[kind] = Listing(items, fresh=told, learnt_at=now)

    def _offers(self, kind: Kind) -> bool:
        capabilities = self.server.get("capabilities")
        word = "resources" if kind == "templates" else kind
        return not isinstance(capabilities, Mapping) or capabilities.get(word) is not None

    _told_of: frozenset[Kind] = frozenset()
    """The kinds whose changes a modern backend has promised to tell."""

    async def _listen(self) -> None:
        """Keep a `subscriptions/listen` stream open, where the backend has it, to be told of changes."""
        for number in count(1):
            wanted: dict[str, Any] = dict.fromkeys(TELLS, True)
            if uris := sorted(+self._backend.watched):
                wanted["resourceSubscriptions"] = uris
            self._rewatch = trio.CancelScope()
            ended = False
            with self._rewatch:
                try:
                    asked = {"notifications": wanted, "_meta": _envelope({})}
                    await self._send("subscriptions/listen", asked, {"request_id": f"listen-{number}"})
                except MCPError as error:
                    logger.debug("%s: no subscriptions/listen: %s", self._name, error.message)
                ended = True
            self._told_of = frozenset()
            if ended:
                return

    async def _watch(self, request: Request) -> Outcome:
        """Count who watches a URI; the backend is told of the first and the last, by the means of its era."""
        uri, watched = str(request.params["uri"]), self._backend.watched
        begins = request.method == "resources/subscribe"
        if not begins and not watched[uri]:
            return Result({})
        watched[uri] += 1 if begins else -1
        if watched[uri] != (1 if begins else 0):
            return Result({})
        if self.modern:
            self._rewatch.cancel()
            return Result({})
        try:
            return Result(await self._send(request.method, {"uri": uri}, self._options))
        except MCPError as error:
            watched[uri] -= 1 if begins else 0
            return self._failure(error)

    async def _watch_again(self, uri: str) -> None:
        try:
            await self._send("resources/subscribe", {"uri": uri}, {"timeout": LIST_TIMEOUT})
        except MCPError as error:
            logger.warning("%s does not let %s be watched any more: %s", self._name, uri, error.message)

    _rewatch: trio.CancelScope = trio.CancelScope()
    """Cancelled to open the stream of changes anew, for other URIs."""


def _mapping(value: object) -> Mapping[str, Any]:
    """The value when it is an object; else an empty one: what a peer says is not always what it should be."""
    return value if isinstance(value, Mapping) else {}


def _envelope(capabilities: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `_meta` that every modern request carries (MCP 2026-07-28, basic/index)."""
    return {
        PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
        CLIENT_INFO_META_KEY: dict(info or OUR_INFO),
        CLIENT_CAPABILITIES_META_KEY: dict(capabilities),
    }


async def _ignore(context: object, method: str, params: object) -> None:
    """Notifications are taken by the intercept, in order; none is left for the dispatcher."""

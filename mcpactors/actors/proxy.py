"""The actor in front of a backend: what it offers, and which session a call goes through.

Rule: the main session is this actor's lifespan: a lost connection is a crash, and nothing is retried. What is sent over
a session, and what comes back, is `session.py`'s; here is what the backend has, and who hears that it has changed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import trio
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import find_invalid_x_mcp_header
from mcp_types import METHOD_NOT_FOUND

from mcpactors.actors.backend import OURS, Backend, Connect, Introduction, RootsChanged, SessionEnded, mapping
from mcpactors.actors.paging import CHANGES, UPDATED, ListAllowance, Read, read_all
from mcpactors.actors.pool import SessionPool
from mcpactors.actors.session import BackendSession
from mcpactors.actors.wire import envelope
from mcpactors.errors import CONNECTION_CLOSED, OVERLOADED, UNAVAILABLE, BackendStartError, MCPActorsError
from mcpactors.runtime.actor import Actor
from mcpactors.runtime.circles import ASKING
from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.methods import CATALOG, NAMED
from mcpactors.runtime.naming import Kind, unknown
from mcpactors.runtime.reply import Outcome, ReplyChannel, Result
from mcpactors.runtime.routing import Listing
from mcpactors.runtime.visibility import with_tags

__all__ = ["Backend", "Connect", "ProxyActor"]

logger = logging.getLogger("mcpactors")

LIST_TIMEOUT: Final = 30.0
LISTEN_AGAIN: Final = 1.0
"""Seconds until a stream of changes that was cut is opened again; doubled each time, up to a limit."""
LISTEN_AGAIN_LIMIT: Final = 30.0
CLOSE_TIMEOUT: Final = 3.0
"""Seconds that the sessions beside the main one get to close in good order."""
TELLS: Final[Mapping[str, tuple[Kind, ...]]] = {
    "toolsListChanged": ("tools",),
    "promptsListChanged": ("prompts",),
    "resourcesListChanged": ("resources", "templates"),
}


class ProxyActor(Actor):
    """Stands before one backend: relays calls to it, and knows what it offers."""

    kind = "proxy"

    def __init__(self, name: str, backend: Backend) -> None:
        self._name = name
        self._backend = backend
        self._main = self._session(OURS, shared=True)
        self._main.renewed = self._begin_anew
        self._pool = SessionPool(name, backend.limits, self._start_session)
        self._telling: Counter[BackendSession] = Counter()
        self._listings: dict[Kind, Listing] = {}
        self._schemas: dict[str, Any] = {}
        self._fresh_until: dict[Kind, float] = {}
        self._learning: dict[Kind, trio.Event] = {}
        self._unlearnt: dict[Kind, MCPActorsError] = {}
        self._allowance = ListAllowance()
        self._asked_early: set[Kind] = set()
        self._open_sessions: set[BackendSession] = set()
        self._all_closed = trio.Event()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with self._main.open(), trio.open_nursery() as nursery:
            self._nursery = nursery
            self._backend.introduced(self._main.wire.server)
            if not self._main.wire.tells:
                pass  # what changes is told to whoever the client belongs to
            elif self._main.wire.modern:
                nursery.start_soon(self._listen)
            else:
                for uri in +self._backend.watched:
                    nursery.start_soon(self._watch_again, uri)
            self._prepare_sessions()
            yield
            await self._close_sessions()
            nursery.cancel_scope.cancel()

    # --- Sessions beside the main one -------------------------------------------------------------------------------

    _own: bool = False
    """Whether calls go through sessions of their own."""

    def _session(self, introduction: Introduction, **how: bool) -> BackendSession:
        return BackendSession(self._name, self._backend, introduction, self._hear, self._schema_of, **how)

    def _prepare_sessions(self) -> None:
        """A modern backend has no sessions: what one client says of itself travels with each of its calls."""
        sessions = self._backend.sessions
        self._own = sessions == "per_call" or (sessions == "per_client" and not self._main.wire.modern)
        if self._own:
            self._nursery.start_soon(self._pool.close_idle)
        if sessions == "per_call":
            self._pool.prepare()

    def _start_session(self, introduction: Introduction) -> BackendSession:
        """A session that opens now, in a task of this actor; the era of the main one is its first guess."""
        session = self._session(introduction, shared=False, expects_legacy=not self._main.wire.modern)
        self._open_sessions.add(session)
        self._nursery.start_soon(session.hold, self._forget_session)
        return session

    def _forget_session(self, session: BackendSession) -> None:
        self._pool.forget(session)
        self._open_sessions.discard(session)
        if not self._open_sessions:
            self._all_closed.set()

    async def _close_sessions(self) -> None:
        """Let every session end in good order; who does not, is cancelled."""
        if self._open_sessions:
            self._all_closed = trio.Event()
            self._pool.let_all_go()
            with trio.move_on_after(CLOSE_TIMEOUT):
                await self._all_closed.wait()

    async def _call_in_own(self, request: Request, reply: ReplyChannel) -> Outcome:
        """A call through the session of its client, or through one that is its own while it lasts."""
        per_call = self._backend.sessions == "per_call"
        if not per_call and request.caller.session is not None:
            session = self._pool.of_client(request.caller)
            try:
                return await self._relay(session, request, reply)
            finally:
                session.used_at = trio.current_time()
                self._pool.used()
        session = await (self._pool.fresh() if per_call else self._pool.borrow(request.caller))
        try:
            return await self._relay(session, request, reply)
        finally:
            session.used_at = trio.current_time()
            self._pool.give_back(session, reusable=not per_call)

    def receive_cast(self, message: object) -> None:
        if isinstance(message, SessionEnded):
            self._pool.client_left(message.session)
        elif isinstance(message, RootsChanged):
            session = self._pool.known_client(message.session)
            if session is not None and self._telling[session] < 2:  # one under way, and one that will see them all
                self._telling[session] += 1
                self._nursery.start_soon(self._tell_roots, session)

    async def _tell_roots(self, session: BackendSession) -> None:
        try:
            await session.roots_changed()
        finally:
            self._telling[session] -= 1
            if not self._telling[session]:
                del self._telling[session]

    # --- Calls ----------------------------------------------------------------------------------------------------

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome:
        if request.method == CATALOG:
            return Result({"listing": await self._listing(request.params["kind"])})
        kind, key = NAMED.get(request.method, (None, ""))
        if kind is not None and not self._offers(kind):
            raise unknown(kind, request.params[key])
        if request.method in ("resources/subscribe", "resources/unsubscribe"):
            return await self._watch(request)
        if (
            self._backend.over_http
            and request.method == "tools/call"
            and self._main.wire.modern
            and "tools" not in self._listings
        ):
            await self._listing("tools")  # the schemas say which arguments go into headers
        if self._own:
            return await self._call_in_own(request, reply)
        return await self._relay(self._main, request, reply)

    async def _relay(self, session: BackendSession, request: Request, reply: ReplyChannel) -> Outcome:
        """Send this request to the backend and return what it answers."""
        return await session.call(request, reply)

    def _schema_of(self, tool: str) -> Any:
        """The `inputSchema` of a tool, as far as it is known."""
        return self._schemas.get(tool)

    # --- What the backend tells ------------------------------------------------------------------------------------

    def _hear(self, method: str, said: Mapping[str, Any]) -> None:
        """Take a notification that belongs to no call."""
        if method == "notifications/subscriptions/acknowledged":
            honoured = mapping(said.get("notifications"))
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

    def _begin_anew(self) -> None:
        """The backend had forgotten the main session, as after a restart: it may have other things now."""
        self._fresh_until.clear()
        self._backend.changed(tuple(self._listings))
        for uri in +self._backend.watched:
            self._nursery.start_soon(self._watch_again, uri)

    # --- The catalog ----------------------------------------------------------------------------------------------

    async def _listing(self, kind: Kind) -> Listing:
        """What the backend offers of one kind: fetched once however many ask, kept until it changes.

        And longer, where it changes so often that to read it each time would cost others theirs.
        """
        if self._is_fresh(kind):
            return self._listings[kind]
        event = self._learning.get(kind)
        if event is None and not self._is_early(kind):
            event = self._learning[kind] = trio.Event()
            self._nursery.start_soon(self._learn, kind, event)
        if event is not None:
            await event.wait()
        if kind in self._unlearnt or kind not in self._listings:
            raise self._unlearnt.get(kind) or BackendStartError(f"{self._name} went down while it was asked for {kind}")
        return self._listings[kind]

    def _is_fresh(self, kind: Kind) -> bool:
        return kind in self._listings and trio.current_time() < self._fresh_until.get(kind, 0.0)

    def _is_early(self, kind: Kind) -> bool:
        """Whether what is known of a kind must do for now. Who asks is told of a change as soon as it need not."""
        known = kind in self._listings or kind in self._unlearnt
        if not known or not self._allowance.wait(trio.current_time()):
            return False
        if not self._asked_early:
            self._nursery.start_soon(self._tell_in_time)
        self._asked_early.add(kind)
        return True

    async def _tell_in_time(self) -> None:
        while (wait := self._allowance.wait(trio.current_time())) > 0:  # noqa: ASYNC110 - it is time that it waits for
            await trio.sleep(wait)
        kinds = tuple(self._asked_early)
        self._asked_early.clear()
        for kind in kinds:
            self._fresh_until.pop(kind, None)
        self._backend.changed(kinds)

    async def _learn(self, kind: Kind, event: trio.Event) -> None:
        through: set[str] = set()

        async def page(method: str, params: dict[str, Any]) -> Mapping[str, Any] | None:
            try:
                meta = (envelope({}) if self._main.wire.modern else {}) | ASKING
                result = await self._main.wire.send(method, {**params, "_meta": meta}, {"timeout": LIST_TIMEOUT})
            except MCPError as error:
                if error.code == METHOD_NOT_FOUND:
                    return None
                raise BackendStartError(f"{self._name} does not say what it offers: {error.message}") from error
            try:
                through.update(self._backend.admit(result))
            except BackendStartError as error:  # it is so since a moment ago: it was not when the session began
                self._main.wire.end(error.message)
                raise
            return result

        def spent(seconds: float) -> None:
            self._allowance.spend(seconds, trio.current_time())

        self._unlearnt.pop(kind, None)
        self._fresh_until[kind] = float("inf")  # a change notice that comes while we read takes this away again
        try:
            read = await read_all(kind, page, check=True, spent=spent) if self._offers(kind) else Read()
            self._keep(kind, read, frozenset(through))
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

    def _keep(self, kind: Kind, read: Read, through: frozenset[str]) -> None:
        items = read.items
        now = trio.current_time()
        wire = self._main.wire
        told = wire.tells and kind in self._fresh_until and (not wire.modern or kind in self._told_of)
        if not told:
            self._fresh_until[kind] = now + (read.ttl or 0) / 1000
        tags = self._backend.tags
        if kind == "tools" and wire.modern and self._backend.over_http:
            items = self._callable(items)
            self._schemas = {item["name"]: item.get("inputSchema") for item in items}
        listed = tuple(with_tags(item, tags) for item in items) if tags else items
        self._listings[kind] = Listing(listed, fresh=told, learnt_at=now, through=through, parts=read.parts)

    def _callable(self, tools: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
        """The tools that can be called over HTTP: those whose `x-mcp-header`s are valid (MCP 2026-07-28)."""
        kept = []
        for tool in tools:
            if (fault := find_invalid_x_mcp_header(tool.get("inputSchema"))) is None:
                kept.append(tool)
            else:
                logger.warning(
                    "%s: tool %r is left out, it cannot be called over HTTP: %s", self._name, tool["name"], fault
                )
        return tuple(kept)

    def _offers(self, kind: Kind) -> bool:
        capabilities = self._main.wire.server.get("capabilities")
        word = "resources" if kind == "templates" else kind
        return not isinstance(capabilities, Mapping) or capabilities.get(word) is not None

    _told_of: frozenset[Kind] = frozenset()
    """The kinds whose changes a modern backend has promised to tell."""

    async def _listen(self) -> None:
        """Keep a `subscriptions/listen` stream open, where the backend has it, to be told of changes."""
        wait = LISTEN_AGAIN
        for number in count(1):
            wanted: dict[str, Any] = dict.fromkeys(TELLS, True)
            if uris := sorted(+self._backend.watched):
                wanted["resourceSubscriptions"] = uris
            self._rewatch = trio.CancelScope()
            begun = trio.current_time()
            ended, refused = False, False
            with self._rewatch:
                try:
                    asked = {"notifications": wanted, "_meta": envelope({})}
                    await self._main.wire.send("subscriptions/listen", asked, {"request_id": f"listen-{number}"})
                except MCPError as error:
                    logger.debug("%s: no subscriptions/listen: %s", self._name, error.message)
                    refused = error.code not in (CONNECTION_CLOSED, UNAVAILABLE, OVERLOADED)
                ended = True
            self._told_of = frozenset()
            if refused:
                return
            if ended:  # over HTTP that may be all that one sees of a backend that is gone: asking again tells
                self._fresh_until.clear()
                wait = LISTEN_AGAIN if trio.current_time() - begun > LISTEN_AGAIN_LIMIT else wait
                await trio.sleep(wait)
                wait = min(2 * wait, LISTEN_AGAIN_LIMIT)

    async def _watch(self, request: Request) -> Outcome:
        """Count who watches a URI; the backend is told of the first and the last, by the means of its era."""
        uri, watched = str(request.params["uri"]), self._backend.watched
        begins = request.method == "resources/subscribe"
        if not begins and not watched[uri]:
            return Result({})
        watched[uri] += 1 if begins else -1
        if watched[uri] != (1 if begins else 0):
            return Result({})
        if self._main.wire.modern and self._main.wire.tells:
            self._rewatch.cancel()
            return Result({})
        try:
            return Result(await self._main.wire.send(request.method, {"uri": uri}, self._main.options))
        except BaseException as error:  # a client that does not wait for the answer does not watch
            watched[uri] -= 1 if begins else 0
            if isinstance(error, MCPError):
                return self._main.failure(error)
            raise

    async def _watch_again(self, uri: str) -> None:
        try:
            await self._main.wire.send("resources/subscribe", {"uri": uri}, {"timeout": LIST_TIMEOUT})
        except MCPError as error:
            logger.warning("%s does not let %s be watched any more: %s", self._name, uri, error.message)

    _rewatch: trio.CancelScope = trio.CancelScope()
    """Cancelled to open the stream of changes anew, for other URIs."""

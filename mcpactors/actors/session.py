"""One session with a backend: the calls in flight on it, and whose message is whose.

Rule: a session is entered and left in one task and nobody else awaits on its connection (design.md section 4, rule 3).
Ids and progress tokens of clients never reach the backend, each call gets new ones (rule 7). Results are relayed as the
dicts that came, never through a model. With `wire.py` and `proxy.py` this is all that knows the eras of backends.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from itertools import count
from typing import Any, Final

import trio
from attrs import field, frozen
from mcp.client import ClientSession
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
    URL_ELICITATION_REQUIRED,
    RequestId,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpactors.actors.backend import OURS, Backend, Introduction, mapping
from mcpactors.actors.client_wire import ClientWire
from mcpactors.actors.rounds import INPUT_REQUIRED, answer_rounds, check_state, could_not_ask, refuse_switched_off
from mcpactors.actors.wire import OverStreams, StreamWire, envelope
from mcpactors.errors import (
    ActorCrashed,
    BackendMisbehaved,
    BackendStartError,
    CallTimeout,
    QuestionRefused,
    SessionForgotten,
    said_of,
)
from mcpactors.runtime.actor import part
from mcpactors.runtime.hops import HOPS, hops_of
from mcpactors.runtime.mailbox import Caller, Request
from mcpactors.runtime.methods import QUESTIONS, fault_of
from mcpactors.runtime.policy import FORWARD_ALL, Era, OfEra
from mcpactors.runtime.reply import PROGRESS, Failure, Outcome, ReplyChannel, Result

__all__ = ["BackendSession"]

logger = logging.getLogger("mcpactors")

LEAVE_TIMEOUT: Final = 5.0
"""Seconds that closing a session may take: over HTTP the backend is told of it."""
OUTSIDE_TIMEOUT: Final = 600.0
"""Seconds a client may take to answer what a backend asks while no call runs."""
LEVEL_TIMEOUT: Final = 10.0
"""Seconds a backend may take to answer `logging/setLevel`, and the first `ping` after a call was cancelled."""
PING_TIMEOUT: Final = 600.0
"""Seconds that it may take at most to answer a later one."""
GIVEN_UP: Final = 256
"""Calls, at most, of which it is remembered whose they were until the backend has read that they were given up."""
ENVELOPE: Final = (PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY, LOG_LEVEL_META_KEY)
COMPLETED: Final = "notifications/elicitation/complete"
ROOTS_CHANGED: Final = "notifications/roots/list_changed"
SENT_AWAY: Final = 256
"""Elicitations by URL, at most, of which it is remembered whose they are."""


@frozen(eq=False)
class _Call:
    """One call that the backend is working on."""

    reply: ReplyChannel
    caller: Caller
    ended: trio.Event = field(factory=trio.Event)


_current: ContextVar[_Call | None] = ContextVar("mcpactors.call", default=None)
"""The call on whose HTTP stream a message came. Over stdio nothing on the wire says it (building-blocks.md)."""

Hears = Callable[[str, Mapping[str, Any]], None]
"""Takes a notification that belongs to no call: method and params."""


class BackendSession:
    """One connection to a backend. It is of use while the block of `open` lasts."""

    wire: StreamWire | ClientWire
    """There once it is open."""

    def __init__(
        self,
        name: str,
        backend: Backend,
        introduction: Introduction = OURS,
        hears: Hears = lambda method, params: None,
        schema_of: Callable[[str], Any] = lambda tool: None,
        *,
        shared: bool = True,
        expects_legacy: bool = False,
    ) -> None:
        self._name = name
        self._backend = backend
        self._forward = backend.forward
        self._hears = hears
        self._schema_of = schema_of
        self._shared = shared
        self._expects_legacy = expects_legacy
        self.options: CallOptions = {} if backend.timeout is None else {"timeout": backend.timeout}
        self._tokens = count(1)
        self._calls: dict[int, _Call] = {}
        self._outlived = 0
        self._lost_count = False  # whose calls were given up: nothing is guessed any more
        self._sent_away: OrderedDict[str, str] = OrderedDict()
        self._level: str | None = None
        self._takes_level = False
        self._nursery: trio.Nursery | None = None
        self._let_go = trio.Event()
        self._settled = trio.Event()
        self._is_open = False
        self._is_told = False  # of replies that come too late
        self._not_opened: BackendStartError | None = None
        self._asked = 0
        self.renewed: Callable[[], None] = lambda: None
        """Called when the backend had forgotten the session and it was begun anew."""
        self.asking: Callable[[bool], None] = lambda begins: None
        """Called when its calls begin to wait for their client's answer, and when they do not any more."""
        self.introduction = introduction
        self.ended = False
        """Whether it is of no use any more."""
        self.knows_roots = False
        """Whether the backend has asked for roots on it: what it does afterwards may depend on whose they were."""
        self.used_at = trio.current_time()
        """When its last call ended; kept by whoever lends it."""

    # --- Opening and closing --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Be connected while the block lasts. The backend closes the connection: the block is cancelled, and this
        raises.

        Raises:
            BackendStartError: the backend does not say what it speaks, or has closed the connection.
        """
        async with self._backend.connect() as given, trio.open_nursery() as nursery:
            era: Era = "auto"
            if isinstance(given, OfEra):
                given, era = given.connection, given.era
            if isinstance(given, ClientSession):
                self.wire = ClientWire(given)
            else:
                dispatcher = given
                if isinstance(given, tuple):
                    read, write = given
                    dispatcher, self._is_told = OverStreams(read, write, self._gave_up, self._replied), True
                wire = self.wire = StreamWire(self._name, dispatcher, self._schema_of, self._backend.admit)
                wire.renewed = self._renewed
                await nursery.start(wire.run, self._on_request, self._on_notification)
                capabilities = self._forward.allowed(self.introduction.capabilities)
                await wire.negotiate(self.introduction, capabilities, self._expects_legacy, era)
                logs = mapping(wire.server.get("capabilities")).get("logging") is not None
                self._takes_level = logs and not wire.modern and self._forward.logging
            self._is_open, self._nursery = True, nursery
            self._settled.set()
            try:
                yield
            finally:
                self._nursery = None
                self._backend.given_up.free_all(self)
            nursery.cancel_scope.cancel()

    def _renewed(self) -> None:
        self._level = None
        self.renewed()

    async def hold(self, forget: Callable[[BackendSession], None]) -> None:
        """Be connected, in a task of its own, until let go. Its loss costs its own calls only: nothing is raised."""
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
            if own is not None:
                said = said_of(own)
                self._not_opened = BackendStartError(f"{self._name} did not open a session: {said}")
                logger.info("%s: a session ended: %s", self._name, said)
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
        return any(not call.ended.is_set() for call in self._calls.values())

    async def roots_changed(self) -> None:
        """Tell the backend that the roots of this session's client have changed."""
        await self._settled.wait()
        if self._is_open and not self.wire.modern and self._forward.roots:
            await self.wire.notify(ROOTS_CHANGED)

    # --- Calls ----------------------------------------------------------------------------------------------------

    async def call(self, request: Request, reply: ReplyChannel) -> Outcome:
        """Carry one request of a client to the backend; what it says meanwhile goes to `reply`."""
        token = next(self._tokens)
        call = self._calls[token] = _Call(reply, request.caller)
        _current.set(call)
        sent = answered = False
        try:
            if not self._is_open:
                await self._until_open()
            if self._takes_level and request.caller.log_level != self._level:
                await self._set_level(request.caller.log_level)
            params = self._params(request, token)
            options = self.options if isinstance(self.wire, StreamWire) else self._reporting(reply)
            answered = self.wire.gone
            if answered:  # the life that took this call is ending, and does not know it yet
                self.ended = True
                gone = f"{self._name} lost its connection before the call was sent: it was not carried out; call again"
                return Failure.of(ActorCrashed(gone, {"actor": self._name}))
            sent = True
            result = await self.wire.send(request.method, params, options)
            answered = True
            outcome: Outcome = Result(result)
            if result.get("resultType") == INPUT_REQUIRED:
                outcome = await self._rounds(request, params, options, result, reply)
            if isinstance(outcome, Result) and (fault := fault_of(request.method, outcome.value)) is not None:
                said = f"{self._name} sent a result of {request.method} that is none: {fault}"
                return Failure.of(BackendMisbehaved(said, {"actor": self._name}))
            return self._remarked(outcome)
        except MCPError as error:
            answered = error.code != CallTimeout.code
            return self._remarked(self.failure(error, request.caller))
        except trio.Cancelled:
            if sent and not answered and not self._is_told:
                self._backend.given_up.keep(self, token, reply.until)
            raise
        finally:
            call.ended.set()
            self._end_call(token, given_up=reply.finished or not answered)

    def _gave_up(self, request: RequestId) -> None:
        """The call of this task was cancelled: it keeps its slot for as long as its caller would have waited."""
        call = _current.get()
        if call is not None and not call.ended.is_set():  # what is asked afterwards is no call
            self._backend.given_up.keep(self, request, call.reply.until)

    def _replied(self, request: RequestId) -> None:
        self._backend.given_up.free(self, request)

    def _remarked(self, outcome: Outcome) -> Outcome:
        """The outcome; of one that another era would have helped, the log is told which setting says so, once."""
        if could_not_ask(outcome) and self._is_open and self.wire.tells and self.wire.modern:
            hint = f'{self._name} asks as the legacy era does, and cannot: set its "era" to "legacy" (docs/eras.md)'
            if hint not in self._backend.remarked:
                self._backend.remarked.add(hint)
                logger.warning("%s", hint)
        return outcome

    def _end_call(self, token: int, *, given_up: bool) -> None:
        """Forget a call, unless its backend does not know yet that it is over and may ask for it all the same."""
        wire = self.wire if self._is_open else None
        if not given_up or self._nursery is None or not isinstance(wire, StreamWire) or wire.modern:
            del self._calls[token]
        elif self._outlived < GIVEN_UP:
            self._outlived += 1
            self._nursery.start_soon(self._outlive, token)
        else:
            self._lost_count = True
            del self._calls[token]

    async def _outlive(self, token: int) -> None:
        """A call that was given up counts until its backend has read so: what it asked till then is nobody else's."""
        timeout = LEVEL_TIMEOUT
        try:
            while True:
                try:
                    await self.wire.send("ping", {}, {"timeout": timeout})
                    return
                except (MCPError, BackendStartError) as error:
                    if error.code != CallTimeout.code:
                        return
                timeout = min(2 * timeout, PING_TIMEOUT)  # it is busy, and has all its questions before it
        finally:
            self._outlived -= 1
            del self._calls[token]

    async def _until_open(self) -> None:
        """Wait until it has opened. Meanwhile the call counts: a backend may ask its client as soon as it is."""
        await self._settled.wait()
        if not self._is_open and self._not_opened is not None:
            raise self._not_opened

    async def _rounds(
        self,
        request: Request,
        params: Mapping[str, Any],
        options: CallOptions,
        result: Mapping[str, Any],
        reply: ReplyChannel,
    ) -> Outcome:
        """What a modern backend asks in a result is passed on as it is to whoever can answer there, and put else."""
        asked: ReplyChannel | ClientWire = self.wire if isinstance(self.wire, ClientWire) else reply
        forward = self._forward if asked is reply else FORWARD_ALL
        refuse_switched_off(self._name, result, forward)
        check_state(self._name, result, self._backend.taken)
        if asked is reply and request.caller.revision in MODERN_PROTOCOL_VERSIONS:
            return Result(result)

        async def again(more: dict[str, Any]) -> Mapping[str, Any]:
            next_one = await self.wire.send(request.method, {**params, **more}, options)
            return refuse_switched_off(self._name, next_one, forward)

        return await answer_rounds(self._name, result, again, asked, self._backend.taken)

    async def _set_level(self, wanted: str | None) -> None:
        """Tell the backend how much to log. One that many share is asked for all, and each client's edge chooses."""
        level = "debug" if self._shared and wanted is not None else wanted
        if level is None or level == self._level:
            return
        self._level = level
        with suppress(MCPError):
            await self.wire.send("logging/setLevel", {"level": level}, {"timeout": LEVEL_TIMEOUT})

    def _reporting(self, reply: ReplyChannel) -> CallOptions:
        """The options of a call through somebody else's client, which has tokens of its own."""
        if not self._forward.progress:
            return self.options

        async def report(progress: float, total: float | None, message: str | None) -> None:
            said = {"progress": progress, "total": total, "message": message}
            reply.notice(PROGRESS, {key: value for key, value in said.items() if value is not None})

        return {**self.options, "on_progress": report}

    def _params(self, request: Request, token: int) -> dict[str, Any]:
        """The params as this backend's era wants them, with a progress token of ours."""
        meta = dict(mapping(request.params.get("_meta")))
        meta[HOPS] = hops_of(request.params) + 1
        caller = request.caller
        if isinstance(self.wire, ClientWire):
            for key in (*ENVELOPE, "progressToken"):
                meta.pop(key, None)
            return {**request.params, "_meta": meta}
        if not self.wire.modern:
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

    def failure(self, error: MCPError, caller: Caller | None = None) -> Failure:
        """What a call ends with that the backend, or the connection, has refused."""
        if error.code == CallTimeout.code and "timeout" in self.options and error.data is None:
            late = f"{self._name} did not answer within {self.options['timeout']:g} s, its own timeout"
            return Failure.of(CallTimeout(f"{late}; the call was cancelled there and its outcome is unknown"))
        lost = self.wire.lost(error)
        if lost and isinstance(self.wire, ClientWire):
            why = f"the client that {self._name} was mounted with is closed; connect one and mount it anew"
            return Failure.of(ActorCrashed(why, {"actor": self._name}))
        if lost:
            self.ended = True
            why = f"{self._name} lost its connection while it held the call: the outcome is unknown, and nothing "
            return Failure.of(ActorCrashed(f"{why}was retried", {"actor": self._name}))
        if isinstance(error, SessionForgotten):
            self.ended = True
            self.wire.end(f"{self._name} has forgotten the session")
            why = f"{self._name} has forgotten the session: the call was not carried out; call again, on a new one"
            return Failure.of(ActorCrashed(why, {"actor": self._name}))
        if error.code == URL_ELICITATION_REQUIRED and caller is not None:
            for sent in _list(mapping(error.data).get("elicitations")):
                self._remember(sent, caller.session)
        return Failure(error.code, error.message, error.data)

    # --- What the backend sends by itself -------------------------------------------------------------------------

    async def _on_request(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        if method == "ping":
            return {}
        if method not in QUESTIONS:
            raise MCPError(METHOD_NOT_FOUND, f"{method} is not a method of this client", method)
        if not self._forward.passes(method):
            raise MCPError(QuestionRefused.code, f"{method} is switched off for {self._name}, by forward= of its mount")
        self.knows_roots = self.knows_roots or method == "roots/list"
        call = _current.get() or self._only_call()
        if call is not None:
            self._remember(params, call.caller.session)
            self._asked += 1
            if self._asked == 1:
                self.asking(True)
            try:
                outcome = await call.reply.question(method, params)
            finally:
                self._asked -= 1
                if not self._asked:
                    self.asking(False)
            if call.reply.finished:  # given up: the backend is to hear that first, and not to go on with a refusal
                await call.ended.wait()
                if method == "roots/list" and self.introduction.session is not None:  # it was about the session
                    return await self._ask_outside(self.introduction.session, method, params)
            return _answer(outcome)
        if not self._calls and self.introduction.session is not None:
            return await self._ask_outside(self.introduction.session, method, params)
        refused = QuestionRefused(
            f"{method} cannot be given to a client: calls of several clients are running on this connection and "
            'nothing says which of them asks; mount this backend with sessions="per_client"'
            if self._calls
            else f"{method} cannot be given to a client: no call is running"
        )
        raise MCPError(refused.code, refused.message)

    async def _ask_outside(self, session: str, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask the client that this session belongs to, while none of its calls is running."""
        with trio.move_on_after(OUTSIDE_TIMEOUT):
            self._remember(params, session)
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
            context = self.wire.sender
            call = (context.get(_current) if context is not None else None) or self._only_call()
            if call is not None:
                call.reply.notice(method, said)
            elif not self._calls and self.introduction.session is not None:
                self._backend.tell_client(self.introduction.session, method, said)
        elif method == COMPLETED:
            self._completed(said)
        else:
            self._hears(method, said)
        return True

    def _only_call(self) -> _Call | None:
        """The call that a message belongs to which does not say so: the only one, or any of one client's only."""
        calls = list(self._calls.values())
        if self._lost_count and self.introduction.session is None:
            return None
        if len(calls) == 1:
            return calls[0]
        sessions = {call.caller.session for call in calls}
        running = [call for call in calls if not call.ended.is_set()]
        return (running or calls)[-1] if len(sessions) == 1 and None not in sessions else None

    def _remember(self, params: object, session: str | None) -> None:
        """Note who was sent to a URL, so that the same client is told when it is done there."""
        said = mapping(params)
        key = said.get("elicitationId")
        if session is not None and isinstance(key, str) and said.get("mode", "url") == "url":
            self._sent_away[key] = session
            if len(self._sent_away) > SENT_AWAY:
                self._sent_away.popitem(last=False)

    def _completed(self, said: Mapping[str, Any]) -> None:
        """A client has done what it was sent to a URL for: it alone is told, by a call of its own if one is running."""
        session = self._sent_away.pop(str(said.get("elicitationId")), None)
        if session is None:
            return
        for call in self._calls.values():
            if call.caller.session == session and not call.ended.is_set():
                call.reply.notice(COMPLETED, said)
                return
        self._backend.tell_client(session, COMPLETED, said)


def _answer(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        raise MCPError(outcome.code, outcome.message, outcome.data)
    return dict(outcome.value)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []

"""One session with a backend: its connection, and each call from its request to its outcome.

Rule: a session is entered and left in one task and nobody else awaits on its connection (design.md section 4, rule 3).
Results are relayed as the dicts that came, never through a model. What a call says to the backend is `outbound.py`'s,
what the backend says by itself `inbound.py`'s. With those, `wire.py` and `proxy.py` this is all that knows the eras of
backends.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import trio
from mcp.client import ClientSession
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp_types import URL_ELICITATION_REQUIRED, RequestId
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpactors.actors.backend import OURS, Backend, Introduction, mapping
from mcpactors.actors.client_wire import ClientWire
from mcpactors.actors.inbound import Hears, Inbound
from mcpactors.actors.inflight import Call, CallsInFlight, current
from mcpactors.actors.outbound import params_for, params_through_client
from mcpactors.actors.rounds import INPUT_REQUIRED, answer_rounds, check_state, could_not_ask, refuse_switched_off
from mcpactors.actors.wire import OverStreams, StreamWire
from mcpactors.errors import (
    ActorCrashed,
    BackendMisbehaved,
    BackendStartError,
    CallTimeout,
    SessionForgotten,
    said_of,
)
from mcpactors.runtime.actor import part
from mcpactors.runtime.mailbox import Caller, Request
from mcpactors.runtime.methods import fault_of
from mcpactors.runtime.policy import FORWARD_ALL, Era, OfEra
from mcpactors.runtime.reply import PROGRESS, Failure, Outcome, ReplyChannel, Result

__all__ = ["BackendSession"]

logger = logging.getLogger("mcpactors")

LEAVE_TIMEOUT: Final = 5.0
"""Seconds that closing a session may take: over HTTP the backend is told of it."""
LEVEL_TIMEOUT: Final = 10.0
"""Seconds a backend may take to answer `logging/setLevel`, and the first `ping` after a call was cancelled."""
PING_TIMEOUT: Final = 600.0
"""Seconds that it may take at most to answer a later one."""
ROOTS_CHANGED: Final = "notifications/roots/list_changed"


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
        self._schema_of = schema_of
        self._shared = shared
        self._expects_legacy = expects_legacy
        self.options: CallOptions = {} if backend.timeout is None else {"timeout": backend.timeout}
        owner = introduction.session
        self._calls = CallsInFlight(owned=owner is not None)
        self.inbound = Inbound(name, backend, owner, self._calls, hears, lambda: self.wire.sender)
        self._level: str | None = None
        self._takes_level = False
        self._nursery: trio.Nursery | None = None
        self._let_go = trio.Event()
        self._settled = trio.Event()
        self._is_open = False
        self._over = math.inf  # when it no longer served, if it is open: its process may take seconds more to end
        self._is_told = False  # of replies that come too late
        self._not_opened: BackendStartError | None = None
        self.renewed: Callable[[], None] = lambda: None
        """Called when the backend had forgotten the session and it was begun anew."""
        self.introduction = introduction
        self.ended = False
        """Whether it is of no use any more."""
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
                await nursery.start(wire.run, self.inbound.on_request, self.inbound.on_notification)
                capabilities = self._forward.allowed(self.introduction.capabilities)
                await wire.negotiate(self.introduction, capabilities, self._expects_legacy, era)
                logs = mapping(wire.server.get("capabilities")).get("logging") is not None
                self._takes_level = logs and not wire.modern and self._forward.logging
            self._is_open, self._nursery = True, nursery
            self._settled.set()
            try:
                yield
            finally:
                self._nursery, self._over = None, trio.current_time()
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
                if self._is_open:
                    self._backend.lost_session(self._over)
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
        return self._calls.busy

    async def roots_changed(self) -> None:
        """Tell the backend that the roots of this session's client have changed."""
        await self._settled.wait()
        if self._is_open and not self.wire.modern and self._forward.roots:
            await self.wire.notify(ROOTS_CHANGED)

    # --- Calls ----------------------------------------------------------------------------------------------------

    async def call(self, request: Request, reply: ReplyChannel) -> Outcome:
        """Carry one request of a client to the backend; what it says meanwhile goes to `reply`."""
        call = self._calls.begin(reply, request.caller)
        sent = answered = False
        try:
            if not self._is_open:
                await self._until_open()
            if self._takes_level and request.caller.log_level != self._level:
                await self._set_level(request.caller.log_level)
            if isinstance(self.wire, StreamWire):
                params = params_for(request, call.token, self._forward, modern=self.wire.modern)
                options = self.options
            else:
                params, options = params_through_client(request), self._reporting(reply)
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
                self._backend.given_up.keep(self, call.token, reply.until)
            raise
        finally:
            call.ended.set()
            self._end_call(call, given_up=reply.finished or not answered)

    def _gave_up(self, request: RequestId) -> None:
        """The call of this task was cancelled: it keeps its slot for as long as its caller would have waited."""
        call = current.get()
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

    def _end_call(self, call: Call, *, given_up: bool) -> None:
        """Forget a call, unless its backend does not know yet that it is over and may ask for it all the same."""
        nursery = self._nursery
        if not given_up or nursery is None or not isinstance(self.wire, StreamWire) or self.wire.modern:
            self._calls.forget(call)
        elif self._calls.outlives(call):
            nursery.start_soon(self._outlive, call)

    async def _outlive(self, call: Call) -> None:
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
            self._calls.forget(call)

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
                self.inbound.remember(sent, caller.session)
        return Failure(error.code, error.message, error.data)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []

"""What an HTTP backend says by itself: its notifications, taken in their order, and its requests, each in a task.

Rule: a message is taken in the context in which its stream is read, which is that of the call it came with; the task
that answers a request has that context too. No more requests of one call are looked after than there is room for: the
stream that brings another one is not read on, while all others are.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio
from attrs import define, field
from mcp.shared.dispatcher import OnNotifyIntercept, run_notify_intercept
from mcp.shared.exceptions import MCPError
from mcp_types import RequestId

from mcpactors.errors import INTERNAL_ERROR
from mcpactors.runtime.methods import CANCELLED
from mcpactors.transports.http_client.faults import Unreadable

__all__ = ["Heard", "OnRequest"]

logger = logging.getLogger("mcpactors")

ROOM: Final = 64
"""Questions of one call, or beside all calls, that may be open."""

OnRequest = Callable[[str, Mapping[str, Any] | None], Awaitable[dict[str, Any]]]
"""Answers a request: method and params. Raises `MCPError`."""


@define(eq=False)
class Heard:
    """Takes the messages of one backend; answers go out by `tell`."""

    _nursery: trio.Nursery
    _on_request: OnRequest
    _on_notification: OnNotifyIntercept
    _tell: Callable[[Mapping[str, Any]], Awaitable[None]]
    _scopes: dict[RequestId, trio.CancelScope] = field(factory=dict, init=False)
    _rooms: dict[object, trio.Semaphore] = field(factory=dict, init=False)  # of calls with questions that are open

    async def take(self, said: Mapping[str, Any], call: object, *, may_ask: bool) -> None:
        """A request, where there may be one, or a notification; `call` is whose it is. Raises `Unreadable`."""
        method, params = said["method"], said.get("params")
        if not isinstance(method, str) or not (params is None or isinstance(params, dict)):
            raise Unreadable("JSON that is no JSON-RPC 2.0 message")
        if "id" not in said:
            if method == CANCELLED:
                self._call_off(params or {})
            run_notify_intercept(self._on_notification, method, params)
            return
        identity = said["id"]
        if not isinstance(identity, int | str) or not may_ask:
            raise Unreadable("a request, which has no place in the reply to one")
        room = self._rooms.get(call) or trio.Semaphore(ROOM)
        await room.acquire()
        self._rooms[call] = room  # not before: who is cancelled here leaves none behind
        scope = self._scopes[identity] = trio.CancelScope()  # it may be called off before its task begins
        self._nursery.start_soon(self._look_after, scope, call, identity, method, params)

    def _call_off(self, params: Mapping[str, Any]) -> None:
        identity = params.get("requestId")
        scope = self._scopes.get(identity) if isinstance(identity, int | str) else None
        if scope is not None:
            scope.cancel()

    def _make_room(self, call: object) -> None:
        self._rooms[call].release()
        if self._rooms[call].value == ROOM:
            del self._rooms[call]

    async def _look_after(
        self, scope: trio.CancelScope, call: object, identity: RequestId, method: str, params: Mapping[str, Any] | None
    ) -> None:
        """Answer a request; one that the backend has cancelled is not answered."""
        said: dict[str, Any] = {"jsonrpc": "2.0", "id": identity}
        with scope:
            try:
                said["result"] = await self._on_request(method, params)
            except MCPError as error:
                said["error"] = error.error.model_dump(by_alias=True, mode="json", exclude_none=True)
            except Exception:
                logger.exception("%s of a backend could not be answered", method)
                said["error"] = {"code": INTERNAL_ERROR, "message": f"{method} could not be answered"}
            finally:
                self._make_room(call)
                if self._scopes.get(identity) is scope:
                    del self._scopes[identity]
            await self._tell(said)

"""What an HTTP backend says by itself: its notifications, taken in their order, and its requests, each in a task.

Rule: a message is taken in the context in which its stream is read, which is that of the call it came with; the task
that answers a request has that context too. No more requests are looked after than there is room for: the stream that
brings another one is not read on.
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
from mcpactors.transports.http_faults import Unreadable

__all__ = ["Heard", "OnRequest"]

logger = logging.getLogger("mcpactors")

ROOM: Final = 64

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
    _room: trio.Semaphore = field(factory=lambda: trio.Semaphore(ROOM), init=False)

    async def take(self, said: Mapping[str, Any], *, may_ask: bool) -> None:
        """A request, where there may be one, or a notification. Raises `Unreadable`."""
        method, params = said["method"], said.get("params")
        if not isinstance(method, str) or not (params is None or isinstance(params, dict)):
            raise Unreadable("JSON that is no JSON-RPC 2.0 message")
        if "id" not in said:
            if method == "notifications/cancelled":
                self._call_off(params or {})
            run_notify_intercept(self._on_notification, method, params)
            return
        identity = said["id"]
        if not isinstance(identity, int | str) or not may_ask:
            raise Unreadable("a request, which has no place in the reply to one")
        await self._room.acquire()
        scope = self._scopes[identity] = trio.CancelScope()  # it may be called off before its task begins
        self._nursery.start_soon(self._look_after, scope, identity, method, params)

    def _call_off(self, params: Mapping[str, Any]) -> None:
        identity = params.get("requestId")
        scope = self._scopes.get(identity) if isinstance(identity, int | str) else None
        if scope is not None:
            scope.cancel()

    async def _look_after(
        self, scope: trio.CancelScope, identity: RequestId, method: str, params: Mapping[str, Any] | None
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
                self._room.release()
                if self._scopes.get(identity) is scope:
                    del self._scopes[identity]
            await self._tell(said)

"""What is needed of the SDK's servers, and of what wraps one, that has no public name.

Rule: the private names of servers that are not ours are used in this file only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp.server.subscriptions import SubscriptionBus
from mcp.shared._callable_inspection import is_async_callable
from starlette.routing import Route

from mcpactors.runtime.threads import in_thread

__all__ = ["bus_of", "routes_given", "session_state", "sync_handlers_in_threads"]


def session_state(ctx: Context[Any, Any]) -> dict[str, Any]:
    """What a server keeps for one client session: a dict that its later calls find again.

    A client of the new era has no session, and finds it empty at every call.
    """
    state: dict[str, Any] = ctx.session._connection.state
    return state


def bus_of(target: object) -> SubscriptionBus | None:
    """Where an SDK server publishes the changes that its tools tell of."""
    return target._subscriptions if isinstance(target, MCPServer) else None


def sync_handlers_in_threads(target: object) -> None:
    """Have the sync functions that an SDK server has now run in threads under the limit of the actor that calls them.

    Its own way to a thread has one limit for the whole process and waits for the thread, whatever happens. Called
    again it finds what was added since. Other servers than the SDK's `MCPServer` are left as they are.
    """
    if not isinstance(target, MCPServer):
        return
    resources = target._resource_manager
    for components in (
        target._tool_manager._tools,
        target._prompt_manager._prompts,
        resources._resources,
        resources._templates,
    ):
        for component in components.values():
            function = getattr(component, "fn", None)
            if function is not None and not is_async_callable(function):
                component.fn = in_thread(function)  # type: ignore[union-attr]
                if isinstance(component, Tool):
                    component.is_async = True


def routes_given(target: object) -> Sequence[Route]:
    """The custom HTTP routes of an SDK server."""
    return target._custom_starlette_routes if isinstance(target, MCPServer) else ()

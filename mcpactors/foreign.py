"""Servers that are not ours: which object is one, and what is needed of it that has no public name.

Rule: the private names of servers that are not ours are used in this file only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mcp.server import MCPServer
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp.server.subscriptions import SubscriptionBus
from mcp.shared._callable_inspection import is_async_callable
from starlette.routing import Route

from mcpactors.errors import ConfigError, MountError
from mcpactors.runtime.threads import in_thread

__all__ = [
    "asks_for_tokens",
    "auth_of",
    "bus_of",
    "low_level",
    "refuse_asyncio",
    "routes_given",
    "session_state",
    "sync_handlers_in_threads",
    "wrapped",
]

_WRAPPED_AS: Final = ("_lowlevel_server", "_mcp_server")
"""Where the SDK's `MCPServer` and FastMCP's servers keep the low-level server; neither has a public name for it."""


def low_level(target: object) -> LowLevelServer[Any]:
    """The SDK's low-level server in `target`: itself, or the one that it wraps.

    Raises:
        MountError: there is none.
    """
    server = wrapped(target)
    if server is None:
        raise MountError(
            f"{type(target).__name__} cannot be mounted: it is neither an mcp.server.MCPServer, a low-level Server nor "
            "an object that wraps one; for a URL, a program or a config use create_proxy(...)"
        )
    return server


def wrapped(target: object) -> LowLevelServer[Any] | None:
    """As `low_level`; None where there is none."""
    if isinstance(target, LowLevelServer):
        return target
    found = (getattr(target, attribute, None) for attribute in _WRAPPED_AS)
    return next((server for server in found if isinstance(server, LowLevelServer)), None)


def refuse_asyncio(target: object) -> None:
    """Raise `ConfigError` for what of FastMCP can only run on asyncio."""
    modules = [kind.__module__ for kind in type(target).__mro__]
    if any(module.startswith("fastmcp.client") for module in modules):
        raise ConfigError(
            f"FastMCP's {type(target).__name__} needs asyncio; give what it connects to (a URL, a script, a config), "
            "or a transport or Client of mcpactors or of the SDK"
        )
    if any(module.startswith("fastmcp.server.providers.proxy") for module in modules):
        raise ConfigError("a proxy of FastMCP needs asyncio; give create_proxy(...) what it is a proxy of")


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


def asks_for_tokens(target: object) -> bool:
    """Whether a server wants its clients asked, where it is served alone; in the SDK's words or FastMCP's."""
    if isinstance(target, MCPServer):
        return target.settings.auth is not None
    return getattr(target, "auth", None) is not None


def auth_of(target: object) -> tuple[AuthSettings, TokenVerifier] | None:
    """What an SDK server wants its clients asked for, over HTTP; None: nothing.

    Raises:
        ConfigError: it wants what is not served here.
    """
    if not asks_for_tokens(target):
        return None
    if not isinstance(target, MCPServer):
        what = "auth=... in FastMCP's words, which are not understood here"
    elif target._auth_server_provider is None:
        auth, verifier = target.settings.auth, target._token_verifier
        assert auth is not None  # the SDK takes neither without the other
        assert verifier is not None
        return auth, verifier
    else:
        what = "auth_server_provider=..., whose routes (/authorize, /token, ...) are not served here"
    raise ConfigError(
        f"this server has {what}, and it is not served open: say serve_http(auth=..., token_verifier=...), or "
        "run('http', auth=..., token_verifier=...), with the SDK's AuthSettings and a verifier of its tokens, as which "
        "FastMCP's own will do"
    )


def routes_given(target: object) -> Sequence[Route]:
    """The custom HTTP routes of an SDK server."""
    return target._custom_starlette_routes if isinstance(target, MCPServer) else ()

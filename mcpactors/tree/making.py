"""How the actor of a mount is made: what a backend's proxy, and a server of this process, is told of its runtime.

Rule: what is here outlives the actor's lives; each function returns what makes the actor for one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import trio
from attrs import evolve, frozen

from mcpactors.actors.backend import Backend
from mcpactors.actors.local import LocalActor, LocalServer
from mcpactors.actors.proxy import ProxyActor
from mcpactors.backends import Open, connector
from mcpactors.config import HTTPServer, StdioServer
from mcpactors.foreign import asks_for_tokens, bus_of, low_level, sync_handlers_in_threads
from mcpactors.isolation import is_isolated
from mcpactors.meaning import ClientFactory
from mcpactors.mounts import Copier
from mcpactors.runtime.actor import Actor
from mcpactors.runtime.clients import Clients
from mcpactors.runtime.naming import Kind
from mcpactors.runtime.threads import ThreadLimit
from mcpactors.server import Server
from mcpactors.settings import RuntimeSettings
from mcpactors.targets import ProxyServer
from mcpactors.transports.lines.stderr import StderrTail
from mcpactors.transports.values import ProgramTransport, SDKTransport, StreamableHttpTransport
from mcpactors.tree.running import Running

__all__ = ["Ground", "Tell", "local", "proxy"]

logger = logging.getLogger("mcpactors")

INSTRUCTIONS_LENGTH: Final = 10_000
"""Characters of one backend's instructions that become part of ours."""


@frozen(kw_only=True, eq=False)
class Ground:
    """What all actors of a runtime stand on."""

    runtime: Copier
    settings: RuntimeSettings
    clients: Clients
    open_runtime: Open
    """Opens a runtime of its own, for a composed server that is proxied; takes `settings`, too."""


@frozen(kw_only=True, eq=False)
class Tell:
    """What is to be told of one actor."""

    changed: Callable[[tuple[Kind, ...]], None]
    """Its lists of these kinds are not what they were."""
    updated: Callable[[str], None]
    """What is at one of its URIs has changed."""
    said: Callable[[Mapping[str, Any]], frozenset[str]]
    """It says of itself, or of a list, which gateways that has come through. Raises `BackendStartError`."""


def proxy(target: ProxyServer, running: Running, ground: Ground, tell: Tell) -> Callable[[], Actor]:
    """That of a backend."""
    running.stderr = StderrTail(of=running.ref.name, isolated=is_isolated(target))
    where, settings = target.target, ground.settings
    said = where if isinstance(where, StdioServer | HTTPServer) else None

    def introduced(said: Mapping[str, Any]) -> None:
        """Keep of it what has the right shape: it becomes part of what we say of ourselves."""
        instructions, capabilities = said.get("instructions"), said.get("capabilities")
        running.said = {
            "instructions": instructions[:INSTRUCTIONS_LENGTH] if isinstance(instructions, str) else None,
            "capabilities": capabilities if isinstance(capabilities, Mapping) else {},
            "era": "legacy" if "protocolVersion" in said else "modern",  # only `initialize` has that in its result
        }

    def lost_session(ended: float) -> None:
        """Each is a process, so that what it held is to blame; over a network many are lost when one server ends."""
        if isinstance(where, StdioServer | ProgramTransport):
            running.ref.suspects.ended(ended)
            running.ref.suspects.crashed(trio.current_time())

    limits = target.limits or settings.backends
    clients = evolve(settings.clients, in_flight=max(settings.clients.in_flight, settings.in_flight))  # many clients
    inside = partial(ground.open_runtime, settings=evolve(settings, subreaper=False, clients=clients))
    backend = Backend(
        connect=connector(target, running.stderr, inside, limits),
        timeout=said.timeout if said is not None else None,
        tags=said.tags if said is not None else (),
        over_http=isinstance(where, SDKTransport | ClientFactory | StreamableHttpTransport)
        or (isinstance(where, HTTPServer) and where.resolved_transport != "websocket"),
        sessions=target.strategy,
        forward=target.forward,
        limits=target.pool,
        taken=limits,
        given_up=running.ref.given_up,
        lost_session=lost_session,
        start_timeout=said.start_timeout if said and said.start_timeout else settings.start_timeout,
        admit=tell.said,
        changed=tell.changed,
        updated=tell.updated,
        introduced=introduced,
        ask_client=ground.clients.ask,
        tell_client=ground.clients.tell,
    )
    return lambda: ProxyActor(running.ref.name, backend)


def local(
    target: object, running: Running, ground: Ground, tell: Tell, after: trio.Event | None, *, mounted: bool
) -> Callable[[], Actor]:
    """That of a server of this process, which begins once `after` is set: its lifespan is that of one actor.

    `mounted`: it is not the main one.
    """
    server = low_level(target)
    if mounted and asks_for_tokens(target):
        logger.warning(
            "%s has auth=..., which is not asked for where it is mounted: whoever may reach what it is mounted on may "
            "call it. runtime.serve_http(auth=..., token_verifier=...) asks for tokens; docs/security.md",
            running.ref.name,
        )
    running.threads = ThreadLimit(ground.settings.threads)
    described = LocalServer(
        server=server,
        middleware=target.own_middleware if isinstance(target, Server) else (),
        tells=isinstance(target, Server),
        after=after,
        bus=bus_of(target),
        changed=tell.changed,
        updated=tell.updated,
        threads=running.threads,
        adopt=lambda: sync_handlers_in_threads(target),
    )
    capabilities = server.get_capabilities().model_dump(by_alias=True, exclude_none=True)
    running.said = {"instructions": server.instructions, "capabilities": capabilities}
    if isinstance(target, Server):
        forget = target.listen(lambda kind: tell.changed((kind,)))
        target.running_in.append(ground.runtime)

        def end() -> None:
            forget()
            target.running_in.remove(ground.runtime)

        running.forget = end
    return lambda: LocalActor(described)

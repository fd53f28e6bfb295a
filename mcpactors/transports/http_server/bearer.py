"""Who asks: the bearer token of a request, which the program's own verifier knows or does not.

Rule: asked on every route of MCP, before a byte of a body is read, and answered in the words of RFC 6750. Whom a token
names is told by the SDK's means (`scope["user"]`, `get_access_token()`), by which sessions, sealed states and handlers
know it. What outlives its token is ended. MCP basic/authorization. Promise F35.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from inspect import iscoroutinefunction, unwrap
from types import FunctionType
from typing import Final

import trio
from attrs import define, field
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import (
    AuthenticatedUser,
    AuthorizationContext,
    BearerAuthBackend,
    authorization_context,
)
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from mcp.server.auth.settings import AuthSettings
from pydantic_core import to_json
from starlette.authentication import AuthCredentials
from starlette.requests import HTTPConnection
from starlette.routing import Route

from mcpactors.errors import ConfigError
from mcpactors.transports.asgi import ASGIApp, Message, Receive, Scope, Send
from mcpactors.transports.http_server.reply import JSON, respond, say

__all__ = ["Bearer", "principal_of", "valid_for"]

logger = logging.getLogger("mcpactors.http")

PATIENCE: Final = 10.0
"""Seconds that a verifier may take."""
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 3.3


@define(eq=False)
class Bearer:
    """Asks for tokens. `auth` and `verifier` are what the SDK's `streamable_http_app` takes; the verifier runs on trio.

    Of `auth` are used `required_scopes`, and `resource_server_url` with `validate_token_resource` and `issuer_url`.

    Raises:
        ConfigError: they are none, what verifies is not async, or a scope is no scope.
    """

    auth: AuthSettings
    verifier: TokenVerifier
    patience: float = PATIENCE
    _scopes: list[str] = field(init=False)
    _backend: BearerAuthBackend = field(init=False)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.auth, AuthSettings):
            got = type(self.auth).__name__
            raise ConfigError(f"auth: expected AuthSettings(...) of mcp.server.auth.settings, got {got}")
        if isinstance(self.verifier, type):
            raise ConfigError(f"token_verifier: {self.verifier.__name__} is a class; give an object of it")
        if not callable(getattr(self.verifier, "verify_token", None)):
            raise ConfigError(f"token_verifier: {type(self.verifier).__name__} has no async def verify_token(token)")
        if not _may_be_awaited(self.verifier.verify_token):
            raise ConfigError(
                f"token_verifier: verify_token of {type(self.verifier).__name__} is not async; write it as async def "
                "verify_token(self, token), or, where it hands on what is to be awaited, with -> Awaitable[...]"
            )
        self._scopes = self.auth.required_scopes or []
        for scope in self._scopes:
            if not _SCOPE.fullmatch(scope):
                raise ConfigError(f"required_scopes: {scope!r} is no scope (RFC 6749 3.3)")
        resource = self.auth.resource_server_url if self.auth.validate_token_resource else None
        self._backend = BearerAuthBackend(self.verifier, resource_server_url=resource)

    def routes(self) -> list[Route]:
        """Where clients read who gives out tokens for this resource (RFC 9728), if it has a name."""
        auth = self.auth
        if auth.resource_server_url is None:
            return []
        return create_protected_resource_routes(auth.resource_server_url, [auth.issuer_url], auth.required_scopes)

    def guarded(self, app: ASGIApp) -> ASGIApp:
        """The application, for who has a token that is valid and has every scope."""

        async def asked(scope: Scope, receive: Receive, send: Send) -> None:
            user = await self._identified(scope, send)
            if user is None:
                return
            scope = {**scope, "user": user}
            if _lasts(scope):
                receive = _until(trio.current_time() + valid_for(scope), receive)
            before = auth_context_var.set(user)
            try:
                await app(scope, receive, send)
            finally:
                auth_context_var.reset(before)

        return asked

    async def _identified(self, scope: Scope, send: Send) -> AuthenticatedUser | None:
        """Who asks. None: that is not known, or not enough, which was answered. Raises what the verifier raises."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        found: tuple[AuthCredentials, AuthenticatedUser] | None = None
        if len(given) == 1 and given[0].isascii():
            with trio.move_on_after(self.patience) as waiting:
                try:
                    found = await self._backend.authenticate(HTTPConnection(scope))
                except SystemExit as error:  # no verifier ends what serves everybody (promise F59)
                    raise RuntimeError("the verifier wanted to end the program") from error
            if waiting.cancelled_caught:
                logger.error("a token could not be verified within %g s", self.patience)
                await say(send, 503, "the token could not be verified in time")
                return None
        if found is None:
            bearer = any(value[:7].lower() == b"bearer " for value in given)
            why = "the token is not valid (any more)" if bearer else "this needs a token (Authorization: Bearer ...)"
            await self._challenge(send, 401, "invalid_token", why)
            return None
        missing = [name for name in self._scopes if name not in found[0].scopes]
        if missing:
            await self._challenge(send, 403, "insufficient_scope", f"the token does not have {' '.join(missing)}")
            return None
        return found[1]

    def _challenge(self, send: Send, status: int, error: str, why: str) -> Awaitable[None]:
        said = {"error": error, "error_description": why}
        parts = dict(said)
        if self._scopes:
            parts["scope"] = " ".join(self._scopes)
        if self.auth.resource_server_url is not None:
            parts["resource_metadata"] = str(build_resource_metadata_url(self.auth.resource_server_url))
        challenge = "Bearer " + ", ".join(f'{name}="{text}"' for name, text in parts.items())
        return respond(send, status, to_json(said), [JSON, (b"www-authenticate", challenge.encode())])


def _may_be_awaited(verify: Callable[..., object]) -> bool:
    """Whether what it returns may be: of anything but a function in Python, that is not known before it is called."""
    function = unwrap(getattr(verify, "__func__", verify))
    if not isinstance(function, FunctionType) or iscoroutinefunction(function):
        return True
    returned: object = None
    with suppress(NameError):  # from Python 3.14 on annotations are looked up now
        returned = function.__annotations__.get("return")
    return any(word in str(returned) for word in ("Awaitable", "Coroutine"))


def principal_of(scope: Scope) -> AuthorizationContext | None:
    """Who asks, by client, issuer and subject: what a session belongs to. None: nobody was asked for a token."""
    user = scope.get("user")
    return authorization_context(user) if isinstance(user, AuthenticatedUser) else None


def valid_for(scope: Scope) -> float:
    """Seconds for which the token of a request is valid from now on; inf: for ever, or nobody has asked for one."""
    user = scope.get("user")
    ends = user.access_token.expires_at if isinstance(user, AuthenticatedUser) else None
    return max(0.0, ends + 1 - time.time()) if ends else math.inf  # as the SDK has it: in its last second it is valid


def _lasts(scope: Scope) -> bool:
    """Whether the answer is a stream that goes on until somebody ends it: everything else is a call, and ends."""
    return scope["method"] == "GET" or (b"mcp-method", b"subscriptions/listen") in scope["headers"]


def _until(when: float, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Of a client whose token is valid until then: after it, the client is taken to have left."""

    async def received() -> Message:
        with trio.move_on_at(when):
            return await receive()
        return {"type": "http.disconnect"}

    return received

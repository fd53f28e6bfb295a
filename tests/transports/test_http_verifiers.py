"""Which `verify_token` is taken for one that can be awaited: found out before the first request comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any

import pytest
from mcp.server.auth.provider import AccessToken

from mcpactors import Server, open_runtime
from mcpactors.errors import ConfigError
from tests.transports.tokens import Tokens, ask, main_server, new_call, port_of, settings


class Plain:
    def verify_token(self, token: str) -> AccessToken | None:
        raise AssertionError("nobody asks")


class Unannotated:
    def verify_token(self, token):
        raise AssertionError("nobody asks")


class Static:
    @staticmethod
    def verify_token(token: str) -> None:
        raise AssertionError("nobody asks")


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*given: Any) -> Any:
        return function(*given)

    return wrapper


class HandsOn(Tokens):
    def verify_token(self, token: str) -> Coroutine[Any, Any, AccessToken | None]:
        return super().verify_token(token)


class HandsOnAnything(Tokens):
    def verify_token(self, token: str) -> Awaitable[AccessToken | None]:  # type: ignore[override]
        return super().verify_token(token)


class Decorated(Tokens):
    verify_token = logged(Tokens.verify_token)


class Called(Tokens):
    async def __call__(self, token: str) -> AccessToken | None:
        return await super().verify_token(token)


class NoFunction:
    def __init__(self) -> None:
        self.verify_token = Called()


@pytest.mark.parametrize("kind", [Plain, Unannotated, Static])
async def test_a_verifier_that_is_not_async_is_said_at_once(kind: Callable[[], Any]) -> None:
    async with open_runtime() as runtime:
        with pytest.raises(ConfigError, match=r"verify_token of \w+ is not async; write it as async def verify_token"):
            runtime.serve_http(port=0, auth=settings(), token_verifier=kind())


async def test_a_verifier_of_the_main_server_is_held_against_the_same() -> None:
    async with open_runtime(Server("main", auth=settings(), token_verifier=Plain())) as runtime:
        with pytest.raises(ConfigError, match="verify_token of Plain is not async"):
            runtime.serve_http(port=0)


@pytest.mark.parametrize("kind", [Tokens, HandsOn, HandsOnAnything, Decorated, NoFunction])
async def test_whatever_else_can_be_awaited_verifies(kind: Callable[[], Any]) -> None:
    async with open_runtime(main_server()) as runtime:
        async with runtime.serve_http(port=0, auth=settings(), token_verifier=kind()) as url:
            assert b"ada with ada" in (await ask(port_of(url), new_call("ada"))).body
            assert (await ask(port_of(url), new_call("wrong"))).status == 401

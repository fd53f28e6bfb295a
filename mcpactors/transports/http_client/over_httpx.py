"""Requests through an httpx client: of the embedding program, or for the sake of a proxy that the environment names.

Rule: only what `pool.Exchange` asks for. Both httpx and httpx2 fit, so neither is imported here by name. It costs
a call about 0.5 ms more than our own pool; what it has that the pool has not is `Auth`, proxies and HTTP/2.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, Final, Self

import trio
from attrs import define, field

from mcpactors.transports.http_client.pool import AnswerLost, NotReached, PoolClosed
from mcpactors.transports.http_client.reasons import reason_of

__all__ = ["ClientExchange"]

_UNSENT: Final = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol")
_CLOSE_TIMEOUT: Final = 2.0
_TAIL_TIMEOUT: Final = 0.2


@define(eq=False)
class _Answer:
    """A response of the client's."""

    _response: Any
    status: int
    fields: Mapping[str, str]
    _body: AsyncIterator[bytes]
    pieces: int = field(default=1, init=False)

    async def receive(self) -> bytes:
        try:
            async for piece in self._body:
                if piece:
                    return piece
        except Exception as error:
            raise AnswerLost(f"broke off its reply: {_said(error)}") from error
        return b""

    async def aclose(self, *, done: bool) -> None:
        if done:  # a connection is kept only once its response was read to the end
            with trio.move_on_after(_TAIL_TIMEOUT), suppress(AnswerLost):
                while await self.receive():
                    pass
        with trio.move_on_after(_CLOSE_TIMEOUT) as scope:
            scope.shield = True
            await self._response.aclose()


class _Pieces:
    """One piece, and no more."""

    def __init__(self, piece: bytes) -> None:
        self._left = [piece]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


@cache
def _whole(byte_stream: type) -> Any:
    """The client's stream of bytes, whose iteration is no generator.

    A generator that a cancelled sending leaves half-way is one that trio warns of, when it is collected.
    """
    return type("Whole", (byte_stream,), {"__aiter__": lambda self: _Pieces(b"".join(self))})


@define(eq=False)
class ClientExchange:
    """An `Exchange` over a client. `origin` is a URL without a path; `owned`: the client is closed at the end."""

    client: Any
    origin: str
    fields: Mapping[str, str]
    owned: bool
    _closed: bool = field(default=False, init=False)

    async def send(
        self, method: str, target: str, fields: Mapping[str, str], body: bytes, *, fresh: bool = False
    ) -> _Answer:
        if self._closed:
            raise PoolClosed
        headers = {**self.fields, **fields}
        request = self.client.build_request(method, self.origin + target, headers=headers, content=body or None)
        plain: Any = type(request.stream)
        request.stream = _whole(plain)(body)
        try:
            response = await self.client.send(request, stream=True, follow_redirects=False)
        except Exception as error:
            if type(error).__name__ in _UNSENT:
                raise NotReached(_said(error)) from error
            raise AnswerLost(f"did not reply: {_said(error)}") from error
        fields = {name.lower(): value for name, value in response.headers.items()}
        return _Answer(response, response.status_code, fields, response.aiter_raw())

    async def run(self) -> None:
        """The client cares for its connections itself."""

    async def aclose(self) -> None:
        self._closed = True
        if self.owned:
            with trio.move_on_after(_CLOSE_TIMEOUT) as scope:
                scope.shield = True
                await self.client.aclose()


def _said(error: Exception) -> str:
    """In its words; where it has none, as of TLS on trio, in those of what it comes of."""
    return f"{type(error).__name__}: {str(error) or reason_of(error)}"

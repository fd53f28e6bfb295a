"""Names of hosts are looked up in threads of their own, so that whoever has used up the common ones costs nobody else.

Rule: trio's own resolver takes threads that every handler may take, too (`anyio.to_thread`), and a thread cannot be
stopped: with all of them taken no backend could be reached by its name (promises P6, F58).
"""

from __future__ import annotations

import socket
from typing import Any, Final, final
from weakref import WeakValueDictionary

import trio

__all__ = ["look_up_apart"]

AT_ONCE: Final = 4
"""Threads that may look for one name: one whose name server hangs costs those alone who look for it."""


@final
class _Lookups(trio.abc.HostnameResolver):
    """Looks for names as trio does, under a limit for each."""

    def __init__(self) -> None:
        self._limits = WeakValueDictionary[bytes | None, trio.CapacityLimiter]()

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        limit = self._limits.setdefault(host, trio.CapacityLimiter(AT_ONCE))
        return await trio.to_thread.run_sync(
            socket.getaddrinfo, host, port, family, type, proto, flags, abandon_on_cancel=True, limiter=limit
        )

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        return await trio.to_thread.run_sync(
            socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )


def look_up_apart() -> None:
    """From now on in this trio run; unless the program that embeds us has a resolver of its own."""
    before = trio.socket.set_custom_hostname_resolver(_Lookups())
    if before is not None:
        trio.socket.set_custom_hostname_resolver(before)

"""Where HTTP is served: a TCP address or a Unix socket, with TLS or without.

Rule: what cannot be bound, or read, is a `ConfigError` that says what to do. A socket file that nobody listens on any
more is replaced; all else that is in its place stays, and so does what has come there since when we end.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final
from urllib.parse import quote

import trio
from trio.abc import Listener

from mcpactors.errors import ConfigError

__all__ = ["authority", "listening", "tls_context"]

BACKLOG: Final = 256
_REACHED_BY: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""What a client can connect to where every address is bound."""
GONE_TIMEOUT: Final = 30.0
"""Seconds after which a client whose machine says nothing any more to what we send has gone: comments are sent."""


@asynccontextmanager
async def listening(
    host: str, port: int, uds: str | os.PathLike[str] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Listener[Any], str]]:
    """A listener while the block lasts, and a URL of what it serves, without a path, that a client here can use.

    `uds` is the path of a Unix socket, which only our own user can connect to; host and port do not count then.

    Raises:
        ConfigError: it cannot be bound.
    """
    if uds is not None:
        with _unix(os.fspath(uds)) as bound:
            scheme, where = "http+unix" if tls is None else "https+unix", quote(os.fspath(uds), safe="")
            async with _over(bound, tls) as listener:
                yield listener, f"{scheme}://{where}"
        return
    bound = _tcp(host, port)
    port = bound.getsockname()[1]
    async with _over(bound, tls) as listener:
        yield listener, f"{'http' if tls is None else 'https'}://{authority(host, port)}"


def authority(host: str, port: int) -> str:
    """What stands for an address that was bound in a URL that a client can use."""
    host = _REACHED_BY.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tls_context(certfile: str | os.PathLike[str], keyfile: str | os.PathLike[str] | None = None) -> ssl.SSLContext:
    """What is served with: a certificate chain and its key, both in PEM; they may be in one file.

    Raises:
        ConfigError: the files cannot be read, or do not belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certfile, keyfile, password=_no_password)
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        files = os.fspath(certfile) if keyfile is None else f"{os.fspath(certfile)} and {os.fspath(keyfile)}"
        raise ConfigError(f"{files}: no certificate and key to serve with: {error.args[-1]}") from error
    return context


def _no_password() -> str:
    raise ValueError("the key has a password; give it without one, in a file that only you can read")


def _over(bound: socket.socket, tls: ssl.SSLContext | None) -> Listener[Any]:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
    if tls is None:
        return listener
    tls.set_alpn_protocols(["http/1.1"])  # all that we speak
    return trio.SSLListener(listener, tls, https_compatible=True)


def _tcp(host: str, port: int) -> socket.socket:
    if not isinstance(host, str):
        raise ConfigError(f"host: expected a name or an address to bind, got {host!r}")
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigError(f"port: expected an integer from 0 (a free one) to 65535, got {port!r}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(_cannot_bind(error, host, port)) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(GONE_TIMEOUT * 1000))
    return bound


def _cannot_bind(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; stop what uses it, or choose another port (0: a free one)"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this process has; choose one above 1023"
    return f"cannot serve at {host}:{port}: {error.strerror or error}"


@contextmanager
def _unix(path: str) -> Iterator[socket.socket]:
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError("there are no Unix sockets here; serve at a host and a port")
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            bound.bind(path)
            os.chmod(path, 0o600)  # before it listens, so that nobody can have connected
            bound.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(f"cannot serve at {path}: {error.strerror or error}") from error
        ours = os.lstat(path)
        try:
            yield bound
        finally:
            with suppress(OSError):
                if os.path.samestat(ours, os.lstat(path)):
                    os.unlink(path)
    finally:
        bound.close()  # unless its listener has closed it before


def _remove_stale(path: str) -> None:
    """Remove the socket file that a server left which was killed."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"{path} is there already and is no socket; choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.setblocking(False)
            knock.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with suppress(FileNotFoundError):
            os.unlink(path)
    except BlockingIOError:
        raise ConfigError(f"{path} is in use by a server that is busy; choose another path") from None
    except OSError as error:
        raise ConfigError(f"cannot serve at {path}: {error.strerror or error}") from error
    else:
        raise ConfigError(f"{path} is in use by another server; stop it or choose another path")

"""What is taken of a peer at the other end of two streams of lines, and how long it is waited for."""

from __future__ import annotations

from typing import Final, Self

from attrs import frozen

from mcpactors.runtime.policy import DEFAULT_BACKEND, BackendLimits

__all__ = ["StdioLimits"]

_MIB: Final = 1024 * 1024


@frozen
class StdioLimits:
    """Sizes in bytes, times in seconds. The four times together bound how long leaving `stdio_client` takes."""

    line: int = DEFAULT_BACKEND.message
    """A longer line is dropped while it is read."""
    endless: int = 64 * _MIB
    """So much dropped of one line, and still no newline: the child is given up."""
    depth: int = DEFAULT_BACKEND.depth
    id: int = DEFAULT_BACKEND.id
    parts: int = 250_000
    """Of one line, as `too_many` counts them."""
    outgoing: int = _MIB
    """`send` waits while this much has not gone to the child."""
    requests: int = 1024
    """Requests of the child that may be unanswered; and the bytes of their lines. More are refused."""
    request_bytes: int = 16 * _MIB
    last_words: float = 0.1
    """How long is read on after stdin broke; and stderr, after the child went."""
    exit_grace: float = DEFAULT_BACKEND.exit_grace
    """From the closing of stdin to SIGTERM."""
    term_grace: float = DEFAULT_BACKEND.term_grace
    """From SIGTERM to SIGKILL."""
    kill_grace: float = 0.4
    """From SIGKILL to giving the process up as unkillable."""

    @classmethod
    def of(cls, taken: BackendLimits) -> Self:
        """Those of a backend of which so much is taken."""
        return cls(
            line=taken.message,
            endless=4 * taken.message,
            depth=taken.depth,
            id=taken.id,
            exit_grace=taken.exit_grace,
            term_grace=taken.term_grace,
        )

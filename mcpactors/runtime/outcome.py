"""How a call ends: `Outcome` is a `Result` or a `Failure`.

Rule: as on the wire of JSON-RPC, and nothing else. Import these from `reply.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from mcpactors.errors import MCPActorsError

__all__ = ["Failure", "Outcome", "Result"]


@frozen
class Result:
    """The callee's answer: the `result` object of JSON-RPC, as it is on the wire."""

    value: Mapping[str, Any]


@frozen
class Failure:
    """The callee's error: the `error` object of JSON-RPC."""

    code: int
    message: str
    data: Any = None

    @classmethod
    def of(cls, error: MCPActorsError) -> Failure:
        """The failure that says what `error` says."""
        return cls(error.code, error.message, error.data)


Outcome = Result | Failure

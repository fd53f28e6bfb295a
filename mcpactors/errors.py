"""Every exception of the package, each with its JSON-RPC code.

Rule: a leaf is named by who is to blame and its message says what to do next. Nothing here knows trio, MCP or a
transport, so that every other module may import it. Codes: JSON-RPC 2.0 section 5.1 and MCP 2026-07-28, schema
"error codes"; -32000 to -32019 are the implementation's own range, but for -32002, which is spent: it was
"resource not found" until 2025-11-25.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

__all__ = [
    "ActorCrashed",
    "ActorStopped",
    "ActorUnavailable",
    "BackendMisbehaved",
    "BackendStartError",
    "CallTimeout",
    "CapabilityMissing",
    "ConfigError",
    "InvalidParams",
    "MCPActorsError",
    "MailboxFull",
    "MethodNotFound",
    "MirroredComponent",
    "MountCycle",
    "MountError",
    "NameConflict",
    "NamespaceError",
    "NotFound",
    "Overloaded",
    "PoisonMessage",
    "QuestionRefused",
    "SessionForgotten",
    "SessionInDoubt",
    "TooManyHops",
    "notes_of",
    "said_of",
]

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
CONNECTION_CLOSED: Final = -32000
REQUEST_TIMEOUT: Final = -32001
OVERLOADED: Final = -32004
UNAVAILABLE: Final = -32003
CAPABILITY_MISSING: Final = -32021


class MCPActorsError(Exception):
    """Base of all our errors: a message for people, `code` and `data` for the JSON-RPC error object."""

    code: ClassVar[int] = INTERNAL_ERROR

    def __init__(self, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


# --- The caller's fault -------------------------------------------------------------------------------------------


class InvalidParams(MCPActorsError):
    """The params of a request have the wrong shape."""

    code = INVALID_PARAMS


class MethodNotFound(MCPActorsError):
    """No such method, or not in the caller's protocol revision."""

    code = METHOD_NOT_FOUND


class NotFound(MCPActorsError):
    """No mount serves this tool, prompt or resource."""

    code = INVALID_PARAMS


class TooManyHops(MCPActorsError):
    """The call has come through more gateways than it may: `data` has `hops` and `limit`."""

    code = INVALID_REQUEST


class CapabilityMissing(MCPActorsError):
    """The caller did not declare a capability that its call turned out to need."""

    code = CAPABILITY_MISSING


# --- The embedding program's or the operator's fault --------------------------------------------------------------


class ConfigError(MCPActorsError):
    """A configuration that cannot be used: names the file, the path inside it and what was expected there."""

    code = INVALID_PARAMS


class MountError(MCPActorsError):
    """A mount that cannot be made."""

    code = INVALID_PARAMS


class NamespaceError(MountError):
    """A namespace with characters that cannot stand in a tool name or a URI."""


class MountCycle(MountError):
    """Mounting this would make a server its own descendant."""


class NameConflict(MountError):
    """Two mounts offer one name and the policy is `on_conflict="error"`."""


class MirroredComponent(MCPActorsError):
    """A change of a component that is a backend's; only a local copy of it can be changed."""

    code = INVALID_PARAMS


# --- The world's fault --------------------------------------------------------------------------------------------


class ActorStopped(MCPActorsError):
    """The actor was stopped (unmounted, or the runtime is closing)."""

    code = UNAVAILABLE


class ActorUnavailable(MCPActorsError):
    """The actor is down: `data` has `actor`, `since` (seconds ago) and `reason`."""

    code = UNAVAILABLE


class ActorCrashed(MCPActorsError):
    """The actor crashed while it held the call: the outcome is unknown and nothing was retried."""

    code = CONNECTION_CLOSED


class PoisonMessage(MCPActorsError):
    """The actor went down whenever it held this message: `data` has `actor`, `crashes` and `retryAfter` in seconds."""

    code = UNAVAILABLE


class MailboxFull(MCPActorsError):
    """The actor has as many calls waiting as it may: `data` has `retryAfter` in seconds."""

    code = OVERLOADED


class Overloaded(MCPActorsError):
    """As much is going on as may."""

    code = OVERLOADED


class CallTimeout(MCPActorsError):
    """No sign of life from the callee, or no result in all, within the call's deadline."""

    code = REQUEST_TIMEOUT


class BackendStartError(MCPActorsError):
    """A backend could not be started or connected."""

    code = UNAVAILABLE


class BackendMisbehaved(MCPActorsError):
    """A backend answered in a way that its protocol does not have."""


class QuestionRefused(MCPActorsError):
    """A server's question (sampling, elicitation, roots) could not be put to the client that caused it."""

    code = INVALID_REQUEST


# --- What a wire of ours says besides: code and text are also a backend's to send ---------------------------------


class SessionForgotten(Exception):
    """Marks the error of a request that was refused for its session: it was not carried out."""


class SessionInDoubt(Exception):
    """Marks an error of the backend's that is about its session or about what was asked: nothing says which."""


# --- For people ---------------------------------------------------------------------------------------------------


def said_of(error: BaseException) -> str:
    """An error in a line: the innermost of a group, and what was noted on its way out."""
    leaf = error
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    said = str(leaf) if isinstance(leaf, MCPActorsError) else f"{type(leaf).__name__}: {leaf}"
    return ": ".join((said, *notes_of(error)))


def notes_of(error: BaseException) -> list[str]:
    """What was noted (PEP 678) on an error, or on the groups that it is the innermost of."""
    inner = notes_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else []
    return [*inner, *getattr(error, "__notes__", ())]

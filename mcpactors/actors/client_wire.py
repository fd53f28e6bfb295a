"""A client of the SDK's that the embedding program has connected, as a connection to a backend.

Rule: it keeps its own name, capabilities and answers, and is never closed. Private names of the SDK's `ClientSession`
are used in this file only: the public ones do not relay a request whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Context
from typing import Any

from mcp.client import ClientSession
from mcp.client.session import ClientRequestContext
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp_types import ErrorData, InputRequest
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

from mcpactors.actors.wire import says_closed
from mcpactors.errors import BackendStartError, InvalidParams
from mcpactors.runtime.reply import Failure, Outcome, Result

__all__ = ["ClientWire"]

_input_request: TypeAdapter[InputRequest] = TypeAdapter(InputRequest)


class ClientWire:
    """A connected client of the SDK's: what is sent goes through it, and it answers the backend's questions itself."""

    def __init__(self, client: ClientSession) -> None:
        self._client = client
        said = client.discover_result or client.initialize_result
        self.modern = client.protocol_version in MODERN_PROTOCOL_VERSIONS
        self.server: Mapping[str, Any] = (
            said.model_dump(by_alias=True, mode="json", exclude_none=True) if said is not None else {}
        )

    tells: bool = False
    gone: bool = False
    sender: Context | None = None

    async def send(self, method: str, params: Mapping[str, Any], opts: CallOptions | None = None) -> dict[str, Any]:
        """One request, stamped as all of this client's are. Raises `MCPError`."""
        data: dict[str, Any] = {"method": method, "params": {**params, "_meta": dict(params.get("_meta") or {})}}
        options: CallOptions = {**(opts or {})}
        self._client._stamp(data, options)
        try:
            return await self._client._dispatcher.send_raw_request(method, data["params"], options)
        except RuntimeError as error:  # it has not been entered, or somebody has left it
            raise BackendStartError(f"the client is not connected: {error}") from error

    async def question(self, method: str, params: Mapping[str, Any] | None) -> Outcome:
        """What this client answers to a question that a modern backend puts into a result."""
        try:
            asked = _input_request.validate_python({"method": method, "params": params})
        except ValidationError as error:
            return Failure(InvalidParams.code, f"{method}: {error.errors()[0]['msg']}")
        answer = await self._client.dispatch_input_request(
            ClientRequestContext(session=self._client, request_id=0), asked
        )
        if isinstance(answer, ErrorData):
            return Failure(answer.code, answer.message, answer.data)
        return Result(answer.model_dump(by_alias=True, mode="json", exclude_none=True))

    def lost(self, error: MCPError) -> bool:
        """Whether a request failed because the client is closed."""
        return says_closed(error, getattr(self._client._dispatcher, "_closed", True))

    async def notify(self, method: str) -> None:
        """Nothing is told: what this client says of itself is its owner's business."""

    def end(self, why: str) -> None:
        """It is not ours to close."""

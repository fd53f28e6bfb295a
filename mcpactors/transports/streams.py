"""The one shape of every transport: an async context manager that yields (read, write) of the SDK's messages.

Rule: nothing but types. Whoever enters the context leaves it, in the same task.
"""

from __future__ import annotations

from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage

__all__ = ["ReadStream", "Streams", "WriteStream"]

Streams = tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]

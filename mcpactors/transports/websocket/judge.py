"""What a frame's header says against it, before anything of its payload is held: an extension of wsproto's.

Rule: pure. RFC 6455, 5.2 and 7.4.1. Promise F57.
"""

from __future__ import annotations

from typing import Final

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

__all__ = ["Judge"]

_NO_BITS: Final = RsvBits(False, False, False)


class Judge(Extension):
    """Refuses a binary message, one of more than `message` bytes, and one in more than `fragments` frames."""

    name = "mcpactors"

    def __init__(self, message: int, fragments: int) -> None:
        self._most_bytes, self._most_fragments = message, fragments
        self._size = self._fragments = 0
        self.within = False
        """Whether a message has begun whose end has not come; who takes that sets it back."""
        self.why = ""
        """What the last refused frame was refused for."""

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool | str:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if opcode.iscontrol():
            return _NO_BITS
        if opcode is Opcode.BINARY:
            self.why = "messages are text"
            return CloseReason.UNSUPPORTED_DATA
        if opcode is not Opcode.CONTINUATION:
            self._size = self._fragments = 0
        self._size += payload_length
        self._fragments += 1
        self.within = True
        if self._size > self._most_bytes:
            self.why = f"the message is longer than {self._most_bytes} bytes"
            return CloseReason.MESSAGE_TOO_BIG
        if self._fragments > self._most_fragments:
            self.why = f"the message is in more than {self._most_fragments} fragments"
            return CloseReason.POLICY_VIOLATION
        return _NO_BITS

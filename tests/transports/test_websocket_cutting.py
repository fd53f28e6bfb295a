"""Usual messages of a server do not go through wsproto, and nobody can tell. Promises P6 and F57."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType

import pytest
import trio
import wsproto
from attrs import define, field
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from mcpactors.transports.websocket.cutting import FrameCutter
from mcpactors.transports.websocket.frames import READ_SIZE, WebSocket, WebSocketLimits
from tests.transports.ws_raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, closing, frame

FRAGMENTS = 4


class Limits(Extension):
    """What wsproto has to be told: only text, of which not too much."""

    name = "limits"
    size = fragments = 0

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool | str:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if opcode is Opcode.BINARY:
            return CloseReason.UNSUPPORTED_DATA
        if opcode is Opcode.TEXT:
            self.size = self.fragments = 0
        if not opcode.iscontrol():
            self.size, self.fragments = self.size + payload_length, self.fragments + 1
        if self.size > self.longest:
            return CloseReason.MESSAGE_TOO_BIG
        return CloseReason.POLICY_VIOLATION if self.fragments > FRAGMENTS else RsvBits(False, False, False)


def alone(pieces: Sequence[bytes], longest: int) -> tuple[list[bytes], int]:
    """What wsproto makes of what is read, piece by piece: lines, up to the end; and the code that this has."""
    frames, message, heard = Connection(ConnectionType.CLIENT, [Limits(longest)]), "", list[bytes]()
    for piece in pieces:
        frames.receive_data(piece)
        lines = b""
        for event in frames.events():
            if isinstance(event, CloseConnection):
                return [*heard, lines], event.code
            if isinstance(event, TextMessage):
                message += event.data
                if event.message_finished:
                    lines, message = lines + message.encode().replace(b"\n", b"\r") + b"\n", ""
        heard.append(lines)
    return [*heard, b""], CloseReason.ABNORMAL_CLOSURE


@define(eq=False)
class Pieces(trio.abc.Stream):
    """What a server sends, and what is heard of each piece before the next is read."""

    pieces: Iterator[bytes]
    heard: list[bytes] = field(factory=list)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self.heard.append(b"")
        return next(self.pieces, b"")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def ours(pieces: Sequence[bytes], longest: int) -> tuple[list[bytes], int]:
    """As `alone`, of our end."""
    async with trio.open_nursery() as nursery:
        stream = Pieces(iter(pieces))
        limits = WebSocketLimits(message=longest, fragments=FRAGMENTS)
        socket = WebSocket(stream, ConnectionType.CLIENT, limits, nursery)
        while lines := await socket.receive():
            stream.heard[-1] += lines
    assert socket.ended is not None
    return stream.heard, socket.ended.code


def said(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return frame(opcode, payload, fin=fin, masked=False)


USUAL = said(TEXT, b"{}")
HALVES = said(TEXT, b"{", fin=False) + said(CONTINUATION, b"}")
SIZES = st.sampled_from([0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 999, 1000, 1001, 65_535, 65_536, 70_000, 70_001])
TEXTS = st.one_of(
    st.text("aé€\n😀", max_size=4).map(str.encode),
    SIZES.map(lambda size: b"\xc3\xa9" * (size // 2) + b"a" * (size % 2)),
)
WRONG = st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"a\xe2\x82", b"\xa9"])
RIGHT = st.one_of(
    st.builds(said, st.just(TEXT), TEXTS),
    st.builds(said, st.sampled_from([PING, PONG]), st.sampled_from([b"", b"x", USUAL, USUAL * 3])),
    st.tuples(TEXTS, TEXTS).map(lambda both: said(TEXT, both[0], fin=False) + said(CONTINUATION, both[1])),
    st.just(said(TEXT, b"\xc3", fin=False) + said(PING) + said(CONTINUATION, b"\xa9")),
)
MANY = st.tuples(RIGHT.filter(lambda each: len(each) < 20), st.sampled_from([2, 255, 256, 257, 700, 5000]))
OVERLONG = [b"\x81\x7e\x00\x05hello", b"\x81\x7f" + bytes(7) + b"\x05hello", b"\x81\x7f\xff" + bytes(7), b"\x83\x7e"]
ENDS = [closing(1000, masked=False), closing(1008, "why", masked=False), said(PING, b"x" * 126)]
ANY = st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, 3, 11])
STRANGE = st.one_of(
    st.builds(said, st.just(TEXT), WRONG | TEXTS, fin=st.booleans()),
    st.builds(frame, ANY, TEXTS.filter(lambda text: len(text) < 999), masked=st.booleans(), bits=st.integers(0, 7)),
    st.sampled_from(OVERLONG + ENDS),
    st.binary(max_size=12),
)


@st.composite
def readings(draw: st.DrawFn) -> list[bytes]:
    """Frames, right ones or not, in any pieces."""
    usual = draw(st.lists(RIGHT | MANY.map(lambda many: many[0] * many[1]), max_size=5))
    strange = draw(st.lists(STRANGE, max_size=2))
    came = b"".join([*usual, *strange, *draw(st.lists(RIGHT, max_size=2))])
    near = st.integers(0, min(len(came), 40)) | st.integers(max(0, len(came) - 40), len(came))
    cuts = draw(st.lists(near | st.integers(0, len(came)), max_size=8))
    step = draw(st.sampled_from([1, 3, READ_SIZE])) if len(came) < 600 else READ_SIZE
    places = sorted({0, len(came), *cuts, *range(0, len(came), step)})
    return [came[begin:end] for begin, end in pairwise(places)]


@settings(max_examples=500)
@given(readings(), st.sampled_from([1000, 70_000]))
@example([USUAL * 5000 + (said(PING) + said(TEXT)) * 2000], 1000)
@example([USUAL * 3 + said(TEXT, b"\xff") + USUAL], 1000)
@example([said(TEXT, b"x" * 1001) + USUAL], 1000)
@example([said(TEXT, b"{", fin=False) + USUAL], 1000)
@example([USUAL + ENDS[0] + USUAL], 1000)
@example([USUAL + OVERLONG[0] + USUAL], 1000)
@example([said(PING, USUAL * 2)[:6], said(PING, USUAL * 2)[6:] + USUAL], 1000)
def test_p6_what_a_server_says_is_heard_as_wsproto_alone_would_have_it_however_it_comes(
    pieces: list[bytes], longest: int
) -> None:
    assert trio.run(ours, pieces, longest, clock=MockClock(autojump_threshold=0)) == alone(pieces, longest)


def test_p6_behind_a_text_that_is_none_all_is_left_to_wsproto_and_looked_at_no_more() -> None:
    came = USUAL * 1000 + said(TEXT, b"\xff") + USUAL
    cutter = FrameCutter(1000)
    cutter.feed(came)
    assert cutter.lines(2000) == (b"", 0)
    assert cutter.others(1) == came


@contextmanager
def calls_of_wsproto() -> Iterator[list[str]]:
    """The names of its functions that are called meanwhile."""
    place, before, called = wsproto.__path__[0], sys.getprofile(), list[str]()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(place):
            called.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("between", [b"", said(PING), HALVES])
async def test_p6_usual_messages_do_not_go_through_wsproto_one_by_one_whatever_is_between_them(
    between: bytes, autojump_clock: MockClock
) -> None:
    usual = said(TEXT, b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}')
    came = (usual * 500 + between) * 20
    pieces = [came[begin : begin + READ_SIZE] for begin in range(0, len(came), READ_SIZE)]
    with calls_of_wsproto() as called:
        heard, _ = await ours(pieces, 1000)
    assert b"".join(heard).count(b"list_changed") == 10_000
    assert 0 < len(called) < 5_000

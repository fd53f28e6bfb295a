"""What is kept of event streams: never more than is allowed, and in order whatever went."""

from __future__ import annotations

from typing import Any

import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock

from mcpactors.transports.http_server.events import STANDALONE, EventLimits, EventLog, SessionEvents

LIMITS = EventLimits(session_events=5, session_bytes=100, events=8, bytes=150, seconds=10)
notes = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([STANDALONE, "1", "2"]),
        st.sampled_from([0, 1, 20, 99, 101]),
        st.sampled_from([False, True, "given up"]),
        st.sampled_from([0, 1, 11]),
    ),
    max_size=40,
)


@given(notes)
@example(
    [
        *[(0, STANDALONE, 0, False, 0)] * 12,
        (0, "1", 1, False, 0),
        (0, "1", 101, False, 0),
        (0, STANDALONE, 1, False, 11),
    ]
)
@example([(0, "1", 101, True, 0)] * 6)
@example([(0, "1", 1, "given up", 0)] * 11)
@example([*[(0, "2", size, False, 0) for size in (1, 101, 1)], *[(0, "1", 101, True, 0)] * 5])
def test_d4_no_more_is_kept_than_is_allowed_and_of_a_stream_nothing_from_its_middle(noted: list[Any]) -> None:
    async def run() -> None:
        log = EventLog(LIMITS)
        sessions = [log.session() for _ in range(3)]
        sent: dict[
            tuple[int, int], list[tuple[int, bool]]
        ] = {}  # the number of each event, and whether it says something
        for which, stream, size, last, pause in noted:
            await trio.sleep(pause)
            ends = stream != STANDALONE
            event = sessions[which].note(stream, b"x" * size, last=ends and last is True)
            if ends and last == "given up":
                sessions[which].answered(stream)
            sent.setdefault((which, event.stream), []).append((event.number, size > 0))
            held, size_held = log.held
            assert held <= LIMITS.events
            assert size_held <= LIMITS.bytes
            assert held == sum(len(session.kept) for session in sessions)
            assert size_held == sum(len(e.json) for session in sessions for e in session.kept)
            for session in sessions:
                assert len(session.kept) <= LIMITS.session_events
                assert sum(len(e.json) for e in session.kept) <= LIMITS.session_bytes
                assert len(session.missing) <= LIMITS.session_events
        for (which, stream), events in sent.items():
            for number, _ in events:
                check(sessions[which], stream, number, [n for n, says in events if says and n > number])
        for session in sessions:
            session.clear()
        assert log.held == (0, 0)

    trio.run(run, clock=MockClock(autojump_threshold=0))


def check(session: SessionEvents, stream: int, number: int, after: list[int]) -> None:
    """Of the stream of a call, all that came after an event is there, or there is no such place."""
    if stream != 0 and session.place(f"{stream}-{number}") is not None:
        assert {event.number for event in session.kept if event.stream == stream} >= set(after)

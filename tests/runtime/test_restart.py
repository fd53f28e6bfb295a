"""The restart rule against a reference of OTP's, and the bounds of the wait before a restart (promises P7, F27)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError
from hypothesis import example, given
from hypothesis import strategies as st

from mcpactors.runtime.restart import Exit, Restart, RestartPolicy, RestartWindow, backoff, should_restart


class OtpReference:
    """supervisor.erl's `add_restart`, written from it: a list, newest first, that forgets nothing it need not."""

    def __init__(self, intensity: int, period: float) -> None:
        self.intensity, self.period = intensity, period
        self.restarts: list[float] = []

    def add_restart(self, now: float) -> bool:
        self.restarts.insert(0, now)
        counted = 0
        for restart in self.restarts:
            if now - restart > self.period:
                break
            counted += 1
        self.restarts = self.restarts[:counted]
        return counted <= self.intensity


def answers(window: RestartWindow, times: Sequence[float]) -> list[bool]:
    """What `window` answers to a trace of restarts, its bound on memory held at each step."""
    said = []
    for now in times:
        window, may_restart = window.add(now)
        assert len(window.times) <= window.intensity + 1
        said.append(may_restart)
    return said


def otp_answers(intensity: int, period: float, times: Sequence[float]) -> list[bool]:
    reference = OtpReference(intensity, period)
    return [reference.add_restart(now) for now in times]


# Whole numbers and a small alphabet of gaps, so that ties and gaps of exactly one period come up all the time.
intensities = st.integers(0, 6)
periods = st.integers(1, 5)
traces = st.lists(st.integers(0, 6), max_size=40).map(lambda gaps: list(accumulate(gaps)))

# --- The window ---------------------------------------------------------------------------------------------------


@given(intensities, periods, traces)
@example(intensity=1, period=5, times=[0, 5])
@example(intensity=1, period=5, times=[0, 6])
@example(intensity=0, period=1, times=[0, 10])
def test_window_answers_as_otp_does(intensity: int, period: int, times: list[int]) -> None:
    assert answers(RestartWindow(intensity, period), times) == otp_answers(intensity, period, times)


@given(
    intensities,
    st.floats(1e-3, 1e3),
    st.lists(st.floats(0, 1e3), max_size=40).map(lambda gaps: list(accumulate(gaps))),
)
def test_window_answers_as_otp_does_between_whole_seconds(intensity: int, period: float, times: list[float]) -> None:
    assert answers(RestartWindow(intensity, period), times) == otp_answers(intensity, period, times)


def test_p7_window_answers_as_otp_does_on_ten_thousand_random_traces() -> None:
    draw = random.Random(20261121)
    for trace in range(10_000):
        intensity, period = draw.randint(0, 6), draw.randint(1, 8)
        gaps = [draw.choice((0, 0, 1, draw.randint(0, 9), period)) for _ in range(draw.randint(0, 30))]
        times = list(accumulate(gaps))
        found, expected = answers(RestartWindow(intensity, period), times), otp_answers(intensity, period, times)
        assert found == expected, f"trace {trace}: {intensity} in {period}, restarts at {times}"


def test_p7_restart_exactly_one_period_ago_still_counts() -> None:
    assert answers(RestartWindow(1, 30.0), [0.0, 30.0]) == [True, False]
    assert answers(RestartWindow(1, 30.0), [0.0, 30.5]) == [True, True]


def test_sixth_restart_in_thirty_seconds_gives_up_by_default() -> None:
    assert answers(RestartWindow.of(RestartPolicy()), [0, 1, 2, 3, 4, 5]) == [True] * 5 + [False]


def test_refused_restart_counts_as_in_otp() -> None:
    assert answers(RestartWindow(1, 10), [0, 9, 18]) == [True, False, False]


def test_adding_to_a_window_leaves_it_as_it_was() -> None:
    window = RestartWindow(1, 10)
    assert window.add(0)[0] == RestartWindow(1, 10, (0,))
    assert window == RestartWindow(1, 10)
    with pytest.raises(FrozenInstanceError):
        window.times = (1,)  # type: ignore[misc]


# --- The wait -----------------------------------------------------------------------------------------------------


@st.composite
def policies(draw: st.DrawFn) -> RestartPolicy:
    initial = draw(st.floats(0, 1e6))
    return RestartPolicy(
        backoff_initial=initial,
        backoff_max=draw(st.floats(initial, 1e9)),
        jitter=draw(st.floats(0, 1)),
    )


attempts = st.integers(0, 70) | st.integers(0, 10**6)
draws = st.floats(0, 1, exclude_max=True)


@given(policies(), attempts, draws)
def test_backoff_lies_within_the_jitter_around_the_doubled_wait(
    policy: RestartPolicy, attempt: int, drawn: float
) -> None:
    doubled = policy.backoff_initial
    for _ in range(min(attempt, 2100)):  # the smallest float has become the largest after 2,098
        doubled = min(2 * doubled, policy.backoff_max)
    wait = backoff(policy, attempt, lambda: drawn)
    slack = 1e-9 * doubled
    assert wait >= 0
    assert doubled * (1 - policy.jitter) - slack <= wait <= doubled * (1 + policy.jitter) + slack
    assert wait <= policy.backoff_max * (1 + policy.jitter)


@given(policies(), st.integers(0, 70), draws)
def test_backoff_never_shortens_from_one_attempt_to_the_next(policy: RestartPolicy, attempt: int, drawn: float) -> None:
    assert backoff(policy, attempt, lambda: drawn) <= backoff(policy, attempt + 1, lambda: drawn)


def test_backoff_doubles_from_a_tenth_of_a_second_to_thirty_seconds_by_default() -> None:
    waits = [backoff(RestartPolicy(), attempt, lambda: 0.5) for attempt in range(12)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("drawn", "wait"), [(0.0, 0.08), (0.5, 0.1), (1.0, 0.12)], ids=["shortest", "middle", "longest"]
)
def test_jitter_is_a_share_of_the_wait_either_way(drawn: float, wait: float) -> None:
    assert backoff(RestartPolicy(jitter=0.2), 0, lambda: drawn) == pytest.approx(wait)


@pytest.mark.parametrize("attempt", [1023, 1024, 10**6, 10**30])
def test_backoff_of_a_very_late_attempt_is_the_longest_wait(attempt: int) -> None:
    assert backoff(RestartPolicy(), attempt, lambda: 0.5) == 30.0


# --- Who is restarted at all --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "exit", "expected"),
    [
        ("permanent", "normal", True),
        ("permanent", "crash", True),
        ("permanent", "shutdown", True),
        ("transient", "normal", False),
        ("transient", "crash", True),
        ("transient", "shutdown", False),
        ("temporary", "normal", False),
        ("temporary", "crash", False),
        ("temporary", "shutdown", False),
    ],
)
def test_child_is_restarted_as_otp_says(restart: Restart, exit: Exit, expected: bool) -> None:
    assert should_restart(RestartPolicy(restart=restart), exit) is expected


# --- Wrong policies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"restart": "always"}, r"restart: expected one of permanent, transient, temporary; got 'always'"),
        ({"restart": ["permanent"]}, r"restart: expected one of .*; got \['permanent'\]"),
        ({"intensity": -1}, r"intensity: expected an integer >= 0, got -1"),
        ({"intensity": 1.5}, r"intensity: expected an integer >= 0, got 1\.5"),
        ({"intensity": True}, r"intensity: expected an integer >= 0, got True"),
        ({"period": 0}, r"period: expected a finite number > 0, got 0"),
        ({"period": float("nan")}, r"period: expected a finite number > 0, got nan"),
        ({"period": "30"}, r"period: expected a finite number > 0, got '30'"),
        ({"backoff_initial": -0.1}, r"backoff_initial: expected a finite number >= 0, got -0\.1"),
        ({"backoff_max": float("inf")}, r"backoff_max: expected a finite number >= 0, got inf"),
        ({"backoff_initial": 5, "backoff_max": 4}, r"backoff_max: expected at least backoff_initial, 5; got 4"),
        ({"jitter": 1.1}, r"jitter: expected a finite number >= 0 and <= 1, got 1\.1"),
        ({"reset_after": True}, r"reset_after: expected a finite number > 0, got True"),
        ({"probe_after": -60}, r"probe_after: expected a finite number > 0, got -60"),
    ],
)
def test_wrong_policy_is_refused_by_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        RestartPolicy(**wrong)


@pytest.mark.parametrize(
    "edge",
    [
        {"intensity": 0},
        {"backoff_initial": 0, "backoff_max": 0},
        {"backoff_initial": 2, "backoff_max": 2},
        {"jitter": 0},
        {"jitter": 1},
    ],
)
def test_policy_at_its_edge_is_taken(edge: dict[str, Any]) -> None:
    policy = RestartPolicy(**edge)
    assert {name: getattr(policy, name) for name in edge} == edge

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.clock import PAUSE_S, STEP_S, SYSTEM_CLOCK, Clock, ClockJumpDetector, Deadline
from stocktrace.units import NS_PER_SECOND
from tests.conftest import NOON


class Hands:
    """Two clocks that are moved by hand."""

    def __init__(self) -> None:
        self.monotonic = 50.0
        self.wall = NOON

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.monotonic)

    def pass_time(self, seconds: int) -> None:
        self.monotonic += seconds
        self.wall += seconds * NS_PER_SECOND


def test_the_clocks_are_those_of_this_machine_by_default() -> None:
    assert Clock() == SYSTEM_CLOCK == Clock(time.time_ns, time.monotonic)


def test_a_deadline_counts_down_to_nothing_and_stays_there() -> None:
    hands = Hands()
    deadline = Deadline.after(10, hands.clock())
    seen = []
    for _ in range(4):
        seen.append((deadline.remaining(), deadline.passed()))
        hands.pass_time(4)
    assert seen == [(10.0, False), (6.0, False), (2.0, False), (0.0, True)]


def test_a_deadline_in_seconds_ignores_the_wall_clock() -> None:
    hands = Hands()
    deadline = Deadline.after(10, hands.clock())
    for step in (3600, -7200):
        hands.wall += step * NS_PER_SECOND
        assert deadline.remaining() == 10.0


def test_a_deadline_at_a_time_of_day_counts_down_too() -> None:
    hands = Hands()
    deadline = Deadline.at(NOON + 10 * NS_PER_SECOND, hands.clock())
    assert (deadline.at_monotonic, deadline.at_wall_ns) == (60.0, NOON + 10 * NS_PER_SECOND)
    hands.pass_time(9)
    assert (deadline.remaining(), deadline.passed()) == (1.0, False)
    hands.pass_time(1)
    assert (deadline.remaining(), deadline.passed()) == (0.0, True)


def test_a_time_of_day_passes_during_a_suspend() -> None:
    hands = Hands()
    deadline = Deadline.at(NOON + 3600 * NS_PER_SECOND, hands.clock())
    hands.wall += 86_400 * NS_PER_SECOND  # the monotonic clock of Linux stood still
    assert deadline.passed()


def test_a_wall_clock_that_goes_back_does_not_prolong_a_time_of_day() -> None:
    hands = Hands()
    deadline = Deadline.at(NOON + 60 * NS_PER_SECOND, hands.clock())
    hands.wall -= 3600 * NS_PER_SECOND
    assert deadline.remaining() == 60.0
    hands.monotonic += 60
    assert deadline.passed()


def test_a_deadline_in_the_past_has_passed() -> None:
    hands = Hands()
    assert Deadline.at(NOON - 1, hands.clock()).passed()
    assert Deadline.after(-1, hands.clock()).remaining() == 0.0


def test_the_clock_is_not_in_the_repr_of_a_deadline() -> None:
    assert repr(Deadline(1.5, 7, Hands().clock())) == "Deadline(at_monotonic=1.5, at_wall_ns=7)"


def test_the_system_clock_is_the_default() -> None:
    assert 0 < Deadline.after(1000).remaining() <= 1000
    assert 0 < Deadline.at(time.time_ns() + 1000 * NS_PER_SECOND).remaining() <= 1000


# --- jumps and pauses --------------------------------------------------------------------------


def check(*steps: tuple[float, float]) -> list[str | None]:
    """The reports of checks, each so many seconds later on both clocks."""
    detector = ClockJumpDetector(NOON, 100.0)
    wall, monotonic = float(NOON), 100.0
    reports = []
    for on_wall, passed in steps:
        wall += on_wall * NS_PER_SECOND
        monotonic += passed
        reports.append(detector.check(int(wall), monotonic))
    return reports


def test_steady_checks_report_nothing() -> None:
    assert check((0.25, 0.25), (1.0, 1.0), (PAUSE_S, PAUSE_S), (0.0, 0.0)) == [None] * 4


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ((8.0, 8.0), "suspended or stalled for 8.0 s"),
        ((86_400.0, 0.25), "suspended, or the clock was set forward by 86399.8 s"),
        ((3600.25, 0.25), "suspended, or the clock was set forward by 3600.0 s"),
        ((-3599.75, 0.25), "the clock was set back by 3600.0 s"),
        ((-1.0, 8.0), "the clock was set back by 9.0 s"),
    ],
)
def test_a_jump_or_a_pause_is_reported_once(step: tuple[float, float], words: str) -> None:
    assert check((0.25, 0.25), step, (0.25, 0.25)) == [None, words, None]


def test_it_remembers_the_previous_check() -> None:
    detector = ClockJumpDetector(NOON, 0.0)
    detector.check(NOON + NS_PER_SECOND, 1.0)
    detector.check(NOON + 3601 * NS_PER_SECOND, 1.25)
    assert (detector.previous_wall, detector.wall) == (
        NOON + NS_PER_SECOND,
        NOON + 3601 * NS_PER_SECOND,
    )


@given(st.lists(st.tuples(st.floats(0, PAUSE_S / 2), st.floats(-STEP_S * 0.9, STEP_S * 0.9))))
def test_a_slewed_clock_is_never_reported(steps: list[tuple[float, float]]) -> None:
    reports = check(*((passed + slewed, passed) for passed, slewed in steps))
    assert reports == [None] * len(steps)


@given(st.floats(PAUSE_S * 1.001, 1e6), st.floats(-STEP_S * 0.9, STEP_S * 0.9))
def test_a_pause_is_always_reported(passed: float, slewed: float) -> None:
    (report,) = check((passed + slewed, passed))
    assert report == f"suspended or stalled for {passed + 100.0 - 100.0:.1f} s"

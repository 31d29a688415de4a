from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.clock import PAUSE_S, STEP_S, ClockJumpDetector
from tests.conftest import NOON
from tests.remains import SECOND


def beats(*steps: tuple[float, float]) -> list[str | None]:
    """What is said of beats, each so many seconds later on the wall and on the monotonic clock."""
    pulse = ClockJumpDetector(NOON, 100.0)
    wall, monotonic = float(NOON), 100.0
    said = []
    for on_wall, passed in steps:
        wall += on_wall * SECOND
        monotonic += passed
        said.append(pulse.check(int(wall), monotonic))
    return said


def test_a_steady_pulse_says_nothing() -> None:
    assert beats((0.25, 0.25), (1.0, 1.0), (PAUSE_S, PAUSE_S), (0.0, 0.0)) == [None] * 4


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
def test_what_is_no_steady_pulse_is_told_once(step: tuple[float, float], words: str) -> None:
    assert beats((0.25, 0.25), step, (0.25, 0.25)) == [None, words, None]


def test_it_remembers_when_the_beat_before_was() -> None:
    pulse = ClockJumpDetector(NOON, 0.0)
    pulse.check(NOON + SECOND, 1.0)
    pulse.check(NOON + 3601 * SECOND, 1.25)
    assert (pulse.previous_wall, pulse.wall) == (NOON + SECOND, NOON + 3601 * SECOND)


@given(st.lists(st.tuples(st.floats(0, PAUSE_S / 2), st.floats(-STEP_S * 0.9, STEP_S * 0.9))))
def test_a_clock_that_is_slewed_is_never_told(steps: list[tuple[float, float]]) -> None:
    said = beats(*((passed + slewed, passed) for passed, slewed in steps))
    assert said == [None] * len(steps)


@given(st.floats(PAUSE_S * 1.001, 1e6), st.floats(-STEP_S * 0.9, STEP_S * 0.9))
def test_time_that_passed_without_us_is_always_told(passed: float, slewed: float) -> None:
    (said,) = beats((passed + slewed, passed))
    assert said == f"suspended or stalled for {passed + 100.0 - 100.0:.1f} s"

from __future__ import annotations

import time

from stocktrace.clock import SYSTEM_CLOCK, Clock, Deadline
from stocktrace.units import NS_PER_SECOND

NOON = 1_700_000_000 * NS_PER_SECOND


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


def test_the_clocks_are_those_of_this_machine_unless_others_are_given() -> None:
    assert Clock() == SYSTEM_CLOCK == Clock(time.time_ns, time.monotonic)


def test_a_deadline_counts_down_to_nothing_and_stays_there() -> None:
    hands = Hands()
    deadline = Deadline.after(10, hands.clock())
    seen = []
    for _ in range(4):
        seen.append((deadline.remaining(), deadline.passed()))
        hands.pass_time(4)
    assert seen == [(10.0, False), (6.0, False), (2.0, False), (0.0, True)]


def test_a_deadline_after_seconds_does_not_care_for_the_wall_clock() -> None:
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


def test_a_time_of_day_passes_while_the_machine_sleeps() -> None:
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


def test_the_clock_is_not_part_of_what_a_deadline_looks_like() -> None:
    assert repr(Deadline(1.5, 7, Hands().clock())) == "Deadline(at_monotonic=1.5, at_wall_ns=7)"


def test_the_system_clock_is_the_default() -> None:
    assert 0 < Deadline.after(1000).remaining() <= 1000
    assert 0 < Deadline.at(time.time_ns() + 1000 * NS_PER_SECOND).remaining() <= 1000

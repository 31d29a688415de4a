from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.feed.reconnect import (
    SHORT_CONNECTION_S,
    SHORT_CONNECTIONS,
    Backoff,
    GapTracker,
    SharedKeyDetector,
)
from stocktrace.intervals import CONNECTING
from stocktrace.marks import GapMark
from stocktrace.units import NS_PER_SECOND


class Highest(random.Random):
    """Randomness that notes its bounds, and gives the upper one."""

    def __init__(self) -> None:
        super().__init__(0)
        self.bounds: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.bounds.append((a, b))
        return b


def backoff(source: random.Random, *, floor: float = 1.0) -> Backoff:
    return Backoff(base_s=1.0, cap_s=60.0, floor_s=floor, stable_after_s=60.0, random=source)


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    source = Highest()
    waits = [backoff_.next_delay() for backoff_ in [backoff(source)] for _ in range(9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert source.bounds == [(1.0, wait) for wait in waits]


def test_no_wait_is_shorter_than_the_floor() -> None:
    source = Highest()
    patient = backoff(source, floor=5.0)
    assert [patient.next_delay() for _ in range(5)] == [5, 5, 5, 8, 16]
    assert source.bounds == [(5.0, ceiling) for ceiling in (5, 5, 5, 8, 16)]


def test_years_of_failures_stay_at_the_cap() -> None:
    tired = backoff(Highest())
    tired.failures = 10**9
    assert tired.next_delay() == 60.0


def test_jitter_is_full() -> None:
    """At the cap the waits fill all of [floor, cap]: two clients do not march in step."""
    jittery = backoff(random.Random(1))
    jittery.failures = 20
    waits = sorted(jittery.next_delay() for _ in range(400))
    assert len(set(waits)) == 400
    tenths = [sum(1 + 5.9 * k <= wait < 1 + 5.9 * (k + 1) for wait in waits) for k in range(10)]
    assert min(tenths) > 20
    assert sum(tenths) == 400


def test_two_feeds_wait_differently() -> None:
    first, second = (Backoff(1.0, 60.0, 1.0, 60.0, failures=20) for _ in range(2))
    assert [first.next_delay() for _ in range(4)] != [second.next_delay() for _ in range(4)]


@given(
    st.floats(0.001, 1e3),
    st.floats(0.001, 1e4),
    st.floats(0.001, 1e3),
    st.lists(st.booleans(), min_size=1, max_size=40),
    st.integers(),
)
def test_every_wait_is_within_its_bounds(
    base: float, cap: float, floor: float, too_many: list[bool], seed: int
) -> None:
    waiting = Backoff(base, cap, floor, 60.0, random.Random(seed))
    for number, dials in enumerate(too_many, 1):
        wait = waiting.next_delay(rate_limited=dials)
        if dials:
            assert max(floor, 60.0) <= wait <= max(floor, 600.0)
        else:
            assert floor <= wait <= max(floor, min(cap, base * 2 ** (number - 1)))


def test_a_rate_limit_waits_minutes() -> None:
    source = Highest()
    refused = backoff(source)
    waits = [refused.next_delay(rate_limited=True) for _ in range(5)]
    assert waits == [120, 240, 480, 600, 600]
    assert source.bounds == [(60.0, wait) for wait in waits]


def test_a_floor_of_more_than_a_minute_holds_for_a_rate_limit_too() -> None:
    source = Highest()
    backoff(source, floor=90.0).next_delay(rate_limited=True)
    assert source.bounds == [(90.0, 180.0)]


def test_rate_limits_count_as_failures() -> None:
    source = Highest()
    mixed = backoff(source)
    assert [mixed.next_delay(rate_limited=dials) for dials in (False, True, False)] == [1, 240, 4]


@pytest.mark.parametrize(
    ("lived", "next_wait"), [(0.0, 8.0), (1.0, 8.0), (59.999, 8.0), (60.0, 1.0), (86_400.0, 1.0)]
)
def test_only_a_stable_connection_resets_the_count(lived: float, next_wait: float) -> None:
    living = backoff(Highest())
    for _ in range(3):
        living.next_delay()
    living.connection_ended(lived)
    assert living.next_delay() == next_wait


def test_connections_that_come_and_go_do_not_reset_the_count() -> None:
    storm = backoff(Highest())
    waits = []
    for _ in range(8):
        storm.connection_ended(0.01)
        waits.append(storm.next_delay())
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_the_source_of_randomness_is_not_in_the_repr() -> None:
    assert repr(backoff(random.Random(1))) == (
        "Backoff(base_s=1.0, cap_s=60.0, floor_s=1.0, stable_after_s=60.0, failures=0)"
    )


# --- a shared key ------------------------------------------------------------------------------


def test_short_connections_in_a_row_are_reported_once():
    rival = SharedKeyDetector()
    told = [rival.connection_ended(SHORT_CONNECTION_S - 0.1) for _ in range(SHORT_CONNECTIONS + 2)]
    assert [one is not None for one in told] == [
        *[False] * (SHORT_CONNECTIONS - 1), True, False, False,
    ]  # fmt: skip


def test_a_longer_connection_resets_the_count_of_short_ones():
    rival = SharedKeyDetector()
    lives = [*[0.0] * (SHORT_CONNECTIONS - 1), SHORT_CONNECTION_S, *[0.0] * (SHORT_CONNECTIONS - 1)]
    assert not any(map(rival.connection_ended, lives))
    assert rival.connection_ended(0.0) is not None


# --- gaps --------------------------------------------------------------------------------------


def at(seconds: float) -> int:
    return int(seconds * NS_PER_SECOND)


def test_it_begins_with_the_last_sign_of_life_and_ends_once():
    gap = GapTracker()
    gap.data_received(at(100), 1.0)
    assert gap.end_gap(at(101), 2.0) is None
    gap.disconnected(at(110), 11.0, "TCP ended")
    assert gap.end_gap(at(120), 21.0) == GapMark(at(120), at(100), "TCP ended")
    assert gap.end_gap(at(130), 31.0) is None


def test_a_connection_without_data_does_not_end_it():
    gap = GapTracker(at(100))
    assert gap.reason == CONNECTING
    gap.start(at(100), 1.0)
    gap.connection_opened()
    gap.disconnected(at(105), 6.0, "closed")
    assert gap.end_gap(at(110), 11.0) == GapMark(at(110), at(100), "closed")


def test_if_the_clock_was_set_back_since_the_last_sign_the_monotonic_clock_gives_its_length():
    gap = GapTracker()
    gap.data_received(at(100), 1.0)
    gap.disconnected(at(40), 8.5, "TCP ended")
    assert gap.end_gap(at(41), 9.5) == GapMark(at(41), at(32.5), "TCP ended")


def test_if_the_clock_was_set_back_during_the_gap_it_ends_now_and_keeps_its_length():
    gap = GapTracker()
    gap.data_received(at(100), 1.0)
    gap.disconnected(at(101), 2.0, "TCP ended")
    assert gap.end_gap(at(40), 11.0) == GapMark(at(40), at(30), "TCP ended")


def test_a_connection_without_data_does_not_shorten_it_if_the_clock_was_set_back():
    gap = GapTracker()
    gap.data_received(at(100), 1.0)
    gap.disconnected(at(101), 2.0, "TCP ended")
    gap.connection_opened()
    gap.disconnected(at(40), 11.0, "closed")
    assert gap.end_gap(at(45), 16.0) == GapMark(at(45), at(30), "closed")


def test_a_gap_that_another_capture_began_keeps_its_start():
    gap = GapTracker(at(100), "handed over")
    gap.start(at(103), 50.0)
    assert gap.end_gap(at(40), 52.0) == GapMark(at(40), at(35), "handed over")

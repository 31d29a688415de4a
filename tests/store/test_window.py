from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.store.names import WindowId
from stocktrace.store.window import RollPolicy, WindowSpec, compact_utc
from stocktrace.units import NS_PER_DAY
from tests.conftest import SESSION

POLICY = RollPolicy(every_s=600.0, max_bytes=1000)
STAMPS = st.integers(0, 2**62)
LENGTHS = st.floats(0.001, 2 * 86400.0)


def ns(text: str) -> int:
    moment = datetime.fromisoformat(f"{text}+00:00")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def test_windows_are_aligned_to_the_clock_however_late_they_begin() -> None:
    window = POLICY.open(SESSION, 1, ns("2026-11-23T14:37:21.5"))
    assert window == WindowSpec(
        SESSION,
        1,
        ns("2026-11-23T14:30:00"),
        ns("2026-11-23T14:40:00"),
        ns("2026-11-23T14:37:21.5"),
    )
    assert window.name == "20261123T143721Z_00001"


def test_a_window_ends_at_its_end_and_not_a_nanosecond_before() -> None:
    window = POLICY.open(SESSION, 1, ns("2026-11-23T14:30:00"))
    assert not POLICY.due(window, ns("2026-11-23T14:40:00") - 1, 0)
    assert POLICY.due(window, ns("2026-11-23T14:40:00"), 0)


def test_a_tape_that_is_large_enough_ends_its_window() -> None:
    window = POLICY.open(SESSION, 1, ns("2026-11-23T14:30:00"))
    assert not POLICY.due(window, window.opened, 999)
    assert POLICY.due(window, window.opened, 1000)


def test_windows_rolled_by_size_in_one_second_have_names_of_their_own() -> None:
    stamp = ns("2026-11-23T14:30:00")
    names = [POLICY.open(SESSION, number, stamp + number).name for number in (1, 2, 3)]
    assert len(set(names)) == 3
    assert names == sorted(names)


def test_midnight_utc_ends_a_window_of_any_length() -> None:
    policy = RollPolicy(every_s=7 * 3600.0, max_bytes=1000)
    window = policy.open(SESSION, 1, ns("2026-11-23T22:00:00"))
    assert (window.start, window.end) == (ns("2026-11-23T21:00:00"), ns("2026-11-24T00:00:00"))
    day = RollPolicy(every_s=3 * 86400.0, max_bytes=1000).open(SESSION, 1, window.start)
    assert (day.start, day.end) == (ns("2026-11-23T00:00:00"), ns("2026-11-24T00:00:00"))


def test_the_burst_at_midnight_is_divided_by_receive_time() -> None:
    before, after = ns("2026-11-24T00:00:00") - 1, ns("2026-11-24T00:00:00")
    window = POLICY.open(SESSION, 1, before)
    assert WindowId.of_window(window).date == "2026-11-23"
    assert POLICY.due(window, after, 0)
    assert WindowId.of_window(POLICY.open(SESSION, 2, after)).date == "2026-11-24"


def test_a_clock_that_steps_back_over_midnight_opens_a_new_window_and_reopens_none() -> None:
    old = POLICY.open(SESSION, 1, ns("2026-11-23T23:55:00"))
    new = POLICY.open(SESSION, 2, ns("2026-11-24T00:00:01"))
    back = ns("2026-11-23T23:59:59")
    assert POLICY.due(new, back, 0)
    third = POLICY.open(SESSION, 3, back)
    assert (third.start, third.end) == (old.start, old.end)
    assert len({old.name, new.name, third.name}) == 3
    assert [WindowId.of_window(window).date for window in (old, new, third)] == [
        "2026-11-23",
        "2026-11-24",
        "2026-11-23",
    ]


def test_a_clock_that_steps_back_within_the_window_does_not_end_it() -> None:
    window = POLICY.open(SESSION, 1, ns("2026-11-23T14:35:00"))
    assert not POLICY.due(window, ns("2026-11-23T14:30:00"), 0)


@pytest.mark.parametrize("day", ["2026-03-08", "2026-11-01", "2026-03-29", "2026-10-25"])
def test_days_of_a_changing_clock_have_windows_like_any_other(day: str) -> None:
    stamp, names = ns(f"{day}T00:00:00"), []
    policy = RollPolicy(every_s=3600.0, max_bytes=1000)
    for number in range(1, 25):
        window = policy.open(SESSION, number, stamp)
        names.append(window.name)
        assert window.end - window.start == 3600 * 10**9
        stamp = window.end
    assert stamp == ns(f"{day}T00:00:00") + NS_PER_DAY
    assert names == [f"{day.replace('-', '')}T{hour:02}0000Z_{hour + 1:05}" for hour in range(24)]


@given(STAMPS, LENGTHS)
def test_a_window_holds_its_first_stamp_and_no_midnight(stamp: int, length: float) -> None:
    policy = RollPolicy(length, 1000)
    window = policy.open(SESSION, 1, stamp)
    assert window.start <= stamp < window.end
    assert window.start // NS_PER_DAY == (window.end - 1) // NS_PER_DAY
    assert not policy.due(window, stamp, 0)


@given(STAMPS, LENGTHS)
def test_windows_follow_one_another_without_a_gap(stamp: int, length: float) -> None:
    policy = RollPolicy(length, 1000)
    first = policy.open(SESSION, 1, stamp)
    assert policy.open(SESSION, 2, first.end).start == first.end


def test_times_in_names_are_truncated_and_not_rounded() -> None:
    assert compact_utc(ns("2026-11-23T14:30:00.999999")) == "20261123T143000Z"

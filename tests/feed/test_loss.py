from __future__ import annotations

from stocktrace.feed.reconnect import GapTracker
from stocktrace.intervals import CONNECTING
from stocktrace.marks import GapMark
from stocktrace.units import NS_PER_SECOND


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
    gap.disconnected(at(105), 6.0, "died")
    assert gap.end_gap(at(110), 11.0) == GapMark(at(110), at(100), "died")


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
    gap.disconnected(at(40), 11.0, "died")
    assert gap.end_gap(at(45), 16.0) == GapMark(at(45), at(30), "died")


def test_a_gap_that_another_capture_began_keeps_its_start():
    gap = GapTracker(at(100), "handed over")
    gap.start(at(103), 50.0)
    assert gap.end_gap(at(40), 52.0) == GapMark(at(40), at(35), "handed over")

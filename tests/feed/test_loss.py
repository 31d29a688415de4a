from __future__ import annotations

from stocktrace.feed.reconnect import GapTracker
from stocktrace.intervals import CONNECTING, Gap
from stocktrace.units import NS_PER_SECOND

TICKERS = ("A", "B")


def at(seconds: float) -> int:
    return int(seconds * NS_PER_SECOND)


def test_it_begins_with_the_last_sign_of_life_and_is_over_once():
    loss = GapTracker()
    loss.data_received(at(100), 1.0)
    assert loss.end_gap(at(101), 2.0, TICKERS) is None
    loss.disconnected(at(110), 11.0, "TCP ended")
    assert loss.end_gap(at(120), 21.0, TICKERS) == Gap(at(100), at(120), TICKERS, "TCP ended")
    assert loss.end_gap(at(130), 31.0, TICKERS) is None


def test_a_connection_on_which_nothing_was_heard_does_not_end_it():
    loss = GapTracker(at(100))
    assert loss.reason == CONNECTING
    loss.start(at(100), 1.0)
    loss.dial_started()
    loss.disconnected(at(105), 6.0, "died")
    assert loss.end_gap(at(110), 11.0, TICKERS) == Gap(at(100), at(110), TICKERS, "died")


def test_where_the_clock_was_set_back_since_the_last_sign_the_other_clock_tells_how_long_it_is():
    loss = GapTracker()
    loss.data_received(at(100), 1.0)
    loss.disconnected(at(40), 8.5, "TCP ended")
    assert loss.end_gap(at(41), 9.5, TICKERS) == Gap(at(32.5), at(41), TICKERS, "TCP ended")


def test_where_the_clock_was_set_back_during_the_loss_the_gap_ends_now_and_is_as_long_as_it_was():
    loss = GapTracker()
    loss.data_received(at(100), 1.0)
    loss.disconnected(at(101), 2.0, "TCP ended")
    assert loss.end_gap(at(40), 11.0, TICKERS) == Gap(at(30), at(40), TICKERS, "TCP ended")


def test_a_connection_on_which_nothing_was_heard_makes_it_no_shorter_where_the_clock_was_set_back():
    loss = GapTracker()
    loss.data_received(at(100), 1.0)
    loss.disconnected(at(101), 2.0, "TCP ended")
    loss.dial_started()
    loss.disconnected(at(40), 11.0, "died")
    assert loss.end_gap(at(45), 16.0, TICKERS) == Gap(at(30), at(45), TICKERS, "died")


def test_what_somebody_else_lost_counts_from_when_they_did():
    loss = GapTracker(at(100), "handed over")
    loss.start(at(103), 50.0)
    assert loss.end_gap(at(40), 52.0, TICKERS) == Gap(at(35), at(40), TICKERS, "handed over")

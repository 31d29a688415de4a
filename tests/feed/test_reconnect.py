from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.feed.reconnect import (
    MAX_FRAME_S,
    SHORT_CONNECTION_S,
    SHORT_CONNECTIONS,
    Backoff,
    GapTracker,
    KeepaliveMonitor,
    SharedKeyDetector,
)
from stocktrace.intervals import CONNECTING
from stocktrace.marks import GapMark
from stocktrace.settings import Settings
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
    assert gap.end_gap(at(45), 16.0) == GapMark(at(45), at(30), "TCP ended; then closed")


def test_a_gap_that_another_capture_began_keeps_its_start():
    gap = GapTracker(at(100), "handed over")
    gap.start(at(103), 50.0)
    assert gap.end_gap(at(40), 52.0) == GapMark(at(40), at(35), "handed over")


# --- when a connection counts as lost -----------------------------------------------------------


def watchdog(*, answers_pings: bool | None = None) -> KeepaliveMonitor:
    """With the default bounds, for a connection opened at 0."""
    dog = KeepaliveMonitor(Settings.model_construct(), answers_pings)
    dog.connection_opened(0.0)
    return dog


def frame(dog: KeepaliveMonitor, now: float) -> None:
    """Whole frames came."""
    dog.received(now, completed=True, in_frame=False, pong=False)


def pong(dog: KeepaliveMonitor, now: float) -> None:
    dog.received(now, completed=True, in_frame=False, pong=True)


def piece(dog: KeepaliveMonitor, now: float, *, completed: bool = False) -> None:
    """Bytes came, the last of them part of a frame."""
    dog.received(now, completed=completed, in_frame=True, pong=False)


def first_ping(dog: KeepaliveMonitor, since: float, until: float) -> float | None:
    """When it first asks for a ping, looked at four times a second."""
    now = since
    while now <= until:
        if dog.ping_due(now):
            return now
        now += 0.25
    return None


def death(dog: KeepaliveMonitor, since: float, until: float) -> tuple[float, str] | None:
    """When it gives the connection up, and why; it is asked four times a second, as it is."""
    now = since
    while now <= until:
        reason = dog.failure(now)
        if reason is not None:
            return now, reason
        dog.ping_due(now)
        now += 0.25
    return None


def test_a_new_connection_is_alive() -> None:
    assert watchdog().failure(0.0) is None


def test_half_open_from_the_first_moment_is_noticed_without_any_message() -> None:
    """FAULTS 1 and 5: it is armed when it is made, not by what arrives."""
    assert death(watchdog(), 0.0, 1000.0) == (16.0, "ping unanswered for 8 s")


def test_half_open_after_hours_is_noticed_within_16_seconds() -> None:
    dog = watchdog()
    pong(dog, 10_000.0)
    assert dog.ping_due(10_000.0)
    pong(dog, 10_000.1)
    assert death(dog, 10_000.25, 11_000.0) == (10_016.0, "ping unanswered for 8 s")


def test_a_ping_is_due_every_8_seconds_and_not_while_one_is_out() -> None:
    dog = watchdog()
    assert not dog.ping_due(7.999)
    assert dog.ping_due(8.0)
    assert not dog.ping_due(8.0)
    assert not dog.ping_due(15.9)
    pong(dog, 15.95)
    assert not dog.ping_due(15.99)
    assert dog.ping_due(16.0)


def test_a_ping_has_its_time_to_the_last_moment() -> None:
    dog = watchdog()
    assert dog.ping_due(8.0)
    assert dog.failure(15.999) is None
    assert dog.failure(16.0) == "ping unanswered for 8 s"


def test_an_answered_ping_is_no_reason() -> None:
    dog = watchdog()
    assert dog.ping_due(8.0)
    pong(dog, 8.1)
    assert dog.failure(16.0) is None
    assert dog.answers_pings is True


def test_any_byte_after_a_ping_is_a_sign_of_life() -> None:
    dog = watchdog(answers_pings=True)
    assert dog.ping_due(8.0)
    frame(dog, 9.0)
    assert dog.failure(16.0) is None
    assert dog.answers_pings is True
    assert dog.ping_due(16.0)


def test_a_byte_from_before_the_ping_is_not_a_sign_of_life() -> None:
    dog = watchdog()
    frame(dog, 8.0)
    assert dog.ping_due(8.0)
    assert dog.failure(16.0) == "ping unanswered for 8 s"


def test_a_server_that_sends_frames_but_no_pong_is_not_pinged_any_more() -> None:
    dog = watchdog()
    assert dog.ping_due(8.0)
    frame(dog, 9.0)
    assert dog.answers_pings is None
    assert dog.failure(16.0) is None
    assert dog.answers_pings is False
    assert first_ping(dog, 16.0, 500.0) is None


def test_a_server_known_not_to_answer_is_never_pinged() -> None:
    assert first_ping(watchdog(answers_pings=False), 0.0, 500.0) is None


def test_a_server_that_does_not_answer_has_the_frame_deadline_instead() -> None:
    dog = watchdog(answers_pings=False)
    frame(dog, 60.0)
    assert death(dog, 60.25, 1000.0) == (210.0, "no frame for 150 s")


def test_after_a_late_pong_pings_are_sent_again() -> None:
    dog = watchdog(answers_pings=False)
    pong(dog, 20.0)
    assert dog.answers_pings is True
    assert first_ping(dog, 20.0, 30.0) == 20.0


def test_silence_counts_from_the_opening_too() -> None:
    assert death(watchdog(answers_pings=False), 0.0, 1000.0) == (150.0, "no frame for 150 s")


def test_half_a_frame_and_then_nothing_is_the_end_after_10_seconds() -> None:
    """FAULTS 2."""
    dog = watchdog(answers_pings=False)
    piece(dog, 100.0)
    assert death(dog, 100.0, 1000.0) == (110.0, "half a frame, then nothing for 10 s")


def test_half_a_frame_is_reported_before_an_unanswered_ping() -> None:
    dog = watchdog()
    piece(dog, 5.0)
    assert death(dog, 5.0, 1000.0) == (15.0, "half a frame, then nothing for 10 s")


def test_a_frame_that_was_completed_is_forgotten() -> None:
    dog = watchdog(answers_pings=False)
    piece(dog, 1.0)
    frame(dog, 2.0)
    assert dog.failure(100.0) is None


def test_a_frame_that_drips_is_given_a_minute() -> None:
    dog = watchdog(answers_pings=False)
    for second in range(100, 160):
        piece(dog, float(second))
        assert dog.failure(float(second)) is None
    piece(dog, 100 + MAX_FRAME_S)
    assert dog.failure(100 + MAX_FRAME_S) == "a frame not complete after 60 s"


def test_a_large_frame_over_a_slow_line_is_waited_for() -> None:
    dog = watchdog(answers_pings=False)
    for second in range(59):
        piece(dog, float(second))
    frame(dog, 59.0)
    assert dog.failure(100.0) is None


def test_a_busy_line_whose_reads_all_end_within_a_frame_is_not_one_frame() -> None:
    dog = watchdog(answers_pings=False)
    for second in range(3600):
        piece(dog, float(second), completed=True)
        assert dog.failure(second + 0.9) is None


def test_a_connection_with_pongs_only_is_never_lost() -> None:
    """FAULTS 4: heartbeats and no trades, for a day."""
    dog = watchdog(answers_pings=False)
    for minute in range(1440):
        assert death(dog, minute * 60.0, minute * 60.0 + 59.75) is None
        frame(dog, minute * 60.0 + 60.0)


def test_two_lost_heartbeats_are_tolerated_and_a_third_is_not() -> None:
    dog = watchdog(answers_pings=False)
    frame(dog, 60.0)
    assert dog.failure(209.999) is None
    assert dog.failure(210.0) == "no frame for 150 s"


@pytest.mark.parametrize("answers", [True, False])
def test_one_trade_an_hour_with_heartbeats_is_never_lost(answers: bool) -> None:
    """FAULTS 7; where there are no pongs, Finnhub's heartbeat of 60 s is all there is."""
    dog = watchdog(answers_pings=answers)
    pings = 0
    for tick in range(4 * 6 * 3600):
        now = tick / 4
        if now % 60 == 0 or now % 3600 == 1800.5:
            frame(dog, now)
        assert dog.failure(now) is None
        if dog.ping_due(now):
            pings += 1
            pong(dog, now)
    assert pings == (6 * 3600 // 8 - 1 if answers else 0)


def test_a_quiet_market_with_pongs_only_is_alive() -> None:
    dog = watchdog()
    for tick in range(4 * 3600):
        now = tick / 4
        assert dog.failure(now) is None
        if dog.ping_due(now):
            pong(dog, now)


def test_messages_have_the_bounds_that_are_set() -> None:
    settings = Settings.model_construct(ping_interval=0.25, pong_timeout=0.5)
    dog = KeepaliveMonitor(settings)
    dog.connection_opened(0.0)
    assert dog.ping_due(0.25)
    assert dog.failure(0.75) == "ping unanswered for 0.5 s"

from __future__ import annotations

import pytest

from stocktrace.feed.keepalive import MAX_FRAME_S, KeepaliveMonitor


def watchdog(*, answers_pings: bool | None = None) -> KeepaliveMonitor:
    """With the bounds that are the defaults, opened at 0."""
    return KeepaliveMonitor(
        ping_interval_s=8.0,
        pong_timeout_s=8.0,
        frame_timeout_s=10.0,
        idle_timeout_s=150.0,
        opened=0.0,
        answers_pings=answers_pings,
    )


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
    dog = KeepaliveMonitor(0.25, 0.5, 1.0, 2.5, 0.0)
    assert dog.ping_due(0.25)
    assert dog.failure(0.75) == "ping unanswered for 0.5 s"

"""What is worth recording: the calendar of 2026, asked by runs in time, late, and missed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from stocktrace.end_time import CLOSES, CaptureSpan, parse_until
from stocktrace.errors import MarketClosed, SettingsError, UsageError
from stocktrace.market_hours import MAX_CLOCK_LEAD, MarketHours, check_schedule, reference_time

NEW_YORK = ZoneInfo("America/New_York")
HOLIDAYS = (
    *("01-01", "01-19", "02-16", "04-03", "05-25", "06-19", "07-03", "09-07", "11-26", "12-25"),
)
HALF_DAYS = ("11-27", "12-24")
#: The last day of one time and the first of the other, in spring and in autumn.
DST = ("03-06", "03-09", "10-30", "11-02")
MIXED = ("AAPL", "BINANCE:BTCUSDT")


def at(day: str, time: str) -> datetime:
    """A time in New York, in UTC as a worker has it."""
    return datetime.fromisoformat(f"2026-{day}T{time}").replace(tzinfo=NEW_YORK).astimezone(UTC)


def worth(now: datetime, hours: MarketHours = "us", scheduled: datetime | None = None) -> bool:
    try:
        check_schedule(hours, MIXED, now, scheduled or now)
    except MarketClosed:
        return False
    return True


def weekdays() -> list[str]:
    first = date(2026, 1, 1)
    days = [first + timedelta(days=n) for n in range(365)]
    return [f"{day:%m-%d}" for day in days if day.weekday() < 5]


@pytest.mark.parametrize(("hours", "start"), [("us", "09:25"), ("us-extended", "03:55")])
def test_the_schedules_of_2026_record_every_trading_day_and_no_other(
    hours: MarketHours, start: str
):
    """With a coin in the list as without: what is named is the market, not the tickers."""
    skipped = [day for day in weekdays() if not worth(at(day, start), hours)]
    assert tuple(skipped) == HOLIDAYS


@pytest.mark.parametrize(
    ("word", "start", "usual", "half"),
    [("close", "09:25", "16:00", "13:00"), ("extended close", "03:55", "20:00", "17:00")],
)
def test_each_run_ends_with_its_session_on_half_days_and_in_summer_and_winter_time(
    word: str, start: str, usual: str, half: str
):
    for day in (*DST, *HALF_DAYS, "07-02", "11-23"):
        end = parse_until(word, at(day, start)).astimezone(NEW_YORK)
        assert f"{end:%m-%d %H:%M}" == f"{day} {half if day in HALF_DAYS else usual}"


def test_a_coin_alone_is_recorded_on_every_day():
    assert all(worth(at(day, "09:25"), "always") for day in (*HOLIDAYS, *HALF_DAYS, "11-28"))


def test_on_a_holiday_the_message_names_tickers_that_trade_anyway():
    with pytest.raises(MarketClosed) as caught:
        check_schedule("us", MIXED, at("12-25", "09:25"))
    assert str(caught.value) == (
        "The US market is closed today; its next session opens Mon 2026-12-28 09:30 EST. "
        "BINANCE:BTCUSDT can be recorded anyway, with market always."
    )
    with pytest.raises(MarketClosed, match=r"EST\.$"):
        check_schedule("us", ["AAPL"], at("12-25", "09:25"))


@pytest.mark.parametrize(
    ("day", "time", "worthy"),
    [
        ("11-23", "15:59", True),
        ("11-23", "15:59:01", False),
        ("11-23", "16:00", False),
        ("11-27", "12:58", True),  # a half day
        ("11-27", "13:00", False),
        ("11-23", "23:59", False),
    ],
)
def test_a_run_that_starts_just_before_the_close_is_skipped(day: str, time: str, worthy: bool):
    assert worth(at(day, time), scheduled=at(day, "09:25")) is worthy


def test_too_late_says_when_the_market_closes():
    with pytest.raises(MarketClosed) as caught:
        check_schedule("us", ["AAPL"], at("11-27", "12:59:30"))
    assert str(caught.value) == "Started too late: the US market closes at 13:00:00 EST."


@pytest.mark.parametrize(
    ("now", "worthy"),
    [
        (("11-24", "07:00"), False),  # its own run is still to come
        (("11-24", "08:59"), False),
        (("11-24", "09:20"), True),  # that is cancelled while this one runs,
        (("11-24", "11:00"), True),  # or was, when this one started: it stands in for it
        (("11-24", "16:00"), False),
        (("11-26", "11:00"), False),  # a holiday
    ],
)
def test_a_missed_run_of_an_earlier_day_replaces_todays_while_the_market_is_open(now, worthy):
    """After a worker's downtime the oldest missed run starts, and the newer are cancelled."""
    assert worth(at(*now), scheduled=at("11-23", "09:25")) is worthy


def test_a_missed_run_says_when_it_was_due():
    with pytest.raises(MarketClosed) as caught:
        check_schedule("us", ["AAPL"], at("11-24", "07:00"), at("11-20", "09:25"))
    assert str(caught.value) == (
        "This run was due on Fri 2026-11-20 09:25 EST, and that day has ended; "
        "the next session opens Tue 2026-11-24 09:30 EST."
    )


def test_started_by_hand_before_the_bell_a_run_does_not_wait_for_it():
    assert worth(at("11-24", "07:00"))


# ----------------------------------------------------------------- a run that starts early, or late

EARLY = timedelta(seconds=0.5)


@pytest.mark.parametrize(
    "ahead", [timedelta(microseconds=1), EARLY, timedelta(seconds=10), MAX_CLOCK_LEAD]
)
def test_a_run_that_starts_a_little_early_refers_to_its_scheduled_start(ahead: timedelta):
    due = at("11-24", "09:25")
    assert reference_time(due - ahead, due) == due


@pytest.mark.parametrize(
    "late",
    [
        timedelta(0),
        timedelta(seconds=10),
        timedelta(days=3),
        -MAX_CLOCK_LEAD - EARLY,
        -timedelta(1),
    ],
)
def test_a_run_that_is_late_or_far_too_early_refers_to_the_present(late: timedelta):
    due = at("11-24", "09:25")
    assert reference_time(due + late, due) == due + late


def test_an_unscheduled_run_refers_to_the_present():
    now = datetime(2026, 11, 23, 23, 59, 59, 500_000, tzinfo=UTC)
    assert reference_time(now, None) == now


@pytest.mark.parametrize(
    ("due", "word", "end"),
    [
        ("2026-11-24T00:00+00:00", "tomorrow 00:01 UTC", "2026-11-25T00:01+00:00"),
        ("2026-11-24T00:00+00:00", "00:01 UTC", "2026-11-24T00:01+00:00"),
        ("2026-11-24T00:00-05:00", "tomorrow 00:01 America/New_York", "2026-11-25T00:01-05:00"),
        ("2026-11-24T00:00-05:00", "16:00 America/New_York", "2026-11-24T16:00-05:00"),
        ("2026-11-24T00:00-05:00", "close", "2026-11-24T16:00-05:00"),
        ("2026-11-24T00:00-05:00", "extended close", "2026-11-24T20:00-05:00"),
        ("2026-11-24T00:00-05:00", "2026-11-24T00:30-05:00", "2026-11-24T00:30-05:00"),
    ],
)
def test_half_a_second_before_a_date_begins_each_word_refers_to_that_date(
    due: str, word: str, end: str
):
    scheduled = datetime.fromisoformat(due)
    moment = reference_time((scheduled - EARLY).astimezone(UTC), scheduled)
    assert CaptureSpan.of(None, word, moment).until == datetime.fromisoformat(end)


def test_started_by_hand_before_midnight_tomorrow_is_the_new_date():
    now = datetime(2026, 11, 23, 23, 59, 59, 500_000, tzinfo=UTC)
    assert CaptureSpan.of(None, "tomorrow 00:01 UTC", now).until == datetime(
        2026, 11, 24, 0, 1, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("day", "worthy"),
    [
        ("11-23", True),  # the Sunday before it has no session
        ("11-26", False),  # Thanksgiving; the day before it has a session
        ("11-27", True),  # a half day after a holiday
        ("11-28", False),  # a Saturday
    ],
)
@pytest.mark.parametrize("hours", ["us", "us-extended"])
def test_a_run_at_midnight_in_new_york_uses_the_calendar_of_the_new_date(
    day: str, worthy: bool, hours: MarketHours
):
    due = at(day, "00:00")
    assert worth(reference_time(due - EARLY, due), hours, due) is worthy


# ------------------------------------------------------------------------- how a time is given


NOW = datetime(2026, 11, 23, 23, 59, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("tomorrow 00:01 UTC", "2026-11-24T00:01+00:00"),
        ("tomorrow 00:01 Asia/Tokyo", "2026-11-25T00:01+09:00"),  # it is the 24th there
        ("tomorrow  16:00:30 America/New_York", "2026-11-24T16:00:30-05:00"),
    ],
)
def test_tomorrow_is_the_day_after_today_in_that_zone(text: str, moment: str):
    assert parse_until(text, NOW) == datetime.fromisoformat(moment)


def test_tomorrow_is_a_calendar_day_even_if_the_clocks_change():
    before = at("10-31", "12:00")
    assert parse_until("tomorrow 12:00 America/New_York", before) == at("11-01", "12:00")
    assert at("11-01", "12:00") - before == timedelta(hours=25)


def test_tomorrow_alone_is_refused():
    with pytest.raises(SettingsError, match="is not a time"):
        parse_until("tomorrow", NOW)


@pytest.mark.parametrize("word", CLOSES)
def test_a_close_that_has_passed_is_refused_with_the_next_session(word: str):
    with pytest.raises(MarketClosed, match="its next session opens Fri 2026-11-27"):
        parse_until(word, at("11-26", "12:00"))


def test_a_span_is_a_duration_or_an_end_time():
    assert CaptureSpan.of("1h30m", None) == CaptureSpan(5400.0, None)
    assert CaptureSpan.of(None, "close", at("11-23", "12:00")) == CaptureSpan(
        None, at("11-23", "16:00")
    )
    for words in ((None, None), ("30m", "16:00")):
        with pytest.raises(UsageError, match="not both"):
            CaptureSpan.of(*words)

"""The calendar of 2026: holidays, half days, daylight saving, and markets that never close.

Scheduled captures ask it in time, late, and after a missed run.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from stocktrace.calendar import (
    MAX_CLOCK_LEAD,
    NEW_YORK,
    Market,
    MarketHours,
    check_schedule,
    market_of,
    next_session,
    open_seconds,
    reference_time,
    session_close,
    us_regular_session,
)
from stocktrace.end_time import CLOSES, CaptureSpan, parse_until
from stocktrace.errors import MarketClosed

HOLIDAYS = [
    "01-01",
    "01-19",
    "02-16",
    "04-03",
    "05-25",
    "06-19",
    "07-03",
    "09-07",
    "11-26",
    "12-25",
]
HALF_DAYS = ["11-27", "12-24"]


def days(year: int) -> list[date]:
    first = date(year, 1, 1)
    return [first + timedelta(days=n) for n in range((date(year + 1, 1, 1) - first).days)]


def test_every_weekday_of_2026_except_holidays_has_a_session():
    closed = [
        f"{day:%m-%d}"
        for day in days(2026)
        if day.weekday() < 5 and us_regular_session(day) is None
    ]
    assert closed == HOLIDAYS
    assert not any(us_regular_session(day) for day in days(2026) if day.weekday() >= 5)


def test_half_days_close_at_one_and_all_others_at_four_new_york_on_both_sides_of_dst():
    for day in days(2026):
        if (session := us_regular_session(day)) is not None:
            close = session.closes.astimezone(NEW_YORK)
            opens = session.opens.astimezone(NEW_YORK)
            assert f"{opens:%H:%M}" == "09:30"
            assert f"{close:%H:%M}" == ("13:00" if f"{day:%m-%d}" in HALF_DAYS else "16:00")


@pytest.mark.parametrize(
    ("now", "close"),
    [
        ("2026-11-23T15:00", "2026-11-23T21:00"),
        ("2026-11-23T05:00", "2026-11-23T21:00"),  # midnight in New York: before the bell
        ("2026-11-27T15:00", "2026-11-27T18:00"),  # the day after Thanksgiving
        ("2026-03-06T20:59", "2026-03-06T21:00"),  # the last Friday of winter time
        ("2026-03-09T14:00", "2026-03-09T20:00"),  # the first Monday of summer time
        ("2026-10-30T14:00", "2026-10-30T20:00"),  # the last Friday of summer time
        ("2026-11-02T15:00", "2026-11-02T21:00"),  # the first Monday of winter time
    ],
)
def test_until_close_is_todays_close(now, close):
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert session_close(at) == datetime.fromisoformat(close).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (
            "2026-05-25T15:00",  # Memorial Day
            "The US market is closed today; its next session opens Tue 2026-05-26 09:30 EDT.",
        ),
        (
            "2026-11-27T18:00",
            "The US market has closed; its next session opens Mon 2026-11-30 09:30 EST.",
        ),
        (
            "2026-12-31T22:00",  # over the new year
            "The US market has closed; its next session opens Mon 2027-01-04 09:30 EST.",
        ),
    ],
)
def test_without_a_session_the_message_names_the_next(now, sentence):
    with pytest.raises(MarketClosed) as caught:
        session_close(datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert str(caught.value) == sentence


def test_the_next_session_is_never_one_that_has_opened():
    opened = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
    assert next_session(opened).opens == datetime(2026, 11, 24, 14, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ticker", "market"),
    [
        ("AAPL", Market.US),
        ("BRK.B", Market.US),
        ("BF-B", Market.US),
        ("AC.TO", Market.UNKNOWN),
        ("1810.HK", Market.UNKNOWN),
        ("^GSPC", Market.UNKNOWN),
        ("BINANCE:BTCUSDT", Market.CRYPTO),
        ("OANDA:EUR_USD", Market.FOREX),
        ("IC MARKETS:1", Market.FOREX),
        ("FXCM:EUR/USD", Market.FOREX),
        ("NEWVENUE:X", Market.UNKNOWN),
    ],
)
def test_the_market_follows_from_the_symbol(ticker, market):
    assert market_of(ticker) is market


def test_open_time_of_a_mixed_list_over_thanksgiving_weekend():
    begin = datetime(2026, 11, 26, 0, 0, tzinfo=UTC)
    end = datetime(2026, 11, 30, 15, 30, tzinfo=UTC)
    hours = {market: open_seconds(market, begin, end) / 3600 for market in Market}
    assert hours == {
        Market.US: 3.5 + 1.0,  # the half day, and Monday's first hour
        Market.CRYPTO: 111.5,
        Market.FOREX: 46.0 + 17.5,  # to Friday 17:00 New York, from Sunday 17:00
        Market.UNKNOWN: 0.0,
    }
    assert open_seconds(Market.US, end, begin) == 0.0


# ------------------------------------------------------------------------------ scheduled captures

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
    assert skipped == HOLIDAYS


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


@pytest.mark.parametrize("word", CLOSES)
def test_a_close_that_has_passed_is_refused_with_the_next_session(word: str):
    with pytest.raises(MarketClosed, match="its next session opens Fri 2026-11-27"):
        parse_until(word, at("11-26", "12:00"))

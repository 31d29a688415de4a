"""The calendar of 2026: holidays, half days, daylight saving, and markets that never close."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from stocktrace.calendar import (
    NEW_YORK,
    Market,
    market_of,
    next_session,
    open_seconds,
    session_close,
    us_regular_session,
)
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

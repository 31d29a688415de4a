from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.end_time import CaptureSpan, parse_until
from stocktrace.errors import SettingsError, UsageError

NEW_YORK = ZoneInfo("America/New_York")
# A Monday; in New York it is 09:30, in Tokyo Monday 23:30, in Auckland Tuesday 03:30.
NOW = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
LATE = datetime(2026, 11, 23, 23, 59, 30, tzinfo=UTC)


def told(text: str, now: datetime) -> str:
    """The sentence of the error."""
    with pytest.raises(SettingsError) as raised:
        parse_until(text, now)
    assert isinstance(raised.value, UsageError)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("16:00", datetime(2026, 11, 23, 16, 0, tzinfo=UTC)),
        ("14:30:01", datetime(2026, 11, 23, 14, 30, 1, tzinfo=UTC)),
        ("23:59:59", datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC)),
        ("16:00 America/New_York", datetime(2026, 11, 23, 21, 0, tzinfo=UTC)),
        ("16:00:30  America/New_York", datetime(2026, 11, 23, 21, 0, 30, tzinfo=UTC)),
        ("9:31 America/New_York", datetime(2026, 11, 23, 14, 31, tzinfo=UTC)),
        ("23:45 Asia/Tokyo", datetime(2026, 11, 23, 14, 45, tzinfo=UTC)),
        ("4:00 Pacific/Auckland", datetime(2026, 11, 23, 15, 0, tzinfo=UTC)),
        ("16:00 UTC", datetime(2026, 11, 23, 16, 0, tzinfo=UTC)),
        ("2026-11-23T16:00-05:00", datetime(2026, 11, 23, 21, 0, tzinfo=UTC)),
        ("2026-11-23T16:00Z", datetime(2026, 11, 23, 16, 0, tzinfo=UTC)),
        ("2026-11-24T01:00", datetime(2026, 11, 24, 1, 0, tzinfo=UTC)),
        ("2026-11-24 01:00:00", datetime(2026, 11, 24, 1, 0, tzinfo=UTC)),
        ("2026-11-24", datetime(2026, 11, 24, 0, 0, tzinfo=UTC)),
    ],
)
def test_a_time_of_day_is_today_and_a_date_is_taken_literally(text: str, moment: datetime) -> None:
    until = parse_until(text, NOW)
    assert until.tzinfo is not None
    assert until == moment


def test_until_keeps_its_time_zone() -> None:
    assert parse_until("16:00 America/New_York", NOW).tzinfo == NEW_YORK


@pytest.mark.parametrize(
    "text",
    ["", "soon", "24:00", "12:60", "12:00:60", "1600", "16", "16.00", "123:00", "16:00 ", " 16:00",
     "16:00 America/New York", "2026-13-01", "2026-11-23T25:00", "16:00+01:00"],
)  # fmt: skip
def test_an_invalid_time_is_refused_with_an_example(text: str) -> None:
    assert told(text, NOW) == (
        f"{text!r} is not a time: write it like 16:00, 16:00 America/New_York, close "
        "or 2026-11-23T16:00-05:00."
    )


def test_an_invalid_time_in_a_valid_zone_is_refused() -> None:
    assert told("25:00 UTC", NOW).startswith("'25:00 UTC' is not a time")


@pytest.mark.parametrize(
    "zone", ["New_York", "EST5EDT4", "America", "../etc/passwd", "/UTC", "x\0"]
)
def test_an_unknown_zone_is_refused(zone: str) -> None:
    assert told(f"16:00 {zone}", NOW) == (
        f"{zone!r} is not a time zone: use an IANA name like America/New_York."
    )


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("14:30", "2026-11-23 14:30:00 UTC"),
        ("09:00", "2026-11-23 14:30:00 UTC"),
        ("9:30 America/New_York", "2026-11-23 09:30:00 EST"),
        ("3:00 Pacific/Auckland", "2026-11-24 03:30:00 NZDT"),
        ("2026-11-23T09:30-05:00", "2026-11-23 09:30:00 UTC-05:00"),
        ("2026-11-22", "2026-11-23 14:30:00 UTC"),
        ("1999-12-31T23:59Z", "2026-11-23 14:30:00 UTC"),
    ],
)
def test_a_time_that_has_passed_is_refused_with_the_local_time(text: str, here: str) -> None:
    assert told(text, NOW) == (
        f"{text} has passed (it is {here}): set a later time, with its date if it is not today."
    )


@pytest.mark.parametrize(
    ("day", "moment"),
    [
        # Summer time begins at 2:00 on 8 March and ends at 2:00 on 1 November: FAULTS 34.
        (datetime(2026, 3, 7, 6, 0, tzinfo=UTC), datetime(2026, 3, 7, 21, 0, tzinfo=UTC)),
        (datetime(2026, 3, 8, 6, 0, tzinfo=UTC), datetime(2026, 3, 8, 20, 0, tzinfo=UTC)),
        (datetime(2026, 11, 1, 5, 0, tzinfo=UTC), datetime(2026, 11, 1, 21, 0, tzinfo=UTC)),
    ],
)
def test_a_time_on_a_day_of_23_or_25_hours_is_local_time(day: datetime, moment: datetime) -> None:
    assert parse_until("16:00 America/New_York", day) == moment
    assert parse_until("16:00", day.astimezone(NEW_YORK)).astimezone(UTC) == moment


def test_a_repeated_hour_is_the_first_of_the_two() -> None:
    assert parse_until("1:30 America/New_York", datetime(2026, 11, 1, 5, 0, tzinfo=UTC)) == (
        datetime(2026, 11, 1, 5, 30, tzinfo=UTC).astimezone(NEW_YORK)
    )
    second = datetime(2026, 11, 1, 6, 15, tzinfo=UTC)
    assert "has passed (it is 2026-11-01 01:15:00 EST)" in told("1:30 America/New_York", second)


@pytest.fixture
def machine_in_new_york() -> Iterator[None]:
    """This machine stands in New York."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("machine_in_new_york")
@pytest.mark.parametrize(
    ("night", "moment"),
    [
        (datetime(2026, 3, 8, 6, 0, tzinfo=UTC), datetime(2026, 3, 8, 20, 0, tzinfo=UTC)),
        (datetime(2026, 11, 1, 5, 0, tzinfo=UTC), datetime(2026, 11, 1, 21, 0, tzinfo=UTC)),
        (datetime(2026, 11, 2, 5, 0, tzinfo=UTC), datetime(2026, 11, 2, 21, 0, tzinfo=UTC)),
    ],
)
def test_the_zone_of_this_machine_has_such_days_too(night: datetime, moment: datetime) -> None:
    """``datetime.now().astimezone()`` knows the offset of this night, not that of the afternoon."""
    assert parse_until("16:00", night.astimezone()) == moment
    assert (
        parse_until(f"{moment.astimezone(NEW_YORK):%Y-%m-%d}T16:00", night.astimezone()) == moment
    )


@pytest.mark.usefixtures("machine_in_new_york")
def test_a_now_in_another_zone_keeps_its_zone() -> None:
    five_east = timezone(timedelta(hours=5))
    assert parse_until("23:00", NOW.astimezone(five_east)) == datetime(
        2026, 11, 23, 18, 0, tzinfo=UTC
    )


@given(st.integers(1, 365 * 86_400), st.sampled_from([None, "Asia/Tokyo", "America/New_York"]))
def test_any_future_iso_time_is_accepted(seconds: int, zone: str | None) -> None:
    moment = NOW + timedelta(seconds=seconds)
    written = moment.astimezone(ZoneInfo(zone)) if zone else moment
    assert parse_until(written.isoformat(), NOW) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("tomorrow 00:01 UTC", "2026-11-24T00:01+00:00"),
        ("tomorrow 00:01 Asia/Tokyo", "2026-11-25T00:01+09:00"),  # it is the 24th there
        ("tomorrow  16:00:30 America/New_York", "2026-11-24T16:00:30-05:00"),
    ],
)
def test_tomorrow_is_the_day_after_today_in_that_zone(text: str, moment: str):
    assert parse_until(text, LATE) == datetime.fromisoformat(moment)


def test_tomorrow_is_a_calendar_day_even_if_the_clocks_change():
    before, after = (datetime(*day, 12, tzinfo=NEW_YORK) for day in ((2026, 10, 31), (2026, 11, 1)))
    assert parse_until("tomorrow 12:00 America/New_York", before.astimezone(UTC)) == after
    assert after.astimezone(UTC) - before.astimezone(UTC) == timedelta(hours=25)


def test_tomorrow_alone_is_refused():
    with pytest.raises(SettingsError, match="is not a time"):
        parse_until("tomorrow", LATE)


def test_a_span_is_a_duration_or_an_end_time():
    assert CaptureSpan.of("1h30m", None) == CaptureSpan(5400.0, None)
    noon = datetime(2026, 11, 23, 12, tzinfo=NEW_YORK)
    assert CaptureSpan.of(None, "close", noon) == CaptureSpan(None, noon.replace(hour=16))
    for words in ((None, None), ("30m", "16:00")):
        with pytest.raises(UsageError, match="not both"):
            CaptureSpan.of(*words)

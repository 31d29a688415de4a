from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.errors import LayoutError, TickerError
from stocktrace.store.names import (
    RollPolicy,
    WindowId,
    WindowSpec,
    compact_utc,
    decode_ticker,
    encode_ticker,
    is_session,
    new_session,
    reading_order,
)
from stocktrace.trade import is_ticker, parse_tickers
from stocktrace.units import NS_PER_DAY
from tests.conftest import NOON, SESSION, WINDOW
from tests.store.conftest import STRANGE

ROOT = Path("/data")
# JSON and file systems know no half surrogate pairs.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
FROM_FINNHUB = st.from_regex(
    r"[A-Za-z0-9.:_\-/^]([A-Za-z0-9.:_\-/^ ]*[A-Za-z0-9.:_\-/^])?", fullmatch=True
)


@given(TEXT)
def test_any_text_survives_as_a_file_name(ticker: str) -> None:
    assert decode_ticker(encode_ticker(ticker)) == ticker


@given(FROM_FINNHUB.filter(is_ticker))
def test_a_ticker_is_one_short_portable_name(ticker: str) -> None:
    name = encode_ticker(ticker)
    assert re.fullmatch(r"[A-Za-z0-9._\-^%~]+", name)
    assert len(name.encode()) <= 255
    assert not name.startswith(".")
    assert not name.endswith(".")


def test_no_two_tickers_meet_in_one_name() -> None:
    names = [encode_ticker(ticker) for ticker in STRANGE]
    assert len(set(names)) == len(STRANGE)


def test_no_name_is_a_device_of_windows() -> None:
    device = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE)
    assert not [name for name in map(encode_ticker, STRANGE) if device.fullmatch(name)]


@pytest.mark.parametrize(
    ("ticker", "name"),
    [
        ("AAPL", "AAPL"),
        ("BINANCE:BTCUSDT", "BINANCE%3ABTCUSDT"),
        ("FXCM:EUR/USD", "FXCM%3AEUR%2FUSD"),
        ("IC MARKETS:1", "IC%20MARKETS%3A1"),
        ("BRK.B", "BRK.B"),
        ("^GSPC", "^GSPC"),
        ("CON", "%43ON"),
        ("con.x", "%63on.x"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("A.", "A%2E"),
    ],
)
def test_names_on_disk_are_percent_encoded(ticker: str, name: str) -> None:
    assert encode_ticker(ticker) == name


@pytest.mark.parametrize(
    "name", ["A:B", "a%3ab", "CON", ".", "..", "A.", "%41", "A%3aB", "A%", "%ZZ", "A B", "", "é"]
)
def test_a_folder_that_is_not_a_ticker_is_an_error(name: str) -> None:
    with pytest.raises(LayoutError, match="is not the folder of a ticker"):
        decode_ticker(name)


@pytest.mark.parametrize("ticker", ["A" * 241, "é", "日本", "A\nB", " A", "A ", "", "A,B"])
def test_a_name_that_is_not_a_ticker_is_refused(ticker: str) -> None:
    assert not is_ticker(ticker)


def test_a_ticker_of_200_letters_is_one() -> None:
    assert parse_tickers(["A" * 200]) == ("A" * 200,)
    with pytest.raises(TickerError, match="is not a ticker"):
        parse_tickers(["AAPL", ":" * 81])


def test_a_session_has_a_name_of_its_own() -> None:
    one, other = new_session(NOON), new_session(NOON)
    assert one != other
    assert one.startswith("20261123T143000Z_")
    assert is_session(one)
    assert is_session(other)


@pytest.mark.parametrize(
    "name", ["", "x", "20261123T143000Z", "20261123T143000Z_XYZ123", SESSION[1:]]
)
def test_a_name_that_is_not_a_session_is_refused(name: str) -> None:
    assert not is_session(name)


@pytest.mark.parametrize(
    "name",
    [
        "trades.csv",
        f"{SESSION}-{WINDOW}.txt",
        f"{SESSION}-{WINDOW}.csv.gz",
        f"{SESSION}.csv",
        f"{WINDOW}.csv",
        f"x{SESSION}-{WINDOW}.csv",
        f".{SESSION}-{WINDOW}.csv.12.tmp",
        f"{SESSION}-20261123T143000Z_1.csv",
    ],
)
def test_a_file_of_somebody_else_is_an_error_not_skipped(name: str) -> None:
    with pytest.raises(LayoutError, match="is not a file of stocktrace"):
        WindowId.parse(ROOT / "csv" / "A" / name)


@pytest.mark.parametrize(
    "path", [f"tape/{SESSION}/x.tape", f"tape/x/{WINDOW}.tape", f"tape/{SESSION}/{WINDOW}.tape.gz"]
)
def test_a_tape_of_somebody_else_is_an_error_not_skipped(path: str) -> None:
    with pytest.raises(LayoutError, match="is not a tape of stocktrace"):
        WindowId.of_tape(ROOT / path)


def test_names_of_sessions_sort_as_they_began_within_a_second_too():
    second = 1_795_444_200_000_000_000
    names = [new_session(second + fraction * 1_000_000) for fraction in range(0, 1000, 7)]
    assert names == sorted(names)
    assert all(map(is_session, names))


def test_a_window_id_has_the_time_at_which_it_was_opened() -> None:
    assert WindowId(SESSION, "20261123T144001Z_00002").opened_at == datetime(
        2026, 11, 23, 14, 40, 1, tzinfo=UTC
    )


def test_the_parts_of_a_date_are_read_in_order_and_before_late_windows() -> None:
    names = [
        "day-00001.parquet",
        "day-00001-002.parquet",
        "day-00001-003.parquet",
        f"{SESSION}-{WINDOW}.parquet",
    ]
    shuffled = [ROOT / names[at] for at in (3, 1, 0, 2)]
    assert [path.name for path in sorted(shuffled, key=reading_order)] == names


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

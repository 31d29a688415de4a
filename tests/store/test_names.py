from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.errors import LayoutError, TickerError
from stocktrace.store.names import (
    WindowId,
    decode_ticker,
    encode_ticker,
    is_session,
    new_session,
    reading_order,
)
from stocktrace.trade import is_ticker, parse_tickers
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

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.latency import LatencyHistogram
from stocktrace.sessions.report import Books, GapReport, LagReport, SessionReport, TickerBooks
from tests.conftest import SESSION, tree

NOW = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
COUNTS = st.integers(0, 10**9)


def report() -> SessionReport:
    return SessionReport(
        SESSION,
        ["A", "B"],
        NOW,
        books=Books(5, 3, 1, 1, trades=6, recorded=5, quarantined=1),
        per_ticker={
            "A": TickerBooks(4, 4, 0, 4, NOW),
            "B": TickerBooks(2, 1, 1, 1, NOW),
        },
    )


def test_books_that_balance_have_no_differences() -> None:
    assert report().differences() == []
    assert report().balanced
    assert SessionReport(SESSION, [], NOW).balanced


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("frames", "6 frames, but 5 of the three kinds"),
        ("control", "5 frames, but 6 of the three kinds"),
        ("undecodable", "5 frames, but 6 of the three kinds"),
        ("trades", "7 trades received, but 5 recorded and 1 quarantined"),
        ("recorded", "6 trades received, but 6 recorded and 1 quarantined"),
        ("quarantined", "6 trades received, but 5 recorded and 2 quarantined"),
    ],
)
def test_each_count_that_is_off_by_one_is_reported(name: str, sentence: str) -> None:
    found = report()
    setattr(found.books, name, getattr(found.books, name) + 1)
    assert sentence in found.differences()
    assert not found.balanced


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("trades", "6 trades received in all, but 7 over the tickers"),
        ("recorded", "5 trades recorded in all, but 6 over the tickers"),
        ("quarantined", "1 trade quarantined in all, but 2 over the tickers"),
        ("parquet", "A: 4 trades recorded, but 5 in Parquet"),
    ],
)
def test_each_ticker_count_that_is_off_by_one_is_reported(name: str, sentence: str) -> None:
    found = report()
    setattr(found.per_ticker["A"], name, getattr(found.per_ticker["A"], name) + 1)
    assert sentence in found.differences()


def test_unpublished_windows_are_not_a_difference() -> None:
    found = report()
    found.per_ticker["A"].parquet = 0
    assert not found.balanced
    found.unpublished = ["20261123T143000Z_00001"]
    assert found.balanced


@given(st.lists(st.builds(Books, *[COUNTS] * 7), max_size=5))
def test_books_add_up_count_by_count(many: list[Books]) -> None:
    total = Books()
    for each in many:
        total.add(each)
    for name in Books.__struct_fields__:
        assert getattr(total, name) == sum(getattr(each, name) for each in many)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "sessions" / f"{SESSION}.json"
    found = report()
    found.gaps = [GapReport(NOW, NOW + timedelta(seconds=1), "é", 2)]
    found.latency = LagReport(1.0, 2.5, 3.0)
    found.settings = {"url": "wss://ws.finnhub.io", "roll_interval": 600.0}
    found.ticker_books("A:B").trades = 1
    found.write(path)
    found.write(path)
    assert tree(tmp_path) == [f"sessions/{SESSION}.json"]
    assert SessionReport.read(path) == found


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"session":1,"tickers":[],"started":""}'])
def test_a_file_that_is_not_a_report_raises_value_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r".+"):
        SessionReport.read(path)


def test_the_time_before_the_first_connection_is_not_an_outage() -> None:
    found = report()
    lost = GapReport(NOW, NOW + timedelta(seconds=9), "TCP ended", 2)
    found.gaps = [GapReport(NOW, NOW + timedelta(seconds=1), "connecting", 2), lost]
    assert found.outages == [lost]


def test_latency_without_trades_is_unknown_and_not_zero() -> None:
    assert LagReport.of(LatencyHistogram()) == LagReport()
    lags = LatencyHistogram()
    lags.add(np.array([10.0] * 98 + [1000.0] * 2))
    found = LagReport.of(lags)
    assert found.p50 is not None
    assert found.p99 is not None
    assert 10 <= found.p50 <= 12
    assert 800 <= found.p99 <= 1000
    assert found.max == 1000.0


@pytest.mark.parametrize(
    ("url", "tickers", "is_iex"),
    [
        ("wss://ws.finnhub.io", ["BINANCE:BTCUSDT", "AAPL"], True),
        ("wss://ws.finnhub.io", ["BINANCE:BTCUSDT", "AC.TO"], False),
        ("ws://127.0.0.1:8765", ["AAPL"], False),
    ],
)
def test_a_report_of_us_stocks_from_finnhub_says_what_the_feed_contains(
    url: str, tickers: list[str], is_iex: bool
) -> None:
    session = SessionReport(SESSION, tickers, NOW, settings={"url": url})
    assert ("one venue, IEX" in session.feed_note) == is_iex
    assert (session.feed_note == "") == (not is_iex)

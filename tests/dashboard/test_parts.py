"""The parts of a session view: history, events, table and market."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from stocktrace.dashboard.events import EventLog, GapSpan, PageEvent
from stocktrace.dashboard.rows import (
    POINTS,
    STEPS,
    LagHistory,
    TickerRows,
    TickerTable,
    disk_lags,
)
from stocktrace.dashboard.session_view import describe_closed_market
from stocktrace.store import audit
from stocktrace.store.audit import AuditLog
from stocktrace.store.layout import Layout
from tests.conftest import NOON, SESSION

BEGIN = NOON // 10**9


def rows(*trades: tuple[float, float], ticker: str = "A", written: int | None = None) -> TickerRows:
    """Trades as (seconds after ``BEGIN``, price), each 64 ms late."""
    received = np.array([int((BEGIN + at) * 1e6) for at, _ in trades], np.int64)
    some = np.ones(len(trades), np.bool_)
    price = np.array([price for _, price in trades])
    return TickerRows(
        ticker, received, np.full(len(trades), 64.0), price, price, some, some, written
    )


def test_a_history_has_the_rate_and_the_lag_of_each_complete_step() -> None:
    history = LagHistory(BEGIN)
    history.add(rows((0.1, 1), (0.2, 1), (2.5, 1)))
    lags = (76.1, 76.1, 76.1)  # the upper edge of the bucket that holds 64 ms
    assert history.points(BEGIN, BEGIN + 3) == [
        (BEGIN, 2.0, *lags),
        (BEGIN + 1, 0.0, None, None, None),
        (BEGIN + 2, 1.0, *lags),
    ]
    assert history.points(BEGIN, BEGIN + 2) == history.points(BEGIN, BEGIN + 3)[:2]
    assert history.recent(BEGIN + 3, 60) == lags


def test_a_long_history_has_longer_steps_and_loses_nothing() -> None:
    history = LagHistory(BEGIN)
    history.add(rows((0, 1), (1, 1), (STEPS - 1, 1)))
    assert history.step_s == 1
    history.add(rows((STEPS * 3, 1)))
    assert history.step_s == 4
    assert history.trades == 4
    points = history.points(BEGIN, BEGIN + STEPS * 4)
    assert [point[:2] for point in points if point[1]] == [
        (BEGIN, 0.5),
        (BEGIN + STEPS - 4, 0.25),
        (BEGIN + STEPS * 3, 0.25),
    ]


def test_the_disk_lag_is_measured_on_rows_that_were_read_as_they_were_written() -> None:
    written = int((BEGIN + 3) * 1e6)
    assert disk_lags([rows((0, 1))]).quantile(0.5) is None
    assert disk_lags([rows((1, 1), written=written), rows((0, 1))]).max_ms == 2000.0


def test_a_live_sparkline_moves_every_second_and_keeps_the_last_price() -> None:
    table = TickerTable(BEGIN, None)
    table.add_tickers(["A"])
    table.advance(BEGIN + 100)
    table.add(rows((20, 1.0), (97, 2.0), (97.5, 3.0), (99, 4.0)))
    (points,) = table.sparks()
    assert points[-5:] == [None, 3.0, 3.0, 4.0, 4.0]
    assert len(points) == POINTS
    table.advance(BEGIN + 102)
    assert table.sparks()[0][-5:] == [3.0, 4.0, 4.0, 4.0, 4.0]


def test_a_sparkline_of_an_ended_session_spans_all_of_it() -> None:
    table = TickerTable(BEGIN, BEGIN + POINTS)
    table.add_tickers(["A"])
    table.add(rows((0, 1.0), (30, 2.0)))
    assert table.sparks() == [[1.0] * 30 + [2.0] * 30]


def test_only_lines_that_changed_are_returned() -> None:
    table = TickerTable(BEGIN, None)
    table.add_tickers(["A", "B"])
    table.update(1, {}, {}, {}, {}, {})
    table.add(rows((0, 10.0), (1, 11.0), ticker="B"))
    table.update(2, {"B": 2.04}, {"B": 7}, {"B": 1}, {"B": 3}, {})
    assert len(table.lines(0)) == 2
    assert table.lines(1) == [(1, 11.0, 10.0, 2.0, 2, 7, 1, 3, "")]
    assert table.lines(2) == []
    assert [line[4] for line in table.lines(0)] == [0, 2]  # trades of A and B


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def test_events_are_read_once_even_if_the_log_is_rotated(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = "20261101T000000Z_3f9a1c"  # parts of the log have the current time in their names
    log, other = AuditLog(layout.audit, session), AuditLog(layout.audit, "20261101T000001Z_000000")
    log("start", tickers=["A", "B"])
    other("notice", text="of another session")
    events = EventLog(layout, session)
    events.read()
    monkeypatch.setattr(audit, "ROTATE_BYTES", 1)
    log("notice", text="the last of the old log")
    monkeypatch.undo()
    log("notice", text="the first of the new one")
    log("roll", window="x", trades=1)
    events.read()
    events.read()
    assert [event.text for event in events.lines] == [
        "capture of 2 tickers started",
        "the last of the old log",
        "the first of the new one",
    ]
    late = EventLog(layout, session)
    late.read()
    assert late.lines == events.lines


def test_a_gap_counts_for_each_subscribed_ticker(layout: Layout) -> None:
    log, events = AuditLog(layout.audit, SESSION), EventLog(layout, SESSION)
    at = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
    log("start", tickers=["A", "B", "C"])
    log("refused", tickers=["C"], text="Invalid symbol")
    log("disconnect", reason="TCP ended")
    events.read()
    assert [(gap.end, gap.reason) for gap in events.gaps] == [(None, "TCP ended")]
    log("gap", start=at, end=at.replace(second=8), reason="TCP ended", tickers=3)
    log("subscribe", added=["D"], removed=["A"])
    log("gap", start=at, end=at.replace(second=2), reason="paused", tickers=3)
    events.read()
    assert dict(events.gaps_by_ticker) == {"A": 1, "B": 2, "D": 1}
    assert events.refused == {"C": "Invalid symbol"}
    stamp = at.timestamp()
    assert events.gaps == [
        GapSpan(stamp, stamp + 8, "TCP ended"),
        GapSpan(stamp, stamp + 2, "paused"),
    ]
    assert "tickers added: D, removed: A" in [event.text for event in events.lines]


def test_a_short_gap_before_the_first_connection_is_not_an_event(layout: Layout) -> None:
    log, events = AuditLog(layout.audit, SESSION), EventLog(layout, SESSION)
    at = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
    log("start", tickers=["A"])
    log("gap", start=at, end=at.replace(microsecond=5), reason="connecting", tickers=1)
    events.read()
    assert [type(event) for event in events.lines] == [PageEvent]
    assert (events.gaps_by_ticker.total(), len(events.gaps)) == (1, 1)  # but it is a gap


@pytest.mark.parametrize(
    ("tickers", "at", "sentence"),
    [
        (["AAPL"], "2026-11-23T15:00+00:00", None),
        (["AAPL"], "2026-11-23T22:00+00:00", None),  # the late session
        (["AAPL"], "2026-11-22T15:00+00:00", "the next US session opens Mon 09:30 New York"),
        (
            ["AAPL", "BRK.B"],
            "2026-11-26T15:00+00:00",
            "the next US session opens Fri 09:30 New York",
        ),
        (["AAPL", "BINANCE:BTCUSDT"], "2026-11-22T15:00+00:00", None),
    ],
)
def test_the_market_is_closed_when_none_of_the_tickers_can_trade(
    tickers: list[str], at: str, sentence: str | None
) -> None:
    assert describe_closed_market(tickers, datetime.fromisoformat(at)) == sentence

"""A live connection can still be late, or silent where it should not be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stocktrace.live.staleness import LATE_MS, SILENT_S, StalenessRules, find_silent

OPEN = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)  # Monday, half an hour after the bell
LONG = timedelta(seconds=SILENT_S)


def test_late_trades_are_reported_once_until_they_were_in_time():
    vigil = StalenessRules()
    told = [vigil.check_lag(ms) for ms in (100, LATE_MS + 1, LATE_MS * 2, LATE_MS * 0.6)]
    assert told == [None, "trades arrive 60 s after the exchange's time", None, None]
    assert vigil.check_lag(LATE_MS * 0.4) is None
    assert vigil.check_lag(LATE_MS * 60) == "trades arrive 3,600 s after the exchange's time"


def test_a_stock_without_a_trade_in_open_market_is_silent():
    assert find_silent(["AAPL"], {}, OPEN, OPEN + LONG) == {"AAPL": SILENT_S}
    assert find_silent(["AAPL"], {"AAPL": OPEN + LONG / 2}, OPEN, OPEN + LONG) == {}


def test_no_ticker_is_silent_while_the_market_is_closed():
    thanksgiving = datetime(2026, 11, 26, 16, 0, tzinfo=UTC)
    night = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
    for begin in (thanksgiving, night):
        assert find_silent(["AAPL", "AC.TO", "^GSPC"], {}, begin, begin + 4 * LONG) == {}
        assert "BINANCE:BTCUSDT" in find_silent(["BINANCE:BTCUSDT"], {}, begin, begin + LONG)


def test_only_open_hours_count():
    before_the_bell = datetime(2026, 11, 23, 14, 0, tzinfo=UTC)
    bell = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
    assert find_silent(["AAPL"], {}, before_the_bell, bell + LONG / 2) == {}
    assert find_silent(["AAPL"], {}, before_the_bell, bell + LONG) == {"AAPL": SILENT_S}


def test_a_silent_ticker_is_reported_once_until_it_trades():
    vigil, first = StalenessRules(), OPEN + LONG
    told = ["no AAPL trades for 15 minutes of market hours"]
    assert vigil.check_silence(["AAPL"], {}, OPEN, first) == told
    assert vigil.check_silence(["AAPL", "IBM"], {"IBM": first}, OPEN, first + LONG / 2) == []
    traded = dict.fromkeys(("AAPL", "IBM"), first + LONG / 2)
    assert vigil.check_silence(["AAPL", "IBM"], traded, OPEN, first + LONG) == []
    assert vigil.check_silence(["AAPL"], traded, OPEN, first + 1.5 * LONG) == told

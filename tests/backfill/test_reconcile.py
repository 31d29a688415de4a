from __future__ import annotations

import json
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stocktrace import cli
from stocktrace.backfill.fill import fill_gaps
from stocktrace.backfill.plan import DAY_NOT_OVER, UNKNOWN_TICKER, US_STOCKS_ONLY
from stocktrace.backfill.reconcile import Completeness, last_trading_day, reconcile_day
from stocktrace.clock import Clock
from stocktrace.errors import PlanForbidden, ServerUnavailable, StoreError, UsageError
from stocktrace.simulator import Simulator
from stocktrace.store.layout import Layout
from stocktrace.units import NS_PER_SECOND
from tests.backfill.conftest import TRADES
from tests.gaps import BELL, DAY, KEY, capture, client, exchange


def reconciled(
    layout: Layout, server: Simulator, *tickers: str, **given: Any
) -> list[Completeness]:
    with client(server) as rest:
        return list(reconcile_day(layout, rest, DAY, tickers, **given))


def table(layout: Layout) -> list[dict[str, Any]]:
    return list(pq.read_table(layout.completeness(DAY.isoformat()), partitioning=None).to_pylist())


def test_a_day_is_complete_if_no_tick_listened_to_is_missing(layout: Layout) -> None:
    with exchange(TRADES) as server:
        apple, other = reconciled(layout, server)
    assert (apple.symbol, other.symbol) == ("AAPL", "MSFT")
    mine = [one for one in TRADES if one[0] == "AAPL"]
    assert (apple.state, apple.reason) == ("complete", "")
    assert apple.ticks == len(mine)
    assert apple.trades == apple.matched < apple.ticks
    assert apple.ticks_listened == apple.ticks_matched > 0
    assert apple.listened_seconds == 51  # a minute and a second, without ten of gap
    assert (apple.duplicates, apple.trades_unmatched, apple.repaired) == (0, 0, 0)
    assert apple.tick_volume == sum(volume for *_, volume in mine)
    assert (apple.low, apple.tick_low) == (100, 100)
    assert apple.high == apple.tick_high == max(price for _, _, price, _ in mine)
    assert [row["symbol"] for row in table(layout)] == ["AAPL", "MSFT"]
    assert table(layout)[0]["ticks"] == len(mine)


def test_a_repaired_gap_counts_as_listened_to(layout: Layout) -> None:
    with exchange(TRADES) as server:
        with client(server) as rest:
            done = list(fill_gaps(layout, rest))
        (apple,) = reconciled(layout, server, "AAPL")
    assert (apple.state, apple.listened_seconds) == ("complete", 61)
    assert apple.trades == apple.ticks == apple.matched
    assert apple.repaired == done[0].rows


def test_trades_that_never_arrived_while_listening_are_missing(tmp_path: Path) -> None:
    lossy = [one for number, one in enumerate(TRADES) if number % 10]
    layout = capture(tmp_path, lossy, [])
    with exchange(TRADES) as server:
        (apple,) = reconciled(layout, server, "AAPL")
        assert apple.state == "incomplete"
        assert "ticks listened to are missing" in apple.reason
        (lenient,) = reconciled(layout, server, "AAPL", min_share=0.5)
        assert lenient.state == "complete"


@pytest.mark.parametrize(
    ("faults", "least"),
    [
        ({"padding": True, "endless": True, "page_limit": 100}, 0.99),
        ({"missing": 200}, 0.99),
        ({"extra": 200}, 0.99),
        ({"missing": 10}, 0.85),
        ({"extra": 10}, 0.85),
    ],
)
def test_known_faults_of_the_ticks_are_tolerated(
    faults: dict[str, Any], least: float, layout: Layout
) -> None:
    with exchange(TRADES, **faults) as server:
        assert {one.state for one in reconciled(layout, server, min_share=least)} == {"complete"}


def test_duplicates_are_counted_and_do_not_matter(tmp_path: Path) -> None:
    layout = capture(tmp_path, TRADES, copies=2)
    with exchange(TRADES) as server:
        (apple,) = reconciled(layout, server, "AAPL")
    assert (apple.state, apple.trades_unmatched) == ("complete", 0)
    assert apple.duplicates == apple.matched == apple.trades // 2


def test_trades_without_equal_ticks_make_a_day_different(layout: Layout) -> None:
    shifted = [(ticker, at, price + 1, volume) for ticker, at, price, volume in TRADES]
    with exchange(shifted) as server:
        (apple,) = reconciled(layout, server, "AAPL")
    assert (apple.state, apple.trades_unmatched, apple.matched) == ("different", apple.trades, 0)
    assert "have no equal tick" in apple.reason


def test_a_ticker_that_cannot_be_compared_has_a_reason(layout: Layout) -> None:
    with exchange([]) as server:
        found = reconciled(layout, server, "AAPL", "BINANCE:BTCUSDT")
        assert [one.reason for one in found] == [UNKNOWN_TICKER, US_STOCKS_ONLY]
        (early,) = reconciled(layout, server, "AAPL", clock=Clock(wall=lambda: BELL))
        assert early.reason == DAY_NOT_OVER
    assert {one.state for one in found} == {"unavailable"}
    with exchange([("IBM", 5, 1.0, 1.0)]) as server:
        (uncaptured,) = reconciled(layout, server, "IBM")
    assert uncaptured.state == "uncaptured"
    assert [row["symbol"] for row in table(layout)] == ["AAPL", "BINANCE:BTCUSDT", "IBM"]


def test_a_damaged_table_is_an_error(layout: Layout) -> None:
    path = layout.completeness(DAY.isoformat())
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 and nothing")
    with exchange(TRADES) as server, pytest.raises(StoreError, match="Delete it"):
        reconciled(layout, server)


def test_a_day_without_market_or_session_is_a_usage_error(layout: Layout) -> None:
    with exchange(TRADES) as server, client(server) as rest:
        with pytest.raises(UsageError, match="market was closed on 2025-11-22"):
            list(reconcile_day(layout, rest, date(2025, 11, 22)))
        with pytest.raises(UsageError, match="No session listened"):
            list(reconcile_day(layout, rest, date(2025, 11, 20)))


def test_the_last_trading_day_has_ended() -> None:
    at = partial(Clock, monotonic=lambda: 0.0)
    hour = 3600 * NS_PER_SECOND
    assert last_trading_day(at(wall=lambda: BELL)) == date(2025, 11, 20)
    assert last_trading_day(at(wall=lambda: BELL + 11 * hour)) == DAY  # 20:40 in New York
    assert last_trading_day(at(wall=lambda: BELL + 48 * hour)) == DAY  # a Sunday


def test_results_before_a_server_failure_are_kept(layout: Layout) -> None:
    with exchange(TRADES, statuses=(200, *[500] * 20)) as server, pytest.raises(ServerUnavailable):
        reconciled(layout, server)
    assert [row["symbol"] for row in table(layout)] == ["AAPL"]
    with exchange(TRADES, premium=False) as server, pytest.raises(PlanForbidden):
        reconciled(layout, server)


def test_the_command_prints_a_table_or_json_and_sets_its_status(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", KEY)
    words = ["reconcile", "--date", "2025-11-21", "--data-dir", str(layout.root)]
    with exchange(TRADES) as server:
        monkeypatch.setenv("STOCKTRACE_URL", server.url)
        assert cli.run(words) == 0
        assert "AAPL    complete" in capsys.readouterr().out
        assert cli.run([*words, "--json", "--tickers", "AAPL"]) == 0
        assert json.loads(capsys.readouterr().out)["state"] == "complete"
        assert cli.run([*words, "--tickers", "AAPL", "--tickers", "OANDA:EUR_USD"]) == 1
        assert US_STOCKS_ONLY in capsys.readouterr().out
    with exchange([(*one[:2], one[2] + 9, one[3]) for one in TRADES]) as server:
        assert cli.run([*words, "--url", server.url]) == 1
    capsys.readouterr()
    assert cli.run([*words[:2], "tomorrow", *words[3:]]) == 2
    assert "is not a valid date" in capsys.readouterr().err

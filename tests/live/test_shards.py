"""How a watch-list is split over keys, and who takes over from whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.errors import UsageError
from stocktrace.live.fleet import (
    Shard,
    TakeOver,
    earlier_reports,
    measured_rates,
    plan_take_over,
    split_tickers,
    spread_tickers,
)
from stocktrace.sessions.report import SessionReport, TickerBooks, TickerChange
from stocktrace.store.layout import Layout
from stocktrace.store.outbox import add_to_outbox, send_outbox
from tests.conftest import SESSION

START = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


def report(trades: dict[str, int], seconds: float, session: str = SESSION) -> SessionReport:
    books = {ticker: TickerBooks(trades=count) for ticker, count in trades.items()}
    ended = START + timedelta(seconds=seconds)
    return SessionReport(session, list(trades), START, "complete", ended=ended, per_ticker=books)


# --- rates -----------------------------------------------------------------------------------


def test_a_rate_is_of_all_seconds_that_a_ticker_was_asked_for() -> None:
    reports = [report({"A": 100, "B": 0}, 10.0), report({"A": 20}, 30.0)]
    assert measured_rates(reports) == {"A": 3.0, "B": 0.0}


def test_a_ticker_that_joined_late_and_a_session_that_runs_tell_no_rate() -> None:
    late = report({"A": 100, "B": 7}, 10.0)
    late.changes.append(TickerChange(START, "cli", ["B"], []))
    running = report({"C": 5}, 10.0)
    running.ended = None
    assert measured_rates([late, running]) == {"A": 10.0}


def test_the_rates_of_earlier_sessions_are_read_from_the_lake(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}/lake"
    layout = Layout(tmp_path / "data", lake=lake)
    report({"A": 100}, 10.0).write(layout.report(SESSION))
    add_to_outbox(layout, SESSION, layout.report(SESSION))
    assert earlier_reports(lake) == {}
    send_outbox(layout, SESSION)
    assert earlier_reports(lake) == {"A": 10.0}


# --- splitting -------------------------------------------------------------------------------


def test_the_busiest_tickers_go_to_different_keys() -> None:
    known = {"A": 100.0, "B": 90.0, "C": 10.0, "D": 5.0}
    assert [one.tickers for one in split_tickers(["D", "C", "B", "A"], 2, known)] == [
        ["A", "D"],
        ["B", "C"],
    ]


@given(
    st.dictionaries(st.integers(0, 999).map(str), st.floats(0, 1e4), min_size=1),
    st.integers(1, 8),
)
def test_every_ticker_is_with_one_key_and_none_has_much_more_than_another(
    known: dict[str, float], keys: int
) -> None:
    keys = min(keys, len(known))
    shards = split_tickers(list(known), keys, known, limit=0)
    assert sorted(ticker for one in shards for ticker in one.tickers) == sorted(known)
    loads = [sum(known[ticker] for ticker in one.tickers) for one in shards]
    assert loads == pytest.approx([one.rate for one in shards])
    # The last ticker that a key got went to it when it had least.
    assert max(loads) - min(loads) <= max(known.values()) * (1 + 1e-9)


def test_tickers_of_which_nothing_is_known_are_spread_by_number() -> None:
    assert [len(one.tickers) for one in split_tickers([str(n) for n in range(100)], 2, {})] == [
        50,
        50,
    ]


def test_no_key_gets_more_than_its_limit_however_quiet_its_tickers_are() -> None:
    known = {"A": 1000.0} | {f"Q{n}": 0.001 for n in range(9)}
    assert sorted(len(one.tickers) for one in split_tickers(list(known), 2, known, limit=5)) == [
        5,
        5,
    ]


def test_too_few_keys_are_refused_with_how_many_it_takes() -> None:
    with pytest.raises(UsageError, match="101 tickers need 3 keys at 50 each, and there are 2"):
        split_tickers([str(n) for n in range(101)], 2, {})


def test_more_keys_than_tickers_are_refused() -> None:
    with pytest.raises(UsageError, match="3 keys for 2 tickers"):
        split_tickers(["A", "B"], 3, {})


# --- taking over -----------------------------------------------------------------------------


def test_survivors_take_over_what_they_have_room_for() -> None:
    survivors = [Shard(["A"], 10.0), Shard(["B", "C"], 1.0)]
    got, left = spread_tickers(["X", "Y", "Z"], survivors, {"X": 5.0, "Y": 4.0, "Z": 3.0}, limit=3)
    assert got == [["Y", "Z"], ["X"]]
    assert left == []
    got, left = spread_tickers(["V", "W"], survivors, {}, limit=3)
    assert (got, left) == ([[], []], ["V", "W"])


def test_without_survivors_all_is_left() -> None:
    assert spread_tickers(["X"], [], {}) == ([], ["X"])


def test_what_survivors_have_no_room_for_goes_to_a_new_shard() -> None:
    lost, survivor = Shard(["X", "Y"], 9.0), Shard(["A"], 10.0)
    heirs = plan_take_over(lost, ["X", "Y"], [survivor], {"X": 5.0, "Y": 4.0}, 2, again=False)
    assert heirs == TakeOver([["X"]], Shard(["Y"], 4.0), [])
    assert survivor == Shard(["A", "X"], 15.0)
    assert lost == Shard()


def test_a_shard_that_took_over_already_has_no_successor() -> None:
    lost = Shard(["X", "Y"], 9.0)
    assert plan_take_over(lost, ["X", "Y"], [], {}, 2, again=True) == TakeOver([], None, ["X", "Y"])
    assert lost == Shard()


def test_a_shard_keeps_what_it_had_when_it_ended_and_gives_what_it_was_not_sent() -> None:
    ended, survivor = Shard(["A", "X"], 9.0), Shard()
    assert plan_take_over(ended, ["X"], [survivor], {}, again=False) == TakeOver([["X"]], None, [])
    assert ended.tickers == ["A"]

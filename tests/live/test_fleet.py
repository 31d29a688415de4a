"""How a watch-list is split over keys, and which shard takes over from a lost one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stocktrace
from stocktrace.errors import UsageError
from stocktrace.intervals import CoverageInterval
from stocktrace.live.fleet import (
    Fleet,
    Shard,
    measured_rates,
    read_rates,
    split_tickers,
    spread_tickers,
    write_uncovered_gaps,
)
from stocktrace.sessions.report import SessionReport, TickerBooks, TickerChange
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.outbox import add_to_outbox, send_outbox
from tests.conftest import NOON, SESSION

SECOND = 10**9
START = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


def report(trades: dict[str, int], seconds: float, session: str = SESSION) -> SessionReport:
    books = {ticker: TickerBooks(trades=count) for ticker, count in trades.items()}
    ended = START + timedelta(seconds=seconds)
    return SessionReport(session, list(trades), START, "complete", ended=ended, per_ticker=books)


# --- rates -----------------------------------------------------------------------------------


def test_a_rate_covers_all_seconds_in_which_a_ticker_was_captured() -> None:
    reports = [report({"A": 100, "B": 0}, 10.0), report({"A": 20}, 30.0)]
    assert measured_rates(reports) == {"A": 3.0, "B": 0.0}


def test_tickers_added_late_and_running_sessions_have_no_rate() -> None:
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
    assert read_rates(lake) == {}
    send_outbox(layout, SESSION)
    assert read_rates(lake) == {"A": 10.0}


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
def test_every_ticker_has_one_key_and_the_keys_are_balanced(
    known: dict[str, float], keys: int
) -> None:
    keys = min(keys, len(known))
    shards = split_tickers(list(known), keys, known, limit=0)
    assert sorted(ticker for one in shards for ticker in one.tickers) == sorted(known)
    loads = [sum(known[ticker] for ticker in one.tickers) for one in shards]
    assert loads == pytest.approx([one.rate for one in shards])
    # The last ticker that a key got went to it when it had least.
    assert max(loads) - min(loads) <= max(known.values()) * (1 + 1e-9)


def test_tickers_without_a_known_rate_are_spread_by_number() -> None:
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


def test_survivors_take_over_as_many_tickers_as_they_have_room_for() -> None:
    survivors = [Shard(["A"], 10.0), Shard(["B", "C"], 1.0)]
    got, left = spread_tickers(["X", "Y", "Z"], survivors, {"X": 5.0, "Y": 4.0, "Z": 3.0}, limit=3)
    assert got == [["Y", "Z"], ["X"]]
    assert left == []
    got, left = spread_tickers(["V", "W"], survivors, {}, limit=3)
    assert (got, left) == ([[], []], ["V", "W"])


def test_without_survivors_no_ticker_is_reassigned() -> None:
    assert spread_tickers(["X"], [], {}) == ([], ["X"])


def a_fleet(*shards: Shard, limit: int = 2, **rates: float) -> Fleet:
    """A fleet whose shards all run, but for the first, which has to be updated."""
    fleet = Fleet(datetime.now(UTC) + timedelta(hours=1), limit, rates)
    for shard in shards:
        fleet.add("capture", shard)
    for run in fleet.runs[1:]:
        run.state = "RUNNING"
    return fleet


def test_tickers_without_room_get_a_new_shard() -> None:
    fleet = a_fleet(Shard(["X", "Y"], 9.0), Shard(["A"], 10.0), X=5.0, Y=4.0)
    fleet.update(fleet.runs[0], "CRASHED", 7)
    assert [run.shard for run in fleet.runs] == [
        Shard(),
        Shard(["A", "X"], 15.0),
        Shard(["Y"], 4.0),
    ]
    assert fleet.unsent == ["X"]
    assert (fleet.lost_at, fleet.abandoned) == ({"X": 7, "Y": 7}, set())


def test_a_restarted_shard_has_no_successor() -> None:
    fleet = a_fleet(Shard(["X", "Y"], 9.0))
    fleet.runs[0].restarted = True
    fleet.update(fleet.runs[0], "FAILED", 7)
    assert [run.shard for run in fleet.runs] == [Shard()]
    assert fleet.abandoned == {"X", "Y"}


def test_an_ended_shard_loses_only_the_tickers_that_it_was_not_sent() -> None:
    fleet = a_fleet(Shard(["A", "X"], 9.0), Shard())
    fleet.runs[0].unsent = ["X"]
    fleet.update(fleet.runs[0], "CANCELLED", 7)
    assert [run.shard.tickers for run in fleet.runs] == [["A"], ["X"]]


# --- the coverage of the lake ----------------------------------------------------------------


def test_the_time_between_a_shard_and_its_successor_is_a_gap(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}/lake"
    dead, heir = SESSION, SESSION.replace("3f9a1c", "4f9a1c")
    for session, start, end in ((dead, 0, 40), (heir, 65, 90)):
        layout = Layout(tmp_path / session, lake=lake)
        listening = CoverageInterval("A", NOON + start * SECOND, NOON + end * SECOND, "")
        write_coverage(layout, session, [listening])
        send_outbox(layout, session)
    fleet = SESSION.replace("3f9a1c", "5f9a1c")
    lost = {"A": NOON + 30 * SECOND}  # the last heartbeat: it lived for ten seconds more
    assert write_uncovered_gaps(lake, fleet, lost, NOON + 90 * SECOND, "its shard was lost") == 1
    (gap,) = stocktrace.read_gaps("A", data_dir=lake).to_dict("records")
    assert (gap["start"].value, gap["end"].value) == (NOON + 40 * SECOND, NOON + 65 * SECOND)
    assert (gap["session"], gap["reason"]) == (fleet, "its shard was lost")


def test_an_abandoned_ticker_has_a_gap_to_the_end(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}/lake"
    assert write_uncovered_gaps(lake, SESSION, {"A": NOON}, NOON + SECOND, "lost") == 1
    (gap,) = stocktrace.read_gaps(data_dir=lake).to_dict("records")
    assert (gap["start"].value, gap["end"].value) == (NOON, NOON + SECOND)


def test_there_is_no_gap_while_another_session_listened(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}/lake"
    layout = Layout(tmp_path / "data", lake=lake)
    write_coverage(layout, SESSION, [CoverageInterval("A", NOON, NOON + 5 * SECOND, "")])
    send_outbox(layout, SESSION)
    assert write_uncovered_gaps(lake, SESSION, {"A": NOON}, NOON + 5 * SECOND, "lost") == 0


def test_the_coverage_of_days_before_is_not_read(tmp_path: Path) -> None:
    damaged = tmp_path / "lake" / "coverage" / "date=2026-11-22" / f"{SESSION}.parquet"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no Parquet")
    lake = f"file://{tmp_path}/lake"
    assert write_uncovered_gaps(lake, SESSION, {"A": NOON}, NOON + SECOND, "lost") == 1

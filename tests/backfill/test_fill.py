from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from time import time_ns
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stocktrace
from stocktrace import cli
from stocktrace.backfill.fill import NO_PLAN, SERVER_UNAVAILABLE, fill_gaps
from stocktrace.backfill.plan import (
    DAY_NOT_OVER,
    MARKET_CLOSED,
    NOT_LOADED,
    OTHER_SESSION,
    UNKNOWN_TICKER,
    US_STOCKS_ONLY,
    plan_fills,
)
from stocktrace.calendar import NEW_YORK, MarketSession
from stocktrace.clock import Clock
from stocktrace.errors import KeyRefused, PlanForbidden, ServerUnavailable, StoreError
from stocktrace.intervals import merge_spans, split_by_date, subtract_spans
from stocktrace.query.gap_fills import NOT_REQUESTED, GapFill
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import Fault, RestSettings, Simulator, SyntheticMarket
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import
from stocktrace.units import NS_PER_SECOND
from tests.backfill.conftest import TRADES
from tests.conftest import Studio, played
from tests.gaps import (
    BELL,
    DAY,
    KEY,
    OTHER,
    SESSION,
    Trade,
    capture,
    client,
    exchange,
    here,
    ms,
    rows,
)
from tests.remains import problems, snapshot
from tests.sampling import costly


def after(days: float) -> Clock:
    return Clock(wall=lambda: BELL + int(days * 86400 * NS_PER_SECOND))


def repaired(layout: Layout, server: Simulator, **given: Any) -> list[GapFill]:
    with client(server) as rest:
        return list(fill_gaps(layout, rest, **given))


def ends(layout: Layout) -> list[tuple[str, str, str]]:
    """What readers are told of each gap."""
    gaps = stocktrace.read_gaps(data_dir=layout.root)
    return list(zip(gaps["symbol"], gaps["repair"], gaps["repair_reason"], strict=True))


def imports(layout: Layout) -> list[SessionReport]:
    paths = sorted(layout.sessions.glob("*.json"))
    return [SessionReport.read(path) for path in paths if is_import(path.stem)]


def test_a_filled_gap_completes_the_day(layout: Layout) -> None:
    lost = {ticker: (rows(TRADES)[ticker] - some).total() for ticker, some in here(layout).items()}
    assert min(lost.values()) > 100
    assert ends(layout) == [("AAPL", "open", NOT_REQUESTED), ("MSFT", "open", NOT_REQUESTED)]
    with exchange(TRADES) as server:
        done = repaired(layout, server)
        assert server.rest_requests == 2
    assert {(one.symbol, one.state, one.rows) for one in done} == {
        (ticker, "repaired", count) for ticker, count in lost.items()
    }
    assert here(layout) == rows(TRADES)
    assert ends(layout) == [("AAPL", "repaired", ""), ("MSFT", "repaired", "")]
    assert problems(layout) == []


def test_backfilled_trades_are_never_passed_off_as_captured(layout: Layout) -> None:
    coverage = stocktrace.read_coverage(data_dir=layout.root)
    with exchange(TRADES) as server:
        done = repaired(layout, server)
    (report,) = imports(layout)
    assert {one.source for one in done} == {report.session}
    assert (report.state, report.tickers) == ("imported", ["AAPL", "MSFT"])
    assert report.settings["source"] == "Finnhub REST /stock/tick"
    assert stocktrace.read_coverage(data_dir=layout.root).equals(coverage)
    trades = stocktrace.read_trades("AAPL", data_dir=layout.root)
    assert int((trades["ts_recv"] == trades["ts_event"]).sum()) == done[0].rows


def test_repairing_twice_changes_nothing(layout: Layout) -> None:
    with exchange(TRADES) as server:
        repaired(layout, server)
        before, asked = snapshot(layout), server.rest_requests
        repaired(layout, server)
        assert snapshot(layout) == before
        assert server.rest_requests == asked


@settings(max_examples=costly(), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_repaired_day_is_complete_whatever_the_gaps_and_faults(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trade = st.tuples(
        st.sampled_from(["AAPL", "BRK.B"]),
        st.integers(0, 19_000),
        st.sampled_from([1.0, 2.5]),
        st.sampled_from([1.0, 7.0]),
    )
    trades: list[Trade] = sorted(data.draw(st.lists(trade, min_size=2, max_size=80)))
    trades += [("AAPL", 3, 1.0, 1.0), ("BRK.B", 3, 1.0, 1.0)]
    trades.sort(key=lambda one: one[1])
    edges = sorted(data.draw(st.sets(st.integers(1, 19), min_size=2, max_size=6)))
    gaps = list(zip(edges[::2], edges[1::2], strict=False))
    faults: dict[str, Any] = data.draw(
        st.fixed_dictionaries(
            {"page_limit": st.integers(20, 40), "padding": st.booleans(), "endless": st.booleans()}
        )
    )
    layout = capture(tmp_path_factory.mktemp("data"), trades, gaps, seconds=20)
    with exchange(trades, **faults) as server:
        repaired(layout, server)
        assert here(layout) == rows(trades)
        before = snapshot(layout)
        repaired(layout, server)
        assert snapshot(layout) == before


def test_a_gap_of_two_sessions_is_filled_once(tmp_path: Path) -> None:
    capture(tmp_path, TRADES, [(20, 40)])
    some = [one for one in TRADES if 19_900 <= one[1] < 24_900]
    layout = capture(tmp_path, some, [(25, 61)], session=OTHER)
    with exchange(TRADES) as server:
        done = repaired(layout, server)
        assert server.rest_requests == 2
    assert {one.session for one in done} == {SESSION, OTHER}
    assert {one.state for one in done} == {"repaired"}
    assert here(layout) == rows(TRADES)


def test_a_gap_that_another_session_covers_needs_no_fill(tmp_path: Path) -> None:
    capture(tmp_path, TRADES)
    layout = capture(
        tmp_path, [one for one in TRADES if 15_000 < one[1] < 40_000], [], session=OTHER
    )
    with exchange(TRADES) as server:
        done = repaired(layout, server)
        assert server.rest_requests == 0
    assert {(one.state, one.reason) for one in done} == {("unneeded", OTHER_SESSION)}
    assert ends(layout) == [
        ("AAPL", "unneeded", OTHER_SESSION),
        ("MSFT", "unneeded", OTHER_SESSION),
    ]


def test_late_trades_in_a_gap_are_not_filled_twice(tmp_path: Path) -> None:
    """They happened while nobody listened, and came when somebody did again."""
    layout = capture(tmp_path, TRADES, [(20, 30)])
    late = [one for one in TRADES if 29_900 <= one[1] < 30_000]
    assert late
    assert all(here(layout)[one[0]][ms(one[1]), one[2], one[3], "1 12"] for one in late)
    with exchange(TRADES) as server:
        repaired(layout, server)
    assert here(layout) == rows(TRADES)


def test_a_gap_of_a_feed_with_duplicates_is_filled_once(tmp_path: Path) -> None:
    layout = capture(tmp_path, TRADES, copies=2)
    with exchange(TRADES) as server:
        repaired(layout, server)
    found, wanted = here(layout), rows(TRADES)
    assert found["AAPL"].keys() == wanted["AAPL"].keys()
    inside = [key for key in wanted["AAPL"] if 20_000 <= key[0] - ms(0) < 29_800]
    assert inside
    assert all(found["AAPL"][key] == wanted["AAPL"][key] for key in inside)


def test_a_backfill_completes_a_capture_that_was_disconnected(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the exchange plays to nobody, its REST side has."""

    def all_day(day: date) -> MarketSession:
        begin = datetime.combine(day, time(), NEW_YORK)
        return MarketSession(begin.astimezone(UTC), (begin + timedelta(days=1)).astimezone(UTC))

    for name in ("intervals", "backfill.plan"):
        monkeypatch.setattr(f"stocktrace.{name}.us_extended_session", all_day)
    tickers = ("AAPL", "MSFT")
    market = SyntheticMarket(seed=3, rate=300.0, tickers=tickers, trades=900)
    away = [Fault("drop", after_trades=200), Fault("drop", after_trades=100, after_connections=1)]
    options: dict[str, Any] = {"backoff_base": "0.3s", "backoff_floor": "0.3s"}
    with studio.exchange(market, away, rest=RestSettings(per_minute=1000)) as server:
        report = studio.record(server, tickers, played(server), **options)
        assert len(report.outages) == 2
        layout = Layout(studio.data_dir)
        missed = 900 - report.books.recorded
        assert missed > 0
        tomorrow = Clock(wall=lambda: time_ns() + 2 * 86_400 * NS_PER_SECOND)
        with client(server, studio.key) as rest:
            list(fill_gaps(layout, rest, tomorrow))
    assert sum(some.total() for some in here(layout).values()) == 900
    assert {state for _, state, _ in ends(layout)} == {"repaired"}
    (repair,) = imports(layout)
    assert repair.books.recorded == missed


def test_filled_gaps_are_in_the_lake(tmp_path: Path) -> None:
    lake = (tmp_path / "lake").as_uri()
    layout = capture(tmp_path / "data", TRADES, lake=lake)
    with exchange(TRADES) as server:
        repaired(layout, server)
    gaps = stocktrace.read_gaps(data_dir=lake)
    assert list(gaps["repair"]) == ["repaired", "repaired"]
    trades = stocktrace.read_trades(["AAPL", "MSFT"], data_dir=lake)
    assert len(trades) == len(TRADES)


# --- what cannot be repaired -------------------------------------------------------------------


def test_a_free_key_is_refused_once_and_all_gaps_say_so(layout: Layout) -> None:
    with exchange(TRADES, premium=False) as server:
        with pytest.raises(PlanForbidden, match="plan of this API key has no historical ticks"):
            repaired(layout, server)
        assert server.rest_requests == 1
    assert ends(layout) == [("AAPL", "unavailable", NO_PLAN), ("MSFT", "unavailable", NO_PLAN)]
    with exchange(TRADES) as server:  # the plan was changed
        repaired(layout, server)
    assert here(layout) == rows(TRADES)
    assert ends(layout) == [("AAPL", "repaired", ""), ("MSFT", "repaired", "")]


def test_a_wrong_key_leaves_gaps_open(layout: Layout) -> None:
    with exchange(TRADES, key="another") as server, pytest.raises(KeyRefused):
        repaired(layout, server)
    assert ends(layout) == [
        ("AAPL", "open", SERVER_UNAVAILABLE),
        ("MSFT", "open", SERVER_UNAVAILABLE),
    ]


def test_ticks_fetched_before_a_server_failure_are_published(layout: Layout) -> None:
    with exchange(TRADES, statuses=(200, *[500] * 20)) as server, pytest.raises(ServerUnavailable):
        repaired(layout, server)
    assert ends(layout) == [("AAPL", "repaired", ""), ("MSFT", "open", SERVER_UNAVAILABLE)]
    assert here(layout)["AAPL"] == rows(TRADES)["AAPL"]
    with exchange(TRADES) as server:
        repaired(layout, server)
        assert server.rest_requests == 1
    assert here(layout) == rows(TRADES)
    assert len(imports(layout)) == 2
    assert problems(layout) == []


def test_a_day_that_is_not_yet_loaded_is_requested_again_for_a_week(
    layout: Layout,
) -> None:
    lacks = frozenset({DAY.isoformat()})
    with exchange(TRADES, not_loaded=lacks) as server:
        repaired(layout, server, clock=after(0.01))
        assert server.rest_requests == 0
        assert ends(layout)[0] == ("AAPL", "unavailable", DAY_NOT_OVER)
        for days in (1, 3):
            repaired(layout, server, clock=after(days))
            assert ends(layout)[0] == ("AAPL", "unavailable", NOT_LOADED)
        assert server.rest_requests == 4
        for days in (9, 12):
            repaired(layout, server, clock=after(days))
            assert ends(layout)[0] == ("AAPL", "unavailable", UNKNOWN_TICKER)
        assert server.rest_requests == 6


def test_an_incomplete_response_fills_nothing(layout: Layout) -> None:
    class Short:
        def get(self, path: str, **query: object) -> bytes:
            return (
                b'{"total":9,"t":[%d],"p":[1],"v":[1]}' % ms(25_000)
                if not query["skip"]
                else (b'{"total":9,"t":[],"p":[],"v":[]}')
            )

    done = list(fill_gaps(layout, Short()))  # type: ignore[arg-type]
    assert {one.state for one in done} == {"open"}
    assert ends(layout)[0] == (
        "AAPL",
        "open",
        "The server sent 1 of 9 ticks of AAPL on 2025-11-21.",
    )
    assert imports(layout) == []


def test_gaps_of_crypto_and_of_a_closed_market_are_not_requested(tmp_path: Path) -> None:
    capture(tmp_path, [("BINANCE:BTCUSDT", 1, 1.0, 1.0)])
    weekend = 86_400 * 1000  # ms later it is Saturday
    layout = capture(
        tmp_path,
        [("AAPL", weekend, 1.0, 1.0)],
        [(86_400, 86_500)],
        seconds=90_000,
        session=OTHER,
    )
    with exchange(TRADES) as server:
        repaired(layout, server)
        assert server.rest_requests == 0
    assert ends(layout) == [
        ("BINANCE:BTCUSDT", "unavailable", US_STOCKS_ONLY),
        ("AAPL", "unneeded", MARKET_CLOSED),
    ]


def test_a_gap_without_trades_is_repaired_with_no_rows(tmp_path: Path) -> None:
    quiet = [one for one in TRADES if not 18_000 < one[1] < 32_000]
    layout = capture(tmp_path, quiet)
    with exchange(quiet) as server:
        repaired(layout, server)
        repaired(layout, server)
        assert server.rest_requests == 2
    assert ends(layout) == [("AAPL", "repaired", ""), ("MSFT", "repaired", "")]
    assert imports(layout) == []


def test_an_undone_backfill_leaves_the_gap_open(layout: Layout) -> None:
    with exchange(TRADES) as server:
        repaired(layout, server)
        (report,) = imports(layout)
        for pattern in ("tape/{}", "sessions/{}.json", "parquet/date=*/{}-*"):
            for path in layout.root.glob(pattern.format(report.session)):
                for each in [*path.glob("*"), path]:
                    each.unlink() if each.is_file() else each.rmdir()
        assert ends(layout)[0] == ("AAPL", "open", NOT_REQUESTED)
        repaired(layout, server)
    assert here(layout) == rows(TRADES)


def test_two_backfills_do_not_run_at_once(layout: Layout) -> None:
    with (
        exchange(TRADES) as server,
        lock.hold_lock(layout.lock("repair"), {}),
        pytest.raises(StoreError, match="Another process is filling gaps"),
    ):
        repaired(layout, server)


def test_a_gap_over_midnight_is_fetched_from_both_days(tmp_path: Path) -> None:
    day = 86_400
    trades = [("AAPL", at * 1000, 5.0, 1.0) for at in range(0, day * 4, 3600)]
    layout = capture(tmp_path, trades, [(7200, day * 3 + 100)], seconds=day * 4)
    todo = plan_fills(layout)
    assert [errand.day.isoformat() for errand in todo.tasks] == ["2025-11-21", "2025-11-24"]
    assert todo.changed[0].reason == MARKET_CLOSED  # the UTC Sunday
    with exchange(trades) as server:
        repaired(layout, server)
    gaps = stocktrace.read_gaps(data_dir=layout.root)
    states = dict(zip(gaps["start"].dt.strftime("%a"), gaps["repair"], strict=True))
    assert states == {"Fri": "repaired", "Sat": "repaired", "Sun": "unneeded", "Mon": "repaired"}
    in_hours = split_by_date([(ms(-1) * 1000, ms(day * 4000) * 1000)])
    wanted = Counter(
        ms(at)
        for _, at, _, _ in trades
        if at < 7_200_000
        or at >= (day * 3 + 100) * 1000
        or any(a <= ms(at) * 1000 < b for spans in in_hours.values() for a, b in spans)
    )
    assert Counter(row[0] for row in here(layout)["AAPL"].elements()) == wanted


# --- the command line --------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    monkeypatch.setenv("FINNHUB_API_KEY", KEY)
    with exchange(TRADES) as server:
        monkeypatch.setenv("STOCKTRACE_URL", server.url)
        yield server


def test_the_command_fills_gaps_and_reports(
    layout: Layout, server: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["backfill", "--data-dir", str(layout.root)]
    before = snapshot(layout)
    assert cli.run([*words, "--dry-run"]) == 0
    assert NOT_REQUESTED in capsys.readouterr().out
    assert snapshot(layout) == before
    assert cli.run(words) == 0
    rows_told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows_told[0] == ["date", "gaps", "tickers", "state", "trades", "session", "reason"]
    assert rows_told[1][:5] == ["2025-11-21", "1", "2", "repaired", "228"]
    assert cli.run([*words, "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told == []
    assert cli.run(words) == 0
    assert capsys.readouterr().out == "no gaps to fill\n"
    assert cli.run(["gaps", "--json", "--data-dir", str(layout.root)]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["repair"] for one in told] == ["repaired", "repaired"]
    assert here(layout) == rows(TRADES)


def test_postponed_gaps_are_reported_with_time_and_reason_each_time(
    layout: Layout,
    server: Simulator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stocktrace.backfill.plan.has_ended", lambda *_: False)
    sentence = (
        "1 gap of 2025-11-21 postponed until 2025-11-22 01:00 UTC: "
        "REST has the ticks of a day only after the extended hours of US stocks"
    )
    words = ["backfill", "--data-dir", str(layout.root)]
    for _ in range(2):
        assert cli.run(words) == 0
        out = capsys.readouterr().out
        assert out.splitlines()[-1] == sentence
        assert "no gaps to fill" not in out
    assert server.rest_requests == 0
    assert cli.run([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [sentence]


def test_a_free_key_is_one_sentence_and_status_1(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", KEY)
    with exchange(TRADES, premium=False) as server:
        words = ["backfill", "--url", server.url, "--data-dir", str(layout.root)]
        assert cli.run(words) == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "has no historical ticks (HTTP 403)" in told.err
    assert NO_PLAN in told.out


def test_usage_errors_exit_with_2(
    layout: Layout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["backfill", "--data-dir", str(layout.root)]
    assert cli.run(words) == 2
    assert "Set FINNHUB_API_KEY" in capsys.readouterr().err
    assert cli.run([*words, "some.csv"]) == 2
    assert "some.csv" in capsys.readouterr().err
    assert cli.run(["backfill", "--data-dir", str(layout.root / "no")]) == 2


# --- killed ------------------------------------------------------------------------------------

_CHILD = """
import os, signal, sys
left = int(sys.argv[1])
replace = os.replace
def dying(*names, **given):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names, **given)
os.replace = dying
os.fsync = lambda descriptor: None
from stocktrace import cli
sys.exit(cli.run(["backfill", "--json", "--data-dir", sys.argv[2]]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_backfill_killed_at_any_rename_is_finished_by_the_next(
    tmp_path: Path, server: Simulator
) -> None:
    environment = {**os.environ, "FINNHUB_API_KEY": KEY, "STOCKTRACE_URL": server.url}
    for step in range(1, 100):
        layout = capture(tmp_path / f"data{step}", TRADES)

        def run(at: int, root: Path = layout.root) -> int:
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, str(at), str(root)],
                env=environment,
                check=False,
                capture_output=True,
                timeout=60,
            )
            return done.returncode

        killed = run(step)
        assert killed in (-9, 0)
        assert run(0) == 0
        assert here(layout) == rows(TRADES)
        assert ends(layout) == [("AAPL", "repaired", ""), ("MSFT", "repaired", "")]
        assert problems(layout) == []
        assert len(imports(layout)) == 1
        assert not list(layout.root.rglob("*.tmp"))
        assert not list(layout.root.glob("repairs/staged/*"))
        if killed == 0:
            break
    assert step > 10


# --- what is missing ---------------------------------------------------------------------------


STRETCH = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda two: (min(two), max(two)))


@given(STRETCH, st.lists(STRETCH, max_size=5))
def test_subtracting_spans_leaves_the_rest(
    stretch: tuple[int, int], taken: list[tuple[int, int]]
) -> None:
    left = subtract_spans(stretch, merge_spans(taken))
    wanted = set(range(*stretch)).difference(*(range(*each) for each in taken))
    assert [at for each in left for at in range(*each)] == sorted(wanted)


def test_the_hours_of_a_day_are_those_of_new_york() -> None:
    begin = BELL // 1000 - int(timedelta(days=1).total_seconds()) * 10**6
    days = split_by_date([(begin, begin + 9 * 86_400 * 10**6)])
    lengths = {day.isoformat(): sum(b - a for a, b in spans) / 3.6e9 for day, spans in days.items()}
    assert list(lengths) == [
        "2025-11-20", "2025-11-21", "2025-11-24", "2025-11-25", "2025-11-26", "2025-11-28",
    ]  # fmt: skip
    assert lengths["2025-11-21"] == 16  # from 4:00 to 20:00
    assert lengths["2025-11-28"] == 13  # the day after Thanksgiving

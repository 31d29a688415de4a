from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace import cli
from stocktrace.errors import StoreError, UsageError
from stocktrace.importing.importer import ImportOrigin, import_frames
from stocktrace.importing.merge import MergeOutcome, merge_coverage, merge_sessions
from stocktrace.intervals import CoverageInterval
from stocktrace.marks import ConnectedMark, GapMark, Mark, OpeningMark
from stocktrace.query.coverage import read_coverage, read_gaps
from stocktrace.query.trades import read_trades
from stocktrace.record.recovery import recover
from stocktrace.sessions.report import SessionReport
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, is_merge
from tests.conftest import NOON, SESSION, Row, published, tree
from tests.recorded import MS, SECOND, Trade, frame, listening, record
from tests.remains import problems, snapshot, write_tape

OTHER = "20261123T143003Z_bbbbbb"
TICKERS = ["AAPL", "7203", "BINANCE:BTCUSDT"]
#: The clock of the second machine is so much ahead.
AHEAD = 250 * MS
#: Two seconds before the UTC midnight that follows.
LATE = NOON - NOON % (86_400 * SECOND) + 86_398 * SECOND

Arrivals = list[tuple[int, list[Trade]]]


def stream(begin: int, count: int = 100) -> Arrivals:
    """An arrival every 40 ms: a trade of one ticker, each ninth a pair, some with odd values."""
    found = []
    for at in range(count):
        stamp = begin + at * 40 * MS
        ticker = TICKERS[at % 3]
        codes = ("1", "12") if at % 2 else ()
        trade: Trade = (ticker, stamp // MS - 50, 0.1 + at % 5, 1e-7 * (at + 1), codes)
        found.append((stamp, [trade] * (2 if at % 9 == 0 else 1)))
    return found


def moved(arrivals: Arrivals, by: int = AHEAD) -> Arrivals:
    return [(stamp + by, trades) for stamp, trades in arrivals]


def rows(arrivals: Arrivals) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for _, trades in arrivals:
        for ticker, event, price, volume, codes in trades:
            found.setdefault(ticker, []).append((event, price, volume, " ".join(codes)))
    return found


def lost(start: int, end: int) -> list[Mark]:
    """No connection from ``start`` to ``end``; told when it is there again."""
    return [
        GapMark(end, start, "closed by the server (1001)"),
        ConnectedMark(end, tuple(TICKERS)),
    ]


def two(tmp_path: Path, begin: int = NOON) -> tuple[Layout, Layout]:
    """The first misses the third second, the second the first one and the last half."""
    arrivals = stream(begin)
    at = [begin + number * SECOND // 2 for number in range(9)]
    first = [
        *listening(TICKERS, at[0], at[4], arrivals)[:-1],
        *lost(at[4], at[6]),
        *listening(TICKERS, at[6], at[8], arrivals)[1:],
    ]
    second = listening(TICKERS, at[2] + AHEAD, at[7] + AHEAD, moved(arrivals))
    return record(tmp_path / "a", SESSION, first), record(tmp_path / "b", OTHER, second)


@pytest.mark.parametrize("begin", [NOON, LATE], ids=["noon", "midnight"])
def test_a_merge_has_every_trade_that_either_recorder_received(tmp_path: Path, begin: int) -> None:
    first, second = two(tmp_path, begin)
    before = [snapshot(layout) for layout in (first, second)]
    into = Layout(tmp_path / "both")
    done = merge_sessions(into, first, second)
    assert done.state == "published"
    assert published(into.root) == rows(stream(begin))
    assert (done.trades, done.clock_offset_s) == (112, AHEAD / SECOND)
    assert min(done.both, done.first, done.second) > 0
    assert problems(into) == []
    assert [snapshot(layout) for layout in (first, second)] == before
    report = SessionReport.read(into.report(done.session))
    assert (report.state, report.balanced, report.duplicates) == ("merged", True, {})
    assert report.tickers == sorted(TICKERS)
    assert (report.settings["first"], report.settings["second"]) == (SESSION, OTHER)
    assert report.settings["received_by_second"] == str(done.second)
    assert is_merge(done.session)


def test_receive_times_are_by_the_clock_of_the_first(tmp_path: Path) -> None:
    into = Layout(tmp_path / "both")
    merge_sessions(into, *two(tmp_path))
    trades = read_trades(TICKERS, data_dir=into.root)
    stamps = sorted(stamp // 1000 for stamp, some in stream(NOON) for _ in some)
    assert sorted(trades["ts_recv"].astype("int64")) == stamps


def test_the_coverage_of_a_merge_names_the_recorders_and_has_no_filled_gap(tmp_path: Path) -> None:
    into = Layout(tmp_path / "both")
    done = merge_sessions(into, *two(tmp_path))
    coverage = read_coverage("AAPL", data_dir=into.root)
    half = [(when - coverage["start"].iloc[0]).total_seconds() * 2 for when in coverage["end"]]
    both = f"{SESSION} + {OTHER}"
    assert list(coverage["sources"]) == [SESSION, both, OTHER, both, SESSION]
    assert half == [2, 4, 6, 7, 8]
    assert set(coverage["state"]) == {"listening"}
    assert len(read_gaps(data_dir=into.root)) == 0
    assert done.listened_s == {both: 4.5, SESSION: 4.5, OTHER: 3.0}


def test_a_gap_of_both_recorders_stays_with_its_reasons(tmp_path: Path) -> None:
    arrivals = stream(NOON)
    end = NOON + 4 * SECOND
    for name, session in (("a", SESSION), ("b", OTHER)):
        entries = [
            *listening(TICKERS, NOON, NOON + SECOND, arrivals)[:-1],
            *lost(NOON + SECOND, NOON + 2 * SECOND),
            *listening(TICKERS, NOON + 2 * SECOND, end, arrivals)[1:],
        ]
        record(tmp_path / name, session, entries)
    into = Layout(tmp_path / "both")
    done = merge_sessions(into, Layout(tmp_path / "a"), Layout(tmp_path / "b"))
    gaps = read_gaps("AAPL", data_dir=into.root)
    assert list(gaps["reason"]) == ["closed by the server (1001)"]
    assert done.listened_s[""] == 3.0
    (gap,) = SessionReport.read(into.report(done.session)).gaps
    assert gap.tickers == 3
    assert problems(into) == []


def test_a_merge_can_be_merged_with_a_third_recorder(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    both = Layout(tmp_path / "both")
    merge_sessions(both, first, second)
    third = record(
        tmp_path / "c",
        "20261123T142957Z_cccccc",
        listening(TICKERS, NOON - SECOND, NOON + 5 * SECOND, stream(NOON)),
    )
    every = Layout(tmp_path / "every")
    done = merge_sessions(every, both, third)
    assert published(every.root) == rows(stream(NOON))
    assert any(OTHER in by and "cccccc" in by for by in done.listened_s)


def test_repeating_a_merge_changes_nothing(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    into = Layout(tmp_path / "both")
    done = merge_sessions(into, first, second)
    before = snapshot(into)
    again = merge_sessions(into, first, second)
    assert again == MergeOutcome(
        done.session,
        "known",
        done.both,
        done.first,
        done.second,
        done.clock_offset_s,
        done.listened_s,
    )
    assert snapshot(into) == before


def test_a_dry_run_of_a_merge_writes_nothing(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    done = merge_sessions(Layout(tmp_path / "both"), first, second, dry_run=True)
    assert (done.state, done.trades, done.session) == ("possible", 112, "")
    assert not (tmp_path / "both").exists()


def test_a_source_that_grew_is_not_merged_into_the_same_folder(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    into = Layout(tmp_path / "both")
    done = merge_sessions(into, first, second)
    record(
        second.root,
        "20261123T143100Z_dddddd",
        listening(TICKERS, NOON + 60 * SECOND, NOON + 70 * SECOND, stream(NOON + 60 * SECOND)),
    )
    before = tree(into.root)
    with pytest.raises(UsageError, match=f"another session, {done.session}"):
        merge_sessions(into, first, second)
    assert tree(into.root) == before


def test_sessions_of_one_folder_are_one_recorder(tmp_path: Path) -> None:
    """It was restarted; and the second of its sessions began before the first had ended."""
    arrivals = stream(NOON)
    half = NOON + 2 * SECOND
    first = record(tmp_path / "a", SESSION, listening(TICKERS, NOON, half, arrivals))
    rest = listening(TICKERS, half - SECOND // 2, NOON + 5 * SECOND, arrivals)
    record(first.root, "20261123T143001Z_eeeeee", rest)
    second = record(tmp_path / "b", OTHER, listening(TICKERS, NOON, half, arrivals))
    into = Layout(tmp_path / "both")
    merge_sessions(into, first, second)
    assert published(into.root) == rows(arrivals)


def test_imported_sessions_are_not_merged(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    ticks = [(NOON, frame([("AAPL", NOON // MS, 99.0, 1.0, ())]))]
    import_frames(first, ImportOrigin("0" * 32, {"source": "ticks"}, "imported"), [ticks])
    into = Layout(tmp_path / "both")
    merge_sessions(into, first, second)
    assert published(into.root) == rows(stream(NOON))


# --- what cannot be merged -------------------------------------------------------------------


def test_running_and_crashed_sessions_are_not_merged(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    into = Layout(tmp_path / "both")
    with lock.hold_lock(second.lock(OTHER), {}), pytest.raises(StoreError, match="is running"):
        merge_sessions(into, first, second)
    window = WindowId("20261123T143100Z_dddddd", "20261123T143100Z_00001")
    write_tape(first, window, [OpeningMark(NOON, connected=False, tickers=())])
    with pytest.raises(StoreError, match=f"stocktrace recover --data-dir {first.root}"):
        merge_sessions(into, first, second)
    assert not into.root.exists()


def test_clocks_that_are_hours_apart_are_refused(tmp_path: Path) -> None:
    arrivals = stream(NOON)
    first = record(tmp_path / "a", SESSION, listening(TICKERS, NOON, NOON + 5 * SECOND, arrivals))
    hours = 2 * 3600 * SECOND
    later = listening(TICKERS, NOON + hours, NOON + hours + 5 * SECOND, moved(arrivals, hours))
    second = record(tmp_path / "b", OTHER, later)
    with pytest.raises(StoreError, match=r"\+7,200 s"):
        merge_sessions(Layout(tmp_path / "both"), first, second)


def test_folders_that_are_not_data_folders_are_usage_errors(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    into = Layout(tmp_path / "both")
    with pytest.raises(UsageError, match="is not a data folder"):
        merge_sessions(into, first, Layout(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="three different folders"):
        merge_sessions(first, first, second)


def test_two_recorders_without_trades_are_not_merged(tmp_path: Path) -> None:
    first = record(tmp_path / "a", SESSION, listening(TICKERS, NOON, NOON + SECOND, []))
    second = record(tmp_path / "b", OTHER, listening(TICKERS, NOON, NOON + SECOND, []))
    with pytest.raises(StoreError, match="nothing to merge"):
        merge_sessions(Layout(tmp_path / "both"), first, second)


# --- killed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at",
    ["importer.files.publish_file", "importer.publish_window", "importer.write_coverage"],
)
@pytest.mark.parametrize("by", ["merge", "recover"])
def test_a_merge_killed_at_any_step_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, by: str
) -> None:
    first, second = two(tmp_path)
    into = Layout(tmp_path / "both")

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"stocktrace.importing.{at}", die)
        with pytest.raises(Killed):
            merge_sessions(into, first, second)
    if by == "recover":
        recover(into)
    merge_sessions(into, first, second)
    assert published(into.root) == rows(stream(NOON))
    assert problems(into) == []
    (report,) = (SessionReport.read(path) for path in into.sessions.glob("*.json"))
    assert (report.state, report.balanced) == ("merged", True)
    assert report.settings["received_by_both"] != "0"
    assert len(read_coverage("AAPL", data_dir=into.root)) == 5


@pytest.mark.slow
def test_a_merge_finishes_after_kill_9(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    into = Layout(tmp_path / "both")
    words = ["merge", str(first.root), str(second.root), "--into", str(into.root)]
    for name in ("tape", "csv", "sessions", "parquet"):
        process = subprocess.Popen([sys.executable, "-m", "stocktrace", *words])
        while process.poll() is None:
            if any((into.root / name).rglob("*")):
                os.kill(process.pid, signal.SIGKILL)
                break
        process.wait()
    assert cli.run(words) == 0
    assert published(into.root) == rows(stream(NOON))
    assert problems(into) == []


# --- the coverage of a merge -----------------------------------------------------------------


def a(start: int, end: int, reason: str = "") -> CoverageInterval:
    return CoverageInterval("X", start, end, reason, "" if reason else "a")


def b(start: int, end: int, reason: str = "") -> CoverageInterval:
    return CoverageInterval("X", start, end, reason, "" if reason else "b")


def test_the_merged_coverage_names_who_listened_and_fills_gaps() -> None:
    first = [a(0, 1, "connecting"), a(1, 10), a(10, 20, "lost"), a(20, 30)]
    second = [b(5, 12), b(12, 15, "gone"), b(15, 40)]
    assert merge_coverage([*first, *second]) == [
        CoverageInterval("X", 0, 1, "connecting"),
        CoverageInterval("X", 1, 5, "", "a"),
        CoverageInterval("X", 5, 10, "", "a + b"),
        CoverageInterval("X", 10, 12, "", "b"),
        CoverageInterval("X", 12, 15, "gone; lost"),
        CoverageInterval("X", 15, 20, "", "b"),
        CoverageInterval("X", 20, 30, "", "a + b"),
        CoverageInterval("X", 30, 40, "", "b"),
    ]


def test_a_ticker_has_no_coverage_while_no_session_subscribed_to_it() -> None:
    assert merge_coverage([a(0, 1), b(2, 3)]) == [
        CoverageInterval("X", 0, 1, "", "a"),
        CoverageInterval("X", 2, 3, "", "b"),
    ]


def test_tickers_are_independent() -> None:
    other = CoverageInterval("Y", 0, 5, "lost")
    assert merge_coverage([other, a(0, 5)]) == [a(0, 5), other]


@st.composite
def coverage(draw: st.DrawFn) -> list[CoverageInterval]:
    found = []
    for name in draw(st.lists(st.sampled_from("abc"), unique=True)):
        edges = draw(st.lists(st.integers(0, 30), min_size=2, max_size=6, unique=True).map(sorted))
        for start, end in itertools.pairwise(edges):
            lost = draw(st.booleans())
            found.append(
                CoverageInterval("X", start, end, "lost" if lost else "", "" if lost else name)
            )
    return found


@given(coverage())
def test_at_each_moment_the_merge_agrees_with_its_sessions(
    stretches: list[CoverageInterval],
) -> None:
    found = merge_coverage(stretches)
    for moment in range(31):
        here = [each for each in stretches if each.start <= moment < each.end]
        told = [each for each in found if each.start <= moment < each.end]
        listening = sorted({each.sources for each in here if not each.reason})
        assert len(told) == bool(here)
        if told:
            assert told[0].sources == " + ".join(listening)
            assert bool(told[0].reason) is not bool(listening)
    assert all(one.end <= two.start for one, two in itertools.pairwise(found))


# --- the command line ------------------------------------------------------------------------


def test_the_merge_command_reports_its_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = two(tmp_path)
    words = ["merge", str(first.root), str(second.root), "--into", str(tmp_path / "both")]
    assert cli.run([*words, "--dry-run"]) == 0
    assert "would be merged" in capsys.readouterr().out
    assert cli.run(words) == 0
    out = capsys.readouterr().out
    assert "112 trades" in out
    assert "+0.250 s later" in out
    assert f"{SESSION} + {OTHER}" in out
    assert cli.run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["both"] + told["first"] + told["second"]) == ("known", 112)


def test_the_merge_command_exits_with_2_for_usage_errors_and_1_for_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = two(tmp_path)
    words = ["merge", str(first.root), str(second.root), "--into"]
    assert cli.run([*words, str(first.root)]) == 2
    with lock.hold_lock(second.lock(OTHER), {}):
        assert cli.run([*words, str(tmp_path / "both")]) == 1
    assert "is running" in capsys.readouterr().err

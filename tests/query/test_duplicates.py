from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from stocktrace import cli, read_bars, read_trades
from stocktrace.cli import output
from stocktrace.clock import Clock
from stocktrace.errors import UsageError
from stocktrace.maintenance.compact import compact_days
from stocktrace.sessions.report import SessionReport
from stocktrace.show.page import render_page
from stocktrace.show.view import ReportView
from stocktrace.simulator import Fault, ScriptedSource
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.layout import Layout
from stocktrace.store.trade_file import TradeFileReader
from tests.conftest import NOON, SESSION, Studio, played
from tests.recorded import MS, SECOND, Trade, frame, listening, record

OTHER = "20261123T142959Z_aaaaaa"
TICKERS = ["AAPL", "MSFT"]
#: A second before the UTC midnight that follows.
LATE = NOON - NOON % (86_400 * SECOND) + 86_399 * SECOND
COUNT = 60
#: When all its days are over.
LATER = Clock(wall=lambda: LATE + 2 * 86_400 * SECOND)

Arrivals = list[tuple[int, list[Trade]]]


def stream(begin: int) -> Arrivals:
    """A trade every 40 ms; each seventh is a pair, each is of both tickers."""
    found = []
    for at in range(COUNT):
        stamp = begin + at * 40 * MS
        trades: list[Trade] = [
            (ticker, stamp // MS - 50, 10.0 + at % 5, 100.0, ("1",)) for ticker in TICKERS
        ]
        found.append((stamp, trades * (2 if at % 7 == 0 else 1)))
    return found


def again(arrivals: Arrivals, later: int = 60 * MS) -> Arrivals:
    """The stream, and each frame once more."""
    both = [*arrivals, *((stamp + later, trades) for stamp, trades in arrivals)]
    return sorted(both, key=lambda arrival: arrival[0])


def heard(root: Path, arrivals: Arrivals, session: str = SESSION) -> Layout:
    last = arrivals[-1][0] + SECOND
    return record(root, session, listening(TICKERS, arrivals[0][0] - SECOND, last, arrivals))


def values(trades: pd.DataFrame) -> list[tuple[object, ...]]:
    names = ["symbol", *(name for name in TRADE_SCHEMA.names if name != "ts_recv")]
    return list(trades[names].itertuples(index=False, name=None))


@pytest.mark.parametrize("begin", [NOON, LATE], ids=["noon", "midnight"])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_doubled_session_reads_as_the_stream_it_doubles(
    tmp_path: Path, begin: int, compacted: bool
) -> None:
    plain = heard(tmp_path / "plain", stream(begin))
    doubled = heard(tmp_path / "doubled", again(stream(begin)))
    if compacted:
        assert compact_days(doubled, clock=LATER).done
    found = read_trades(TICKERS, duplicates="drop", data_dir=doubled.root)
    assert values(found) == values(read_trades(TICKERS, data_dir=plain.root))
    lake = read_trades(TICKERS, duplicates="drop", data_dir=doubled.root.as_uri())
    pd.testing.assert_frame_equal(lake, found)
    every = read_trades(TICKERS, data_dir=doubled.root)
    assert len(every) == 2 * len(found)
    marked = read_trades(TICKERS, duplicates="mark", data_dir=doubled.root)
    pd.testing.assert_frame_equal(marked.drop(columns="is_duplicate"), every)
    pd.testing.assert_frame_equal(
        marked[~marked["is_duplicate"]].drop(columns="is_duplicate").reset_index(drop=True), found
    )


def test_a_session_without_duplicates_is_read_unchanged(tmp_path: Path) -> None:
    layout = heard(tmp_path, stream(NOON))
    every = read_trades(TICKERS, data_dir=tmp_path)
    pd.testing.assert_frame_equal(read_trades(TICKERS, duplicates="drop", data_dir=tmp_path), every)
    assert SessionReport.read(layout.report(SESSION)).duplicates == {}


def test_the_requested_rows_do_not_change_what_is_a_duplicate(tmp_path: Path) -> None:
    heard(tmp_path, again(stream(LATE)))
    found = read_trades("AAPL", duplicates="drop", data_dir=tmp_path)
    received, event = found["ts_recv"], found["ts_event"]
    for by, times in (("ts_recv", received), ("ts_event", event)):
        for start, end in ((times.iloc[10], times.iloc[13]), (times.iloc[20], times.iloc[-1])):
            part = read_trades(
                "AAPL",
                start.to_pydatetime(),
                end.to_pydatetime(),
                by=by,  # type: ignore[arg-type]
                duplicates="drop",
                columns=["price", "ts_event"],
                data_dir=tmp_path,
            )
            wanted = found[(times >= start) & (times < end)].reset_index(drop=True)
            pd.testing.assert_frame_equal(part, wanted[["price", "ts_event"]])
    days = ["2026-11-23", "2026-11-24"]
    by_day = [read_trades("AAPL", date=day, duplicates="drop", data_dir=tmp_path) for day in days]
    assert all(len(day) for day in by_day)
    pd.testing.assert_frame_equal(pd.concat(by_day, ignore_index=True), found)


def test_equal_trades_of_two_sessions_are_not_duplicates(tmp_path: Path) -> None:
    heard(tmp_path, stream(NOON))
    heard(tmp_path, stream(NOON), OTHER)
    every = read_trades("AAPL", data_dir=tmp_path)
    assert len(read_trades("AAPL", duplicates="drop", data_dir=tmp_path)) == len(every)
    assert compact_days(Layout(tmp_path), clock=LATER).done
    assert len(read_trades("AAPL", duplicates="drop", data_dir=tmp_path)) == len(every)


@pytest.mark.parametrize("tickers", [TICKERS, TICKERS[::-1]])
def test_duplicates_of_several_tickers_are_those_of_each(
    tmp_path: Path, tickers: list[str]
) -> None:
    heard(tmp_path, again(stream(LATE)))
    heard(tmp_path, stream(LATE), OTHER)
    each = [read_trades(ticker, duplicates="mark", data_dir=tmp_path) for ticker in tickers]
    assert any(trades["is_duplicate"].any() for trades in each)
    found = read_trades(tickers, duplicates="mark", data_dir=tmp_path)
    pd.testing.assert_frame_equal(found, pd.concat(each, ignore_index=True))


def test_duplicates_of_all_tickers_are_found_in_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard(tmp_path, again(stream(NOON)))
    opened = 0
    whole = TradeFileReader.read

    def reading(self: TradeFileReader, *given: Any, **options: Any) -> pa.Table:
        nonlocal opened
        opened += 1
        return whole(self, *given, **options)

    monkeypatch.setattr(TradeFileReader, "read", reading)
    for tickers in ("AAPL", TICKERS):
        opened = 0
        read_trades(tickers, date="2026-11-23", duplicates="drop", data_dir=tmp_path)
        assert opened == 1


def test_bars_can_leave_duplicates_out(tmp_path: Path) -> None:
    heard(tmp_path / "plain", stream(NOON))
    heard(tmp_path / "doubled", again(stream(NOON)))
    wanted = read_bars("AAPL", "1s", data_dir=tmp_path / "plain").drop(columns="gap_seconds")
    found = read_bars("AAPL", "1s", duplicates="drop", data_dir=tmp_path / "doubled")
    pd.testing.assert_frame_equal(found.drop(columns="gap_seconds"), wanted)
    twice = read_bars("AAPL", "1s", data_dir=tmp_path / "doubled")
    assert twice["volume"].sum() == 2 * wanted["volume"].sum()


def test_the_report_of_a_doubled_session_says_so(tmp_path: Path) -> None:
    layout = heard(tmp_path, again(stream(NOON)))
    count = len(read_trades("AAPL", data_dir=tmp_path)) // 2
    report = SessionReport.read(layout.report(SESSION))
    assert report.duplicates == {"AAPL": count, "MSFT": count}
    assert (
        f"of 2 tickers more than once: {2 * count:,} trades too many" in report.duplicates_warning
    )


def test_the_command_line_marks_and_drops_duplicates(tmp_path: Path) -> None:
    heard(tmp_path, again(stream(NOON)))

    def printed(*words: str) -> list[str]:
        out = io.StringIO()
        with redirect_stdout(out):
            assert cli.run([*words, "AAPL", "--data-dir", str(tmp_path)]) == 0
        return out.getvalue().splitlines()

    every = printed("trades", "--json")
    marked = [json.loads(line) for line in printed("trades", "--json", "--duplicates", "mark")]
    assert len(printed("trades", "--json", "--duplicates", "drop")) == len(every) // 2
    assert [row["is_duplicate"] for row in marked].count(True) == len(every) // 2
    twice = printed("bars", "--json")
    assert printed("bars", "--json", "--duplicates", "drop") != twice


def test_an_unknown_value_of_duplicates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'keep', 'mark' or 'drop'"):
        read_trades("AAPL", duplicates="hide", data_dir=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="drop"):
        read_bars("AAPL", duplicates="mark", data_dir=tmp_path)  # type: ignore[arg-type]


def test_a_capture_of_a_doubling_feed_keeps_all_and_its_report_says_so(studio: Studio) -> None:
    frames = [(stamp, frame(trades)) for stamp, trades in stream(NOON)]
    with studio.exchange(ScriptedSource(frames), [Fault("duplicate-rows", times=2)]) as exchange:
        report = studio.record(exchange, TICKERS, played(exchange))
    wanted = [trade for _, trades in stream(NOON) for trade in trades if trade[0] == "AAPL"]
    assert report.books.recorded == 4 * len(wanted)
    assert report.duplicates == dict.fromkeys(TICKERS, len(wanted))
    assert studio.report().duplicates == report.duplicates
    found = read_trades("AAPL", duplicates="drop", data_dir=studio.data_dir)
    assert list(found["price"]) == [price for _, _, price, *_ in wanted]


def test_the_summary_and_the_page_report_duplicates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = heard(tmp_path, again(stream(NOON)))
    report = SessionReport.read(layout.report(SESSION))
    output.print_summary(report, tmp_path)
    assert report.duplicates_warning in capsys.readouterr().out
    assert report.duplicates_warning in render_page(ReportView.read(layout, SESSION))

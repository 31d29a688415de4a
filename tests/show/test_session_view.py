"""A session as it stands on disk, in each of its states, and the command that writes it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stocktrace.cli import run
from stocktrace.errors import StoreError
from stocktrace.maintenance.compact import compact_days
from stocktrace.query.bars import read_session_bars
from stocktrace.record.recovery import recover
from stocktrace.sessions.report import GapReport, SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.show.page import render_page
from stocktrace.show.picture import draw_picture
from stocktrace.show.view import ReportView
from stocktrace.simulator import Fault, ScriptedSource, SyntheticMarket
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from tests import remains
from tests.conftest import SESSION, Scenario, Studio, all_of, frame
from tests.tables import put, table_of

OTHER = "20201120T100000Z_3f9a1c"


def volumes(view: ReportView) -> dict[str, float]:
    return {name: sum(bar.volume for bar in bars) for name, bars in view.bars.items()}


def test_a_finished_session_shows_everything_recorded_busiest_first(studio: Studio) -> None:
    frames = [(0, frame(("B", 1.0), ("A", 2.0))), (0, frame(("B", 3.0), ("B", -1.0)))]
    with studio.exchange(ScriptedSource(frames)) as exchange:

        def scenario() -> Scenario:
            yield all_of(exchange)

        report = studio.record(exchange, ("A", "B", "C"), scenario(), roll_interval="1s")
    view = ReportView.read(Layout(studio.data_dir), report.session)
    assert (view.summary.state, view.summary.trades) == ("interrupted", 4)
    assert sum(view.quarantine.values()) == 1
    assert list(view.bars) == ["B", "A", "C"]
    assert volumes(view) == {"B": 200.0, "A": 100.0, "C": 0.0}
    assert view.without_trades == ["C"]
    assert sum(view.quarantine.values()) == report.books.quarantined
    assert [gap.reason for gap in view.gaps] == [gap.reason for gap in report.gaps]
    assert draw_picture(view).count('class="gap"') == len(report.gaps) == 1
    assert {gap.tickers for gap in view.gaps} == {frozenset("ABC")}


def test_a_running_session_shows_what_is_in_the_open_segments(studio: Studio) -> None:
    seen: list[ReportView] = []
    with studio.exchange(
        SyntheticMarket(seed=1, rate=200.0), [Fault("drop", after_trades=100)]
    ) as exchange:

        def look(status: CaptureStatus) -> bool:
            if not (status.outages and status.recorded >= 100):
                return False
            seen.append(ReportView.read(Layout(studio.data_dir), status.session))
            return True

        def scenario() -> Scenario:
            yield look

        studio.record(
            exchange, ("BINANCE:BTCUSDT",), scenario(), flush_interval="50ms", backoff_base="50ms"
        )
    (view,) = seen
    assert view.summary.state == "running"
    assert view.summary.trades is not None
    assert view.summary.trades >= 100
    assert view.report.books.trades == 0  # no window has rolled
    assert sum(bar.trades for bar in view.bars["BINANCE:BTCUSDT"]) >= 100
    assert "It is running" in render_page(view)
    assert draw_picture(view)


def test_a_crashed_session_shows_what_it_left_and_a_recovered_one_everything(
    tmp_path: Path,
) -> None:
    layout = remains.dead(tmp_path / "data")
    dead = ReportView.read(layout, SESSION)
    assert (dead.summary.state, dead.summary.trades) == ("crashed", None)  # nobody counted them
    assert 'class="gap"' not in draw_picture(dead)
    assert volumes(dead)["AAPL"] == 400.0  # 1, 3 in Parquet; 5, 5 sealed; the half row is none
    assert volumes(dead)["MSFT"] == 400.0  # sealed, and open
    recover(layout, remains.STILL)
    view = ReportView.read(layout, SESSION)
    assert view.summary.state == "recovered"
    assert volumes(view) == {name: 100.0 * len(rows) for name, rows in remains.PRICES.items()}
    reasons = [gap.reason for gap in view.report.outages]
    assert reasons == ["closed by the server (1001)"]
    assert draw_picture(view).count('class="gap"') == len(view.gaps)


def test_until_the_coverage_is_written_gaps_come_from_the_report(
    tmp_path: Path,
) -> None:
    layout = remains.dead(tmp_path / "data")
    path = layout.report(SESSION)
    report = SessionReport.read(path)
    begin = report.started
    whole, part = GapReport(begin, begin, "lost", 3), GapReport(begin, begin, "refused", 1)
    report.gaps = [whole, part]
    report.write(path)
    view = ReportView.read(layout, SESSION)
    assert [(gap.reason, gap.concerns("AAPL")) for gap in view.gaps] == [
        ("lost", True),
        ("refused", False),  # of which ticker is not known yet
    ]


def test_a_failed_session_can_be_shown(studio: Studio) -> None:
    exchange = studio.exchange()
    with exchange:
        url = exchange.url
    report = studio.record(url, lasting=0.5)
    view = ReportView.read(Layout(studio.data_dir), report.session)
    assert view.summary.state == "failed"
    assert "No trades were recorded." in draw_picture(view)
    assert "no trades" in render_page(view)


def test_bars_cover_only_the_session_even_in_a_compacted_day(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    begin, end = datetime(2020, 11, 20, 10, tzinfo=UTC), datetime(2020, 11, 20, 11, tzinfo=UTC)
    first = int(begin.timestamp() * 1000)
    window = "20201120T100000Z_00001"
    put(
        layout,
        "X",
        WindowId(OTHER, window),
        table_of([(first, 1.0, 10.0, ""), (first, 2.0, 5.0, "")]),
    )
    put(layout, "X", WindowId(SESSION, window), table_of([(first, 9.0, 99.0, "")]))

    def bars() -> list[dict[str, object]]:
        return list(read_session_bars(layout, OTHER, "X", 60, begin, end).to_pylist())

    before = bars()
    assert len(compact_days(layout).done) == 1
    assert bars() == before
    (bar,) = before
    assert (bar["start"], bar["open"], bar["close"], bar["volume"]) == (begin, 1.0, 2.0, 15.0)


# ------------------------------------------------------------------------------------ the command


@pytest.fixture
def whole(tmp_path: Path) -> Layout:
    return remains.whole(tmp_path / "data")


def test_the_command_writes_both_files_and_prints_their_names(
    whole: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, drawing = tmp_path / "a.html", tmp_path / "a.svg"
    words = ["report", SESSION, "--data-dir", str(whole.root)]
    assert run([*words, "--out", str(page), "--svg", str(drawing)]) == 0
    assert capsys.readouterr().out == f"{page}\n{drawing}\n"
    view = ReportView.read(whole, SESSION)
    assert page.read_text(encoding="utf-8") == render_page(view)
    assert drawing.read_text(encoding="utf-8") == draw_picture(view)
    assert run(words) == 0
    assert Path(f"{SESSION}.html").read_text(encoding="utf-8") == render_page(view)


@pytest.mark.parametrize("session", ["20261123T142958Z_000000", "../sessions", "*", ""])
def test_a_missing_session_is_wrong_usage(
    whole: Layout, session: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().iterdir())
    assert run(["report", session, "--data-dir", str(whole.root)]) == 2
    assert capsys.readouterr().err == (
        f"stocktrace: No session {session} in {whole.root}. See `stocktrace sessions`.\n"
    )
    assert sorted(Path().iterdir()) == before


def test_a_damaged_file_is_one_sentence_and_status_1(
    whole: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = next(whole.dataset.glob("*/*.parquet"))
    data = bytearray(damaged.read_bytes())
    data[8] ^= 0xFF
    damaged.write_bytes(data)
    assert run(["report", SESSION, "--data-dir", str(whole.root)]) == 1
    assert str(damaged) in capsys.readouterr().err
    whole.report(SESSION).write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="is not a session report"):
        ReportView.read(whole, SESSION)
    assert not Path(f"{SESSION}.html").exists()

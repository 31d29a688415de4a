"""The cost of a command depends on the session that it is about, not on the rest of the folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from stocktrace import cli
from stocktrace.backfill.reconcile import Completeness, reconcile_day, write_completeness
from stocktrace.clock import Clock, Deadline
from stocktrace.dashboard.tail import SessionTail
from stocktrace.intervals import CoverageInterval
from stocktrace.maintenance.compact import compact_days
from stocktrace.maintenance.requeue import requeue_rows
from stocktrace.maintenance.retention import prune_data
from stocktrace.record.recovery import recover
from stocktrace.simulator import ScriptedSource
from stocktrace.store.compaction import compact_date, finish_swap
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.units import NS_PER_DAY
from stocktrace.verify import dates_of_sessions, verify
from tests import gaps, remains
from tests.conftest import NOON, SESSION, Studio, frame, played
from tests.opened import opened_below
from tests.remains import PARTS
from tests.tables import put, table_of

TICKERS = ["AAPL", "MSFT", "7203", "IBM", "BINANCE:BTCUSDT"]
#: Before and after the sessions of the tests; 60 files of dates in as many folders.
DATES = [
    (first + timedelta(n)).isoformat()
    for first in (date(2024, 1, 1), date(2099, 1, 1))
    for n in range(30)
]
OTHER = "20240101T100000Z_abcdef"
LATER = Clock(wall=lambda: NOON + 30 * NS_PER_DAY)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Days of many tickers, their coverage and how complete they are."""
    layout = Layout(tmp_path_factory.mktemp("archive"))
    for day in DATES:
        begin = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
        part = WindowId(OTHER, f"{day.replace('-', '')}T100000Z_00001")
        table = table_of([(begin * 1000, 1.0, 1.0, "1")])
        for ticker in TICKERS:
            put(layout, ticker, part, table)
        assert compact_date(layout, day) is not None
        assert finish_swap(layout, day)
        listening = CoverageInterval("AAPL", begin * 10**9, begin * 10**9 + 1, "")
        write_coverage(layout, OTHER, [listening])
        write_completeness(layout, day, [Completeness("AAPL", day, "complete")])
    return layout


def archive_beside(archive: Layout, root: Path) -> AbstractContextManager[set[Path]]:
    """Copy ``archive`` into a data folder, and record which of its files are opened."""
    shutil.copytree(archive.root, root, dirs_exist_ok=True)
    return opened_below(
        [
            root / kind / f"date={day}"
            for kind in ("parquet", "coverage", "reconciled")
            for day in DATES
        ]
    )


def test_81_a_capture_opens_and_lists_nothing_of_other_dates(
    archive: Layout, studio: Studio
) -> None:
    frames = [(0, frame(("AAPL", price))) for price in range(1, 10)]
    with (
        archive_beside(archive, studio.data_dir) as opened,
        studio.exchange(ScriptedSource(frames)) as exchange,
    ):
        report = studio.record(exchange, ["AAPL"], played(exchange))
    assert (report.books.recorded, report.balanced) == (9, True)
    assert opened == set()


def test_81_a_recovery_opens_and_lists_nothing_of_other_dates(
    archive: Layout, a_dead_session: Layout, tmp_path: Path
) -> None:
    layout = remains.copy(a_dead_session, tmp_path / "data")
    with archive_beside(archive, layout.root) as opened:
        (recovered,) = recover(layout, remains.STILL)
    assert recovered.balanced
    assert opened == set()


def test_81_an_import_opens_and_lists_nothing_of_other_dates(
    archive: Layout, tmp_path: Path
) -> None:
    source = tmp_path / "a.csv"
    source.write_text(
        "symbol,ts_event,ts_recv,price,volume,conditions\n"
        "AAPL,2026-11-23 14:30:00.123Z,2026-11-23 14:30:00.200300Z,1.5,100,1 24\n"
    )
    data = tmp_path / "data"
    with archive_beside(archive, data) as opened:
        assert cli.run(["import", str(source), "--data-dir", str(data)]) == 0
    assert len(list(data.glob("parquet/date=2026-11-23/*.parquet"))) == 1
    assert opened == set()


def commands(layout: Layout) -> dict[str, Callable[[], object]]:
    """Commands for the session of ``remains.whole``, or for its day."""

    def tail() -> int:
        tables = SessionTail(layout, SESSION, ["AAPL", "MSFT"]).read(Deadline.after(60))
        return sum(len(rows) for rows in tables)

    def reconciled() -> list[str]:
        with gaps.exchange([]) as server, gaps.client(server) as rest:
            return [
                row.state for row in reconcile_day(layout, rest, date(2026, 11, 23), clock=LATER)
            ]

    def run(*words: str) -> int:
        return cli.run([*words, "--data-dir", str(layout.root)])

    return {
        "verify": lambda: run("verify", SESSION),
        "verify --repair": lambda: run("verify", SESSION, "--repair"),
        "retention": lambda: prune_data(layout, 0.0, None, LATER).refused,
        "report": lambda: run("report", SESSION, "--out", str(layout.root / "page.html")),
        "gaps": lambda: run("gaps", "--session", SESSION, "--json"),
        "dashboard": tail,
        "requeue": lambda: getattr(
            requeue_rows(layout, layout.quarantine(PARTS[0])), "balanced", None
        ),
        "reconcile": reconciled,
    }


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        ("verify", 0),
        ("verify --repair", 0),
        ("retention", []),
        ("report", 0),
        ("gaps", 0),
        ("dashboard", 10),
        ("requeue", True),
        ("reconcile", ["unavailable"] * 2),
    ],
)
def test_82_a_command_for_one_session_opens_and_lists_nothing_of_other_dates(
    archive: Layout,
    a_whole_session: Layout,
    tmp_path: Path,
    compacted: bool,
    work: str,
    outcome: object,
) -> None:
    layout = remains.copy(a_whole_session, tmp_path / "data")
    if compacted:
        assert len(compact_days(layout, clock=LATER).done) == 1
    with archive_beside(archive, layout.root) as opened:
        assert commands(layout)[work]() == outcome
    assert opened == set()


def test_the_whole_folder_is_opened_when_all_of_it_is_verified(
    archive: Layout, a_whole_session: Layout, tmp_path: Path
) -> None:
    layout = remains.copy(a_whole_session, tmp_path / "data")
    with archive_beside(archive, layout.root) as opened:
        assert cli.run(["verify", "--data-dir", str(layout.root)]) == 1
    files = {path for day in DATES for path in layout.dataset.glob(f"date={day}/day-*.parquet")}
    assert len(files) == 60
    assert files <= opened


def test_a_file_of_a_date_that_cannot_be_read_is_reported_once(
    a_whole_session: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = remains.copy(a_whole_session, tmp_path / "data")
    assert len(compact_days(layout, clock=LATER).done) == 1
    (path,) = layout.dataset.glob("date=*/day-*.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    verify_all = ["verify", "--data-dir", str(layout.root)]
    assert cli.run(verify_all) == 1
    assert capsys.readouterr().out.count(f"{path}: ") == 1
    assert cli.run([*verify_all, "--repair"]) == 0
    assert capsys.readouterr().out.count(f"{path}: ") == 1


@pytest.mark.parametrize("compacted", [False, True])
def test_files_under_a_date_that_neither_report_nor_tape_names_are_found_in_the_whole_folder(
    a_whole_session: Layout, tmp_path: Path, compacted: bool
) -> None:
    layout = remains.copy(a_whole_session, tmp_path / "data")
    stray = WindowId(SESSION, "20261125T100000Z_00009")
    put(layout, "AAPL", stray, table_of([(NOON // 10**6, 1.0, 1.0, "1")]))
    if compacted:
        assert compact_date(layout, stray.date) is not None
        assert finish_swap(layout, stray.date)
    early = NOON - 4 * NS_PER_DAY
    write_coverage(layout, SESSION, [CoverageInterval("AAPL", early, early + 1000, "")])
    assert list(verify(layout, SESSION)) == []
    findings = list(verify(layout, SESSION, dates_of_sessions(layout)[SESSION]))
    files = {finding.path for finding in findings if finding.path.suffix == ".parquet"}
    assert files == {layout.coverage(SESSION, "2026-11-19")}
    assert "AAPL: 6 parquet, on disk 7" in {finding.problem for finding in findings}


def test_a_session_without_report_and_tape_is_verified_by_its_files(
    a_whole_session: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = remains.copy(a_whole_session, tmp_path / "data")
    shutil.rmtree(layout.tapes(SESSION))
    layout.report(SESSION).unlink()
    path = layout.window_file(PARTS[2])
    path.write_bytes(path.read_bytes()[:-9])
    assert cli.run(["verify", SESSION, "--data-dir", str(layout.root)]) == 1
    output = capsys.readouterr().out
    assert f"{path}: " in output
    assert "the report is missing" in output

"""The upkeep of a data folder: compaction, verification and recovery after it, retention."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stocktrace import cli
from stocktrace.clock import Clock
from stocktrace.errors import LakeError, StoreError, UsageError
from stocktrace.maintenance.compact import compact_days, compact_lake
from stocktrace.maintenance.retention import PruneResult, prune_data
from stocktrace.record import recovery
from stocktrace.sessions.report import SessionReport
from stocktrace.settings import Settings
from stocktrace.store import audit, compaction, conversion, lock, trade_file
from stocktrace.store.arrow_schema import FILE_SCHEMA
from stocktrace.store.audit import check_audit_log
from stocktrace.store.dataset import hash_windows
from stocktrace.store.footer import read_windows
from stocktrace.store.lake import Lake
from stocktrace.store.layout import Layout
from stocktrace.store.lock import compaction_lock, no_compaction
from stocktrace.store.names import WindowId
from stocktrace.store.trade_file import (
    DATE_FORMAT,
    FileFormat,
    TradeFileReader,
    with_texts,
    write_trade_files,
)
from stocktrace.trade import Trade
from stocktrace.verify import dates_of_sessions, unknown_files, verify
from tests import remains
from tests.conftest import NOON, SESSION, tree
from tests.opened import opened_below
from tests.remains import PARTS, PRICES, prices
from tests.store.conftest import batch_of
from tests.tables import put, table_of

DATE = "2026-11-23"
DAY_S = 86_400
TOMORROW = Clock(wall=lambda: NOON + DAY_S * 10**9)
NEXT_MONTH = Clock(wall=lambda: NOON + 30 * DAY_S * 10**9)
DAY = f"parquet/date={DATE}/day-00001.parquet"


@pytest.fixture
def layout(a_whole_session: Layout, tmp_path: Path) -> Layout:
    return remains.copy(a_whole_session, tmp_path / "data")


@pytest.fixture
def compacted(layout: Layout) -> Layout:
    assert len(compact_days(layout, clock=TOMORROW).done) == 1
    return layout


def findings(layout: Layout, *, repair: bool = False) -> list[tuple[str, str, bool]]:
    return [
        (one.path.name, one.problem, one.repaired)
        for one in [*unknown_files(layout), *verify(layout, SESSION, repair=repair)]
    ]


def parquet_files(layout: Layout) -> list[str]:
    return [path for path in tree(layout.root) if path.startswith("parquet/")]


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)


def damage_page(path: Path, group: int = 0) -> None:
    """Change one bit of the event times in a row group: a column without a dictionary."""
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(group).column(1)
    flip(path, column.data_page_offset + column.total_compressed_size - 1)


def damage_footer(path: Path) -> None:
    """Change one bit of the length of the footer."""
    flip(path, -7)


def bigger(layout: Layout) -> WindowId:
    """A window of a session with neither report nor tape, large enough to be damaged."""
    part = WindowId("20261123T100000Z_bbbbbb", "20261123T100000Z_00001")
    put(layout, "AAPL", part, table_of([(NOON // 10**6, n + 1.0, 1.0, "1") for n in range(3000)]))
    return part


# --- which days ------------------------------------------------------------------------------


def test_a_finished_day_becomes_one_file(layout: Layout) -> None:
    done = compact_days(layout, clock=TOMORROW)
    assert [(one.date, one.files, one.rows) for one in done.done] == [(DATE, 3, 12)]
    assert (done.postponed, done.failed) == ({}, [])
    assert parquet_files(layout) == [DAY]
    assert prices(layout) == PRICES
    assert list(check_audit_log(layout.audit)) == []
    lines = [json.loads(line) for line in layout.audit.read_text().splitlines()]
    assert [line["date"] for line in lines if line["event"] == "compact"] == [DATE]


def test_the_second_time_nothing_is_left_to_do(compacted: Layout) -> None:
    before = remains.snapshot(compacted)
    assert compact_days(compacted, clock=TOMORROW).done == []
    assert remains.snapshot(compacted) == before


def test_the_current_day_is_not_compacted(layout: Layout) -> None:
    assert compact_days(layout, clock=remains.STILL).done == []
    with pytest.raises(UsageError, match="2026-11-23 has not ended"):
        compact_days(layout, dt.date(2026, 11, 23), clock=remains.STILL)


def test_days_can_be_chosen_by_date_or_age(layout: Layout) -> None:
    put(layout, "AAPL", WindowId(SESSION, "20261120T100000Z_00009"), table_of([(1, 1.0, 1.0, "")]))
    chosen = compact_days(layout, older_than=2 * DAY_S, clock=TOMORROW).done
    assert [one.date for one in chosen] == ["2026-11-20"]
    chosen = compact_days(layout, dt.date(2026, 11, 23), clock=TOMORROW).done
    assert {one.date for one in chosen} == {DATE}


def test_a_day_of_a_crashed_session_is_postponed_until_its_recovery(tmp_path: Path) -> None:
    layout = remains.dead(tmp_path / "data")
    before = remains.snapshot(layout)
    done = compact_days(layout, clock=TOMORROW)
    assert done.done == []
    assert done.postponed == {DATE: f"session {SESSION} crashed: run `stocktrace recover`"}
    assert done.crashed == [SESSION]
    assert remains.snapshot(layout) == before
    recovery.recover(layout, remains.STILL)
    assert len(compact_days(layout, clock=TOMORROW).done) == 1


def test_a_day_of_a_running_session_is_postponed_until_its_windows_are_published(
    tmp_path: Path,
) -> None:
    layout = remains.dead(tmp_path / "data")
    with lock.hold_lock(layout.lock(SESSION), {}):
        waiting = compact_days(layout, clock=TOMORROW).postponed
    assert list(waiting) == [DATE]
    assert "is not published" in waiting[DATE]


def test_a_running_session_does_not_postpone_published_days(layout: Layout) -> None:
    with lock.hold_lock(layout.lock(SESSION), {}):
        assert len(compact_days(layout, clock=TOMORROW).done) == 1


def test_a_damaged_file_fails_its_date_alone(layout: Layout) -> None:
    put(layout, "AAPL", WindowId(SESSION, "20261120T100000Z_00009"), table_of([(1, 1.0, 1.0, "")]))
    damage_footer(layout.window_file(PARTS[0]))
    done = compact_days(layout, clock=TOMORROW)
    assert [one.date for one in done.done] == ["2026-11-20"]
    assert len(done.failed) == 1


def test_compactions_and_verifications_exclude_each_other(layout: Layout) -> None:
    with no_compaction(layout), no_compaction(layout), pytest.raises(StoreError, match="Try again"):
        compact_days(layout, clock=TOMORROW)
    with (
        compaction_lock(layout),
        pytest.raises(StoreError, match="Try again"),
        no_compaction(layout),
    ):
        pass
    assert len(compact_days(layout, clock=TOMORROW).done) == 1


def test_leftovers_of_a_killed_compaction_are_finished_by_the_next_of_any_date(
    compacted: Layout,
) -> None:
    staged = compacted.compaction_staging("2026-11-01")
    staged.mkdir(parents=True)
    (staged / "day-00001.parquet").write_bytes(b"half")
    compact_days(compacted, clock=TOMORROW)
    assert not staged.exists()


def test_old_folders_are_deleted_while_later_dates_are_compacted_and_the_last_after_a_wait(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backlog of dates is never on the disk twice."""
    dates = [f"2026-11-{day}" for day in range(10, 15)]
    for number, date in enumerate(dates):
        window = WindowId(SESSION, f"{date.replace('-', '')}T100000Z_{number + 10:05}")
        put(layout, "AAPL", window, table_of([(1, 1.0, 1.0, "")]))
    seen: list[list[str]] = []
    now = [time.time() + 1]
    replace = compaction.replace_date

    def replacing(*given: Any) -> Any:
        now[0] += 2
        seen.append([path.name.removeprefix("date=") for path in layout.compaction_leftovers()])
        return replace(*given)

    def sleep(seconds: float) -> None:
        assert seconds <= compaction.LISTING_S
        now[0] += seconds

    monkeypatch.setattr(compaction, "LISTING_S", 5.0)
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(compaction, "replace_date", replacing)
    done = compact_days(layout, clock=TOMORROW)
    assert [one.date for one in done.done] == [*dates, DATE]
    assert max(map(len, seen)) <= 3
    assert not layout.compaction_leftovers()


def test_a_compaction_without_work_opens_no_report_and_no_file(
    compacted: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_below([compacted.dataset, compacted.sessions, compacted.tapes(SESSION)]) as opened:
        assert compact_days(compacted, clock=TOMORROW).done == []
    assert opened == {compacted.dataset, compacted.date_folder(DATE)}


def test_a_compaction_reads_the_reports_of_sessions_with_tapes_of_its_dates(
    layout: Layout, tmp_path: Path
) -> None:
    other = WindowId("20261101T100000Z_abcdef", "20261101T100000Z_00001")
    remains.write_tape(layout, other, remains.ENTRIES[0][:2])
    layout.tape(other).rename(layout.archived_tape(other))
    layout.report(other.session).write_text("{}")
    with opened_below([layout.sessions]) as opened:
        assert len(compact_days(layout, clock=TOMORROW).done) == 1
    reports = {path for path in opened if path.suffix == ".json"}
    assert reports == {layout.report(SESSION)}


# --- verification and recovery afterwards ----------------------------------------------------


def test_a_compacted_session_verifies_and_nothing_is_changed(compacted: Layout) -> None:
    before = remains.snapshot(compacted)
    assert findings(compacted) == []
    assert findings(compacted, repair=True) == []
    assert remains.snapshot(compacted) == before
    assert [*dates_of_sessions(compacted)] == [SESSION]


def test_a_session_is_known_by_day_files_alone(compacted: Layout) -> None:
    compacted.report(SESSION).unlink()
    shutil.rmtree(compacted.tapes(SESSION))
    assert [*dates_of_sessions(compacted)] == [SESSION]
    assert [problem for _, problem, _ in findings(compacted)] == [
        "the report is missing or cannot be read: run `stocktrace recover`"
    ]


def test_rows_in_day_files_count_when_a_session_is_counted_again(compacted: Layout) -> None:
    path = compacted.report(SESSION)
    before = SessionReport.read(path)
    path.unlink()
    recovery.recover(compacted, remains.STILL)
    after = SessionReport.read(path)
    assert after.balanced
    assert {name: one.parquet for name, one in after.per_ticker.items()} == {
        name: one.parquet for name, one in before.per_ticker.items()
    }
    assert after.files == 1
    assert findings(compacted) == []


def test_a_rebuild_publishes_nothing_that_is_compacted(compacted: Layout) -> None:
    before = parquet_files(compacted)
    (tape,) = [path for part, path in compacted.session_tapes(SESSION).items() if part == PARTS[1]]
    remains.write_tape(compacted, PARTS[1], remains.ENTRIES[1])
    tape.unlink()
    recovery.recover(compacted, remains.STILL)
    assert parquet_files(compacted) == before
    assert prices(compacted) == PRICES


def rewritten(layout: Layout, window: WindowId, ticker: str) -> Path:
    """The date's file with two rows of a window in another order, whole in itself."""
    path = layout.root / DAY
    with TradeFileReader(path) as file:
        rows = list(range(file.rows))
        table = with_texts([file.read()], FILE_SCHEMA.names)
    keys = zip(table["symbol"].to_pylist(), table["window_number"].to_pylist(), strict=True)
    first, second = [at for at, key in enumerate(keys) if key == (ticker, window.number)]
    rows[first], rows[second] = second, first
    contents = read_windows(path)

    def write() -> None:
        tables = [table.take(pa.array(rows))]
        write_trade_files([path], tables, lambda: contents, rows=len(rows), form=DATE_FORMAT)

    write()
    contents = hash_windows([path])
    write()
    return path


def test_rows_of_a_day_file_on_which_footer_and_report_agree_stay_though_the_tape_has_others(
    compacted: Layout,
) -> None:
    path = rewritten(compacted, PARTS[0], "AAPL")
    before = path.read_bytes()
    ((name, problem, repaired),) = findings(compacted)
    assert (name, repaired) == (compacted.tape_of(PARTS[0]).name, False)
    assert path.name in problem
    assert "nothing is repaired from it" in problem
    assert findings(compacted, repair=True) == [(name, problem, False)]
    assert path.read_bytes() == before


def test_a_damaged_page_is_reported_once_and_the_file_rebuilt_from_the_tapes(
    compacted: Layout,
) -> None:
    path = compacted.root / DAY
    damage_page(path)
    (finding,) = findings(compacted)
    assert "CRC" in finding[1]
    assert findings(compacted, repair=True) == [(path.name, finding[1], True)]
    assert findings(compacted) == []
    assert prices(compacted) == PRICES


def test_a_file_without_a_footer_is_rebuilt_from_the_tapes(compacted: Layout) -> None:
    path = compacted.root / DAY
    damage_footer(path)
    assert {name for name, _, _ in findings(compacted)} == {path.name}
    mended = [(name, repaired) for name, _, repaired in findings(compacted, repair=True)]
    assert (path.name, True) in mended
    assert findings(compacted) == []
    assert prices(compacted) == PRICES


@pytest.mark.parametrize("damage", [damage_page, damage_footer])
def test_a_damaged_file_is_not_rebuilt_without_all_its_tapes(
    compacted: Layout, damage: Callable[[Path], None]
) -> None:
    path = compacted.root / DAY
    damage(path)
    compacted.archived_tape(PARTS[1]).unlink()
    before = path.read_bytes()
    found = findings(compacted, repair=True)
    assert (path.name, False) in [(name, mended) for name, _, mended in found]
    assert path.read_bytes() == before


def test_rows_of_a_day_file_stay_if_the_tape_has_less_than_the_books(compacted: Layout) -> None:
    tape = remains.shorten(compacted, PARTS[1], b'"p":7,')
    before = remains.snapshot(compacted)
    ((name, problem, repaired),) = findings(compacted, repair=True)
    assert (name, repaired) == (tape.name, False)
    assert problem.endswith("nothing is repaired from it")
    assert remains.snapshot(compacted) == before


def cut(layout: Layout) -> None:
    tape = layout.archived_tape(PARTS[1])
    tape.write_bytes(tape.read_bytes()[:-3])


def without_some(layout: Layout) -> None:
    remains.shorten(layout, PARTS[1], b'"p":7,')


@pytest.mark.parametrize("damage", [damage_page, damage_footer])
@pytest.mark.parametrize("spoil", [cut, without_some])
def test_a_damaged_file_is_not_rebuilt_from_an_incomplete_tape(
    compacted: Layout, damage: Callable[[Path], None], spoil: Callable[[Layout], None]
) -> None:
    path = compacted.root / DAY
    spoil(compacted)
    damage(path)
    before = remains.snapshot(compacted)
    found = findings(compacted, repair=True)
    assert (path.name, False) in [(name, mended) for name, _, mended in found]
    assert remains.snapshot(compacted) == before


def test_intact_rows_of_a_damaged_file_are_kept_without_their_tape(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "DATE_FORMAT", FileFormat(DATE_FORMAT.zstd_level, 3000))
    monkeypatch.setattr(trade_file, "_SHARED_ROWS", (1, 1))
    bigger(layout)  # its session began first: of AAPL, the first row group is all its own
    compact_days(layout, clock=TOMORROW)
    path = layout.root / DAY
    damage_page(path, group=2)
    assert [mended for _, _, mended in findings(layout, repair=True)] == [True]
    assert findings(layout) == []
    assert prices(layout)["AAPL"] == [n + 1.0 for n in range(3000)] + PRICES["AAPL"]


def test_trades_that_are_in_two_files_are_found(compacted: Layout) -> None:
    put(compacted, "MSFT", PARTS[0], table_of([(NOON // 10**6, 2.0, 100.0, "1")]))
    names = [name for name, problem, _ in findings(compacted) if "has too" in problem]
    assert len(names) == 1


def test_a_day_file_in_another_folder_is_found(compacted: Layout) -> None:
    path = compacted.root / DAY
    other = compacted.date_folder("2026-11-24")
    other.mkdir(parents=True)
    path.rename(other / path.name)
    problems = [problem for _, problem, _ in findings(compacted)]
    assert "is in the wrong folder: remove it" in problems


# --- retention -------------------------------------------------------------------------------


def test_by_default_tapes_are_kept_and_published_csv_is_deleted(layout: Layout) -> None:
    settings = Settings.load()
    assert (settings.tape_retention, settings.csv_retention) == (None, 0.0)
    assert Settings.load(tape_retention="forever").tape_retention is None
    assert settings.public()["tape_retention"] == "forever"
    before = remains.snapshot(layout)
    assert (
        prune_data(layout, settings.tape_retention, settings.csv_retention, NEXT_MONTH)
        == PruneResult()
    )
    assert remains.snapshot(layout) == before


def test_old_tapes_are_deleted_if_their_session_verifies(compacted: Layout) -> None:
    size = sum(path.stat().st_size for path in compacted.session_tapes(SESSION).values())
    assert prune_data(compacted, 31 * DAY_S, None, NEXT_MONTH) == PruneResult()
    assert prune_data(compacted, 29 * DAY_S, None, NEXT_MONTH) == PruneResult(3, 0, size, [])
    assert compacted.session_tapes(SESSION) == {}
    assert findings(compacted) == []
    assert prices(compacted) == PRICES
    deleted = [line for line in compacted.audit.read_text().splitlines() if '"delete"' in line]
    assert len(deleted) == 3


def test_tapes_are_kept_if_their_session_does_not_verify(compacted: Layout) -> None:
    damage_page(compacted.root / DAY)
    pruned = prune_data(compacted, 0.0, None, NEXT_MONTH)
    assert pruned.tapes == 0
    assert len(pruned.refused) >= 1
    assert len(compacted.session_tapes(SESSION)) == 3


def test_tapes_of_running_and_crashed_sessions_are_kept(tmp_path: Path, compacted: Layout) -> None:
    with lock.hold_lock(compacted.lock(SESSION), {}):
        assert prune_data(compacted, 0.0, None, NEXT_MONTH) == PruneResult()
    dead = remains.dead(tmp_path / "dead")
    assert prune_data(dead, 0.0, None, NEXT_MONTH) == PruneResult()


CSV = "symbol,ts_event,ts_recv,price,volume,conditions\n" + "".join(
    f"AAPL,2026-11-23 14:30:00.000Z,2026-11-23 14:30:01.000000Z,{price},100,1\n"
    for price in (1, 2, -3)
)


@pytest.mark.parametrize("kind", ["captured", "imported", "adopted", "merged", "requeued"])
def test_63_a_session_of_any_kind_verifies_after_its_tapes_are_deleted(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(audit, "ROTATE_BYTES", 300)
    data = ["--data-dir", str(layout.root)]
    if kind == "imported":
        (tmp_path / "other.csv").write_text(CSV)
        assert cli.run(["import", str(tmp_path / "other.csv"), *data]) == 0
    elif kind == "adopted":
        other, layout = layout, Layout(tmp_path / "adopting")
        assert cli.run(["import", str(other.root), "--data-dir", str(layout.root)]) == 0
    elif kind == "merged":
        other = remains.copy(layout, tmp_path / "other")
        into = tmp_path / "merged"
        assert cli.run(["merge", str(layout.root), str(other.root), "--into", str(into)]) == 0
        layout = Layout(into)
    elif kind == "requeued":
        path = layout.quarantine(PARTS[0])
        mended = tmp_path / path.name
        mended.write_text(path.read_text().replace('"p":-4', '"p":4'))
        assert cli.run(["requeue", str(mended), *data]) == 0
    assert remains.problems(layout) == []
    later = itertools.count(NEXT_MONTH.wall(), 1000)  # a log that is rotated has the time as name
    pruned = prune_data(layout, 0.0, None, Clock(wall=lambda: next(later)))
    assert pruned.refused == []
    assert pruned.tapes >= 1
    assert list(layout.root.glob("tape/*/*.zst")) == []
    assert len(list(layout.audit.parent.glob("audit-*.jsonl"))) >= 1
    assert remains.problems(layout) == []
    assert list(check_audit_log(layout.audit)) == []


def test_a_deletion_is_on_the_disk_before_the_tape_is_deleted(
    compacted: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut could leave a tape that is gone without a word."""
    fsync, log = os.fsync, compacted.audit

    def failing(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), log.stat()):  # `verify` syncs other files before
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreError, match=r"audit\.jsonl: Input/output error"):
        prune_data(compacted, 0.0, None, NEXT_MONTH)
    assert len(compacted.session_tapes(SESSION)) == 3


def kept_csv(root: Path) -> tuple[Layout, Path]:
    """A published segment that was kept."""
    from stocktrace.store.segments import SegmentWriter

    layout = Layout.from_settings(Settings.load(data_dir=root, csv_retention="7d"))
    writer = SegmentWriter(layout, PARTS[0])
    writer.write(batch_of([Trade("BRK.B", 1.0, NOON // 10**6, 1.0)]))
    writer.seal()
    conversion.convert_window(layout, PARTS[0])
    return layout, layout.kept_csv("BRK.B", PARTS[0])


def test_csv_is_kept_for_its_retention_and_compared_before_it_is_deleted(tmp_path: Path) -> None:
    layout, path = kept_csv(tmp_path)
    assert path.read_text().startswith("symbol,ts_event")
    size = path.stat().st_size
    assert prune_data(layout, None, 31 * DAY_S, NEXT_MONTH) == PruneResult()
    compact_days(layout, clock=TOMORROW)
    assert prune_data(layout, None, 29 * DAY_S, NEXT_MONTH) == PruneResult(0, 1, size, [])
    assert not path.exists()


def test_csv_that_differs_from_the_published_rows_is_kept(tmp_path: Path) -> None:
    layout, path = kept_csv(tmp_path)
    path.write_text(path.read_text().replace(",1.0,", ",2.0,").replace(",1,", ",2,"))
    pruned = prune_data(layout, None, 0.0, NEXT_MONTH)
    assert pruned.csv == 0
    (reason,) = pruned.refused
    assert f"holds other rows of {PARTS[0].stem}" in reason
    assert reason.endswith("Run `stocktrace verify`.")
    layout.window_file(PARTS[0]).unlink()
    (reason,) = prune_data(layout, None, 0.0, NEXT_MONTH).refused
    assert reason == f"The trades of {path} are not published. Run `stocktrace verify`."
    assert path.exists()


def test_the_tapes_of_one_session_are_read_and_the_reports_of_those_with_old_tapes(
    compacted: Layout,
) -> None:
    """Sessions whose tapes are deleted, or are to stay, cost nothing."""
    young = WindowId("20261220T100000Z_abcdef", "20261220T100000Z_00001")
    remains.write_tape(compacted, young, remains.ENTRIES[0][:2])
    for session in (young.session, "20260101T100000Z_abcdef"):
        compacted.report(session).write_text("{}")
    with opened_below([compacted.sessions, compacted.tapes(young.session)]) as opened:
        assert prune_data(compacted, 29 * DAY_S, None, NEXT_MONTH).tapes == 3
    assert {path for path in opened if path.suffix == ".json"} == {compacted.report(SESSION)}
    assert compacted.tape(young) not in opened


# --- the command -----------------------------------------------------------------------------


def test_the_command_compacts_prunes_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path / "data")
    for number in (1, 2):
        part = WindowId("20201120T100000Z_bbbbbb", f"20201120T1{number}0000Z_{number:05}")
        put(layout, "AAPL", part, table_of([(NOON // 10**6, 1.0, 1.0, "1")]))
    where = ["--data-dir", str(layout.root)]
    assert cli.run(["compact", "--older-than", "7d", *where]) == 0
    assert "2020-11-20: 2 files of " in capsys.readouterr().out
    assert cli.run(["compact", "--json", "--tape-retention", "30d", *where]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "compaction": {"done": [], "postponed": {}, "crashed": [], "failed": []},
        "pruning": {"tapes": 0, "csv": 0, "size": 0, "refused": []},
    }
    assert cli.run(["compact", "--date", "2999-01-01", *where]) == 2
    assert "has not ended" in capsys.readouterr().err
    assert cli.run(["compact", "--older-than", "forever", *where]) == 2
    assert "'forever' is not a duration" in capsys.readouterr().err
    assert cli.run(["compact", "--tape-retention", "often", *where]) == 2
    assert "'often' is not a retention time" in capsys.readouterr().err


# --- a lake ----------------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path: Path) -> Layout:
    """A lake on this disk with two windows of a date in 2020, and one of today."""
    lake = Layout(tmp_path / "lake")
    today = f"{dt.datetime.now(dt.UTC):%Y%m%d}"
    for stem in ("20201120T100000Z_00009", "20201120T110000Z_00010", f"{today}T000000Z_00011"):
        put(lake, "AAPL", WindowId(SESSION, stem), table_of([(1, 1.0, 1.0, "")]))
    return lake


def test_the_ended_dates_of_a_lake_are_compacted_and_logged_before_anything_is_deleted(
    tmp_path: Path, lake: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, url = tmp_path / "data", f"file://{lake.root}"
    folder.mkdir()
    assert cli.run(["compact", "--data-dir", str(folder), "--lake", url]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"2020-11-20 in {url}: 2 files of ")
    days = [path.name for path in lake.date_folder("2020-11-20").iterdir()]
    assert days == ["day-00001.parquet"]
    (today,) = set(lake.dates()) - {"2020-11-20"}
    assert len(list(lake.date_folder(today).iterdir())) == 1
    (line,) = Layout(folder).audit.read_text().splitlines()
    event = json.loads(line)
    assert [event[name] for name in ("event", "date", "files", "rows", "lake")] == [
        "compact", "2020-11-20", 2, 2, url,
    ]  # fmt: skip
    assert cli.run(["compact", "--data-dir", str(folder), "--lake", url]) == 0
    assert capsys.readouterr().out == "nothing to compact\n"
    with pytest.raises(UsageError, match="has not ended"):
        compact_lake(Layout(folder), url, dt.datetime.now(dt.UTC).date())


def test_a_damaged_date_of_a_lake_is_reported_and_the_others_are_compacted(
    tmp_path: Path, lake: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    put(lake, "AAPL", WindowId(SESSION, "20201119T100000Z_00001"), table_of([(1, 1.0, 1.0, "")]))
    (path,) = lake.date_folder("2020-11-19").iterdir()
    flip(path, path.stat().st_size - 20)
    (tmp_path / "data").mkdir()
    given = ["--data-dir", str(tmp_path / "data"), "--lake", f"file://{lake.root}", "--json"]
    assert cli.run(["compact", *given]) == 1
    out, err = capsys.readouterr()
    assert path.name in err
    found = json.loads(out)
    assert [done["date"] for done in found["lake"]["done"]] == ["2020-11-20"]
    assert len(found["lake"]["failed"]) == 1
    assert path.exists()


def test_a_lake_that_stops_answering_is_reported_once(
    tmp_path: Path, lake: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lake, "AAPL", WindowId(SESSION, "20201119T100000Z_00001"), table_of([(1, 1.0, 1.0, "")]))

    def refuse(*_: object) -> None:
        raise LakeError("The lake does not answer.")

    monkeypatch.setattr(Lake, "fetch", refuse)
    result = compact_lake(Layout(tmp_path / "data"), f"file://{lake.root}")
    assert (result.done, result.failed) == ([], ["The lake does not answer."])
    assert not list((tmp_path / "data").glob(".scratch*"))


def test_a_file_of_a_lake_that_disappears_is_reported(
    tmp_path: Path, lake: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def miss(*_: object) -> None:
        raise FileNotFoundError("day-00001.parquet does not exist.")

    monkeypatch.setattr(Lake, "date_files", miss)
    result = compact_lake(Layout(tmp_path / "data"), f"file://{lake.root}")
    (sentence,) = result.failed
    assert sentence.startswith("day-00001.parquet does not exist. Something else deletes files")

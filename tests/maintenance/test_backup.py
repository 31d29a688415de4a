"""Backups: consistent whenever they are made and killed, incremental, never replaced by less."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from stocktrace import cli
from stocktrace.clock import Clock
from stocktrace.errors import StoreError, UsageError
from stocktrace.maintenance.backup import data_files, folder_copy, run
from stocktrace.maintenance.backup.restore import restore
from stocktrace.maintenance.backup.run import BackupResult, back_up
from stocktrace.maintenance.compact import compact_days
from stocktrace.maintenance.retention import prune_data
from stocktrace.record.recovery import recover
from stocktrace.sessions.report import ReportLine, SessionReport, lines_path
from stocktrace.simulator import Simulator
from stocktrace.store import files, lock
from stocktrace.store.audit import AuditLog, check_audit_log
from stocktrace.store.lake import Lake
from stocktrace.store.layout import Layout
from stocktrace.verify import dates_of_sessions, unknown_files, verify
from tests import remains
from tests.cloud import s3
from tests.conftest import (
    NOON,
    SESSION,
    Scenario,
    Studio,
    all_of,
    connected,
    frame,
    published,
    sent,
    taped,
    tree,
)
from tests.dying import Killed, Killer, calls_of
from tests.opened import opened_below
from tests.remains import PARTS, PRICES, STILL, prices
from tests.sampling import SAMPLED, Pick

DAY_NS = 86_400 * 10**9
TOMORROW = Clock(wall=lambda: NOON + DAY_NS)
NEXT_MONTH = Clock(wall=lambda: NOON + 30 * DAY_NS)
LATER = "20261123T150000Z_aaaaaa"


@pytest.fixture
def layout(a_whole_session: Layout, tmp_path: Path) -> Layout:
    """A session that has ended."""
    layout = remains.copy(a_whole_session, tmp_path / "source")
    AuditLog(layout.audit, SESSION, STILL)("end")
    return layout


@pytest.fixture
def crashed(a_dead_session: Layout, tmp_path: Path) -> Layout:
    """A session that crashed."""
    layout = remains.copy(a_dead_session, tmp_path / "source")
    AuditLog(layout.audit, SESSION, STILL)("begin")
    return layout


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "dest"


@pytest.fixture(params=["folder", pytest.param("lake", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, dest: Path) -> str:
    """The destination: a folder, or a lake on this machine."""
    return str(dest) if request.param == "folder" else f"file://{dest}"


def backup(
    layout: Layout, dest: Path | str, *, delete: bool = False, check: bool = False
) -> BackupResult:
    return back_up(layout, str(dest), delete=delete, check=check)


def of_backup(dest: Path) -> Layout:
    return Layout(dest / "data")


def findings(layout: Layout) -> list[str]:
    checked = [
        finding
        for session, dates in dates_of_sessions(layout).items()
        for finding in verify(layout, session, dates)
    ]
    return [
        f"{finding.path.name} {finding.problem}" for finding in [*unknown_files(layout), *checked]
    ]


def must_be_whole(layout: Layout) -> None:
    """It verifies, has each trade once, and an intact log."""
    assert findings(layout) == []
    assert prices(layout) == PRICES
    assert list(check_audit_log(layout.audit)) == []


def restored(place: str, tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "restored")
    assert restore(layout, place).problems == []
    return layout


def copied_files(layout: Layout) -> dict[str, bytes]:
    """The files that a backup has of a folder in which nothing is recorded."""
    names = [name for name in tree(layout.root) if not name.endswith((".lock", ".status"))]
    left_out = ("compacting/", "backup.jsonl")
    return {
        name: (layout.root / name).read_bytes() for name in names if not name.startswith(left_out)
    }


# --- what is copied --------------------------------------------------------------------------


def test_a_backup_is_a_data_folder_that_verifies(layout: Layout, dest: Path) -> None:
    result = backup(layout, dest)
    files = copied_files(layout)
    assert (result.copied, result.size) == (len(files), sum(map(len, files.values())))
    assert copied_files(of_backup(dest)) == files
    must_be_whole(of_backup(dest))


def test_a_second_backup_opens_no_file_that_has_not_changed(layout: Layout, dest: Path) -> None:
    count = backup(layout, dest).copied
    names = {path for path in layout.root.rglob("*") if path.is_file()}
    with opened_below([layout.root]) as opened:
        result = backup(layout, dest)
    assert result == BackupResult(unchanged=count)
    assert opened & names == {layout.audit}  # its first line identifies the folder
    must_be_whole(of_backup(dest))


def test_unchanged_files_of_a_folder_need_no_space(layout: Layout, dest: Path) -> None:
    backup(layout, dest)
    tape = dest / "data" / layout.archived_tape(PARTS[0]).relative_to(layout.root)
    inode = tape.stat().st_ino
    backup(layout, dest)
    assert (tape.stat().st_ino, tape.stat().st_nlink) == (inode, 1)
    assert sorted(path.name for path in dest.iterdir()) == ["backup.lock", "data", "tree-00002"]


def test_a_moved_folder_is_read_again_and_copied_not_at_all(
    layout: Layout, place: str, tmp_path: Path
) -> None:
    count = backup(layout, place).copied
    moved = remains.copy(layout, tmp_path / "moved")
    assert backup(moved, place) == BackupResult(unchanged=count)
    assert backup(moved, place) == BackupResult(unchanged=count)


def test_locks_the_status_and_temporary_files_are_left_out(layout: Layout, dest: Path) -> None:
    files = copied_files(layout)
    remains.litter(layout)
    layout.status(SESSION).write_text("{}")
    (layout.root / ".env").write_text("FINNHUB_API_KEY=secret")
    (layout.root / "stocktrace.toml").write_text("")
    backup(layout, dest)
    assert copied_files(of_backup(dest)) == files


def test_a_backup_of_a_crashed_session_is_recovered_like_the_session(
    crashed: Layout, tmp_path: Path, place: str
) -> None:
    backup(crashed, place)
    copy = restored(place, tmp_path)
    (recovered,) = recover(copy, STILL)
    assert (recovered.balanced, recovered.torn_bytes) == (True, 0)  # no truncated line is copied
    must_be_whole(copy)


# --- while others write -----------------------------------------------------------------------


def send(exchange: Simulator, prices: range) -> None:
    for price in prices:
        exchange.send_raw(frame(("AAPL", price), ("MSFT", price)))
        exchange.send_raw(frame(("AAPL", -price)))


def test_62_a_backup_of_a_live_capture_has_each_trade_of_its_tapes_once(
    studio: Studio, dest: Path, tmp_path: Path
) -> None:
    layout = Layout(studio.data_dir)
    copies: list[Layout] = []

    def back_up_now() -> None:
        backup(layout, dest)
        copies.append(remains.copy(of_backup(dest), tmp_path / f"copy-{len(copies)}"))

    def scenario(exchange: Simulator) -> Scenario:
        yield connected
        for begin in range(1, 201, 100):
            send(exchange, range(begin, begin + 100))
            yield all_of(exchange)
            back_up_now()

    with studio.exchange() as exchange:
        studio.record(
            exchange, ["AAPL", "MSFT"], scenario(exchange), lasting=100.0, roll_size="10KB"
        )
    back_up_now()
    all_trades = sent(taped(studio.data_dir))
    counts = []
    for copy in copies[:-1]:
        [session] = copy.all_sessions()
        assert SessionReport.read(copy.report(session)).state == "running"
        on_tapes = sent(taped(copy.root))
        recover(copy)
        assert findings(copy) == []
        valid = {ticker: [row for row in rows if row[1] > 0] for ticker, rows in on_tapes.items()}
        assert published(copy.root) == valid
        for ticker, rows in on_tapes.items():
            assert rows == all_trades[ticker][: len(rows)]
        counts.append(sum(map(len, on_tapes.values())))
    assert counts == sorted(set(counts))
    assert counts[-1] == sum(map(len, all_trades.values())) == 600
    assert findings(copies[-1]) == []
    assert copied_files(copies[-1]) == copied_files(layout)


def test_the_lines_beside_a_running_report_are_in_the_backup_until_the_session_has_ended(
    crashed: Layout, dest: Path
) -> None:
    path = crashed.report(SESSION)
    report = SessionReport.read(path)
    report.notices = ["a notice"]
    lines = msgspec.json.encode(ReportLine(notices=report.notices)) + b"\n"
    lines_path(path).write_bytes(lines)
    report.write_head(path, len(lines))
    backup(crashed, dest)
    copy = of_backup(dest)
    assert SessionReport.read(copy.report(SESSION)) == SessionReport.read(path)
    recover(crashed, STILL)
    result = backup(crashed, dest)
    assert not lines_path(copy.report(SESSION)).exists()
    assert (result.kept, result.problems) == (0, [])
    assert "a notice" in SessionReport.read(copy.report(SESSION)).notices


def test_a_restore_adds_no_lines_to_a_report_that_has_ended(
    crashed: Layout, dest: Path, tmp_path: Path
) -> None:
    lines_path(crashed.report(SESSION)).write_bytes(b"")
    backup(crashed, dest)
    recover(crashed, STILL)
    restore(crashed, str(dest))
    assert not lines_path(crashed.report(SESSION)).exists()


def test_rows_that_move_while_files_are_listed_or_copied_are_found_where_they_are_then(
    crashed: Layout, tmp_path: Path, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Callable[[], object]] = [
        lambda: recover(crashed, STILL),
        lambda: compact_days(crashed, clock=TOMORROW),
    ]
    listings = []

    def list_files(crashed: Layout) -> object:
        listings.append(real(crashed))
        if steps:
            steps.pop(0)()
        return listings[-1]

    real = data_files.list_files
    monkeypatch.setattr(run, "list_files", list_files)
    result = backup(crashed, dest)
    assert len(listings) == 3
    assert result.problems == []
    must_be_whole(of_backup(dest))
    assert copied_files(of_backup(dest)) == copied_files(crashed)


def test_a_window_that_begins_while_the_folder_is_listed_is_left_to_the_next_backup(
    crashed: Layout, tmp_path: Path, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recover(crashed, STILL)
    of_window = [
        crashed.archived_tape(PARTS[2]),
        crashed.window_file(PARTS[2]),
    ]
    texts = {path: path.read_bytes() for path in of_window}
    texts[crashed.open_csv("AAPL", PARTS[2])] = b""
    for path in of_window:
        path.unlink()
    remains.running_report().write(crashed.report(SESSION))
    real = data_files._walk

    def walk(root: Path, folder: str) -> object:
        if folder == "csv":
            for path, content in texts.items():
                path.parent.mkdir(exist_ok=True, parents=True)
                path.write_bytes(content)
        return real(root, folder)

    monkeypatch.setattr(data_files, "_walk", walk)
    backup(crashed, dest)
    monkeypatch.undo()
    copy = remains.copy(of_backup(dest), tmp_path / "copy")
    assert [window for window in PARTS if window in copy.session_tapes(SESSION)] == PARTS[:2]
    (recovered,) = recover(copy, STILL)
    assert recovered.balanced
    assert findings(copy) == []
    assert prices(copy) == {"AAPL": [1, 3, 5, 5], "MSFT": [2, 4, 6, 7]}


def test_a_folder_that_never_rests_is_an_error_and_the_last_backup_stays(
    layout: Layout, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(layout, dest)
    before = tree(dest / "data")

    def list_files(layout: Layout) -> object:
        listed = real(layout)
        path = layout.report(SESSION)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
        return listed

    real = data_files.list_files
    monkeypatch.setattr(run, "list_files", list_files)
    with pytest.raises(StoreError, match="change faster than they can be copied"):
        backup(layout, dest)
    assert tree(dest / "data") == before
    must_be_whole(of_backup(dest))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_compacted_date_replaces_the_files_of_its_windows(
    layout: Layout, dest: Path, tmp_path: Path, scheme: str
) -> None:
    place = f"{scheme}{dest}"
    backup(layout, place)
    compact_days(layout, clock=TOMORROW)
    result = backup(layout, place)
    assert (result.copied, result.kept, result.deleted) == (2, 0, 3)  # the date's file and the log
    copy = restored(place, tmp_path)
    must_be_whole(copy)
    assert [path.name for path in copy.dataset.rglob("*.parquet")] == ["day-00001.parquet"]


def test_a_lake_has_no_object_that_its_manifest_does_not_list(layout: Layout, dest: Path) -> None:
    backup(layout, f"file://{dest}")
    compact_days(layout, clock=TOMORROW)
    result = backup(layout, f"file://{dest}")
    assert len(tree(dest)) == result.copied + result.unchanged + 1
    orphan = dest / "files" / "tape" / "orphan"
    orphan.write_bytes(b"of a killed run")
    backup(layout, f"file://{dest}")
    assert orphan.exists()
    backup(layout, f"file://{dest}", delete=True)
    assert not orphan.exists()


def test_a_rotated_log_is_continued(
    layout: Layout, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(layout, dest)
    monkeypatch.setattr("stocktrace.store.audit.ROTATE_BYTES", 1)
    audit = AuditLog(layout.audit, SESSION, STILL)
    audit("one")
    monkeypatch.undo()
    audit("two")
    assert backup(layout, dest).problems == []
    must_be_whole(of_backup(dest))
    assert len(list((dest / "data" / "log").iterdir())) == 2


# --- what is missing or worse at the source -----------------------------------------------------


def test_what_was_deleted_at_the_source_is_deleted_only_if_asked(
    layout: Layout, place: str, tmp_path: Path
) -> None:
    backup(layout, place)
    assert prune_data(layout, tape_retention=0, clock=NEXT_MONTH).tapes == 3
    assert backup(layout, place).kept == 3
    copy = restored(place, tmp_path)
    must_be_whole(copy)
    assert len(copy.session_tapes(SESSION)) == 3
    shutil.rmtree(copy.root)
    result = backup(layout, place, delete=True)
    assert (result.kept, result.deleted) == (0, 3)
    copy = restored(place, tmp_path)
    must_be_whole(copy)
    assert copy.session_tapes(SESSION) == {}


def cut_tape(layout: Layout) -> Path:
    return remains.shorten(layout, PARTS[0], b"MSFT")


def damage_tape(layout: Layout) -> Path:
    path = layout.archived_tape(PARTS[1])
    path.write_bytes(path.read_bytes()[:-5])
    return path


def damage_rows(layout: Layout) -> Path:
    path = layout.window_file(PARTS[0])
    path.write_bytes(path.read_bytes()[:-9])
    return path


def empty_report(layout: Layout) -> Path:
    path = layout.report(SESSION)
    path.write_bytes(b"")
    return path


def cut_log(layout: Layout) -> Path:
    lines = layout.audit.read_bytes().splitlines(keepends=True)
    layout.audit.write_bytes(b"".join(lines[:-1]))
    return layout.audit


@pytest.mark.parametrize("worsen", [cut_tape, damage_tape, damage_rows, empty_report, cut_log])
def test_a_file_is_not_replaced_by_one_that_has_less(
    layout: Layout, place: str, tmp_path: Path, worsen: Callable[[Layout], Path]
) -> None:
    backup(layout, place)
    path = worsen(layout)
    for _ in range(2):
        (problem,) = backup(layout, place).problems
        assert problem.startswith(f"{path} ")
        assert problem.endswith(": the one in the backup was kept.")
    must_be_whole(restored(place, tmp_path))


def test_a_tape_that_grew_and_a_repaired_file_are_copied(layout: Layout, place: str) -> None:
    whole = layout.archived_tape(PARTS[2]).read_bytes()
    remains.shorten(layout, PARTS[2], b'"p":10,')
    backup(layout, place)
    layout.archived_tape(PARTS[2]).write_bytes(whole)
    path = layout.window_file(PARTS[0])
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 0))
    result = backup(layout, place)
    assert (result.copied, result.problems) == (1, [])


def test_a_plain_tape_of_which_the_archive_lacks_frames_stays_in_the_backup(
    crashed: Layout, tmp_path: Path, dest: Path
) -> None:
    backup(crashed, dest)
    tape = crashed.tape(PARTS[1])
    lines = tape.read_bytes().splitlines(keepends=True)
    tape.write_bytes(b"".join(lines[:-1]))  # a power cut
    recover(crashed, STILL)
    (problem,) = backup(crashed, dest).problems
    assert f"{crashed.archived_tape(PARTS[1])} lacks frames of the plain tape" in problem
    kept = of_backup(dest).tape(PARTS[1])
    assert kept.read_bytes() == b"".join(lines)


def test_a_date_that_lacks_a_window_stays_as_it_was(
    layout: Layout, place: str, tmp_path: Path
) -> None:
    compact_days(layout, clock=TOMORROW)
    backup(layout, place)
    (path,) = layout.dataset.rglob("*.parquet")
    path.unlink()
    other = remains.copy(layout, tmp_path / "other")
    list(verify(other, SESSION, repair=True))  # publishes the windows again
    folder = other.window_file(PARTS[0]).parent
    for window in PARTS[:2]:
        shutil.copy(other.window_file(window), layout.root / path.parent)
    assert folder.exists()
    (problem,) = backup(layout, place).problems
    assert "lacks windows that the backup has: it keeps this date" in problem
    copy = restored(place, tmp_path)
    assert prices(copy) == PRICES


def test_an_unreadable_file_does_not_keep_others_from_being_copied(
    layout: Layout, dest: Path
) -> None:
    backup(layout, dest)
    tape = layout.archived_tape(PARTS[0])
    target = tape.with_name("elsewhere")
    tape.rename(target)
    tape.symlink_to(target)  # not followed; its name is left out as others that are missing
    AuditLog(layout.audit, SESSION, STILL)("one")
    result = backup(layout, dest)
    assert (result.copied, result.kept) == (2, 1)
    must_be_whole(of_backup(dest))


def test_a_check_repairs_the_backup_and_finds_what_changed_silently(
    layout: Layout, place: str, dest: Path, tmp_path: Path
) -> None:
    count = backup(layout, place).copied
    assert backup(layout, place, check=True) == BackupResult(unchanged=count)
    name = layout.window_file(PARTS[0]).name
    (copied,) = dest.rglob(f"{name}*")
    copied.write_bytes(bytes(copied.stat().st_size))
    tape = layout.archived_tape(PARTS[0])
    times, text = tape.stat().st_mtime_ns, bytearray(tape.read_bytes())
    text[20] ^= 1
    tape.write_bytes(text)
    os.utime(tape, ns=(times, times))
    assert backup(layout, place) == BackupResult(unchanged=count)
    result = backup(layout, place, check=True)
    assert [Path(repaired).name for repaired in result.repaired] == [name]
    (problem,) = result.problems
    assert problem.startswith(f"{tape} has changed without a new time of change")
    must_be_whole(restored(place, tmp_path))


# --- killed -----------------------------------------------------------------------------------


def killed_at(left: int, work: Callable[[], object]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Killer(patch, left)
        with pytest.raises(Killed):
            work()


def few(pick: Pick, calls: range) -> list[int]:
    """Some of a sample, with the last one; or all."""
    picked = pick(calls)
    return picked if len(picked) == len(calls) else [*picked[::8], picked[-1]]


@SAMPLED
def test_a_first_backup_that_is_killed_anywhere_is_none_or_whole_and_is_continued(
    crashed: Layout, tmp_path: Path, pick: Pick
) -> None:
    calls = calls_of(lambda: backup(crashed, tmp_path / "all"))
    states = set()
    for left in few(pick, calls):
        dest = tmp_path / f"dest-{left}"
        killed_at(left, partial(backup, crashed, dest))
        is_complete = (dest / "data").exists()
        states.add(is_complete)
        if not is_complete:
            backup(crashed, dest)
        copy = remains.copy(of_backup(dest), tmp_path / f"copy-{left}")
        recover(copy, STILL)
        assert prices(copy) == PRICES, left
    assert states == {False, True}
    must_be_whole(copy)


@SAMPLED
def test_a_backup_over_a_compaction_that_is_killed_anywhere_is_the_old_or_the_new_one(
    layout: Layout, tmp_path: Path, pick: Pick
) -> None:
    old = tmp_path / "old"
    backup(layout, old)
    compact_days(layout, clock=TOMORROW)

    def copy_old(name: str) -> Path:
        return Path(shutil.copytree(old, tmp_path / name, symlinks=True))

    calls = calls_of(partial(backup, layout, copy_old("all")))
    names = set()
    for left in few(pick, calls):
        dest = copy_old(f"dest-{left}")
        killed_at(left, partial(backup, layout, dest))
        names.add(tuple(path.name[:3] for path in of_backup(dest).dataset.rglob("*.parquet")))
        must_be_whole(of_backup(dest))
        assert backup(layout, dest).problems == []
        assert copied_files(of_backup(dest)) == copied_files(layout)
        assert sum(path.name.startswith("tree-") for path in dest.iterdir()) == 1
    assert names == {("202",) * 3, ("day",)}


def test_a_killed_run_is_continued_where_it_was(
    layout: Layout, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(lambda: backup(layout, dest.with_name("all")))
    killed_at(len(calls) * 2 // 3, lambda: backup(layout, dest))
    names = []
    add = folder_copy.FolderCopy.add

    def counted(self: folder_copy.FolderCopy, name: str, *file: object) -> object:
        names.append(name)
        return add(self, name, *file)  # type: ignore[arg-type]

    monkeypatch.setattr(folder_copy.FolderCopy, "add", counted)
    assert backup(layout, dest).copied - len(names) > 0
    must_be_whole(of_backup(dest))


@pytest.mark.parametrize(
    "share", [0.5, *(pytest.param(at, marks=pytest.mark.slow) for at in (0.1, 0.95))]
)
def test_a_backup_in_a_lake_that_is_killed_stays_the_one_before(
    layout: Layout, dest: Path, tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"file://{dest}"
    backup(layout, place)
    compact_days(layout, clock=TOMORROW)
    layout.report(SESSION).write_text(layout.report(SESSION).read_text() + " ")
    requests: list[str] = []

    def counting(name: str, left: float) -> None:
        call = getattr(Lake, name)

        def counted(*arguments: object) -> object:
            requests.append(name)
            if len(requests) > left:
                raise Killed
            return call(*arguments)

        monkeypatch.setattr(Lake, name, counted)

    copy = shutil.copytree(dest, tmp_path / "copy")
    for name in ("upload", "put_bytes", "delete"):
        counting(name, float("inf"))
    backup(layout, f"file://{copy}")
    most = len(requests)
    monkeypatch.undo()
    requests.clear()
    for name in ("upload", "put_bytes", "delete"):
        counting(name, most * share)
    with pytest.raises(Killed):
        backup(layout, place)
    monkeypatch.undo()
    must_be_whole(restored(place, tmp_path))
    backup(layout, place)
    shutil.rmtree(tmp_path / "restored")
    assert copied_files(restored(place, tmp_path)) == copied_files(layout)


# --- an S3 store ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backup_in_an_s3_store_is_restored_from_it(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3(tmp_path / "s3") as store:
        for name, text in store.env.items():
            monkeypatch.setenv(name, text)
        place = store.url("backup")
        backup(layout, place)
        compact_days(layout, clock=TOMORROW)
        assert backup(layout, place).copied == 2
        copy = restored(place, tmp_path)
    must_be_whole(copy)
    assert copied_files(copy) == copied_files(layout)


# --- restore ----------------------------------------------------------------------------------


def test_a_restored_folder_is_the_folder_and_restoring_again_changes_nothing(
    layout: Layout, place: str, tmp_path: Path
) -> None:
    backup(layout, place)
    copy = restored(place, tmp_path)
    assert copied_files(copy) == copied_files(layout)
    again = restore(copy, place)
    assert (again.restored, again.present) == (0, len(copied_files(layout)))
    must_be_whole(copy)


def test_restoring_completes_the_same_folder_and_replaces_nothing(
    layout: Layout, place: str
) -> None:
    backup(layout, place)
    files = copied_files(layout)
    layout.archived_tape(PARTS[0]).unlink()
    shutil.rmtree(layout.dataset)
    report = layout.report(SESSION)
    report.write_text("{}")
    result = restore(layout, place)
    assert result.restored == 4
    assert result.problems == [f"{report} differs from the backup: it was kept."]
    assert report.read_text() == "{}"
    report.unlink()
    assert restore(layout, place).restored == 1
    assert copied_files(layout) == files
    must_be_whole(layout)


def test_an_older_backup_is_restored_into_a_compacted_and_recovered_folder_without_rows_twice(
    crashed: Layout, tmp_path: Path, place: str
) -> None:
    backup(crashed, place)
    recover(crashed, STILL)
    compact_days(crashed, clock=TOMORROW)
    crashed.archived_tape(PARTS[0]).unlink()
    result = restore(crashed, place)
    assert result.restored == 1  # the tape
    assert result.left_out > 0
    (problem,) = result.problems  # the report has more
    assert str(crashed.report(SESSION)) in problem
    must_be_whole(crashed)


def test_restoring_is_refused_while_a_session_runs(layout: Layout, dest: Path) -> None:
    backup(layout, dest)
    before = copied_files(layout)
    with (
        lock.hold_lock(layout.lock(SESSION), {}),
        pytest.raises(UsageError, match=f"Session {SESSION} is running"),
    ):
        restore(layout, str(dest))
    assert copied_files(layout) == before


def test_restoring_is_refused_over_other_data(layout: Layout, dest: Path, tmp_path: Path) -> None:
    backup(layout, dest)
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("")
    with pytest.raises(UsageError, match="has other data than the backup"):
        restore(Layout(other), str(dest))
    assert tree(other) == ["letter.txt"]


@SAMPLED
def test_a_restore_that_is_killed_anywhere_is_completed_by_the_next(
    layout: Layout, dest: Path, tmp_path: Path, pick: Pick
) -> None:
    backup(layout, dest)
    calls = calls_of(lambda: restore(Layout(tmp_path / "all"), str(dest)))
    for left in few(pick, calls):
        copy = Layout(tmp_path / f"copy-{left}")
        killed_at(left, partial(restore, copy, str(dest)))
        assert restore(copy, str(dest)).problems == []
        assert copied_files(copy) == copied_files(layout), left
        assert [name for name in tree(copy.root) if name.endswith(".tmp")] == []
    must_be_whole(copy)


def test_a_damaged_file_is_not_restored(layout: Layout, dest: Path, tmp_path: Path) -> None:
    backup(layout, dest)
    of_backup(dest).archived_tape(PARTS[0]).write_bytes(b"x")
    report = of_backup(dest).report(SESSION)
    report.write_bytes(bytes(report.stat().st_size))
    copy = Layout(tmp_path / "restored")
    first, second = restore(copy, str(dest)).problems
    assert f"sessions/{SESSION}.json is damaged in the backup" in first
    assert ".tape.zst is missing or damaged in the backup" in second
    assert not copy.report(SESSION).exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "tape/../../x", "other/x", "tape"])
def test_a_manifest_cannot_name_files_outside_of_the_folder(
    layout: Layout, dest: Path, tmp_path: Path, name: str
) -> None:
    backup(layout, f"file://{dest}")
    with (dest / "manifest.jsonl").open("a") as file:
        file.write(json.dumps([name, 1, 1, 1, 1, "0" * 64]) + "\n")
    with pytest.raises(StoreError, match="cannot be read: make a new one"):
        restore(Layout(tmp_path / "restored"), f"file://{dest}")
    assert not (tmp_path / "restored").exists()


# --- wrong usage, and the command -------------------------------------------------------------


def fill(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "letter.txt").write_text("")


@pytest.fixture
def refused(layout: Layout, tmp_path: Path, a_dead_session: Layout) -> dict[str, Path]:
    fill(tmp_path / "full")
    other = remains.copy(a_dead_session, tmp_path / "other-source")
    AuditLog(other.audit, SESSION, TOMORROW)("begin")
    backup(other, tmp_path / "of-another")
    (tmp_path / "file").write_text("")
    return {
        "is neither empty nor a backup": tmp_path / "full",
        "has a backup of another data folder": tmp_path / "of-another",
        "is inside the other": layout.root / "backup",
        "One of": tmp_path,
        "Not a directory": tmp_path / "file",
    }


def test_a_place_that_is_not_one_for_this_backup_is_refused_with_a_sentence(
    layout: Layout, refused: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for text, place in refused.items():
        status = cli.run(["backup", str(place), "--data-dir", str(layout.root)])
        error = capsys.readouterr().err
        assert (status, error.count("\n")) == (2, 1), error
        assert text in error
    status = cli.run(["backup", "x", "--data-dir", str(refused["is neither empty nor a backup"])])
    assert (status, "is not a data folder" in capsys.readouterr().err) == (2, True)
    assert cli.run(["restore", str(refused["One of"]), "--data-dir", str(layout.root)]) == 2
    assert "does not have a complete backup" in capsys.readouterr().err


def test_two_backups_at_once_are_refused(layout: Layout, dest: Path) -> None:
    backup(layout, dest)
    with (
        lock.hold_lock(dest / "backup.lock", {}),
        pytest.raises(StoreError, match="Another process makes a backup"),
    ):
        backup(layout, dest)


def test_the_commands_say_what_they_did(
    layout: Layout, dest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--data-dir", str(layout.root)]
    assert cli.run(["backup", str(dest), *source]) == 0
    count = len(copied_files(layout))
    assert capsys.readouterr().out.startswith(f"{count} files of ")
    cut_log(layout)
    assert cli.run(["backup", str(dest), *source, "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["unchanged"] == count
    assert captured.err.startswith(f"stocktrace: {layout.audit} lacks lines that the backup has")
    assert cli.run(["restore", str(dest), "--data-dir", str(tmp_path / "restored")]) == 0
    assert capsys.readouterr().out.startswith(f"{count} files of ")


def test_a_full_disk_is_a_sentence_and_the_last_backup_stays(
    layout: Layout, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(layout, dest)
    compact_days(layout, clock=TOMORROW)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(StoreError, match=r"is full\. Make room, then run the command again"):
        backup(layout, dest)
    monkeypatch.undo()
    must_be_whole(of_backup(dest))
    assert backup(layout, dest).copied == 2

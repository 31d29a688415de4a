from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stocktrace.errors import ConversionError, StoreError
from stocktrace.query.coverage import read_coverage
from stocktrace.record import publish as module
from stocktrace.record import recovery
from stocktrace.record.file_hashes import hash_files
from stocktrace.record.publish import rebuild_window
from stocktrace.record.recovery import RecoveredSession, recover
from stocktrace.sessions import catalog
from stocktrace.sessions.report import Books, GapReport, SessionReport
from stocktrace.store import conversion, files, lock
from stocktrace.store.audit import AuditLog, check_audit_log
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.segments import SegmentWriter
from stocktrace.store.tape import TapeReader
from stocktrace.units import utc_datetime
from stocktrace.verify import verify
from tests import remains
from tests.conftest import (
    SESSION,
    Scenario,
    Studio,
    all_of,
    connected,
    frame,
    published,
    sent,
    tree,
)
from tests.dying import Killed, Killer, calls_of
from tests.remains import PARTS, PRICES, STILL, TICKERS, TORN, prices, problems, snapshot, stamp
from tests.sampling import SAMPLED, Pick

DATE = "2026-11-23"


@pytest.fixture
def layout(a_dead_session: Layout, tmp_path: Path) -> Layout:
    return remains.copy(a_dead_session, tmp_path / "data")


def findings(layout: Layout) -> list[Any]:
    return list(verify(layout, SESSION))


# --- what it comes to --------------------------------------------------------------------------


def test_the_data_of_a_killed_session_is_published_each_trade_once(layout: Layout) -> None:
    assert recover(layout, STILL) == [RecoveredSession(SESSION, 3, 12, len(TORN), balanced=True)]
    assert prices(layout) == PRICES
    stems = [window.stem for window in PARTS]
    assert tree(layout.root) == sorted(
        [
            f"coverage/date={DATE}/{SESSION}.parquet",
            "log/audit.jsonl",
            "log/audit.lock",
            *(f"parquet/date={DATE}/{stem}.parquet" for stem in stems),
            *(f"quarantine/{stem}.jsonl" for stem in stems[:2]),
            f"sessions/{SESSION}.json",
            f"sessions/{SESSION}.lock",
            *(f"tape/{SESSION}/{window.window}.tape.zst" for window in PARTS),
            f"tape/{SESSION}/{PARTS[2].window}.torn",
        ]
    )
    assert (layout.tapes(SESSION) / f"{PARTS[2].window}.torn").read_bytes() == TORN
    assert findings(layout) == []
    assert list(check_audit_log(layout.audit)) == []


def test_the_report_of_a_recovered_session_agrees_with_the_tape(layout: Layout) -> None:
    recover(layout, STILL)
    report = SessionReport.read(layout.report(SESSION))
    died = "its process crashed; its last line is from 2026-11-23 14:32:02 UTC"
    torn = f"{len(TORN)} torn bytes set aside"
    assert (report.state, report.reason) == ("recovered", f"{died}; {torn}")
    assert report.ended == utc_datetime(stamp(2, 2))
    assert report.books == Books(11, 9, 1, 1, 14, 12, 2)
    assert sorted(report.windows) == [window.window for window in PARTS]
    assert report.unpublished == []
    assert report.reconnects == 1
    counts = {name: (one.recorded, one.quarantined, one.parquet)
              for name, one in report.per_ticker.items()}  # fmt: skip
    assert counts == {"AAPL": (6, 1, 6), "MSFT": (4, 1, 4), "7203": (2, 0, 2)}
    sizes = [layout.window_file(window).stat().st_size for window in PARTS]
    assert (report.files, report.size) == (3, sum(sizes))
    assert report.gaps == [
        GapReport(utc_datetime(stamp(0, 0)), utc_datetime(stamp(0, 1)), "connecting", 3),
        GapReport(
            utc_datetime(stamp(1, 5)), utc_datetime(stamp(1, 10)), "closed by the server (1001)", 3
        ),
    ]
    assert (report.host, report.settings) == ("elsewhere", {"roll_interval": 60.0})


def test_the_coverage_of_a_crashed_session_ends_with_its_last_line(layout: Layout) -> None:
    recover(layout, STILL)
    coverage = read_coverage("AAPL", data_dir=layout.root)
    zero = pd.Timestamp(stamp(0, 0), tz="UTC")
    starts, ends = ((coverage[name] - zero).dt.total_seconds() for name in ("start", "end"))
    assert list(zip(starts, ends, coverage["state"], strict=True)) == [
        (0, 1, "gap"),
        (1, 65, "listening"),
        (65, 70, "gap"),
        (70, 122, "listening"),
    ]


def test_recovering_again_changes_nothing(layout: Layout) -> None:
    recover(layout, STILL)
    before, log = snapshot(layout), layout.audit.read_bytes()
    assert recover(layout, STILL) == []
    assert (snapshot(layout), layout.audit.read_bytes()) == (before, log)


def test_an_empty_folder_is_recovered(tmp_path: Path) -> None:
    assert recover(Layout(tmp_path)) == []
    assert tree(tmp_path) == []


def test_temporary_files_are_deleted(layout: Layout) -> None:
    remains.litter(layout)
    foreign = layout.tapes(SESSION) / ".somebody.else"
    foreign.touch()
    recover(layout, STILL)
    assert [name for name in tree(layout.root) if "/." in f"/{name}"] == [
        f"tape/{SESSION}/.somebody.else"
    ]
    assert prices(layout) == PRICES


def test_temporary_files_of_a_running_process_stay_whatever_its_pid(layout: Layout) -> None:
    scratch = layout.root / f".scratch.{remains.NOBODY}.abc"
    staged = layout.converting / f".{PARTS[0].stem}.parquet.0a1b2c3d.{remains.NOBODY}.tmp"
    scratch.mkdir()
    staged.parent.mkdir(exist_ok=True)
    staged.touch()
    program = (
        "import fcntl, os, sys\n"
        "for path in sys.argv[1:]: fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)\n"
        "print('locked', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, scratch, staged],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        recover(layout, STILL)
        assert scratch.is_dir()
        assert staged.exists()
        other.communicate(b"\n")
    recover(layout, STILL)
    assert not scratch.exists()
    assert not staged.exists()


def test_temporary_files_of_another_thread_stay(layout: Layout) -> None:
    other_session(layout)
    with files.temporary_folder(layout.scratch) as scratch:
        recover(layout, STILL)
        assert scratch.is_dir()


def test_abandoned_temporary_files_are_deleted_though_a_process_has_their_pid(
    layout: Layout,
) -> None:
    number = os.getppid()
    scratch = layout.root / f".scratch.{number}.abc"
    scratch.mkdir()
    recover(layout, STILL)
    assert not scratch.exists()


def test_an_unfinished_link_in_the_outbox_is_deleted(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    layout = replace(layout, lake=f"file://{tmp_path}/lake")
    recover(layout, STILL)
    left = layout.outbox(SESSION) / "parquet" / ".half.parquet.0a1b2c3d.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    recover(layout, STILL)
    assert not layout.outbox(SESSION).exists()


UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc"]


def a_pid_namespace() -> list[str]:
    """The command that runs another one in a PID namespace of its own."""
    for unshare in (UNSHARE, [*UNSHARE, "--map-root-user"]):
        with contextlib.suppress(OSError):
            if not subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
                return unshare
    pytest.skip("this system does not let us make a PID namespace")


def test_what_a_killed_check_of_renames_left_is_deleted(layout: Layout) -> None:
    left = [folder / ".probe.0a1b2c3d.tmp" for pair in layout.renames for folder in pair]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    recover(layout, STILL)
    assert not any(path.exists() for path in left)


def test_68_a_recovery_in_another_pid_namespace_leaves_a_live_capture_alone(studio: Studio) -> None:
    layout, convert, ended = Layout(studio.data_dir), conversion.write_window_file, list[int]()
    program = "from stocktrace.cli import main; main()"
    elsewhere = [*a_pid_namespace(), sys.executable, "-c", program]

    def converting(*arguments: Any, **options: Any) -> Any:
        """What a capture does on its publishing thread, while the other process recovers."""
        made = convert(*arguments)
        with files.temporary_folder(layout.scratch):
            before = layout.orphaned_temporaries()
            command = [*elsewhere, "recover", "--data-dir", str(layout.root)]
            ended.append(subprocess.run(command, check=False).returncode)
            assert len(before) == 2
            assert layout.orphaned_temporaries() == before
        return made

    def scenario() -> Scenario:
        yield connected
        exchange.send_raw(frame(("TSLA", 1)))
        yield all_of(exchange)

    with pytest.MonkeyPatch.context() as patch, studio.exchange() as exchange:
        patch.setattr(conversion, "write_window_file", converting)
        studio.record(exchange, ["TSLA"], scenario())
    assert ended == [0]
    assert prices(layout) == {"TSLA": [1.0]}
    assert problems(layout) == []


# --- killed at any step ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcome(a_dead_session: Layout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed recovery makes of it."""
    undisturbed = remains.copy(a_dead_session, tmp_path_factory.mktemp("whole") / "data")
    recover(undisturbed, STILL)
    return snapshot(undisturbed)


@SAMPLED
def test_killed_at_any_system_call_the_next_run_does_the_rest(
    a_dead_session: Layout,
    outcome: dict[str, Any],
    tmp_path: Path,
    pick: Pick,
) -> None:
    unharmed = remains.copy(a_dead_session, tmp_path / "unharmed")
    calls = calls_of(lambda: recover(unharmed, STILL))
    assert len(calls) > 60
    for call in pick(calls):
        layout = remains.copy(a_dead_session, tmp_path / str(call))
        with pytest.MonkeyPatch.context() as patch:
            Killer(patch, call)
            with pytest.raises(Killed):
                recover(layout, STILL)
        recover(layout, STILL)
        assert snapshot(layout) == outcome, f"killed at system call {call}"
        assert list(check_audit_log(layout.audit)) == []
        shutil.rmtree(layout.root)


def test_killed_twice_the_result_is_the_same(
    a_dead_session: Layout, outcome: dict[str, Any], tmp_path: Path
) -> None:
    for first, second in ((10, 10), (40, 5), (25, 60)):
        layout = remains.copy(a_dead_session, tmp_path / f"{first}-{second}")
        for call in (first, second):
            with pytest.MonkeyPatch.context() as patch:
                Killer(patch, call)
                with pytest.raises(Killed):
                    recover(layout, STILL)
        recover(layout, STILL)
        assert snapshot(layout) == outcome


STEPS = [
    "rebuild_window",
    "archive_tape",
    "convert_window",
    "recount_report",
    "_close_report",
    "repair_tape",
    "write_coverage",
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_can_be_done_again(
    layout: Layout, outcome: dict[str, Any], monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    home = {
        "rebuild_window": "stocktrace.record.publish",
        "archive_tape": "stocktrace.record.publish",
        "convert_window": "stocktrace.store.conversion",
    }.get(step, "stocktrace.record.recovery")
    work = getattr(sys.modules[home], step)

    def failing(*arguments: Any, **options: Any) -> Any:
        if after:
            work(*arguments, **options)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(f"{home}.{step}", failing)
    with pytest.raises(StoreError, match="Input/output error"):
        recover(layout, STILL)
    monkeypatch.undo()
    recover(layout, STILL)
    assert snapshot(layout) == outcome


def test_a_failed_session_whose_recovery_was_killed_late_is_recovered_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the soak: all tapes archived, all published, and the report knows none of it."""
    report = SessionReport.read(layout.report(SESSION))
    report.state, report.unpublished = "failed", []
    report.write(layout.report(SESSION))

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(recovery, "recount_report", killed)
    with pytest.raises(Killed):
        recover(layout, STILL)
    monkeypatch.undo()
    (recovered,) = recover(layout, STILL)
    assert recovered.balanced
    assert SessionReport.read(layout.report(SESSION)).state == "failed"


# --- two tapes of one window -------------------------------------------------------------------


@pytest.fixture
def twice(a_whole_session: Layout, tmp_path: Path) -> Layout:
    """A folder that was copied once more when its session had ended."""
    return remains.copy(a_whole_session, tmp_path / "twice")


def put_tape(layout: Layout, window: WindowId, change: Callable[[bytes], bytes] = bytes) -> bytes:
    """The tape of a window as a plain one beside its archive, changed."""
    remains.write_tape(layout, window, remains.ENTRIES[window.number - 1])
    text = change(layout.tape(window).read_bytes())
    layout.tape(window).write_bytes(text)
    return text


@pytest.mark.parametrize("size", [0, 300, None])
def test_a_tape_that_the_archive_contains_is_deleted(twice: Layout, size: int | None) -> None:
    before = snapshot(twice)
    put_tape(twice, PARTS[1], lambda text: text[:size])
    open_segment = twice.open_csv("AAPL", PARTS[1])
    open_segment.parent.mkdir(parents=True, exist_ok=True)
    open_segment.write_bytes(b"symbol,ts_event,ts_recv,price,volume,conditions\nAAPL,2026-")
    assert recover(twice, STILL) == [RecoveredSession(SESSION, 1, 0, len(TORN), balanced=True)]
    assert snapshot(twice) == before
    assert findings(twice) == []


def test_a_tape_that_differs_from_the_archive_is_set_aside_and_reported(twice: Layout) -> None:
    text = put_tape(twice, PARTS[1], lambda text: text.replace(b'"p":6,', b'"p":9,'))
    before = snapshot(twice)
    recover(twice, STILL)
    tape = twice.tape(PARTS[1])
    aside = tape.with_name(f"{tape.name}.aside-1")
    assert aside.read_bytes() == text
    said = (
        f"window {PARTS[1].window} had two tapes that differ: {tape.name}.zst was kept, "
        f"the other was set aside as {aside.name}"
    )
    report = SessionReport.read(twice.report(SESSION))
    assert report.notices == [said]
    lines = [json.loads(line) for line in twice.audit.read_text().splitlines()]
    (line,) = [each for each in lines if each["event"] == "aside"]
    assert (line["file"], line["size"]) == (str(aside), len(text))
    assert [each.path for each in findings(twice)] == [aside]
    aside.unlink()
    changed = {name for name, content in snapshot(twice).items() if before.get(name) != content}
    assert changed == {f"sessions/{SESSION}.json"}
    assert prices(twice) == PRICES
    assert recover(twice, STILL) == []


def test_a_damaged_archive_is_set_aside_for_a_tape_that_has_more(twice: Layout) -> None:
    archived = twice.archived_tape(PARTS[1])
    whole, cut = archived.read_bytes(), archived.read_bytes()[:-3]
    put_tape(twice, PARTS[1])
    archived.write_bytes(cut)
    recover(twice, STILL)
    assert archived.read_bytes() == whole
    aside = archived.with_name(f"{archived.name}.aside-1")
    assert aside.read_bytes() == cut
    assert prices(twice) == PRICES
    assert [each.path for each in findings(twice)] == [aside]


def test_a_tape_that_has_more_than_the_archive_replaces_it_and_is_published_by_a_repair(
    twice: Layout,
) -> None:
    """The archive of a copy that was recovered while the original went on."""
    put_tape(twice, PARTS[1], lambda text: text + b"%d\t%s\n" % (stamp(1, 20), frame(("AAPL", 6))))
    recover(twice, STILL)
    assert not twice.plain_tapes(SESSION)
    assert not twice.tapes_aside(SESSION)
    assert all(each.repaired for each in verify(twice, SESSION, repair=True))
    assert findings(twice) == []
    assert prices(twice) == {**PRICES, "AAPL": [1, 3, 5, 5, 6, 8, 10]}


def test_killed_at_any_system_call_it_loses_no_tape(
    a_whole_session: Layout, tmp_path: Path
) -> None:
    call = 0
    while True:
        layout = remains.copy(a_whole_session, tmp_path / str(call))
        text = put_tape(layout, PARTS[0], lambda text: text.replace(b'"p":2,', b'"p":9,'))
        put_tape(layout, PARTS[1], lambda text: text[:300])
        archives = {path: path.read_bytes() for path in layout.archived_tapes()}
        with pytest.MonkeyPatch.context() as patch:
            try:
                Killer(patch, call)
                recover(layout, STILL)
            except Killed:
                pass
            else:
                break
            finally:
                patch.undo()
        recover(layout, STILL)
        assert {path: path.read_bytes() for path in layout.archived_tapes()} == archives
        (aside,) = layout.tapes_aside(SESSION)
        assert aside.read_bytes() == text
        assert prices(layout) == PRICES
        assert [each.path for each in findings(layout)] == [aside], call
        shutil.rmtree(layout.root)
        call += 1
    assert call > 8


def test_a_window_that_is_rebuilt_has_a_hash_of_its_quarantine_again(twice: Layout) -> None:
    """Its order is that of batches, which the tape does not know."""
    path = twice.quarantine(PARTS[0])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(reversed(lines)))
    report = SessionReport.read(twice.report(SESSION))
    hash_files(twice, report, [twice.coverage(SESSION, DATE)])
    report.write(twice.report(SESSION))
    AuditLog(twice.audit, SESSION)("recover", report=report.digests())
    assert findings(twice) == []
    twice.archived_tape(PARTS[0]).unlink()
    put_tape(twice, PARTS[0])
    recover(twice, STILL)
    assert path.read_text() == "".join(lines)
    assert findings(twice) == []


# --- torn tapes --------------------------------------------------------------------------------

ONE = WindowId(SESSION, PARTS[0].window)


@SAMPLED
def test_a_tape_torn_at_any_byte_gives_every_complete_line_and_no_wrong_row(
    tmp_path: Path, pick: Pick
) -> None:
    lines = [
        b"%d\t%s\n" % (stamp(0, n), frame(("AAPL", 122.125 + n), v=10 * n)) for n in range(1, 4)
    ]
    text = b"".join(lines)
    end = len(lines[0]) + len(lines[1])
    for size in (*range(end - 2, end + 2), *pick(range(end + 2, len(text) + 1))):
        layout = Layout(tmp_path / str(size))
        tape = layout.tape(ONE)
        tape.parent.mkdir(parents=True)
        tape.write_bytes(text[:size])
        (recovered,) = recover(layout, STILL)
        complete = text[:size].count(b"\n")
        rest = text[sum(map(len, lines[:complete])) : size]
        assert prices(layout) == {"AAPL": [122.125 + n for n in range(1, complete + 1)]}
        assert (recovered.rows, recovered.torn_bytes) == (complete, len(rest))
        aside = layout.tapes(SESSION) / f"{ONE.window}.torn"
        assert (aside.read_bytes() if aside.exists() else b"") == rest
        assert SessionReport.read(layout.report(SESSION)).books.recorded == complete
        shutil.rmtree(layout.root)


@pytest.mark.parametrize("text", [b"", b"1795444", b"1795444200000000000\t{"])
def test_a_tape_without_a_complete_line_is_a_window_without_trades(
    tmp_path: Path, text: bytes
) -> None:
    layout = Layout(tmp_path)
    layout.tape(ONE).parent.mkdir(parents=True)
    layout.tape(ONE).write_bytes(text)
    assert recover(layout, STILL) == [RecoveredSession(SESSION, 1, 0, len(text), balanced=True)]
    assert published(tmp_path) == {}
    assert list(TapeReader(layout.archived_tape(ONE))) == []
    assert findings(layout) == []


def test_a_line_longer_than_a_block_is_cut_where_it_began(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    good = b"%d\t%s\n" % (stamp(0, 1), frame(("AAPL", 1)))
    layout.tape(ONE).parent.mkdir(parents=True)
    layout.tape(ONE).write_bytes(good + b"x" * 200_000)
    assert recover(layout, STILL) == [RecoveredSession(SESSION, 1, 1, 200_000, balanced=True)]


# --- who is dead -------------------------------------------------------------------------------


def test_a_running_session_is_not_touched(layout: Layout) -> None:
    with lock.hold_lock(layout.lock(SESSION), {}):
        before = snapshot(layout)
        assert recover(layout, STILL) == []
        assert snapshot(layout) == before


def test_a_session_of_a_killed_process_has_crashed(layout: Layout) -> None:
    script = (
        "import sys, pathlib; from stocktrace.store import lock\n"
        "with lock.hold_lock(pathlib.Path(sys.argv[1]), {}): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", script, str(layout.lock(SESSION))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert recover(layout, STILL) == []
        process.kill()
    assert [one.session for one in recover(layout, STILL)] == [SESSION]


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"session": 1}', "\ud800"])
def test_a_missing_or_damaged_report_is_rebuilt_from_the_tape(
    layout: Layout, text: str | None
) -> None:
    path = layout.report(SESSION)
    if text is None:
        path.unlink()
    else:
        path.write_text(text, errors="surrogatepass")
    (recovered,) = recover(layout, STILL)
    report = SessionReport.read(path)
    assert recovered.balanced
    assert (report.tickers, report.started) == (TICKERS, utc_datetime(stamp(0, 0)))
    assert report.books == Books(11, 9, 1, 1, 14, 12, 2)
    assert findings(layout) == []


def test_a_damaged_report_of_a_session_that_ended_is_rebuilt(layout: Layout) -> None:
    recover(layout, STILL)
    before = json.loads(layout.report(SESSION).read_text())
    layout.report(SESSION).write_text("{")
    (recovered,) = recover(layout, STILL)
    assert recovered.balanced
    after = json.loads(layout.report(SESSION).read_text())
    names = ("books", "windows", "per_ticker", "gaps", "tickers", "ended")
    assert [after[name] for name in names] == [before[name] for name in names]


def test_a_session_that_crashed_before_its_tape_has_no_data(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    remains.running_report().write(layout.report(SESSION))
    assert recover(layout, STILL) == [RecoveredSession(SESSION, 0, 0, 0, balanced=True)]
    assert recover(layout, STILL) == []


def test_sealed_segments_of_a_session_that_ended_are_published(layout: Layout) -> None:
    recover(layout, STILL)
    report = SessionReport.read(layout.report(SESSION))
    report.state, report.unpublished = "interrupted", [PARTS[1].window]
    report.write(layout.report(SESSION))
    (recovered,) = recover(layout, STILL)
    assert (recovered.rows, recovered.balanced) == (0, True)
    assert SessionReport.read(layout.report(SESSION)).state == "interrupted"


def test_an_open_segment_beside_an_archived_tape_is_rebuilt(layout: Layout) -> None:
    """As after a power cut that took the segment's new name back."""
    recover(layout, STILL)
    report = SessionReport.read(layout.report(SESSION))
    report.state = "running"
    report.write(layout.report(SESSION))
    layout.window_file(PARTS[1]).unlink()
    layout.open_csv("MSFT", PARTS[1]).write_text("half")
    (recovered,) = recover(layout, STILL)
    assert (recovered.rows, recovered.balanced) == (4, True)
    assert prices(layout) == PRICES


def test_segments_of_a_published_window_that_a_power_cut_brought_back_are_deleted(
    a_whole_session: Layout, tmp_path: Path
) -> None:
    layout = remains.copy(a_whole_session, tmp_path / "data")
    before = tree(layout.root)
    report = SessionReport.read(layout.report(SESSION))
    report.state = "running"
    report.write(layout.report(SESSION))
    layout.csv("AAPL", PARTS[1]).write_bytes(b"")
    (recovered,) = recover(layout, STILL)
    assert recovered.balanced
    assert tree(layout.root) == before
    assert findings(layout) == []


def test_70_open_segments_whose_tape_a_power_cut_took_are_set_aside_and_reported(
    layout: Layout,
) -> None:
    layout.tape(PARTS[2]).unlink()
    (segment,) = layout.open_segments(PARTS[2])
    rows = segment.read_bytes()
    (recovered,) = recover(layout, STILL)
    report = catalog.read_report(layout, SESSION)
    assert report is not None
    (notice,) = report.notices
    assert notice == (
        f"window {PARTS[2].window} has no tape, as after a power cut: without it, 1 open segment "
        f"cannot be published; what was in them is kept as csv/<ticker>/{PARTS[2].stem}.aside"
    )
    assert segment.with_name(f"{PARTS[2].stem}.aside").read_bytes() == rows
    assert recovered.balanced
    assert layout.all_segments() == []
    assert findings(layout) == []


def test_70_segments_whose_deletion_a_power_cut_undid_are_deleted_again(layout: Layout) -> None:
    before = {path: path.read_bytes() for path in layout.all_segments()}
    rebuild_window(layout, PARTS[2])
    before |= {path: path.read_bytes() for path in layout.sealed_segments()}
    recover(layout, STILL)
    whole = snapshot(layout)
    for path, content in before.items():
        path.write_bytes(content)
    assert [each.session for each in recover(layout, STILL)] == [SESSION]
    assert snapshot(layout) == whole
    assert recover(layout, STILL) == []


def test_a_session_that_another_process_just_recovered_is_skipped(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = catalog.sessions_to_recover

    def late(layout: Layout) -> list[str]:
        names = listed(layout)
        monkeypatch.undo()
        recover(layout, STILL)
        return names

    monkeypatch.setattr(catalog, "sessions_to_recover", late)
    assert recover(layout, STILL) == []


def test_of_two_recoveries_at_once_one_does_the_work(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = recovery._recover_claimed
    at_work, go_on = threading.Event(), threading.Event()
    done: list[RecoveredSession] = []

    def waiting(*arguments: Any) -> RecoveredSession:
        at_work.set()
        assert go_on.wait(30)
        return work(*arguments)

    monkeypatch.setattr(recovery, "_recover_claimed", waiting)
    first = threading.Thread(target=lambda: done.extend(recover(layout, STILL)))
    first.start()
    assert at_work.wait(30)
    assert recover(layout, STILL) == []
    go_on.set()
    first.join(30)
    assert [one.session for one in done] == [SESSION]
    assert prices(layout) == PRICES


STEPS_OF_A_CONVERSION = {
    "rebuilding": (SegmentWriter, "write"),
    "archiving": (module, "archive_tape"),
    "converting": (conversion, "write_window_file"),
    "publishing": (conversion, "_delete_segment"),
}


@pytest.mark.parametrize("step", STEPS_OF_A_CONVERSION)
def test_66_a_recovery_waits_for_the_conversion_that_a_cancelled_capture_began(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target, name = STEPS_OF_A_CONVERSION[step]
    work: Any = getattr(target, name)
    at_work, go_on, is_first = threading.Event(), threading.Event(), iter([True])

    def waiting(*arguments: Any, **options: Any) -> Any:
        made = work(*arguments, **options)
        if next(is_first, False):
            at_work.set()
            assert go_on.wait(30)
        return made

    lock_folder = lock.lock_folder

    def asking(path: Path, *, exclusive: bool) -> contextlib.AbstractContextManager[None]:
        if at_work.is_set() and path == layout.tapes(SESSION):
            go_on.set()
        return lock_folder(path, exclusive=exclusive)

    monkeypatch.setattr(target, name, waiting)
    monkeypatch.setattr(lock, "lock_folder", asking)
    with ThreadPoolExecutor(2) as pool:
        converting = pool.submit(module.publish_window, layout, PARTS[1], whole=False)
        assert at_work.wait(30)
        recovering = pool.submit(recover, layout, STILL)
        recovering.add_done_callback(lambda _: go_on.set())
        assert converting.result(60).rebuilt_window is not None
        (one,) = recovering.result(60)
    assert one.balanced
    assert prices(layout) == PRICES
    assert problems(layout) == []


def test_a_check_whether_a_session_runs_does_not_prevent_its_recovery(
    layout: Layout,
) -> None:
    """``is_held`` takes the lock for a moment."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            lock.is_locked(layout.lock(SESSION))

    layout.lock(SESSION).touch()
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(200):
            with lock.hold_lock(layout.lock(SESSION), {}):
                pass
    finally:
        stop.set()
        asking.join(30)


def other_session(layout: Layout) -> str:
    """One more dead session in the folder."""
    name = "20261123T150000Z_abcdef"
    window = WindowId(name, PARTS[0].window)
    remains.write_tape(layout, window, [remains.read(0, 1, frame(("AAPL", 99)))])
    return name


def test_a_session_that_cannot_be_recovered_does_not_prevent_others(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    other = other_session(layout)
    layout.window_file(PARTS[0]).write_bytes(b"PAR1 and no more")
    with pytest.raises(ConversionError) as caught:
        recover(layout, STILL)
    assert str(caught.value).startswith(f"{layout.window_file(PARTS[0])} cannot be read: ")
    advice = " Run `stocktrace verify --repair`, then `stocktrace recover`."
    assert str(caught.value).endswith(advice)
    assert f"session {SESSION} cannot be recovered" in caplog.text
    assert SessionReport.read(layout.report(other)).state == "recovered"


def test_several_failures_are_reported_in_one_sentence(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    other_session(layout)
    monkeypatch.setattr(recovery, "_recover_claimed", boom)
    with pytest.raises(StoreError) as caught:
        recover(layout, STILL)
    assert str(caught.value) == (
        f"2 sessions cannot be recovered. The first failed: {layout.root}: Input/output error"
    )


def test_a_damaged_mark_does_not_prevent_a_recovery(
    layout: Layout,
) -> None:
    tape = layout.tape(PARTS[1])
    text = tape.read_bytes()
    assert b'"start"' in text
    tape.write_bytes(text.replace(b'"reason"', b'"rfason"').replace(b"#tape {", b"#tape [{", 1))
    (recovered,) = recover(layout, STILL)
    assert recovered.balanced
    assert prices(layout) == PRICES


# --- beside a capture --------------------------------------------------------------------------


def test_a_capture_also_publishes_the_data_of_a_crashed_one(
    studio: Studio, a_dead_session: Layout
) -> None:
    remains.copy(a_dead_session, studio.data_dir)

    def scenario() -> Scenario:
        yield connected
        exchange.send_raw(frame(("TSLA", 1), ("TSLA", 2)))
        yield lambda status: status.trades >= 2
        live = tree(studio.data_dir / "tape")
        # By hand too: the session that lives is left alone, whoever came first to the dead one.
        for one in recover(Layout(studio.data_dir)):
            assert one.session == SESSION
        assert [n for n in tree(studio.data_dir / "tape") if SESSION not in n] == [
            n for n in live if SESSION not in n
        ]
        exchange.send_raw(frame(("TSLA", 3)))
        yield lambda status: status.trades >= 3

    with studio.exchange() as exchange:
        report = studio.record(exchange, ["TSLA"], scenario())
        wanted = sent(exchange.connections[0].frames)
    found = published(studio.data_dir)
    assert found.pop("TSLA") == wanted["TSLA"]
    assert {ticker: [row[1] for row in rows] for ticker, rows in found.items()} == PRICES
    layout = Layout(studio.data_dir)
    assert SessionReport.read(layout.report(SESSION)).state == "recovered"
    assert list(verify(layout, SESSION)) == list(verify(layout, report.session)) == []


def test_a_capture_whose_recovery_fails_says_so_at_its_end(
    studio: Studio, a_dead_session: Layout
) -> None:
    layout = remains.copy(a_dead_session, studio.data_dir)
    layout.window_file(PARTS[0]).write_bytes(b"PAR1 and no more")

    def scenario() -> Scenario:
        yield connected
        exchange.send_raw(frame(("TSLA", 1)))
        yield all_of(exchange)

    with studio.exchange() as exchange, pytest.raises(ConversionError, match="cannot be read"):
        studio.record(exchange, ["TSLA"], scenario())
    # It fails, but loses nothing of its own.
    layout.window_file(PARTS[0]).unlink()
    assert published(studio.data_dir) == {"TSLA": sent([frame(("TSLA", 1))])["TSLA"]}


@pytest.fixture(autouse=True)
def _no_scratch_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.glob("*/.scratch.*"))

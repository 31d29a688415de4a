"""Verification: check every file of a session against the raw tape and report mismatches.

Each window is rebuilt into a scratch folder by the code that recorded it, and each file is compared
with the result: Parquet by content and statistics, CSV byte by byte, quarantine line by line
(in any order), books number by number, coverage by the marks.

The tape is the truth, but only an archived tape proves by its checksum that it is intact. If an
intact Parquet file differs from a plain tape, the file is neither reported nor replaced. A window
whose tape is missing, damaged or incomplete is checked against the footers of its files and the
report, coverage and quarantine by their hashes. A missing tape is a finding, unless its deletion is
in the audit log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from stocktrace.errors import ConversionError, LayoutError
from stocktrace.sessions.catalog import is_in_use, read_report
from stocktrace.store import parquet, partition
from stocktrace.store.checksum import content_hash
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, is_day_file, is_session
from stocktrace.store.partition import partition_date, partition_ticker, window_rows_in
from stocktrace.verify.check import Finding, SessionCheck
from stocktrace.verify.day_files import DayFiles
from stocktrace.verify.rebuild_day import rebuild_day
from stocktrace.verify.session import check_coverage, check_hashes, check_report
from stocktrace.verify.tapes import check_tape, find_extra_tapes, find_missing_tapes
from stocktrace.verify.window import check_against_tape, check_without_tape

__all__ = ["Finding", "dates_of_sessions", "unknown_files", "verify"]


def verify(
    layout: Layout, session: str, dates: Iterable[str] = (), *, repair: bool = False
) -> Iterator[Finding]:
    """Yield all mismatches of a session; with ``repair`` the tape replaces wrong files.

    The UTC dates of its report, its tapes and ``dates`` are checked: those under which it has
    files, from ``dates_of_sessions``.
    """
    report, dates = read_report(layout, session), set(dates)
    tapes = layout.session_tapes(session)
    all_dates = {part.date for part in tapes} | (report.dates if report else set()) | dates
    check = SessionCheck(layout, session, report, DayFiles(layout, session, all_dates), repair)
    findings: list[Finding] = []
    for finding in _check_against_tapes(check, tapes):
        findings.append(finding)
        yield finding
    if report is not None:
        yield from check_hashes(check, report, dates, findings)


def _check_against_tapes(check: SessionCheck, tapes: dict[WindowId, Path]) -> Iterator[Finding]:
    layout, session, report, days = check.layout, check.session, check.report, check.days
    if report is None:
        problem = "the report is missing or cannot be read: run `stocktrace recover`"
        yield check.finding(layout.report(session), problem)
    yield from find_extra_tapes(layout, session)
    if report is not None:
        yield from find_missing_tapes(layout, report, tapes)
    reported = [WindowId(session, window) for window in (report.windows if report else ())]
    published = [WindowId.parse(path) for _, path in layout.published_files(session, days.dates)]
    for path, problem in days.damaged.items():
        yield check.finding(path, problem, repaired=check.repair and rebuild_day(layout, path))
    days.read()
    for part in sorted(
        {*tapes, *published, *reported, *days.windows}, key=lambda part: part.window
    ):
        problems = check_tape(session, tapes[part]) if part in tapes else []
        yield from problems
        if part in tapes and not problems:
            yield from check_against_tape(check, part)
        else:
            yield from check_without_tape(check, part)
    if report is not None:
        yield from check_report(check, report)
        windows = {part.window for part in tapes}
        # Old tapes are deleted: the others do not have the start of the coverage.
        if windows and report.windows.keys() <= windows == check.counted.keys():
            yield from check_coverage(check, report)
        check.proven.update(layout.quarantine(sealed.part) for sealed in check.counted.values())


# --- the data folder as a whole ----------------------------------------------------------------


def dates_of_sessions(layout: Layout, sessions: Sequence[str] = ()) -> dict[str, set[str]]:
    """Return the sessions that are not running, each with the UTC dates under which it has files.

    If all ``sessions`` have a report or a tape, return only these, without dates and without
    reading the rest of the folder.
    """
    if sessions and all(is_session(name) and layout.has(name) for name in sessions):
        dates: dict[str, set[str]] = {name: set() for name in sessions}
    else:
        dates = _dates_of_all(layout)
    return {name: dates[name] for name in sorted(dates) if not is_in_use(layout, name)}


def _dates_of_all(layout: Layout) -> dict[str, set[str]]:
    dates: dict[str, set[str]] = {name: set() for name in layout.all_sessions()}
    files = {
        (path.name[: path.name.find("-")], partition_date(path.parent))
        for path in _parquet_files(layout)
    }
    for folder in partition.partition_folders(layout):
        for path in partition.day_files(folder):
            with contextlib.suppress(ConversionError):
                files |= {
                    (piece.part.session, partition_date(folder)) for piece in window_rows_in(path)
                }
    for name, date in files:
        if is_session(name):
            dates.setdefault(name, set()).add(date)
    for path in layout.root.glob("coverage/date=*/*.parquet"):
        if path.stem in dates:
            dates[path.stem].add(partition_date(path))
    return dates


def _parquet_files(layout: Layout) -> Iterator[Path]:
    for path in sorted(layout.dataset.rglob("*.parquet")):
        if not any(part.startswith(".") for part in path.relative_to(layout.dataset).parts):
            yield path


def unknown_files(layout: Layout) -> Iterator[Finding]:
    """Yield the published files that readers take for trades although no session wrote them."""
    for path in _parquet_files(layout):
        if path.parent == layout.anchor(partition_date(path.parent)).parent:
            if not _is_anchor(path):
                yield Finding("", path, "has rows in a place for files without rows: remove it")
            continue
        try:
            if is_day_file(path):
                yield from (Finding("", path, problem) for problem in _misplaced_rows(layout, path))
                continue
            part = WindowId.parse(path)
            ticker = partition_ticker(path.parent)
        except LayoutError as error:
            yield Finding("", path, str(error))
            continue
        if path != layout.parquet(ticker, part):
            yield Finding(part.session, path, "is in the wrong folder: remove it")


def _is_anchor(path: Path) -> bool:
    try:
        return not content_hash(parquet.read_trade_file(path)).rows
    except ConversionError:
        return False


def _misplaced_rows(layout: Layout, path: Path) -> Iterator[str]:
    """Describe why readers would return wrong trades although the file may be intact."""
    try:
        windows = {piece.part for piece in window_rows_in(path)}
    except ConversionError as error:
        yield str(error)
        return
    date = partition_date(path.parent)
    if path.parent != layout.partition(partition_ticker(path.parent), date) or any(
        part.date != date for part in windows
    ):
        yield "is in the wrong folder: remove it"
    for other in sorted(path.parent.glob("*.parquet")):
        if other != path and not windows.isdisjoint(_windows_in(other)):
            yield f"has trades that {other.name} has too: remove one of the files"


def _windows_in(path: Path) -> set[WindowId]:
    try:
        if not is_day_file(path):
            return {WindowId.parse(path)}
        return {piece.part for piece in window_rows_in(path)}
    except (ConversionError, LayoutError):
        return set()  # it has a finding of its own

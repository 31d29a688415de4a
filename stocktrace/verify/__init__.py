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
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from stocktrace.errors import ConversionError, LayoutError
from stocktrace.record.tape_facts import read_tape_facts
from stocktrace.sessions.catalog import is_in_use, read_report
from stocktrace.store.audit import find_breaks, logged_sessions
from stocktrace.store.footer import read_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, is_day_file, is_session
from stocktrace.verify.check import Finding, SessionCheck
from stocktrace.verify.compacted import check_compacted, remove_copies
from stocktrace.verify.published import SessionFiles
from stocktrace.verify.report_fields import check_digests, check_marks
from stocktrace.verify.session import check_coverage, check_hashes, check_report
from stocktrace.verify.tapes import check_tape, find_extra_tapes, find_missing_tapes
from stocktrace.verify.window import check_against_tape, check_without_tape

__all__ = ["Finding", "check_folder", "dates_of_sessions", "unknown_files", "verify"]

_WRONG_FOLDER = "is in the wrong folder: remove it"


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
    files = SessionFiles(layout, session, all_dates)
    if repair and (removed := list(remove_copies(layout, files))):
        yield from removed
        files = SessionFiles(layout, session, all_dates)
    check = SessionCheck(layout, session, report, files, repair)
    yield from _check_against_tapes(check, tapes)
    if report is not None:
        yield from check_hashes(check, report, dates)
        yield from check_digests(check, report)


def _check_against_tapes(check: SessionCheck, tapes: dict[WindowId, Path]) -> Iterator[Finding]:
    layout, session, report, published = check.layout, check.session, check.report, check.files
    if report is None:
        problem = "the report is missing or cannot be read: run `stocktrace recover`"
        yield check.finding(layout.report(session), problem)
    yield from find_extra_tapes(layout, session)
    if report is not None:
        yield from find_missing_tapes(layout, report, tapes)
    for path in published.misplaced:
        yield check.finding(path, _WRONG_FOLDER)
    reported = {WindowId(session, window) for window in (report.windows if report else ())}
    for part in sorted({*tapes} | published.windows() | reported, key=attrgetter("number")):
        for first, second in pairwise(published.of_window(part)):
            problem = f"has trades of window {part.stem} that {second.paths[0]} has too"
            yield check.finding(first.paths[0], f"{problem}: remove one of the files")
        problems = check_tape(session, tapes[part]) if part in tapes else []
        yield from problems
        if part in tapes and not problems:
            yield from check_against_tape(check, part)
        else:
            yield from check_without_tape(check, part)
    yield from check_compacted(check)
    if report is not None:
        yield from check_report(check, report)
        windows = {part.window for part in tapes}
        # Old tapes are deleted: the others do not have the start of the coverage.
        if windows and report.windows.keys() <= windows == check.counted.keys():
            facts = read_tape_facts(layout, session)
            yield from check_coverage(check, report, facts)
            yield from check_marks(check, report, facts)
        check.proven.update(layout.quarantine(sealed.window) for sealed in check.counted.values())


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
    for path in _parquet_files(layout):
        sessions = {path.name[: path.name.find("-")]}
        if is_day_file(path):
            with contextlib.suppress(ConversionError):
                sessions = {window.session for window in read_windows(path)}
        for name in filter(is_session, sessions):
            dates.setdefault(name, set()).add(_date_of(path))
    for path in layout.root.glob("coverage/date=*/*.parquet"):
        if path.stem in dates:
            dates[path.stem].add(_date_of(path))
    return dates


def _date_of(path: Path) -> str:
    return path.parent.name.removeprefix("date=")


def _parquet_files(layout: Layout) -> Iterator[Path]:
    for path in sorted(layout.dataset.rglob("*.parquet")):
        if not any(part.startswith(".") for part in path.relative_to(layout.dataset).parts):
            yield path


def check_folder(layout: Layout) -> Iterator[Finding]:
    """Yield what is wrong with no single session: files, the audit log, missing sessions."""
    yield from unknown_files(layout)
    for log, number, problem in find_breaks(layout.audit):
        yield Finding("", log, f"line {number}: {problem}")
    for session in sorted(filter(is_session, logged_sessions(layout.audit))):
        if not layout.has(session):
            problem = (
                "is missing, and so are the tapes: restore the session from a copy; if you removed "
                f"it, run `stocktrace audit --removed {session}`"
            )
            yield Finding(session, layout.report(session), problem)


def unknown_files(layout: Layout) -> Iterator[Finding]:
    """Yield the published files that readers take for trades although no session wrote them."""
    for path in _parquet_files(layout):
        is_below_date = path.parent == layout.date_folder(_date_of(path))
        try:
            if is_day_file(path):
                dates = {window.date for window in read_windows(path)}
                if not is_below_date or dates != {_date_of(path)}:
                    yield Finding("", path, _WRONG_FOLDER)
            else:
                window = WindowId.parse(path)
                if not is_below_date:  # `verify` compares the date
                    yield Finding(window.session, path, _WRONG_FOLDER)
        except (ConversionError, LayoutError) as error:
            yield Finding("", path, str(error))

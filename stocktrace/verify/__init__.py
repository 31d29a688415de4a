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

from collections.abc import Iterable, Iterator
from pathlib import Path

from stocktrace.record.recorder import SealedWindow
from stocktrace.sessions.catalog import read_report
from stocktrace.sessions.report import SessionReport
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.verify.coverage import check_coverage
from stocktrace.verify.day_files import DayFiles
from stocktrace.verify.finding import Finding
from stocktrace.verify.folder import dates_of_sessions, unknown_files
from stocktrace.verify.rebuild_day import rebuild_day
from stocktrace.verify.tapes import check_tape, find_extra_tapes, find_missing_tapes
from stocktrace.verify.totals import check_hashes, check_report
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
    findings: list[Finding] = []
    proven: set[Path] = set()
    for finding in _check_against_tapes(layout, session, report, dates, proven, repair=repair):
        findings.append(finding)
        yield finding
    if report is not None:
        yield from check_hashes(layout, report, dates, findings, proven, repair=repair)


def _check_against_tapes(
    layout: Layout,
    session: str,
    report: SessionReport | None,
    dates: Iterable[str],
    proven: set[Path],
    *,
    repair: bool,
) -> Iterator[Finding]:
    """Check everything against the tapes; add files that they prove right to ``proven``."""
    if report is None:
        problem = "the report is missing or cannot be read: run `stocktrace recover`"
        yield Finding(session, layout.report(session), problem)
    yield from find_extra_tapes(layout, session)
    tapes = layout.session_tapes(session)
    if report is not None:
        yield from find_missing_tapes(layout, report, tapes)
    reported = [WindowId(session, window) for window in (report.windows if report else ())]
    report_dates = {part.date for part in tapes} | (report.dates if report is not None else set())
    days = DayFiles(layout, session, report_dates | set(dates))
    published = [WindowId.parse(path) for _, path in layout.published_files(session, days.dates)]
    for path, problem in days.damaged.items():
        yield Finding(session, path, problem, repaired=repair and rebuild_day(layout, path))
    days.read()
    counted: dict[str, SealedWindow] = {}
    for part in sorted(
        {*tapes, *published, *reported, *days.windows}, key=lambda part: part.window
    ):
        problems = check_tape(session, tapes[part]) if part in tapes else []
        yield from problems
        if part in tapes and not problems:
            yield from check_against_tape(layout, part, days, report, counted, repair=repair)
        else:
            yield from check_without_tape(layout, part, days, report)
    if report is not None:
        yield from check_report(layout, report, counted, days, repair=repair)
        windows = {part.window for part in tapes}
        # Old tapes are deleted: the others do not have the start of the coverage.
        if windows and report.windows.keys() <= windows == counted.keys():
            yield from check_coverage(layout, report, days.dates, proven, repair=repair)
        proven |= {layout.quarantine(sealed.part) for sealed in counted.values()}

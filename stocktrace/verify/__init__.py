"""Verification: everything on disk is counted and compared again, from the tape.

Each window is recorded once more into a scratch folder, through the code that recorded it, and each
file is compared with what came out: Parquet by content and statistics, CSV byte by byte, quarantine
line by line (whose order is that of batches), books number by number, coverage by the marks.

The tape is the truth, but only an archived one proves by its checksum that it is what was written.
A Parquet file that is whole by its own footer is not blamed, nor replaced, for differing from a
tape that is not archived. A window whose tape is gone, damaged, or has less than the books vouch
for is checked against the footers of its files and the report: coverage and quarantine by their
hashes. A tape that is gone is a finding, unless the audit log has its deletion.
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
from stocktrace.verify.folder import dates_of_sessions, sessions_to_verify, unknown_files
from stocktrace.verify.footer import check_without_tape
from stocktrace.verify.hashes import check_hashes
from stocktrace.verify.rebuild_day import rebuild_day
from stocktrace.verify.tapes import check_tape, find_extra_tapes, find_missing_tapes
from stocktrace.verify.totals import check_report
from stocktrace.verify.window import check_against_tape

__all__ = ["Finding", "dates_of_sessions", "sessions_to_verify", "unknown_files", "verify"]


def verify(
    layout: Layout, session: str, dates: Iterable[str] = (), *, repair: bool = False
) -> Iterator[Finding]:
    """All that is wrong with a session; with ``repair`` what the tape can bring back is rebuilt.

    Only the UTC dates that its report and its tapes name are looked at, and ``dates``: those under
    which files of it lie, as ``dates_of_sessions`` gives them.
    """
    report, dates = read_report(layout, session), set(dates)
    findings: list[Finding] = []
    proven: set[Path] = set()
    for finding in _compare(layout, session, report, dates, proven, repair=repair):
        findings.append(finding)
        yield finding
    if report is not None:
        yield from check_hashes(layout, report, dates, findings, proven, repair=repair)


def _compare(
    layout: Layout,
    session: str,
    report: SessionReport | None,
    dates: Iterable[str],
    proven: set[Path],
    *,
    repair: bool,
) -> Iterator[Finding]:
    """Everything against the tapes; ``proven`` gets the files that are right by them alone."""
    if report is None:
        problem = "the report is missing or cannot be read: run `stocktrace recover`"
        yield Finding(session, layout.report(session), problem)
    yield from find_extra_tapes(layout, session)
    tapes = layout.session_tapes(session)
    if report is not None:
        yield from find_missing_tapes(layout, report, tapes)
    told = [WindowId(session, window) for window in report.windows] if report is not None else []
    within = {part.date for part in tapes} | (report.dates if report is not None else set())
    days = DayFiles(layout, session, within | set(dates))
    published = [WindowId.parse(path) for _, path in layout.published_files(session, days.dates)]
    for path, problem in days.damaged.items():
        yield Finding(session, path, problem, repaired=repair and rebuild_day(layout, path))
    days.read()
    counted: dict[str, SealedWindow] = {}
    for part in sorted({*tapes, *published, *told, *days.windows}, key=lambda part: part.window):
        problems = check_tape(session, tapes[part]) if part in tapes else []
        yield from problems
        if part in tapes and not problems:
            yield from check_against_tape(layout, part, days, report, counted, repair=repair)
        else:
            yield from check_without_tape(layout, part, days, report)
    if report is not None:
        yield from check_report(layout, report, counted, days, repair=repair)
        windows = {part.window for part in tapes}
        # Tapes are removed when they are old: what is left does not tell how it began.
        if windows and report.windows.keys() <= windows == counted.keys():
            yield from check_coverage(layout, report, days.dates, proven, repair=repair)
        proven |= {layout.quarantine(sealed.part) for sealed in counted.values()}

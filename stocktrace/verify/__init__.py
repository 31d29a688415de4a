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

from stocktrace.record.recorder import Sealed
from stocktrace.record.recovery import read_report
from stocktrace.report import Report
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part
from stocktrace.verify.books import check_report
from stocktrace.verify.compacted import Days
from stocktrace.verify.coverage import check_coverage
from stocktrace.verify.finding import Finding
from stocktrace.verify.folder import dates_of_sessions, sessions_of, strangers
from stocktrace.verify.footer import by_itself
from stocktrace.verify.hashes import check_hashes
from stocktrace.verify.mending import mend_day
from stocktrace.verify.tapes import missing_tapes, surplus_tapes, tape_problems
from stocktrace.verify.window import against_tape

__all__ = ["Finding", "dates_of_sessions", "sessions_of", "strangers", "verify"]


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
    report: Report | None,
    dates: Iterable[str],
    proven: set[Path],
    *,
    repair: bool,
) -> Iterator[Finding]:
    """Everything against the tapes; ``proven`` gets the files that are right by them alone."""
    if report is None:
        problem = "the report is missing or cannot be read: run `stocktrace recover`"
        yield Finding(session, layout.report(session), problem)
    yield from surplus_tapes(layout, session)
    tapes = layout.session_tapes(session)
    if report is not None:
        yield from missing_tapes(layout, report, tapes)
    told = [Part(session, window) for window in report.windows] if report is not None else []
    within = {part.date for part in tapes} | (report.dates if report is not None else set())
    days = Days(layout, session, within | set(dates))
    published = [Part.parse(path) for _, path in layout.published(session, days.dates)]
    for path, problem in days.broken.items():
        yield Finding(session, path, problem, repaired=repair and mend_day(layout, path))
    days.look()
    counted: dict[str, Sealed] = {}
    for part in sorted({*tapes, *published, *told, *days.held}, key=lambda part: part.window):
        problems = tape_problems(session, tapes[part]) if part in tapes else []
        yield from problems
        if part in tapes and not problems:
            yield from against_tape(layout, part, days, report, counted, repair=repair)
        else:
            yield from by_itself(layout, part, days, report)
    if report is not None:
        yield from check_report(layout, report, counted, days, repair=repair)
        windows = {part.window for part in tapes}
        # Tapes are removed when they are old: what is left does not tell how it began.
        if windows and report.windows.keys() <= windows == counted.keys():
            yield from check_coverage(layout, report, days.dates, proven, repair=repair)
        proven |= {layout.quarantine(sealed.part) for sealed in counted.values()}

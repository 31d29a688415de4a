"""Check the tapes of a session: present, intact, and complete by the books."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.marks import Mark
from stocktrace.record.coverage import CoverageBuilder
from stocktrace.record.recorder import SealedWindow
from stocktrace.sessions.report import Books, SessionReport
from stocktrace.store.audit import read_logged_session
from stocktrace.store.dataset import find_published
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.tape import TapeReader, is_foreign
from stocktrace.text import count_of
from stocktrace.verify.check import Finding


def check_tape(session: str, tape: Path) -> list[Finding]:
    """Check a tape by itself."""
    reader, marks = TapeReader(tape), CoverageBuilder()
    try:
        if is_foreign(tape):
            problem = "is the tape of another session or window: nothing is repaired from it"
            return [Finding(session, tape, problem)]
        for entry in reader:
            if isinstance(entry, Mark):
                marks.add(entry)
    except OSError as error:
        return [Finding(session, tape, f"cannot be read: {error.strerror or error}")]
    problems = []
    if reader.damage:
        problems.append(f"is damaged: {reader.damage}")
    if reader.invalid_lines:
        problems.append(f"has {count_of(reader.invalid_lines, 'line')} that cannot be read")
    if marks.unreadable:
        problems.append(f"has {count_of(marks.unreadable, 'mark')} with missing or invalid facts")
    if reader.torn_bytes:
        problems.append(f"is truncated: the last line is incomplete ({reader.torn_bytes:,} B)")
    return [Finding(session, tape, problem) for problem in problems]


def find_missing_tapes(
    layout: Layout, report: SessionReport, tapes: Collection[WindowId]
) -> Iterator[Finding]:
    """Find tapes of the report that are missing without a deletion in the audit log."""
    parts = [WindowId(report.session, window) for window in report.windows]
    if missing := [part for part in parts if part not in tapes]:
        deletions = read_logged_session(layout.audit, report.session).deleted
        for part in missing:
            archived = layout.archived_tape(part)
            if deletions.isdisjoint({archived.name, layout.tape(part).name}):
                problem = "is missing, and the audit log does not record its deletion"
                yield Finding(report.session, archived, problem)


def find_extra_tapes(layout: Layout, session: str) -> Iterator[Finding]:
    """Find tapes of windows that have two."""
    for tape in layout.plain_tapes(session):
        if layout.archived_tape(WindowId.of_tape(tape)).exists():
            problem = "is beside an archive of the same window: run `stocktrace recover`"
            yield Finding(session, tape, problem)
    for tape in layout.tapes_aside(session):
        problem = (
            "was set aside because it differs from the tape of its window: compare them, "
            "then move it out of the data folder"
        )
        yield Finding(session, tape, problem)


def find_shortage(layout: Layout, report: SessionReport | None, sealed: SealedWindow) -> str | None:
    """Describe how a tape has less than the books prove: nothing is repaired from it then.

    The books of a window are proven if the report adds up, or if the published rows agree.
    """
    reported = report.windows.get(sealed.window.window) if report is not None else None
    if report is None or reported is None:
        return None
    taped = sealed.books
    if not any(
        getattr(reported, name) > getattr(taped, name) for name in ("frames", "trades", "recorded")
    ):
        return None
    published_agrees = (
        reported.recorded > taped.recorded
        and _published_rows(layout, sealed.window) == reported.recorded
    )
    if not published_agrees and not _adds_up(report):
        return None
    return (
        f"has {taped.frames:,} frames and {taped.recorded:,} valid trades, less than "
        f"{'the published files and ' if published_agrees else ''}the report "
        f"({reported.frames:,} and {reported.recorded:,}): nothing is repaired from it"
    )


def _adds_up(report: SessionReport) -> bool:
    total = Books()
    for books in report.windows.values():
        total.add(books)
    return total == report.books


def _published_rows(layout: Layout, part: WindowId) -> int:
    """Count the published rows of a window by the footer."""
    with contextlib.suppress(ConversionError):
        published = find_published(layout, part)
        return published.content.rows if published is not None else 0
    return 0

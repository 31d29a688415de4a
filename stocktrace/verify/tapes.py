"""The tapes of a session: whether they are there, whole, and have all that the books have."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.marks import Mark
from stocktrace.record.coverage import CoverageBuilder
from stocktrace.record.recorder import SealedWindow
from stocktrace.sessions.report import Books, SessionReport
from stocktrace.store.audit import deleted_files
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.partition import list_window_rows, partition_folders
from stocktrace.store.tape import TapeReader
from stocktrace.verify.finding import Finding


def check_tape(session: str, tape: Path) -> list[Finding]:
    """What is wrong with a tape by itself."""
    reader, marks = TapeReader(tape), CoverageBuilder()
    try:
        for entry in reader:
            if isinstance(entry, Mark):
                marks.add(entry)
    except OSError as error:
        return [Finding(session, tape, f"cannot be read: {error.strerror or error}")]
    found = []
    if reader.damage:
        found.append(f"is damaged: {reader.damage}")
    if reader.invalid_lines:
        found.append(f"has lines that are none of a tape: {reader.invalid_lines:,}")
    if marks.unreadable:
        found.append(f"has marks without the facts that they promise: {marks.unreadable:,}")
    if reader.torn_bytes:
        found.append(f"ends in a torn line ({reader.torn_bytes:,} B)")
    return [Finding(session, tape, problem) for problem in found]


def find_missing_tapes(
    layout: Layout, report: SessionReport, tapes: Collection[WindowId]
) -> Iterator[Finding]:
    """The tapes that the report knows, that are not there, and that nobody deleted on purpose."""
    parts = [WindowId(report.session, window) for window in report.windows]
    if missing := [part for part in parts if part not in tapes]:
        accounted = deleted_files(layout.audit, report.session)
        for part in missing:
            archived = layout.archived_tape(part)
            if accounted.isdisjoint({archived.name, layout.tape(part).name}):
                problem = "is missing, and the audit log does not record its deletion"
                yield Finding(report.session, archived, problem)


def find_extra_tapes(layout: Layout, session: str) -> Iterator[Finding]:
    """Tapes of windows that have another one."""
    for tape in layout.plain_tapes(session):
        if layout.archived_tape(WindowId.of_tape(tape)).exists():
            problem = "is beside an archive of the same window: run `stocktrace recover`"
            yield Finding(session, tape, problem)
    for tape in layout.tapes_aside(session):
        problem = (
            "was set aside, because it differs from the tape of its window: compare them, "
            "then move it out of the data folder"
        )
        yield Finding(session, tape, problem)


def find_shortage(layout: Layout, report: SessionReport | None, sealed: SealedWindow) -> str | None:
    """Say how a tape has less than the books vouch for: nothing is repaired from it then.

    The books vouch for what the report says of a window, if the report adds up or what is
    published of the window agrees with it.
    """
    told = report.windows.get(sealed.part.window) if report is not None else None
    if report is None or told is None:
        return None
    here = sealed.books
    if not any(
        getattr(told, name) > getattr(here, name) for name in ("frames", "trades", "recorded")
    ):
        return None
    agreed = told.recorded > here.recorded and _published_rows(layout, sealed.part) == told.recorded
    if not agreed and not _adds_up(report):
        return None
    return (
        f"has {here.frames:,} frames and {here.recorded:,} valid trades, less than "
        f"{'the published files and ' if agreed else ''}the report "
        f"({told.frames:,} and {told.recorded:,}): nothing is repaired from it"
    )


def _adds_up(report: SessionReport) -> bool:
    total = Books()
    for books in report.windows.values():
        total.add(books)
    return total == report.books


def _published_rows(layout: Layout, part: WindowId) -> int:
    """How many rows of a window are published, as the footers say."""
    rows = 0
    for folder in partition_folders(layout, part.date):
        with contextlib.suppress(ConversionError):
            rows += sum(
                each.rows for each in list_window_rows(folder, part.session) if each.part == part
            )
    return rows

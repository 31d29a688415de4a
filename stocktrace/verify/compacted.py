"""Report what is wrong with the files of a compacted date, and rebuild them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.record.publish import rebuilt_copy
from stocktrace.sessions.catalog import read_report
from stocktrace.store import files
from stocktrace.store.audit import AuditLog
from stocktrace.store.compaction import copy_windows, finish_swap, replace_date
from stocktrace.store.conversion import convert_window
from stocktrace.store.dataset import files_in_order
from stocktrace.store.footer import read_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.verify.check import Finding, SessionCheck
from stocktrace.verify.published import FileSet, SessionFiles, key_of
from stocktrace.verify.tapes import check_tape, find_shortage


def check_compacted(check: SessionCheck) -> Iterator[Finding]:
    """Yield what was found wrong with compacted files, after their repair."""
    for day in check.files.sets:
        if not day.is_compacted or not (day.damage or day.problems):
            continue
        repaired, reason = False, ""
        if check.repair and (day.damage or day.wrong):
            try:
                _rebuild_date(check.layout, day)
                repaired = True
            except ConversionError as error:
                reason = f"; it cannot be repaired: {error}"
        for path, problem in day.damage.items():
            yield check.finding(path, f"{problem}{reason}", repaired=repaired)
        for problem, repairable in day.problems:
            text = f"{problem}{reason if repairable else ''}"
            yield check.finding(day.paths[0], text, repaired=repaired and repairable)


def remove_copies(layout: Layout, files: SessionFiles) -> Iterator[Finding]:
    """Remove files of which all windows are in another file of their date, with the same rows.

    A data folder that is copied before and after a compaction has both.
    """
    copies = [each for each in files.sets if any(len(files.of_window(p)) > 1 for p in each.listed)]
    # Files of windows first, then the older files of a compacted date.
    copies.sort(key=lambda each: (each.is_compacted, each.paths))
    while copies:
        copy = copies.pop(0)
        for other in copies:
            if other.is_compacted and _has_windows(other, copy):
                AuditLog(layout.audit, files.session)("repair", file=str(copy.paths[0]))
                for path in copy.paths:
                    path.unlink()
                    problem = f"had only trades that {other.paths[0]} has too"
                    yield Finding(files.session, path, problem, repaired=True)
                break


def _has_windows(files: FileSet, copy: FileSet) -> bool:
    """Return whether all windows of ``copy`` are intact in both, with the same rows."""
    return not copy.damage and all(
        files.is_intact(window) and copy.is_intact(window) and files.held(window) == content
        for window, content in copy.listed.items()
    )


def _rebuild_date(layout: Layout, day: FileSet) -> None:
    """Replace the files of a date: the tapes replace the windows that are wrong or damaged.

    The caller holds ``lock.compaction_lock``.

    Raises:
        ConversionError: Rows are missing; nothing was changed.
    """
    folder = day.paths[0].parent
    date = folder.name.removeprefix("date=")
    others = [path for path in files_in_order(folder) if path not in day.paths]
    rebuilt = {key_of(window) for window in day.wrong}
    kept = {
        window: content
        for window, content in day.listed.items()
        if key_of(window) not in rebuilt and day.is_intact(window)
    }
    windows = {*day.listed, *day.wrong} - kept.keys()
    if not day.listed:
        windows |= _windows_of_tapes(layout, date, others)
    if unlisted := day.read().keys() - {key_of(window) for window in {*kept, *windows}}:
        session, number = min(unlisted)
        raise ConversionError(f"No tape has window {number} of {session}.")
    with files.temporary_folder(layout.scratch) as scratch:
        sources = [_write_from_tape(layout, window, scratch) for window in windows]
        if lost := [
            window
            for window, path in zip(windows, sources, strict=True)
            if path is None and window in day.listed
        ]:
            raise ConversionError(f"The tape of window {lost[0].stem} does not have its trades.")
        if kept:
            sources.append(scratch / "day-00000.parquet")
            copy_windows(day.readable, kept, scratch / "day-00000.parquet")
        if replace_date(layout, date, [*filter(None, sources), *others]) is None:
            raise ConversionError(f"The files in {folder} changed in the meantime.")
    finish_swap(layout, date)


def _windows_of_tapes(layout: Layout, date: str, others: list[Path]) -> set[WindowId]:
    """Return all windows of a date that are not in the files ``others``.

    Raises:
        ConversionError: A window with trades has no tape.
    """
    published = {window for path in others for window in read_windows(path)}
    tapes = map(WindowId.of_tape, layout.archived_tapes())
    taped = {window for window in tapes if window.date == date} - published
    for path in layout.sessions.glob("*.json"):
        report = read_report(layout, path.stem)
        if report is None:
            raise ConversionError(f"{path} cannot be read.")
        for name, books in report.windows.items():
            window = WindowId(report.session, name)
            if window.date == date and books.recorded and window not in published | taped:
                raise ConversionError(f"Window {window.stem} has no tape.")
    return taped


def _write_from_tape(layout: Layout, window: WindowId, folder: Path) -> Path | None:
    """Write the file of a window from its tape; return ``None`` if it has no trades.

    Raises:
        ConversionError: The tape is missing, damaged or incomplete, or only an archive would prove
            that it is right.
    """
    archived = layout.archived_tape(window)
    if (
        not archived.exists()
        or layout.tape_of(window) != archived
        or check_tape(window.session, archived)
    ):
        raise ConversionError(f"Window {window.stem} has no intact archived tape.")
    with rebuilt_copy(layout, window) as (scratch, sealed):
        if problem := find_shortage(layout, read_report(layout, window.session), sealed):
            raise ConversionError(f"{archived} {problem}.")
        file = convert_window(scratch, window)
        return Path(shutil.move(file.path, folder)) if file is not None else None

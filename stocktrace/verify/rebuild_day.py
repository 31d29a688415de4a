"""Rebuild a damaged day file from its intact rows and the tapes."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.record.publish import rebuilt_copy
from stocktrace.sessions.catalog import read_report
from stocktrace.store import files, partition, segments
from stocktrace.store.checksum import content_hash
from stocktrace.store.compaction import CompactionSource, replace_day
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, is_day_file
from stocktrace.verify.tapes import check_tape, find_shortage


def rebuild_day(layout: Layout, path: Path, wrong: WindowId | None = None) -> bool:
    """Replace ``path``; the rows of the window ``wrong`` come from its tape.

    The caller holds ``layout.compaction``. Returns False, and changes nothing, if rows are missing.
    """
    ticker, date = partition.partition_ticker(path.parent), partition.partition_date(path.parent)
    published, all_known = _published_windows(path.parent)
    parts = set(published)
    if not all_known:
        taped = map(WindowId.of_tape, layout.archived_tapes())
        parts |= {part for part in taped if part.date == date}
        if not _has_all_windows(layout, date, parts):
            return False
    with files.temporary_folder(layout.scratch) as folder:
        sources = []
        for part in sorted(parts, key=lambda part: (part.session, part.window)):
            piece = published.get(part)
            if piece is not None and part != wrong and _is_intact(piece):
                sources.append(CompactionSource(part, piece.read, piece.content))
                continue
            if not _has_intact_archive(layout, part):
                return False
            with rebuilt_copy(layout, part) as (scratch, sealed):
                if find_shortage(layout, read_report(layout, part.session), sealed):
                    return False
                segment = scratch.csv(ticker, part)
                if not segment.exists():
                    continue  # the tape does not have a trade of the ticker
                moved = shutil.move(segment, folder / segment.name)
            read = partial(segments.read_segment, Path(moved))
            sources.append(CompactionSource(part, read, content_hash(read()).hexdigest()))
        return bool(sources) and replace_day(layout, ticker, date, sources) is not None


def _published_windows(folder: Path) -> tuple[dict[WindowId, partition.WindowRows], bool]:
    """Return the windows of a folder, and whether it has no others."""
    published: dict[WindowId, partition.WindowRows] = {}
    all_known = True
    for file in partition.files_in_order(folder):
        try:
            published |= {piece.part: piece for piece in partition.window_rows_in(file)}
        except ConversionError:
            if is_day_file(file):
                all_known = False
            else:  # its name is that of its window
                part = WindowId.parse(file)
                published[part] = partition.WindowRows(part, file, 0, 0, "", 0)
    return published, all_known


def _is_intact(piece: partition.WindowRows) -> bool:
    try:
        return content_hash(piece.read()).hexdigest() == piece.content
    except ConversionError:
        return False


def _has_intact_archive(layout: Layout, part: WindowId) -> bool:
    """Return True if the tape of a window is archived and intact by its checksum."""
    archived = layout.archived_tape(part)
    return (
        archived.exists()
        and layout.tape_of(part) == archived
        and not check_tape(part.session, archived)
    )


def _has_all_windows(layout: Layout, date: str, parts: set[WindowId]) -> bool:
    """Return True if ``parts`` has all windows of the reports with trades on ``date``."""
    for path in layout.sessions.glob("*.json"):
        report = read_report(layout, path.stem)
        if report is None:
            return False
        for window, books in report.windows.items():
            part = WindowId(report.session, window)
            if part.date == date and books.recorded and part not in parts:
                return False
    return True

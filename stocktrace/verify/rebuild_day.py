"""Rebuild a damaged day file from its intact rows and the tapes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.record.publish import rebuilt_copy
from stocktrace.sessions.catalog import read_report
from stocktrace.store import files, segments
from stocktrace.store.checksum import content_hash
from stocktrace.store.compaction import CompactionSource, replace_day
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, is_day_file
from stocktrace.store.partition import (
    WindowRows,
    files_in_order,
    partition_date,
    partition_ticker,
    window_rows_in,
)
from stocktrace.verify.tapes import check_tape, find_shortage


def rebuild_day(layout: Layout, path: Path, wrong: WindowId | None = None) -> bool:
    """Replace ``path``; the rows of the window ``wrong`` come from its tape.

    The caller holds ``layout.compaction``. Returns False, and changes nothing, if rows are missing.
    """
    ticker, date = partition_ticker(path.parent), partition_date(path.parent)
    published: dict[WindowId, WindowRows] = {}
    all_known = True
    for file in files_in_order(path.parent):
        try:
            published |= {piece.part: piece for piece in window_rows_in(file)}
        except ConversionError:
            if is_day_file(file):
                all_known = False
            else:  # its name is that of its window
                part = WindowId.parse(file)
                published[part] = WindowRows(part, file, 0, 0, "", 0)
    parts = set(published) | (set() if all_known else set(_taped_windows(layout, date)))
    if not all_known and not _all_taped(layout, date, parts):
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
                segment = _move_segment(scratch.csv(ticker, part), folder)
            if segment is not None:
                content = content_hash(segments.read_segment(segment)).hexdigest()
                sources.append(
                    CompactionSource(part, partial(segments.read_segment, segment), content)
                )
        return bool(sources) and replace_day(layout, ticker, date, sources) is not None


def _is_intact(piece: WindowRows) -> bool:
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


def _move_segment(segment: Path, folder: Path) -> Path | None:
    """Move a segment to ``folder``; ``None`` if the tape has no trade of its ticker."""
    return Path(shutil.move(segment, folder / segment.name)) if segment.exists() else None


def _taped_windows(layout: Layout, date: str) -> Iterator[WindowId]:
    for path in layout.archived_tapes():
        part = WindowId.of_tape(path)
        if part.date == date:
            yield part


def _all_taped(layout: Layout, date: str, parts: set[WindowId]) -> bool:
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

"""Published files by what their footers tell, and the windows of which nothing else is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.sessions.report import SessionReport
from stocktrace.store import footer, parquet
from stocktrace.store.checksum import content_hash
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.verify.day_files import DayFiles
from stocktrace.verify.finding import Finding


def footer_problem(path: Path, told: dict[str, str], part: WindowId, content: str) -> str | None:
    """What the footer of a file says wrongly; its pages are known to be right."""
    if (told.get("session"), told.get("window")) != (part.session, part.window):
        return "its footer tells of another session or window"
    if told.get("content") != content:
        return "its footer does not tell its content"
    if footer.has_wrong_statistics(path):
        return "its footer has wrong statistics, by which readers pass over rows"
    return None


def check_without_tape(
    layout: Layout, part: WindowId, days: DayFiles, report: SessionReport | None
) -> Iterator[Finding]:
    """Without a tape to compare with: the content against the footers, the rows with the report."""
    rows = 0
    for path in layout.published_window(part):
        try:
            told = footer.read_footer(path)
            found = content_hash(parquet.read_trade_file(path))
        except ConversionError as error:
            yield Finding(part.session, path, str(error))
            continue
        rows += found.rows
        if problem := footer_problem(path, told, part, found.hexdigest()):
            yield Finding(part.session, path, problem)
    for piece in days.of_part(part).values():
        rows += piece.rows
        if problem := days.problem(piece):
            yield Finding(part.session, piece.path, problem)
    books = report.windows.get(part.window) if report is not None else None
    if books is not None and rows != books.recorded and not layout.sealed_segments(part):
        problem = (
            f"cannot prove its trades: {rows:,} are published, {books.recorded:,} are in the report"
        )
        yield Finding(part.session, layout.archived_tape(part), problem)

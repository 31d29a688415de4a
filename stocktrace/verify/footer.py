"""Check published files against their footers, for windows without a tape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.sessions.report import SessionReport
from stocktrace.store import parquet
from stocktrace.store.checksum import content_hash
from stocktrace.store.footer import has_wrong_statistics, read_footer
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.verify.day_files import WRONG_STATISTICS, DayFiles
from stocktrace.verify.finding import Finding


def footer_problem(path: Path, footer: dict[str, str], part: WindowId, content: str) -> str | None:
    """Describe what is wrong in the footer of a file whose pages are right."""
    if (footer.get("session"), footer.get("window")) != (part.session, part.window):
        return "its footer names another session or window"
    if footer.get("content") != content:
        return "its footer does not match its content"
    if has_wrong_statistics(path):
        return WRONG_STATISTICS
    return None


def check_without_tape(
    layout: Layout, part: WindowId, days: DayFiles, report: SessionReport | None
) -> Iterator[Finding]:
    """Compare the content of a window with its footers, and its rows with the report."""
    rows = 0
    for path in layout.published_window(part):
        try:
            footer = read_footer(path)
            content = content_hash(parquet.read_trade_file(path))
        except ConversionError as error:
            yield Finding(part.session, path, str(error))
            continue
        rows += content.rows
        if problem := footer_problem(path, footer, part, content.hexdigest()):
            yield Finding(part.session, path, problem)
    for piece in days.of_part(part).values():
        rows += piece.rows
        if problem := days.problem(piece):
            yield Finding(part.session, piece.path, problem)
    books = report.windows.get(part.window) if report is not None else None
    if books is not None and rows != books.recorded and not layout.sealed_segments(part):
        problem = (
            f"cannot prove its trades: {rows:,} are published, but {books.recorded:,} reported"
        )
        yield Finding(part.session, layout.archived_tape(part), problem)

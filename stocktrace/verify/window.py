"""Check one window against its tape, rebuilt into a scratch folder, or without a tape."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.record.publish import rebuilt_copy
from stocktrace.store import conversion, parquet, segments
from stocktrace.store.checksum import content_hash
from stocktrace.store.footer import has_wrong_statistics, read_footer
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.partition import WindowRows
from stocktrace.store.quarantine import QuarantineEncoder, parse_quarantine
from stocktrace.verify.check import Finding, SessionCheck
from stocktrace.verify.day_files import WRONG_STATISTICS
from stocktrace.verify.rebuild_day import rebuild_day
from stocktrace.verify.tapes import find_shortage


def check_against_tape(check: SessionCheck, part: WindowId) -> Iterator[Finding]:
    """Compare each file of a window with its tape, and count the window.

    A tape that has less than the books prove is a finding itself, and proves nothing.
    """
    with rebuilt_copy(check.layout, part) as (scratch, sealed):
        if problem := find_shortage(check.layout, check.report, sealed):
            yield check.finding(check.layout.tape_of(part), problem)
            yield from check_without_tape(check, part)
        else:
            check.counted[part.window] = sealed
            yield from _compare_files(check, scratch, part)
            yield from _check_quarantine(check, scratch, part)


def _compare_files(check: SessionCheck, scratch: Layout, part: WindowId) -> Iterator[Finding]:
    """Compare each file of a window with trades with those in ``scratch``."""
    layout, days = check.layout, check.days
    tape, expected = layout.tape_of(part), set[Path]()
    segments = {scratch.ticker_of_csv(path): path for path in scratch.sealed_segments(part)}
    for ticker, segment in segments.items():
        if days.is_broken(ticker, part):
            continue  # the day file has a finding
        if piece := days.of_part(part).get(ticker):
            yield from _check_day_rows(check, piece, segment, tape)
            continue
        expected |= {layout.parquet(ticker, part), layout.csv(ticker, part)}
        for path, problem, repairable in _wrong_files(layout, part, ticker, segment, tape):
            if check.repair and repairable:
                _restore_file(layout, part, ticker, segment)
            yield check.finding(path, problem, repaired=check.repair and repairable)
    for path in sorted([*layout.published_window(part), *layout.sealed_segments(part)]):
        if path not in expected:
            yield check.finding(path, "has trades that the tape does not have")
    for ticker, piece in days.of_part(part).items():
        if ticker not in segments:
            problem = f"has trades of window {part.stem} that the tape does not have"
            repaired = check.repair and rebuild_day(layout, piece.path, part)
            yield check.finding(piece.path, problem, repaired=repaired)


def _check_day_rows(
    check: SessionCheck, piece: WindowRows, segment: Path, tape: Path
) -> Iterator[Finding]:
    """Compare the rows of a window in a day file with the segment of the tape."""
    wanted = content_hash(segments.read_segment(segment)).hexdigest()
    if problem := check.days.problem(piece, wanted):
        can_repair = check.repair and tape.suffix == ".zst"
        repaired = can_repair and rebuild_day(check.layout, piece.path, piece.part)
        yield check.finding(piece.path, problem, repaired=repaired)
        if repaired:
            check.days.read()


def _wrong_files(
    layout: Layout, part: WindowId, ticker: str, segment: Path, tape: Path
) -> Iterator[tuple[Path, str, bool]]:
    """Yield each wrong file of a ticker, the problem, and whether the tape can repair it."""
    final, sealed = layout.parquet(ticker, part), layout.csv(ticker, part)
    if sealed.exists() and not filecmp.cmp(sealed, segment, shallow=False):
        yield sealed, f"differs from {tape}", True
    if not final.exists():
        if not sealed.exists():
            yield final, "is missing", True
        return
    wanted = content_hash(segments.read_segment(segment))
    try:
        content = content_hash(parquet.read_trade_file(final))
        footer = read_footer(final)
    except ConversionError as error:
        yield final, str(error), True
        return
    if content.hexdigest() != wanted.hexdigest():
        difference = f"has other trades ({content.rows:,}) than the {wanted.rows:,}"
        if tape.suffix == ".tape" and footer.get("content") == content.hexdigest():
            yield tape, f"{final}, which is intact, {difference} here", False
        else:
            yield final, f"{difference} of {tape}", True
    elif problem := _footer_problem(final, footer, part, wanted.hexdigest()):
        yield final, problem, True


def _restore_file(layout: Layout, part: WindowId, ticker: str, segment: Path) -> None:
    """Publish the segment of the tape; it replaces a wrong file."""
    sealed = layout.csv(ticker, part)
    sealed.parent.mkdir(parents=True, exist_ok=True)
    temporary = sealed.with_suffix(".csv.open")
    shutil.copyfile(segment, temporary)
    temporary.replace(sealed)
    conversion.publish_segment(layout, sealed, overwrite=True)


def _check_quarantine(check: SessionCheck, scratch: Layout, part: WindowId) -> Iterator[Finding]:
    path, wanted = check.layout.quarantine(part), scratch.quarantine(part)
    if _read_refused(path) != _read_refused(wanted):
        if check.repair and wanted.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(wanted, path)
        elif check.repair:
            path.unlink()
        problem = f"differs from {check.layout.tape_of(part)}"
        yield check.finding(path, problem, repaired=check.repair)


def _read_refused(path: Path) -> list[tuple[str, bytes]] | None:
    """Read the refused rows with their frames; ``None`` if a line is not as it was written.

    Sorted: the order of lines, and the line that has the frame, depend on batches, which are not on
    the tape.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            lines = list(file)
        refused = list(parse_quarantine(lines))
        for line, written, row in zip(
            lines, QuarantineEncoder().encode(refused), refused, strict=True
        ):
            if line not in (written, row.line()):  # earlier versions repeated the frame
                return None
    except ValueError:
        return None
    return sorted((row.line(with_frame=False), row.frame) for row in refused)


def _footer_problem(path: Path, footer: dict[str, str], part: WindowId, content: str) -> str | None:
    """Describe what is wrong in the footer of a file whose pages are right."""
    if (footer.get("session"), footer.get("window")) != (part.session, part.window):
        return "its footer names another session or window"
    if footer.get("content") != content:
        return "its footer does not match its content"
    if has_wrong_statistics(path):
        return WRONG_STATISTICS
    return None


def check_without_tape(check: SessionCheck, part: WindowId) -> Iterator[Finding]:
    """Compare the content of a window with its footers, and its rows with the report."""
    layout, rows = check.layout, 0
    for path in layout.published_window(part):
        try:
            footer = read_footer(path)
            content = content_hash(parquet.read_trade_file(path))
        except ConversionError as error:
            yield check.finding(path, str(error))
            continue
        rows += content.rows
        if problem := _footer_problem(path, footer, part, content.hexdigest()):
            yield check.finding(path, problem)
    for piece in check.days.of_part(part).values():
        rows += piece.rows
        if problem := check.days.problem(piece):
            yield check.finding(piece.path, problem)
    books = check.report.windows.get(part.window) if check.report is not None else None
    if books is not None and rows != books.recorded and not layout.sealed_segments(part):
        problem = (
            f"cannot prove its trades: {rows:,} are published, but {books.recorded:,} reported"
        )
        yield check.finding(layout.archived_tape(part), problem)

"""The coverage of a session on disk against the marks on its tapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.intervals import CoverageInterval
from stocktrace.record.recovery import coverage_from_tapes
from stocktrace.sessions.report import SessionReport
from stocktrace.store.coverage import read_coverage_file, write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.tape import LATEST_NS
from stocktrace.store.window import utc_date
from stocktrace.units import NS_PER_US
from stocktrace.verify.finding import Finding

#: A row of coverage: ticker, start and end (epoch us), whether it is a gap, reason.
_Row = tuple[str, int, int, str, str]


def check_coverage(
    layout: Layout, report: SessionReport, dates: Iterable[str], proven: set[Path], *, repair: bool
) -> Iterator[Finding]:
    """The intervals on disk against those of the marks, up to the tapes' last sign of life.

    Those on disk are looked for under the dates of the marks, and under ``dates``. Files that have
    nothing after it either are added to ``proven``.
    """
    session = report.session
    if report.ended is None:
        return  # written when it is recovered
    coverage, last = coverage_from_tapes(layout, session)
    wanted = _rows_by_file(layout, session, coverage.intervals, last)
    problems: dict[Path, str] = {}
    others = {layout.coverage(session, date) for date in dates} - wanted.keys()
    for path in sorted({*wanted, *(path for path in others if path.exists())}):
        try:
            found = _rows_of(path, last) if path.exists() else None
        except ConversionError as error:
            problems[path] = str(error)
            continue
        if found is None:
            problems[path] = "is missing"
        elif found == wanted.get(path, set()):
            proven |= {path} if found == _rows_of(path, LATEST_NS) else set()
        else:
            problems[path] = f"does not tell what the marks on {layout.tapes(session)} do"
    if repair and problems:
        write_coverage(layout, session, coverage.intervals)
    for path, problem in problems.items():
        yield Finding(session, path, problem, repaired=repair and path in wanted)


def _rows_by_file(
    layout: Layout, session: str, intervals: Iterable[CoverageInterval], last: int
) -> dict[Path, set[_Row]]:
    found: dict[Path, set[_Row]] = {}
    for interval in intervals:
        for piece in interval.split_at_midnight():
            start, end = piece.start // NS_PER_US, piece.end // NS_PER_US
            rows = found.setdefault(layout.coverage(session, utc_date(piece.start)), set())
            rows.update(_clip((piece.ticker, start, end, piece.reason, piece.sources), last))
    return found


def _rows_of(path: Path, last: int) -> set[_Row]:
    table = read_coverage_file(path)
    rows = zip(
        table["symbol"].to_pylist(),
        table["start"].cast("int64").to_pylist(),
        table["end"].cast("int64").to_pylist(),
        table["reason"].to_pylist(),
        table["sources"].to_pylist(),
        table["state"].to_pylist(),
        strict=True,
    )
    found: set[_Row] = set()
    for ticker, start, end, reason, sources, state in rows:
        if state != ("gap" if reason else "listening"):
            raise ConversionError(f"{path} has the state {state!r} with the reason {reason!r}.")
        found.update(_clip((ticker, start, end, reason, sources), last))
    return found


def _clip(row: _Row, last: int) -> Iterator[_Row]:
    """``row`` as far as the tapes can tell of it."""
    ticker, start, end, reason, sources = row
    if start < last // NS_PER_US:
        yield ticker, start, min(end, last // NS_PER_US), reason, sources

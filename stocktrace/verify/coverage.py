"""Check the coverage on disk against the marks on the tapes."""

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
    """Compare the intervals on disk with those of the marks, up to the last line of the tapes.

    Files are searched under the dates of the marks and under ``dates``. Files that end there too
    are added to ``proven``.
    """
    session = report.session
    if report.ended is None:
        return  # its recovery writes the coverage
    coverage, last = coverage_from_tapes(layout, session)
    wanted = _rows_by_file(layout, session, coverage.intervals, last)
    problems: dict[Path, str] = {}
    others = {layout.coverage(session, date) for date in dates} - wanted.keys()
    for path in sorted({*wanted, *(path for path in others if path.exists())}):
        try:
            rows = _rows_of(path, last) if path.exists() else None
        except ConversionError as error:
            problems[path] = str(error)
            continue
        if rows is None:
            problems[path] = "is missing"
        elif rows == wanted.get(path, set()):
            proven |= {path} if rows == _rows_of(path, LATEST_NS) else set()
        else:
            problems[path] = f"differs from the marks on {layout.tapes(session)}"
    if repair and problems:
        write_coverage(layout, session, coverage.intervals)
    for path, problem in problems.items():
        yield Finding(session, path, problem, repaired=repair and path in wanted)


def _rows_by_file(
    layout: Layout, session: str, intervals: Iterable[CoverageInterval], last: int
) -> dict[Path, set[_Row]]:
    files: dict[Path, set[_Row]] = {}
    for interval in intervals:
        for part in interval.split_at_midnight():
            start, end = part.start // NS_PER_US, part.end // NS_PER_US
            rows = files.setdefault(layout.coverage(session, utc_date(part.start)), set())
            rows.update(_clip((part.ticker, start, end, part.reason, part.sources), last))
    return files


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
    clipped: set[_Row] = set()
    for ticker, start, end, reason, sources, state in rows:
        if state != ("gap" if reason else "listening"):
            raise ConversionError(f"{path} has the state {state!r} with the reason {reason!r}.")
        clipped.update(_clip((ticker, start, end, reason, sources), last))
    return clipped


def _clip(row: _Row, last: int) -> Iterator[_Row]:
    """The part of ``row`` before ``last`` (epoch ns)."""
    ticker, start, end, reason, sources = row
    if start < last // NS_PER_US:
        yield ticker, start, min(end, last // NS_PER_US), reason, sources

"""Check the report and the coverage of a session against its tapes, its files and its hashes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.intervals import CoverageInterval
from stocktrace.record.file_hashes import find_differences, update_hashes
from stocktrace.record.journal import SessionJournal
from stocktrace.record.recovery import recount_report
from stocktrace.record.tape_facts import TapeFacts
from stocktrace.sessions.report import Books, SessionReport, TickerBooks
from stocktrace.store.audit import AuditLog
from stocktrace.store.coverage import read_coverage_file, write_coverage
from stocktrace.store.dataset import find_published
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, utc_date
from stocktrace.text import count_of
from stocktrace.units import NS_PER_US
from stocktrace.verify.check import Finding, SessionCheck
from stocktrace.verify.published import SessionFiles
from stocktrace.verify.report_fields import RECOUNTED, write_repaired

#: A row of coverage: ticker, start and end (epoch us), reason of a gap, sources, lag (s).
_Row = tuple[str, int, int, str, str, float]


def check_report(check: SessionCheck, report: SessionReport) -> Iterator[Finding]:
    """Find where the books differ from the tapes, the published files and each other."""
    counted = check.counted
    unpublished = [
        f"window {window} is not published: run `stocktrace recover`"
        for window in report.unpublished
    ]
    problems = [f"the books: {difference}" for difference in report.differences()]
    for window, sealed in counted.items():
        books: Books | None = report.windows.get(window)
        if books != sealed.books:
            tape = check.layout.tape_of(sealed.window)
            problems.append(f"window {window}: {books} in the report, {sealed.books} on {tape}")
    pending = [
        window
        for window in report.unpublished
        if not check.repair or not _is_published(check, WindowId(check.session, window))
    ]
    if not pending:
        problems += _check_tickers(check, report)
    repaired = False
    unreadable = any(
        check.layout.dataset in path.parents and not repaired
        for path, repaired in check.wrong.items()
    )
    if (
        (problems or unpublished)
        and check.repair
        and not pending
        and not unreadable
        and report.windows.keys() <= counted.keys()
    ):
        _repair_report(check, report)
        repaired = report.balanced
    check.fields.update(RECOUNTED if problems or unpublished else ())
    path = check.layout.report(check.session)
    for problem in [*unpublished, *problems]:
        yield check.finding(path, problem, repaired=repaired)


def _is_published(check: SessionCheck, window: WindowId) -> bool:
    """Return whether a repair has published a window, or it has no trades."""
    layout, sealed = check.layout, check.counted.get(window.window)
    if sealed is None or layout.tape(window).exists() or layout.sealed_segments(window):
        return False
    return not sealed.books.recorded or find_published(layout, window) is not None


def _check_tickers(check: SessionCheck, report: SessionReport) -> Iterator[str]:
    on_disk: dict[str, TickerBooks] = {}
    for sealed in check.counted.values():
        for ticker, counts in sealed.tickers.items():
            on_disk.setdefault(ticker, TickerBooks()).add(counts)
    names = []
    files = SessionFiles(check.layout, check.session, check.files.dates)  # after repairs
    published = files.count_trades()
    if published is not None:  # otherwise a file has a finding of its own
        names.append("parquet")
        for ticker, rows in published.items():
            on_disk.setdefault(ticker, TickerBooks()).parquet = rows
        own = [each for each in files.sets if not each.is_compacted]
        if len(own) == len(files.windows()) != report.files:  # compacted, they are fewer
            yield f"{count_of(report.files, 'file')} in the report, {len(own):,} on disk"
    if report.windows.keys() <= check.counted.keys():
        names += ["trades", "recorded", "quarantined", "last"]
    for ticker in sorted({*on_disk, *report.per_ticker}):
        reported = report.per_ticker.get(ticker, TickerBooks())
        books = on_disk.get(ticker, TickerBooks())
        for name in names:
            if getattr(reported, name) != getattr(books, name):
                yield f"{ticker}: {getattr(reported, name)} {name}, on disk {getattr(books, name)}"


def _repair_report(check: SessionCheck, report: SessionReport) -> None:
    """Count all windows and the published files again; the rest of the report stays."""
    layout = check.layout
    report.books = Books()
    for counts in (report.windows, report.per_ticker, report.errors):
        counts.clear()
    journal = SessionJournal(layout, report, AuditLog(layout.audit, report.session))
    recount_report(layout, report.session, report, journal)
    write_repaired(check, report, RECOUNTED)


def check_coverage(
    check: SessionCheck, report: SessionReport, facts: TapeFacts
) -> Iterator[Finding]:
    """Compare the intervals on disk with those of the marks, up to the last line of the tapes.

    Files that end there too are proven.
    """
    if report.ended is None:
        return  # its recovery writes the coverage
    layout, session = check.layout, check.session
    coverage, last = facts.coverage, facts.last // NS_PER_US
    wanted = _rows_by_file(layout, session, coverage.intervals)
    problems: dict[Path, str] = {}
    others = {layout.coverage(session, date) for date in check.files.dates} - wanted.keys()
    for path in sorted({*wanted, *(path for path in others if path.exists())}):
        if not path.exists():
            problems[path] = "is missing"
            continue
        try:
            rows = _read_rows(path)
        except ConversionError as error:
            problems[path] = str(error)
            continue
        until_last = _clip(rows, last)
        if until_last != _clip(wanted.get(path, set()), last):
            problems[path] = f"differs from the marks on {layout.tapes(session)}"
        elif until_last == rows:
            check.proven.add(path)
    if check.repair and problems:
        write_coverage(layout, session, coverage.intervals)
    for path, problem in problems.items():
        yield check.finding(path, problem, repaired=check.repair and path in wanted)


def _rows_by_file(
    layout: Layout, session: str, intervals: Iterable[CoverageInterval]
) -> dict[Path, set[_Row]]:
    files: dict[Path, set[_Row]] = {}
    for interval in intervals:
        for part in interval.split_at_midnight():
            start, end = part.start // NS_PER_US, part.end // NS_PER_US
            row = part.ticker, start, end, part.reason, part.sources, part.lag_s
            files.setdefault(layout.coverage(session, utc_date(part.start)), set()).add(row)
    return files


def _read_rows(path: Path) -> set[_Row]:
    table = read_coverage_file(path)
    times = (table[name].cast("int64").to_pylist() for name in ("start", "end"))
    texts = (table[name].to_pylist() for name in ("symbol", "reason", "sources", "lag_s", "state"))
    rows: set[_Row] = set()
    for start, end, ticker, reason, sources, lag_s, state in zip(*times, *texts, strict=True):
        if state != ("gap" if reason else "listening"):
            raise ConversionError(f"{path} has the state {state!r} with the reason {reason!r}.")
        rows.add((ticker, start, end, reason, sources, lag_s))
    return rows


def _clip(rows: set[_Row], last: int) -> set[_Row]:
    """Return the parts of ``rows`` before ``last`` (epoch us)."""
    return {
        (ticker, start, min(end, last), reason, sources, lag_s)
        for ticker, start, end, reason, sources, lag_s in rows
        if start < last
    }


def check_hashes(
    check: SessionCheck, report: SessionReport, dates: Iterable[str]
) -> Iterator[Finding]:
    """Find coverage and quarantine files whose hash differs from the report.

    Files with a finding are left out. If the tapes prove a file right, or it was repaired from
    them, the report is wrong: with ``repair`` it gets the new hash.
    """
    layout, report_file = check.layout, check.layout.report(check.session)
    outdated: list[Path] = []
    for path, problem in find_differences(layout, report, dates):
        if path in check.wrong:
            outdated += [path] if check.wrong[path] else []
        elif path in check.proven:
            outdated.append(path)
            check.fields.add("hashes")
            text = f"does not have the hash of {path}, which matches the tapes"
            yield check.finding(report_file, text, repaired=check.repair)
        else:
            yield check.finding(path, problem)
    if check.repair and outdated:
        update_hashes(layout, report, outdated)
        write_repaired(check, report, {"hashes"})

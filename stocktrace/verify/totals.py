"""Check the report of a session against its tapes, its published files, its hashes and itself."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.record.file_hashes import find_differences, update_hashes
from stocktrace.record.journal import SessionJournal
from stocktrace.record.recorder import SealedWindow
from stocktrace.record.recovery import recount_report
from stocktrace.sessions.report import Books, SessionReport, TickerBooks
from stocktrace.store.audit import AuditLog
from stocktrace.store.footer import read_footer
from stocktrace.store.layout import Layout
from stocktrace.verify.day_files import DayFiles
from stocktrace.verify.finding import Finding


def check_report(
    layout: Layout,
    report: SessionReport,
    counted: dict[str, SealedWindow],
    days: DayFiles,
    *,
    repair: bool,
) -> Iterator[Finding]:
    """Find where the books differ from the tapes, the published files and each other."""
    session = report.session
    unpublished = [
        f"window {window} is not published: run `stocktrace recover`"
        for window in report.unpublished
    ]
    problems = [f"the books: {difference}" for difference in report.differences()]
    for window, sealed in counted.items():
        books: Books | None = report.windows.get(window)
        if books != sealed.books:
            tape = layout.tape_of(sealed.part)
            problems.append(f"window {window}: {books} in the report, {sealed.books} on {tape}")
    if not unpublished:
        problems += _check_tickers(layout, report, counted, days)
    repaired = False
    if problems and repair and not unpublished and report.windows.keys() <= counted.keys():
        _repair_report(layout, report)
        repaired = report.balanced
    for problem in unpublished:
        yield Finding(session, layout.report(session), problem)
    for problem in problems:
        yield Finding(session, layout.report(session), problem, repaired=repaired)


def _check_tickers(
    layout: Layout, report: SessionReport, counted: dict[str, SealedWindow], days: DayFiles
) -> Iterator[str]:
    on_disk: dict[str, TickerBooks] = {}
    for sealed in counted.values():
        for ticker, counts in sealed.tickers.items():
            books = on_disk.setdefault(ticker, TickerBooks())
            books.trades += counts.trades
            books.recorded += counts.recorded
            books.quarantined += counts.quarantined
    for ticker, path in layout.published_files(report.session, days.dates):
        books = on_disk.setdefault(ticker, TickerBooks())
        books.files += 1
        with contextlib.suppress(ConversionError):  # the file has a finding of its own
            books.parquet += int(read_footer(path)["rows"])
    compacted = set()
    for pieces in days.windows.values():
        for ticker, piece in pieces.items():
            on_disk.setdefault(ticker, TickerBooks()).parquet += piece.rows
            compacted.add(ticker)  # it has fewer files than in the report
    all_counted = report.windows.keys() <= counted.keys()
    for ticker in sorted({*on_disk, *report.per_ticker}):
        reported = report.per_ticker.get(ticker, TickerBooks())
        books = on_disk.get(ticker, TickerBooks())
        names = ["parquet"] + (["files"] if ticker not in compacted else [])
        names += ["trades", "recorded", "quarantined"] if all_counted else []
        for name in names:
            if getattr(reported, name) != getattr(books, name):
                yield f"{ticker}: {getattr(reported, name)} {name}, on disk {getattr(books, name)}"


def _repair_report(layout: Layout, report: SessionReport) -> None:
    """Count all windows and the published files again; the rest of the report stays."""
    report.books = Books()
    for counts in (report.windows, report.per_ticker, report.errors):
        counts.clear()
    audit = AuditLog(layout.audit, report.session)
    journal = SessionJournal(layout, report, audit)
    recount_report(layout, report.session, report, journal)
    journal.save()
    audit("repair", file=str(layout.report(report.session)))


def check_hashes(
    layout: Layout,
    report: SessionReport,
    dates: Iterable[str],
    findings: Iterable[Finding],
    proven: Collection[Path],
    *,
    repair: bool,
) -> Iterator[Finding]:
    """Find coverage and quarantine files whose hash differs from the report.

    Files with a finding are left out. If the tapes prove a file right (``proven``), or it was
    repaired from them, the report is wrong: with ``repair`` it gets the new hash.
    """
    repaired: dict[Path, bool] = {}
    for finding in findings:
        repaired[finding.path] = finding.repaired and repaired.get(finding.path, True)
    outdated: list[Path] = []
    for path, problem in find_differences(layout, report, dates):
        if path in repaired:
            outdated += [path] if repaired[path] else []
        elif path in proven:
            outdated.append(path)
            text = f"does not have the hash of {path}, which matches the tapes"
            yield Finding(report.session, layout.report(report.session), text, repaired=repair)
        else:
            yield Finding(report.session, path, problem)
    if repair and outdated:
        update_hashes(layout, report, outdated)
        report.write(layout.report(report.session))
        AuditLog(layout.audit, report.session)("repair", file=str(layout.report(report.session)))

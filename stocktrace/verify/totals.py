"""The report of a session against its tapes, what is published of it, and itself."""

from __future__ import annotations

from collections.abc import Iterator

from stocktrace.errors import ConversionError
from stocktrace.record.journal import SessionJournal
from stocktrace.record.recorder import SealedWindow
from stocktrace.record.recovery import recount_report
from stocktrace.sessions.report import Books, SessionReport, TickerBooks
from stocktrace.store import footer
from stocktrace.store.audit import AuditLog
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
    """Where the report differs from the tapes, from what is published, and from itself."""
    session = report.session
    waiting = [f"window {window} waits: run `stocktrace recover`" for window in report.unpublished]
    wrong = [f"the books: {difference}" for difference in report.differences()]
    for window, sealed in counted.items():
        told: Books | None = report.windows.get(window)
        if told != sealed.books:
            tape = layout.tape_of(sealed.part)
            wrong.append(f"window {window}: {told} in the report, {sealed.books} on {tape}")
    if not waiting:
        wrong += _check_tickers(layout, report, counted, days)
    mended = False
    if wrong and repair and not waiting and report.windows.keys() <= counted.keys():
        _repair_report(layout, report)
        mended = report.balanced
    for problem in waiting:
        yield Finding(session, layout.report(session), problem)
    for problem in wrong:
        yield Finding(session, layout.report(session), problem, repaired=mended)


def _check_tickers(
    layout: Layout, report: SessionReport, counted: dict[str, SealedWindow], days: DayFiles
) -> Iterator[str]:
    found: dict[str, TickerBooks] = {}
    for sealed in counted.values():
        for ticker, counts in sealed.tickers.items():
            one = found.setdefault(ticker, TickerBooks())
            one.trades += counts.trades
            one.recorded += counts.recorded
            one.quarantined += counts.quarantined
    whole = report.windows.keys() <= counted.keys()
    for ticker, path in layout.published_files(report.session, days.dates):
        one = found.setdefault(ticker, TickerBooks())
        one.files += 1
        try:
            one.parquet += int(footer.read_footer(path)["rows"])
        except ConversionError:
            continue  # it was found already
    compacted = set()
    for held in days.windows.values():
        for ticker, piece in held.items():
            found.setdefault(ticker, TickerBooks()).parquet += piece.rows
            compacted.add(ticker)  # there are fewer files than the report tells
    for ticker in sorted({*found, *report.per_ticker}):
        told = report.per_ticker.get(ticker, TickerBooks())
        one = found.get(ticker, TickerBooks())
        names = ["parquet"] + (["files"] if ticker not in compacted else [])
        names += ["trades", "recorded", "quarantined"] if whole else []
        for name in names:
            if getattr(told, name) != getattr(one, name):
                yield f"{ticker}: {getattr(told, name)} {name}, on disk {getattr(one, name)}"


def _repair_report(layout: Layout, report: SessionReport) -> None:
    """Count all windows again, and what is published; all else that the report tells stays."""
    report.books = Books()
    for counts in (report.windows, report.per_ticker, report.errors):
        counts.clear()
    audit = AuditLog(layout.audit, report.session)
    journal = SessionJournal(layout, report, audit)
    recount_report(layout, report.session, report, journal)
    journal.save()
    audit("repair", file=str(layout.report(report.session)))

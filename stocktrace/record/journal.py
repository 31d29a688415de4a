"""What is told of a session while it lives: to its report, to the audit log, to a person."""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from stocktrace._version import __version__
from stocktrace.feed.subscriptions import is_symbol_error
from stocktrace.intervals import Gap
from stocktrace.record.coverage import CoverageBuilder
from stocktrace.record.publish import PublishedWindow
from stocktrace.record.recorder import SealedWindow
from stocktrace.sessions.report import GapReport, SessionReport, TickerChange
from stocktrace.sessions.status import ReconnectAttempt
from stocktrace.store.audit import AuditLog
from stocktrace.store.layout import Layout
from stocktrace.text import count_of, printable
from stocktrace.units import NS_PER_SECOND, utc_datetime

log = logging.getLogger(__name__)

# The first connection takes a moment; a longer one is worth a message.
CONNECTING_S = 1.0


def new_report(
    session: str, tickers: Sequence[str], stamp: int, settings: dict[str, str | int | float]
) -> SessionReport:
    """The report of a session that begins at ``stamp`` (epoch ns)."""
    packages = ("websocket-client", "pyarrow", "pandas", "pandera")
    return SessionReport(
        session,
        list(tickers),
        utc_datetime(stamp),
        settings=settings,
        versions={
            "stocktrace": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def report_gaps(coverage: CoverageBuilder) -> list[GapReport]:
    """The gaps so far, each once, however many tickers it is of."""
    return [
        GapReport(utc_datetime(start), utc_datetime(end), reason, tickers)
        for (start, end, reason), tickers in coverage.outages().items()
    ]


@dataclass(slots=True)
class SessionJournal:
    """Keeps the report, the audit log and the messages of a session; one thread only."""

    layout: Layout
    report: SessionReport
    audit: AuditLog
    coverage: CoverageBuilder = field(default_factory=CoverageBuilder)
    connected: bool = False
    #: Why there is no connection, as far as is known.
    disconnect_reason: str = "no connection was ever made"
    #: The wait for the next dial, while there is no connection.
    retry: ReconnectAttempt | None = None
    #: How often the server refused a subscription, and its last word on that.
    refused_rows: int = 0
    last_refusal: str = ""
    #: What was last told of as an error.
    last_error: str = ""

    def record(self, event: str, message: str, level: int = logging.INFO, **facts: Any) -> None:
        """Something happened: a line in the audit log, a message for a person."""
        self.audit(event, **facts)
        if level >= logging.WARNING:
            self.last_error = message
        log.log(level, printable(message))  # words of the server may be in it

    def window_sealed(self, sealed: SealedWindow) -> None:
        """A window is on disk; the spilled ones count when they are rebuilt."""
        report, part = self.report, sealed.part
        report.unpublished.append(part.window)
        self.audit("roll", window=part.window, trades=sealed.books.trades)
        if sealed.spilled:
            report.spilled[part.window] = sorted(sealed.spilled)
            tickers = count_of(len(sealed.spilled), "ticker")
            self.record(
                "spill",
                f"window {part.window}: the trades of {tickers} came faster than they could be "
                "checked; they are had from the tape",
                logging.WARNING,
                window=part.window,
                tickers=sorted(sealed.spilled),
            )
        else:
            self.add_counts(sealed)
        self.save()

    def window_published(self, published: PublishedWindow) -> None:
        """A window's trades are in Parquet."""
        if published.rebuilt_window is not None:
            self.add_counts(published.rebuilt_window)
        for file in published.files:
            one = self.report.ticker(file.ticker)
            one.parquet += file.rows
            one.files += 1
            one.size += file.size
        window = published.part.window
        self.report.unpublished.remove(window)
        rows = sum(file.rows for file in published.files)
        self.audit("convert", window=window, files=len(published.files), rows=rows)
        self.report.upload_error = published.upload_error
        if published.upload_error:
            self.record("unsent", published.upload_error, logging.WARNING, window=window)
        self.save()

    def add_counts(self, sealed: SealedWindow) -> None:
        """Add the books of a window to those of the session."""
        report = self.report
        report.windows[sealed.part.window] = sealed.books
        report.books.add(sealed.books)
        for name, counts in sealed.tickers.items():
            report.ticker(name).add(counts)
        for text, count in sealed.errors.items():
            report.errors[text] = report.errors.get(text, 0) + count

    def save(self) -> None:
        """Put the report on disk."""
        self.report.write(self.layout.report(self.report.session))

    # --- the feed's events -------------------------------------------------------------------

    def on_connected(self, tickers: Sequence[str]) -> None:
        """The feed listens, and the gap before it is over."""
        self.report.gaps = report_gaps(self.coverage)
        self.connected = True
        self.retry = None
        self.report.tickers = list(tickers)  # they may have changed meanwhile
        text = f"connected, {count_of(len(tickers), 'ticker')} subscribed"
        self.record("connect", text, tickers=list(tickers))

    def on_disconnected(self, reason: str) -> None:
        """The feed does not listen any more."""
        self.connected = False
        self.report.reconnects += 1
        self.record("disconnect", f"disconnected: {reason}", logging.WARNING, reason=reason)

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        """The feed will dial again, ``wait_s`` after ``stamp`` (epoch ns)."""
        self.disconnect_reason = reason
        attempt = self.retry.attempt + 1 if self.retry is not None else 1
        self.retry = ReconnectAttempt(
            attempt, utc_datetime(stamp + int(wait_s * NS_PER_SECOND)), reason
        )
        self.record(
            "retry",
            f"{reason}; next try in {wait_s:.1f} s",
            logging.WARNING,
            reason=reason,
            wait_s=round(wait_s, 3),
        )

    def on_gap(self, gap: Gap) -> None:
        """A stretch in which nothing could be heard."""
        start, end = utc_datetime(gap.start), utc_datetime(gap.end)
        self.report.gaps = report_gaps(self.coverage)
        self.record(
            "gap",
            f"not listening for {gap.seconds:.1f} s: {gap.reason}",
            logging.DEBUG if gap.seconds < CONNECTING_S else logging.INFO,
            start=start,
            end=end,
            reason=gap.reason,
            tickers=len(gap.tickers),
        )

    def on_subscription(self, added: Sequence[str], removed: Sequence[str]) -> None:
        """The tickers of the live connection changed."""
        old = self.report.tickers
        self.report.tickers = [t for t in old if t not in set(removed)] + list(added)
        for ticker in added:
            self.report.refused.pop(ticker, None)  # it is asked for again
        text = " ".join([*(f"+{ticker}" for ticker in added), *(f"-{t}" for t in removed)])
        self.record("subscribe", f"tickers: {text}", added=list(added), removed=list(removed))
        self.save()

    def on_change(self, stamp: int, by: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """Other tickers were asked for at ``stamp`` (epoch ns); the feed is about to tell."""
        change = TickerChange(utc_datetime(stamp), by, list(added), list(removed))
        self.report.changes.append(change)
        self.audit("retarget", by=by, added=change.added, removed=change.removed)
        self.save()

    def on_notice(self, text: str) -> None:
        """Something that a person should know."""
        self.report.notices.append(text)
        self.record("notice", text, logging.WARNING, text=text)

    def on_refused(self, ticker: str, text: str) -> None:
        """The server does not serve a ticker."""
        self.report.refused[ticker] = text
        self.record(
            "refused", f"{ticker} is refused: {text}", logging.WARNING, ticker=ticker, text=text
        )

    def on_error(self, text: str) -> None:
        """The server sent an error frame."""
        if is_symbol_error(text):
            self.refused_rows += 1
            self.last_refusal = text
        self.record("error", f"the server says: {text}", logging.WARNING, text=text)

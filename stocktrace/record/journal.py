"""Everything that a running session says: in its report, in the audit log, and to a person."""

from __future__ import annotations

import logging
import os
import platform
import queue
import socket
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from stocktrace import marks
from stocktrace._version import __version__
from stocktrace.clock import SYSTEM_CLOCK, Clock, was_first_set
from stocktrace.feed.subscriptions import is_symbol_error
from stocktrace.intervals import CONNECTING
from stocktrace.record.coverage import CoverageBuilder, GapKey
from stocktrace.record.publish import PublishedWindow
from stocktrace.record.recorder import SealedWindow
from stocktrace.sessions.report import GapReport, SessionReport, TickerChange, add_error
from stocktrace.sessions.running_report import RunningReport
from stocktrace.sessions.status import ReconnectAttempt
from stocktrace.store.audit import AuditLog
from stocktrace.store.layout import Layout
from stocktrace.text import count_of, printable
from stocktrace.units import NS_PER_SECOND, utc_datetime

log = logging.getLogger(__name__)

#: Calls that other threads leave for the thread of the capture.
Mailbox = queue.SimpleQueue[Callable[[], None]]

_UNREQUESTED = "trades of tickers that nobody asked for"
# From this lag on, a feed that is behind deserves a warning.
LAG_WARNING_S = 5.0
# The first connection takes a moment; a longer gap is worth a message.
CONNECTING_S = 1.0

# So many errors of the server are logged one by one, then one each so many seconds.
ERROR_BURST, ERROR_INTERVAL_S = 20, 10.0


def new_report(
    session: str, tickers: Sequence[str], stamp: int, settings: dict[str, str | int | float]
) -> SessionReport:
    """Return the report of a session that begins at ``stamp`` (epoch ns)."""
    versions = {"stocktrace": __version__, "python": platform.python_version()}
    for package in ("websocket-client", "pyarrow", "pandas", "pandera"):
        versions[package] = version(package)
    started, host, pid = utc_datetime(stamp), socket.gethostname(), os.getpid()
    return SessionReport(
        session, list(tickers), started, settings=settings, versions=versions, host=host, pid=pid
    )


def report_gaps(coverage: CoverageBuilder) -> list[GapReport]:
    """Return each gap so far once, with the number of its tickers."""
    return [_gap_report(gap, tickers) for gap, tickers in coverage.gaps().items()]


def _gap_report(gap: GapKey, tickers: int) -> GapReport:
    start, end, reason = gap
    return GapReport(utc_datetime(start), utc_datetime(end), reason, tickers)


@dataclass(slots=True)
class SessionJournal:
    """Keeps the report, the audit log and the messages of a session; for one thread."""

    layout: Layout
    report: SessionReport
    audit: AuditLog
    coverage: CoverageBuilder = field(default_factory=CoverageBuilder)
    connected: bool = False
    #: Why the last connection was lost or could not be made.
    disconnect_reason: str = "no connection was ever made"
    #: Since when nobody listens, after a loss, and its reason; and until when trades were received
    #: while the feed is behind. Epoch ns, or 0.
    lost_at: int = 0
    loss_reason: str = ""
    heard_until: int = 0
    #: The next attempt, while disconnected.
    retry: ReconnectAttempt | None = None
    #: Errors of the server that refuse a subscription: their number, and the last text.
    refusals: int = 0
    last_refusal: str = ""
    #: The last warning or error.
    last_error: str = ""
    #: The seconds of all gaps in the report, how many of them are outages, and the tickers that
    #: spilled, once for each window: the status, which is written twice a second, must not add up.
    gap_s: float = 0.0
    outages: int = 0
    spilled: int = 0
    clock: Clock = SYSTEM_CLOCK
    _warned_lag_s: float = 0.0
    _gap_keys: list[GapKey] = field(default_factory=list)
    _unsaved_gaps: list[GapReport] = field(default_factory=list)
    #: Errors since the last that was logged, and until when the logged ones use up their share.
    _unlogged_errors: int = 0
    _last_error_text: str = ""
    _errors_until: float = 0.0
    _running: RunningReport = field(init=False)

    def __post_init__(self) -> None:
        self._running = RunningReport(self.layout.report(self.report.session))

    def record(self, event: str, message: str, level: int = logging.INFO, **facts: Any) -> None:
        """Write an event to the audit log, and a message to the log."""
        self.audit(event, **facts)
        if level >= logging.WARNING:
            self.last_error = message
        log.log(level, printable(message))  # it may quote the server

    def window_sealed(self, sealed: SealedWindow) -> None:
        """Count a window that is on disk; one with spilled tickers counts when it is rebuilt."""
        window, spilled = sealed.window.window, sorted(sealed.spilled)
        self.report.unpublished.append(window)
        self.audit("roll", window=window, trades=sealed.books.trades)
        if spilled:
            self.report.spilled[window] = spilled
            self.spilled += len(spilled)
            text = (
                f"window {window}: validation fell behind for {count_of(len(spilled), 'ticker')}; "
                "they will be rebuilt from the tape"
            )
            self.record("spill", text, logging.WARNING, window=window, tickers=spilled)
        else:
            self.add_counts(sealed)
        self.save_running()

    def window_published(self, published: PublishedWindow) -> None:
        """Count a window whose trades are in Parquet."""
        if published.rebuilt_window is not None:
            self.add_counts(published.rebuilt_window)
        report, file, window = self.report, published.file, published.window.window
        if file is not None:
            report.files += 1
            report.size += file.size
            for ticker, rows in file.rows.items():
                report.ticker_books(ticker).parquet += rows
        report.add_duplicates(published.duplicates)
        report.unpublished.remove(window)
        self.audit("convert", window=window, rows=sum(file.rows.values()) if file else 0)
        self.report.upload_error = published.upload_error
        if published.upload_error:
            self.record("unsent", published.upload_error, logging.WARNING, window=window)
        self.save_running()

    def add_counts(self, sealed: SealedWindow) -> None:
        """Add the books of a window to those of the session."""
        report = self.report
        report.windows[sealed.window.window] = sealed.books
        report.books.add(sealed.books)
        for name, counts in sealed.tickers.items():
            report.ticker_books(name).add(counts)
        for text, count in sealed.errors.items():
            add_error(report.errors, text, count)
        if sealed.books.unrequested and not any(_UNREQUESTED in text for text in report.notices):
            names = ", ".join(map(printable, sealed.others))
            self.on_notice(
                f"{_UNREQUESTED} were received, such as {names}: they are counted, and kept on the "
                "tape only"
            )

    def report_new_gaps(self) -> None:
        """Put the gaps that have ended into the report; earlier ones are not touched."""
        gaps = self.report.gaps
        for key in sorted(self.coverage.new_gaps):
            gap = _gap_report(key, self.coverage.gap_tickers[key])
            self._unsaved_gaps.append(gap)
            at = bisect_left(self._gap_keys, key)
            if self._gap_keys[at : at + 1] == [key]:  # of more tickers now
                gaps[at] = gap
                continue
            self._gap_keys.insert(at, key)
            gaps.insert(at, gap)
            self.gap_s += gap.seconds
            self.outages += gap.reason != CONNECTING
        self.coverage.new_gaps.clear()

    @property
    def last_outage(self) -> GapReport | None:
        """The outage that began last."""
        if not self.outages:
            return None
        return next(gap for gap in reversed(self.report.gaps) if gap.reason != CONNECTING)

    def close(self, event: str = "end", **facts: Any) -> None:
        """Write the final report, after its digests: ``verify`` compares them."""
        self.log_errors()
        report = self.report
        if event == "end":
            facts = {"state": report.state, "reason": report.reason, "books": report.books}
        self.audit(event, **facts, report=report.digests())
        self.save()

    def save(self) -> None:
        """Write the whole report to disk, after the events in the audit log."""
        self.audit.sync()
        self.report.write(self.layout.report(self.report.session))

    def save_running(self) -> None:
        """Write what is new in the report of a session that runs, and began with this journal."""
        self._running.write(self.report, self._unsaved_gaps)
        self._unsaved_gaps.clear()

    def on_mark(self, mark: marks.Mark) -> None:
        """Take in what happened to the connection."""
        self.coverage.add(mark)
        report = self.report
        match mark:
            case marks.ConnectedMark():
                self.report_new_gaps()
                report.tickers = list(mark.tickers)  # they may have changed since the disconnect
                self.connected, self.lost_at = True, 0
                self.retry = None
                report.reconnects = self.coverage.reconnects
                text = f"connected, {count_of(len(mark.tickers), 'ticker')} subscribed"
                self.record("connect", text, **mark.facts)
            case marks.DisconnectedMark():
                self.connected, self.lost_at, self.heard_until = False, mark.start, 0
                self.loss_reason = mark.reason
                text = f"disconnected: {mark.reason}"
                facts = {"start": utc_datetime(mark.start)} if mark.start else {}
                self.record("disconnect", text, logging.WARNING, reason=mark.reason, **facts)
            case marks.LagMark():
                self._on_lag(mark)
            case marks.GapMark() | marks.PausedMark():
                start = min(mark.start, mark.stamp)  # the clock may have been set back
                if was_first_set(start, mark.stamp):
                    start = mark.stamp
                seconds = (mark.stamp - start) / NS_PER_SECOND
                self.report_new_gaps()
                text = f"gap of {seconds:.1f} s: {mark.reason}"
                level = logging.DEBUG if seconds < CONNECTING_S else logging.INFO
                begin, end = utc_datetime(start), utc_datetime(mark.stamp)
                self.record("gap", text, level, start=begin, end=end, reason=mark.reason)
            case marks.SubscriptionMark():
                report.tickers = list(mark.change(report.tickers))
                for ticker in mark.added:
                    report.refused.pop(ticker, None)
                changes = [f"+{ticker}" for ticker in mark.added]
                changes += [f"-{ticker}" for ticker in mark.removed]
                self.record("subscribe", f"tickers: {' '.join(changes)}", **mark.facts)
                self.save_running()
            case marks.RefusedMark():
                report.refused.update(dict.fromkeys(mark.tickers, mark.text))
                text = f"{' '.join(mark.tickers)} is refused: {mark.text}"
                self.record("refused", text, logging.WARNING, **mark.facts)

    def _on_lag(self, mark: marks.LagMark) -> None:
        """Warn of a lag, and again each time that it has doubled."""
        lag_s = mark.lag / NS_PER_SECOND
        self.heard_until = mark.stamp - mark.lag if mark.lag else 0
        if lag_s >= LAG_WARNING_S and not self._warned_lag_s:
            self.on_notice(f"the feed is {lag_s:.1f} s behind: trades arrive that late")
        elif lag_s >= 2 * self._warned_lag_s > 0:
            self.record("lag", f"the feed is {lag_s:.1f} s behind", logging.WARNING, **mark.facts)
        elif not mark.lag and self._warned_lag_s:
            self.record("lag", "the feed is not behind any more", **mark.facts)
        else:
            return
        self._warned_lag_s = lag_s

    def on_error(self, text: str) -> None:
        """Take in an error of the server; of many, some are logged, with the number of all."""
        if is_symbol_error(text):
            self.refusals += 1
            self.last_refusal = text
        self._unlogged_errors += 1
        self._last_error_text = text
        now = self.clock.monotonic()
        self._errors_until = max(self._errors_until, now)
        if self._errors_until - now < ERROR_BURST * ERROR_INTERVAL_S:
            self._errors_until += ERROR_INTERVAL_S
            self.log_errors()

    def log_errors(self) -> None:
        """Log the errors that were not logged yet, as one."""
        count, self._unlogged_errors = self._unlogged_errors, 0
        if count:
            text = self._last_error_text
            others = f" (and {count_of(count - 1, 'other error')} before it)" if count > 1 else ""
            self.record(
                "error", f"the server says: {text}{others}", logging.WARNING, text=text, times=count
            )

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        """Take in that the next attempt is ``wait_s`` after ``stamp`` (epoch ns)."""
        self.disconnect_reason = reason
        attempt = self.retry.attempt + 1 if self.retry is not None else 1
        due = utc_datetime(stamp + int(wait_s * NS_PER_SECOND))
        self.retry = ReconnectAttempt(attempt, due, reason)
        text = f"{reason}; next try in {wait_s:.1f} s"
        self.record("retry", text, logging.WARNING, reason=reason, wait_s=round(wait_s, 3))

    def on_ticker_change(
        self, stamp: int, by: str, added: Sequence[str], removed: Sequence[str]
    ) -> None:
        """Take in that somebody asked for other tickers at ``stamp`` (epoch ns)."""
        change = TickerChange(utc_datetime(stamp), by, list(added), list(removed))
        self.report.changes.append(change)
        self.audit("retarget", by=by, added=change.added, removed=change.removed)
        self.save_running()

    def on_notice(self, text: str) -> None:
        """Take in something that a person should know."""
        self.add_notice("notice", text, text=text)

    def add_notice(self, event: str, message: str, **facts: Any) -> None:
        """Record an event, and put its message into the report."""
        self.report.notices.append(message)
        self.record(event, message, logging.WARNING, **facts)

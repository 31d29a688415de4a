"""One session while it lives: the feed's observer, and the report that grows from what happens.

The feed's thread only appends to the tape and fills the queues; everything else it has to tell
(report, audit log, messages) it leaves in a mailbox, which the capture's own thread reads.
"""

from __future__ import annotations

import logging
import os
import platform
import queue
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

from stocktrace import __version__
from stocktrace.deadline import NS_PER_SECOND, SYSTEM_CLOCK, Clock
from stocktrace.feed.probe import is_about_symbols
from stocktrace.gap import Gap
from stocktrace.lags import Lags
from stocktrace.pulse import Pulse
from stocktrace.record.coverage import Coverage
from stocktrace.record.intake import Intake
from stocktrace.record.publish import Published
from stocktrace.record.recorder import Sealed
from stocktrace.report import GapReport, LagReport, Report, TickerBooks, TickerChange
from stocktrace.status import Retry
from stocktrace.store.audit import Audit
from stocktrace.store.layout import Layout
from stocktrace.store.tape import Mark

log = logging.getLogger(__name__)

# The first connection takes a moment; a longer one is worth a message.
CONNECTING_S = 1.0

#: What the capture's thread still has to do for something that happened on another one.
Mailbox = queue.SimpleQueue[Callable[[], None]]


def at(stamp: int) -> datetime:
    """The time of a stamp (epoch ns)."""
    return datetime.fromtimestamp(stamp / 1e9, UTC)


def new_report(
    session: str, tickers: Sequence[str], stamp: int, settings: dict[str, str | int | float]
) -> Report:
    """The report of a session that begins at ``stamp`` (epoch ns)."""
    packages = ("websocket-client", "pyarrow", "pandas", "pandera")
    return Report(
        session,
        list(tickers),
        at(stamp),
        settings=settings,
        versions={
            "stocktrace": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        host=socket.gethostname(),
        pid=os.getpid(),
    )


@dataclass(slots=True)
class Journal:
    """Keeps the report, the audit log and the messages of a session; one thread only."""

    layout: Layout
    report: Report
    audit: Audit
    coverage: Coverage = field(default_factory=Coverage)
    connected: bool = False
    #: Why there is no connection, as far as is known.
    lost: str = "no connection was ever made"
    #: The wait for the next dial, while there is no connection.
    retry: Retry | None = None
    #: How often the server refused a subscription, and its last word on that.
    refusals: int = 0
    refusal: str = ""
    #: What was last told of as an error.
    last_error: str = ""

    def tell(self, event: str, message: str, level: int = logging.INFO, **facts: Any) -> None:
        """Something happened: a line in the audit log, a message for a person."""
        self.audit(event, **facts)
        if level >= logging.WARNING:
            self.last_error = message
        # Words of the server may be in it: they must not steer a terminal or begin a line.
        log.log(level, "".join(each if each.isprintable() else "?" for each in message))

    def sealed(self, sealed: Sealed) -> None:
        """A window is on disk; the spilled ones count when they are rebuilt."""
        report, part = self.report, sealed.part
        report.unpublished.append(part.window)
        self.audit("roll", window=part.window, trades=sealed.books.trades)
        if sealed.spilled:
            report.spilled[part.window] = sorted(sealed.spilled)
            self.tell(
                "spill",
                f"window {part.window}: {len(sealed.spilled)} tickers came faster than they could "
                "be checked; their trades are had from the tape",
                logging.WARNING,
                window=part.window,
                tickers=sorted(sealed.spilled),
            )
        else:
            self.count(sealed)
        self.save()

    def published(self, published: Published) -> None:
        """A window's trades are in Parquet."""
        if published.rebuilt is not None:
            self.count(published.rebuilt)
        for file in published.files:
            one = self.report.ticker(file.ticker)
            one.parquet += file.rows
            one.files += 1
            one.size += file.size
        window = published.part.window
        self.report.unpublished.remove(window)
        rows = sum(file.rows for file in published.files)
        self.audit("convert", window=window, files=len(published.files), rows=rows)
        self.report.unsent = published.unsent
        if published.unsent:
            self.tell("unsent", published.unsent, logging.WARNING, window=window)
        self.save()

    def count(self, sealed: Sealed) -> None:
        """Add the books of a window to those of the session."""
        report = self.report
        report.windows[sealed.part.window] = sealed.books
        report.books.add(sealed.books)
        for name, counts in sealed.tickers.items():
            _add(report.ticker(name), counts)
        for text, count in sealed.errors.items():
            report.errors[text] = report.errors.get(text, 0) + count

    def save(self) -> None:
        """Put the report on disk."""
        self.report.write(self.layout.report(self.report.session))

    # --- the feed's events -------------------------------------------------------------------

    def on_connected(self, tickers: Sequence[str]) -> None:
        """The feed listens, and the gap before it is over."""
        self.report.gaps = gap_reports(self.coverage)
        self.connected = True
        self.retry = None
        self.report.tickers = list(tickers)  # they may have changed meanwhile
        self.tell("connect", f"connected, {len(tickers)} tickers subscribed", tickers=list(tickers))

    def on_disconnected(self, reason: str) -> None:
        """The feed does not listen any more."""
        self.connected = False
        self.report.reconnects += 1
        self.tell("disconnect", f"disconnected: {reason}", logging.WARNING, reason=reason)

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        """The feed will dial again, ``wait_s`` after ``stamp`` (epoch ns)."""
        self.lost = reason
        attempt = self.retry.attempt + 1 if self.retry is not None else 1
        self.retry = Retry(attempt, at(stamp + int(wait_s * NS_PER_SECOND)), reason)
        self.tell(
            "retry",
            f"{reason}; next try in {wait_s:.1f} s",
            logging.WARNING,
            reason=reason,
            wait_s=round(wait_s, 3),
        )

    def on_gap(self, gap: Gap) -> None:
        """A stretch in which nothing could be heard."""
        start, end = at(gap.start), at(gap.end)
        self.report.gaps = gap_reports(self.coverage)
        self.tell(
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
        self.tell("subscribe", f"tickers: {text}", added=list(added), removed=list(removed))
        self.save()

    def on_change(self, stamp: int, by: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """Other tickers were asked for at ``stamp`` (epoch ns); the feed is about to tell."""
        change = TickerChange(at(stamp), by, list(added), list(removed))
        self.report.changes.append(change)
        self.audit("retarget", by=by, added=change.added, removed=change.removed)
        self.save()

    def on_notice(self, text: str) -> None:
        """Something that a person should know."""
        self.report.notices.append(text)
        self.tell("notice", text, logging.WARNING, text=text)

    def on_refused(self, ticker: str, text: str) -> None:
        """The server does not serve a ticker."""
        self.report.refused[ticker] = text
        self.tell(
            "refused", f"{ticker} is refused: {text}", logging.WARNING, ticker=ticker, text=text
        )

    def on_error(self, text: str) -> None:
        """The server sent an error frame."""
        if is_about_symbols(text):
            self.refusals += 1
            self.refusal = text
        self.tell("error", f"the server says: {text}", logging.WARNING, text=text)


class Observer:
    """What the feed's thread calls: the tape and the queues at once, all else by mail."""

    def __init__(
        self, intake: Intake, journal: Journal, mailbox: Mailbox, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._intake = intake
        self._journal = journal
        self._mailbox = mailbox
        self._clock = clock
        self._pulse: Pulse | None = None

    def _mark(self, stamp: int, name: str, **facts: Any) -> None:
        """On the tape, so that a replay sees it and the coverage can be had again."""
        mark = Mark(stamp, name, facts)
        self._intake.mark(mark)
        self._mailbox.put(partial(self._journal.coverage.add, mark))

    def _beat(self, stamp: int) -> None:
        """Notice, while listening, that time passed without us, or that the clock was set."""
        monotonic = self._clock.monotonic()
        if self._pulse is not None and (reason := self._pulse.beat(stamp, monotonic)):
            start = min(self._pulse.before, stamp)
            self._mark(stamp, "paused", start=self._pulse.before, reason=reason)
            self._mailbox.put(partial(self._journal.on_gap, Gap(start, stamp, (), reason)))

    def on_frames(self, stamp: int, frames: Sequence[bytes]) -> Sequence[str]:
        """To the tape, and decoded to the queues."""
        self._beat(stamp)
        errors = self._intake.frames(stamp, frames).errors
        for text in errors:
            self._mailbox.put(partial(self._journal.on_error, text))
        return errors

    def has_traded(self, ticker: str) -> bool:
        """Whether a trade of ``ticker`` came in this session."""
        return ticker in self._intake.last

    def on_refused(self, stamp: int, ticker: str, text: str) -> None:
        """We do not listen to this one."""
        self._mark(stamp, "refused", tickers=[ticker], text=text)
        self._mailbox.put(partial(self._journal.on_refused, ticker, text))

    def on_tick(self, stamp: int) -> None:
        """A window may end without frames."""
        self._beat(stamp)
        self._intake.tick(stamp)

    def on_connected(self, stamp: int, tickers: Sequence[str]) -> None:
        """From now on we listen."""
        self._pulse = Pulse(stamp, self._clock.monotonic())
        self._mark(stamp, "connected", tickers=list(tickers))
        self._intake.state = {"connected": True, "tickers": list(tickers)}
        self._intake.heard = stamp
        self._mailbox.put(partial(self._journal.on_connected, tickers))

    def on_disconnected(self, stamp: int, reason: str) -> None:
        """We do not listen any more."""
        self._pulse = None
        self._mark(stamp, "disconnected", reason=reason)
        self._intake.state["connected"] = False
        self._mailbox.put(partial(self._journal.on_disconnected, reason))

    def on_subscription(self, stamp: int, added: Sequence[str], removed: Sequence[str]) -> None:
        """We listen to other tickers."""
        self._mark(stamp, "subscription", added=list(added), removed=list(removed))
        had = [ticker for ticker in self._intake.state["tickers"] if ticker not in set(removed)]
        self._intake.state = {"connected": True, "tickers": [*had, *added]}
        self._mailbox.put(partial(self._journal.on_subscription, added, removed))

    def on_gap(self, gap: Gap) -> None:
        """When the loss began, which was noticed only later."""
        self._mark(gap.end, "gap", start=gap.start, reason=gap.reason)
        self._mailbox.put(partial(self._journal.on_gap, gap))

    def on_ended(self, stamp: int) -> None:
        """Nobody listens any more; called when the feed's thread has ended."""
        self._mark(stamp, "ended")

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        """For the log; time passes meanwhile."""
        self._intake.tick(stamp)
        self._mailbox.put(partial(self._journal.on_retry, stamp, reason, wait_s))

    def on_notice(self, stamp: int, text: str) -> None:
        """For the report."""
        del stamp
        self._mailbox.put(partial(self._journal.on_notice, text))


def _add(total: TickerBooks, more: TickerBooks) -> None:
    total.trades += more.trades
    total.recorded += more.recorded
    total.quarantined += more.quarantined
    total.last = max(filter(None, (total.last, more.last)), default=None)


def gap_reports(coverage: Coverage) -> list[GapReport]:
    """The gaps so far, each once, however many tickers it is of."""
    return [
        GapReport(at(start), at(end), reason, tickers)
        for (start, end, reason), tickers in coverage.outages().items()
    ]


def lag_report(lags: Lags) -> LagReport:
    """The quantiles of a histogram."""
    if not lags.counts.any():
        return LagReport()
    return LagReport(lags.quantile(0.5), lags.quantile(0.99), lags.longest_ms)

"""The state of a session, and its figures: from its status, its report and its lock.

While a session runs, the status has the figures. When it has ended, the report has.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, Literal

from stocktrace.sessions.catalog import is_in_use
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus, read_last_status
from stocktrace.store.layout import Layout

# A capture writes its status twice a second.
HEARTBEAT_S = 5.0
# Rates are averages over this time.
RATE_S = 5.0

#: ``silent``: no heartbeat; ``crashed``: the session has not ended and no process runs it.
LivenessState = Literal[
    "connecting", "connected", "reconnecting", "ending", "ended", "silent", "crashed"
]  # fmt: skip


class SessionLiveness:
    """The present state of a session; ``read`` brings it up to date.

    Raises:
        FileNotFoundError: the session has no report.
        ValueError: its report is damaged.
    """

    def __init__(self, layout: Layout, session: str) -> None:
        self._layout, self._session = layout, session
        self.report: SessionReport
        self.status: CaptureStatus | None = None
        #: Seconds since the last heartbeat.
        self.silent_s = 0.0
        #: Trades a second, in all and of each ticker that has some.
        self.rate = 0.0
        self.rates: dict[str, float] = {}
        self._report_changed = 0
        self._heartbeat_at = 0.0
        self._samples: deque[tuple[float, dict[str, int]]] = deque()
        self._is_in_use = True
        self.read()

    def read(self) -> None:
        """Read the files that changed."""
        # The lock first: a capture writes its final report before it releases its lock.
        self._is_in_use = is_in_use(self._layout, self._session)
        path = self._layout.report(self._session)
        changed = path.stat().st_mtime_ns
        if changed != self._report_changed:
            self.report = SessionReport.read(path)
            self._report_changed = changed
        self._read_status()
        self._measure_rates()

    def _read_status(self) -> None:
        previous = self.status
        self.status = read_last_status(self._layout, self._session)
        written_at = self.status.written_at if self.status else None
        if written_at is None:
            self.silent_s = 0.0
            return
        now = time.monotonic()
        if previous is None:
            age = (datetime.now(UTC) - written_at).total_seconds()
            self._heartbeat_at = now - max(0.0, age)
        elif previous.written_at != written_at:
            self._heartbeat_at = now
        self.silent_s = now - self._heartbeat_at

    def _measure_rates(self) -> None:
        """Measure trades a second: now, or on average over a session that has ended."""
        report = self.report
        if not self.has_ended:
            if self.status is not None:
                self._measure_live_rates(self.status.elapsed_s, self.status.per_ticker)
        elif report.ended is not None:
            seconds = max(1e-3, (report.ended - report.started).total_seconds())
            self.rates = {name: books.trades / seconds for name, books in report.per_ticker.items()}
            self.rate = report.books.trades / seconds

    def _measure_live_rates(self, elapsed_s: float, counts: dict[str, int]) -> None:
        samples = self._samples
        if not samples or samples[-1][0] != elapsed_s:
            samples.append((elapsed_s, counts))
        while len(samples) > 1 and elapsed_s - samples[0][0] > RATE_S:
            samples.popleft()
        began_s, before = samples[0]
        self.rates, self.rate = {}, 0.0
        if self.silent_s > HEARTBEAT_S or elapsed_s <= began_s:
            return
        for ticker, count in counts.items():
            if count != before.get(ticker, 0):
                self.rates[ticker] = (count - before.get(ticker, 0)) / (elapsed_s - began_s)
        total = sum(counts.values()) - sum(before.values())
        self.rate = total / (elapsed_s - began_s)

    @property
    def has_ended(self) -> bool:
        """True if the session ended, and its report is final."""
        return self.report.state != "running"

    @property
    def state(self) -> LivenessState:
        """The state that the page shows."""
        if self.has_ended:
            return "ended"
        if not self._is_in_use:
            return "crashed"
        if self.status is None:
            return "connecting"
        if self.status.state == "ending":
            return "ending"  # its status may be old while it waits for the disk
        return "silent" if self.silent_s > HEARTBEAT_S else self.status.state

    @property
    def live_status(self) -> CaptureStatus | None:
        """The status; ``None`` when the session has ended and the report has the figures."""
        return None if self.has_ended else self.status

    @property
    def quarantined(self) -> int:
        """Number of rows in quarantine."""
        live = self.live_status
        return live.quarantined if live else self.report.books.quarantined

    @property
    def quarantined_by_ticker(self) -> dict[str, int]:
        """Number of rows in quarantine for each ticker."""
        if self.has_ended:
            return {name: books.quarantined for name, books in self.report.per_ticker.items()}
        return self.status.quarantined_by_ticker if self.status else {}

    @property
    def tickers(self) -> list[str]:
        """All tickers of the session, removed ones too."""
        tickers = dict.fromkeys((*self.report.tickers, *self.report.per_ticker))
        if self.status:
            tickers.update(dict.fromkeys((*self.status.tickers, *self.status.per_ticker)))
        tickers.pop("", None)  # counts rows in quarantine that name no ticker
        return list(tickers)

    @property
    def busiest_ticker(self) -> str:
        """The ticker with most trades so far; before the first trade, the first ticker."""
        counts = {name: books.trades for name, books in self.report.per_ticker.items() if name}
        counts |= self.status.per_ticker if self.status else {}
        return max(counts, key=lambda name: counts[name], default=(*self.report.tickers, "")[0])

    def head(self) -> dict[str, Any]:
        """Return the head of the page: the session, its state and its time."""
        report, live = self.report, self.live_status
        elapsed = ((report.ended or datetime.now(UTC)) - report.started).total_seconds()
        if live and self.state == "crashed":
            elapsed = live.elapsed_s
        return {
            "session": report.session,
            "state": self.state,
            "final_state": report.state,
            "reason": report.reason,
            "host": report.host,
            "tickers": len(live.tickers if live else report.tickers),
            "started": report.started.timestamp(),
            "elapsed_s": round(elapsed, 1),
            "remaining_s": round(live.remaining_s, 1) if live else 0.0,
            "silent_s": round(self.silent_s, 1),
            "connection": live.connection if live else "",
            "open_gap_s": round(live.open_gap.seconds, 1) if live and live.open_gap else None,
            "lag_s": round(live.feed_lag_s, 1) if live else 0.0,
            "retry": live.retry if live and self.state in ("connecting", "reconnecting") else None,
            "error": live.last_error if live else "",
        }

    def tiles(self) -> dict[str, Any]:
        """Return the figures of the tiles, except those that are counted from the rows."""
        report, live = self.report, self.live_status
        queued = live.queued if live else {}
        longest = max(queued, key=lambda ticker: queued[ticker], default="")
        return {
            "rate": round(self.rate, 1),
            "received": live.trades if live else report.books.trades,
            "queue": queued.get(longest, 0),
            "queue_ticker": longest,
            "reconnects": live.reconnects if live else report.reconnects,
            "gaps": live.all_gaps if live else len(report.gaps),
            "gap_s": live.all_gap_s if live else report.gap_s,
            "outages": live.all_outages if live else len(report.outages),
            "quarantined": self.quarantined,
            "rolled": live.rolled if live else len(report.windows),
            "published": live.published if live else len(report.windows) - len(report.unpublished),
            "files": report.files,
        }

"""Whether a session lives, and how: from its status, its report and its lock."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.store import lock
from stocktrace.store.layout import Layout

# The capture writes its status twice a second.
HEARTBEAT_S = 5.0
# The rates are of so long.
RATE_S = 5.0

#: ``silent``: no heartbeat; ``dead``: its process is gone and it did not end.
SessionState = Literal[
    "connecting", "connected", "reconnecting", "ending", "ended", "silent", "dead"
]  # fmt: skip


@dataclass(slots=True)
class SessionLiveness:
    """What is known of a session; ``look`` brings it up to date."""

    layout: Layout
    session: str
    report: SessionReport | None = None
    status: CaptureStatus | None = None
    #: Seconds since the last sign of life.
    silent_s: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0
    _report_at: int = 0
    _status_seen_at: float = 0.0
    _samples: deque[tuple[float, dict[str, int]]] = field(default_factory=deque)
    _is_locked: bool = True

    def read(self) -> None:
        """Read what changed.

        Raises:
            ValueError: the report is none.
        """
        self._read_report()
        before = self.status
        try:
            self.status = CaptureStatus.read(self.layout.status(self.session))
        except (FileNotFoundError, ValueError):
            self.status = None  # recorded by a version that wrote none, or none yet
        now = time.monotonic()
        if self.status is None or self.status.written_at is None:
            self.silent_s = 0.0
        elif before is None:
            age = (datetime.now(UTC) - self.status.written_at).total_seconds()
            self._status_seen_at = now - max(0.0, age)
            self.silent_s = max(0.0, age)
        elif before.written_at != self.status.written_at:
            self._status_seen_at, self.silent_s = now, 0.0
        else:
            self.silent_s = now - self._status_seen_at
        self._is_locked = lock.is_locked(self.layout.lock(self.session))
        self._measure()

    def _read_report(self) -> None:
        path = self.layout.report(self.session)
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed != self._report_at:
            self.report = SessionReport.read(path)
            self._report_at = changed

    def _measure(self) -> None:
        """Trades a second, of each ticker and in all: now, or over all of a session that ended."""
        if self.has_ended:
            self._average()
            return
        if self.status is None:
            return
        looks, counts = self._samples, self.status.per_ticker
        if not looks or looks[-1][0] != self.status.elapsed_s:
            looks.append((self.status.elapsed_s, counts))
        while len(looks) > 1 and looks[-1][0] - looks[0][0] > RATE_S:
            looks.popleft()
        span = looks[-1][0] - looks[0][0]
        if self.silent_s > HEARTBEAT_S or span <= 0:
            self.rates, self.rate = {}, 0.0
            return
        was = looks[0][1]
        self.rates = {
            ticker: (count - was.get(ticker, 0)) / span
            for ticker, count in counts.items()
            if count != was.get(ticker, 0)
        }
        self.rate = (sum(counts.values()) - sum(was.values())) / span

    def _average(self) -> None:
        report = self.report
        if report is None or report.ended is None:
            return
        seconds = max(1e-3, (report.ended - report.started).total_seconds())
        self.rates = {name: one.trades / seconds for name, one in report.per_ticker.items()}
        self.rate = report.books.trades / seconds

    @property
    def has_ended(self) -> bool:
        """Whether the session ended, and its report is the last word."""
        return self.report is not None and self.report.state != "running"

    @property
    def state(self) -> SessionState:
        """How it stands."""
        if self.has_ended:
            return "ended"
        if not self._is_locked:
            return "dead"
        if self.status is None:
            return "connecting"
        if self.status.state == "ending":
            return "ending"  # it publishes, and writes no more until that is done
        return "silent" if self.silent_s > HEARTBEAT_S else self.status.state

    @property
    def live(self) -> CaptureStatus | None:
        """The status, unless the report knows better."""
        return None if self.has_ended else self.status

    @property
    def known(self) -> SessionReport:
        """The report, which whoever made a board has found."""
        assert self.report is not None  # noqa: S101 - it is never deleted
        return self.report

    @property
    def quarantined(self) -> int:
        """Rows in quarantine."""
        return self.live.quarantined if self.live else self.known.books.quarantined

    @property
    def tickers(self) -> list[str]:
        """All tickers of the session, also those that were given up."""
        found = dict.fromkeys(self.report.tickers if self.report else ())
        if self.report:
            found.update(dict.fromkeys(self.report.per_ticker))
        if self.status:
            found.update(dict.fromkeys((*self.status.tickers, *self.status.per_ticker)))
        found.pop("", None)  # stands for rows in quarantine that name no ticker
        return list(found)

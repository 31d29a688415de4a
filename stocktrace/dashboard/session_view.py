"""A session as the page shows it, and its newest state as a message.

``read`` reads what is new on disk and makes a new version. ``message`` has what changed since the
version that a viewer has; viewers at the same version share one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from stocktrace.calendar import NEW_YORK, Market, market_of, next_session, us_extended_session
from stocktrace.clock import Deadline
from stocktrace.dashboard.events import MAX_EVENTS, EventLog, GapSpan
from stocktrace.dashboard.liveness import SessionLiveness
from stocktrace.dashboard.rows import LagHistory, TickerTable, disk_lags
from stocktrace.dashboard.tail import SessionTail
from stocktrace.latency import LatencyHistogram
from stocktrace.store.layout import Layout
from stocktrace.text import count_of

# One read takes about this long; the rest of a late start comes with the next reads.
_READ_S = 0.25
# The tiles show the lags of this time.
_LAG_S = 60
# A second is shown when its trades had the time to be written to disk.
_SETTLED_S = 2
# After this long without a trade on a connection, the page says whether the market is closed.
_QUIET_S = 30.0
# Quarantined rows within this time are one event.
_BURST_S = 15.0
# A viewer that is further behind, in versions, is sent everything.
_MAX_VERSIONS = 20


class _Version(NamedTuple):
    """The extent of a version: what a viewer that has it was sent."""

    until: int  # epoch s
    step_s: int
    events: int
    tickers: int
    is_behind: bool


class SessionView:
    """One session. Any thread may call ``read``, one call at a time.

    Raises:
        FileNotFoundError: the session has no report.
        ValueError: its report is damaged.
    """

    def __init__(self, layout: Layout, session: str) -> None:
        self.liveness = SessionLiveness(layout, session)
        report = self.liveness.report
        begin = int(report.started.timestamp())
        end = int(report.ended.timestamp()) + 1 if report.ended else None
        self._table = TickerTable(begin, end)
        self._history = LagHistory(begin)
        self._events = EventLog(layout, session)
        self._tail = SessionTail(layout, session, ())
        self._disk_lags: deque[tuple[float, LatencyHistogram]] = deque()
        self._last_trade_at = time.monotonic()
        self._closed_market: str | None = None
        self._burst: tuple[float, int] | None = None
        self._quarantined = self.liveness.quarantined
        self._versions: dict[int, _Version] = {}
        self._messages: dict[int, bytes] = {}
        self.version = 0
        #: True when nothing of the session will ever change, and all of it was read.
        self.final = False

    # --- reading -----------------------------------------------------------------------------

    def read(self) -> None:
        """Read what is new and make a new version.

        Raises:
            StoreError: a file is damaged.
            ValueError: the report is damaged.
        """
        self.liveness.read()
        has_ended = self.liveness.has_ended  # before the rows: then all of them are on disk
        self._events.read()
        self._table.add_tickers(self.liveness.tickers)
        if not has_ended:
            self._table.advance(int(time.time()))
        self._tail.add_tickers(self._table.tickers)
        is_live = not self._tail.is_behind
        batches = list(self._tail.read(Deadline.after(_READ_S)))
        for rows in batches:
            self._table.add(rows)
            self._history.add(rows)
        if batches:
            self._last_trade_at = time.monotonic()
        if is_live:
            self._add_disk_lags(disk_lags(batches))
        self._add_quarantine_event()
        self._check_market()
        self._make_version()
        # Windows that will be published, or rebuilt, still change.
        self.final = has_ended and not self._tail.is_behind and not self.liveness.report.unpublished

    def _add_disk_lags(self, lags: LatencyHistogram) -> None:
        now = time.monotonic()
        self._disk_lags.append((now, lags))
        while self._disk_lags and self._disk_lags[0][0] < now - _LAG_S:
            self._disk_lags.popleft()

    def _add_quarantine_event(self) -> None:
        """Add one event for rows that are quarantined in a row, a while after the first."""
        now, count = time.time(), self.liveness.quarantined
        if self._burst is None and count > self._quarantined:
            self._burst = now, self._quarantined
        if self._burst is not None:
            began, before = self._burst
            if now - began > _BURST_S or self.liveness.has_ended:
                text = f"{count_of(count - before, 'row')} quarantined"
                self._events.add(began, "quarantine", text)
                self._burst = None
        self._quarantined = count

    def _check_market(self) -> None:
        quiet = time.monotonic() - self._last_trade_at
        if self.liveness.state != "connected" or quiet < _QUIET_S:
            self._closed_market = None
        elif self._closed_market is None:
            self._closed_market = describe_closed_market(self.liveness.tickers, datetime.now(UTC))

    def _make_version(self) -> None:
        liveness = self.liveness
        live, ended = liveness.live_status, liveness.report.ended
        self.version += 1
        self._table.update(
            self.version,
            liveness.rates,
            live.queued if live else {},
            self._events.gaps_by_ticker,
            liveness.quarantined_by_ticker,
            self._events.refused,
        )
        self._versions[self.version] = _Version(
            int(ended.timestamp()) if ended else int(time.time()) - _SETTLED_S,
            self._history.step_s,
            len(self._events.lines),
            len(self._table.tickers),
            self._tail.is_behind,
        )
        self._versions.pop(self.version - _MAX_VERSIONS, None)
        self._messages.clear()

    # --- messages ----------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """True if there is more to read at once."""
        return self._tail.is_behind

    @property
    def gaps(self) -> list[GapSpan]:
        """The gaps so far. Those of a final report replace those of the log."""
        if self.liveness.has_ended:
            return [
                GapSpan(gap.start.timestamp(), gap.end.timestamp(), gap.reason)
                for gap in self.liveness.report.gaps
            ]
        return self._events.gaps

    def message(self, since: int) -> bytes:
        """Return what changed after version ``since``; 0: everything."""
        if since not in self._messages:
            self._messages[since] = msgspec.json.encode(self._message(since))
        return self._messages[since]

    def _message(self, since: int) -> dict[str, Any]:
        version, seen = self._versions[self.version], self._versions.get(since)
        # Rows that are read late may belong to any minute, so the sparklines are sent again.
        whole = seen is None or seen.tickers != version.tickers or seen.is_behind
        whole_history = whole or seen is None or seen.step_s != version.step_s
        seen_events = 0 if whole or seen is None else seen.events
        return {
            "version": self.version,
            "whole": whole,
            "final": self.final,
            "now": round(time.time(), 3),
            "head": {
                **self.liveness.head(),
                "market": self._closed_market,
                "behind": self._tail.is_behind,
            },
            "tiles": {
                **self.liveness.tiles(),
                "trades": self._history.trades,
                **self._lag_tiles(version.until),
            },
            "tickers": self._table.tickers if whole else None,
            "lines": self._table.lines(0 if whole else since),
            "sparks": self._table.sparks() if whole else None,
            "spark_span": self._table.spark_span,
            "history": {
                "step_s": version.step_s,
                "whole": whole_history,
                "points": self._history.points(
                    self._history.begin if whole_history or seen is None else seen.until,
                    version.until,
                ),
            },
            "events": self._events.lines[max(seen_events, len(self._events.lines) - MAX_EVENTS) :],
        }

    def _lag_tiles(self, until: int) -> dict[str, float | None]:
        p50, _, p99 = self._history.recent(until, until if self.liveness.has_ended else _LAG_S)
        total = LatencyHistogram()
        for _, lags in self._disk_lags:
            total.merge(lags)
        return {"lag_p50": p50, "lag_p99": p99, "disk_p99": total.quantile(0.99)}


def describe_closed_market(tickers: Iterable[str], now: datetime) -> str | None:
    """Return when the market opens if none of ``tickers`` can trade at ``now`` (aware)."""
    if any(market_of(ticker) is not Market.US for ticker in tickers):
        return None
    today = us_extended_session(now.astimezone(NEW_YORK).date())
    if today is not None and today.opens <= now < today.closes:
        return None
    opens = next_session(now).opens.astimezone(NEW_YORK)
    return f"the next US session opens {opens:%a %H:%M} New York"

"""A session as the page shows it, and the newest state of it as a message.

``look`` reads what is new on disk and makes a new version; ``message`` tells a viewer what changed
since the version that it has. It is the same for all who have the same one.
"""
# MERGED """The head of the page and its tiles: the status while a session lives, then the report."""
# MERGED """Whether trades are to be expected at all: of US stocks only while they trade."""

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
from stocktrace.dashboard.history import LagHistory, disk_lags
from stocktrace.dashboard.liveness import SessionLiveness
from stocktrace.dashboard.table import TickerTable
from stocktrace.dashboard.tail import SessionTail
from stocktrace.latency import LatencyHistogram
from stocktrace.store.layout import Layout
from stocktrace.text import count_of

# For so long one look reads; the rest of a late start comes with the next ones.
_READ_INTERVAL_S = 0.25
# The lags in the tiles are of so long.
_LAG_S = 60
# A second is shown when its trades had the time to come to disk.
_SETTLED_S = 2
# A connection without any trade for so long: is the market open at all?
_QUIET_S = 30.0
# Refused rows within so long are one line among the events.
_BURST_S = 15.0


# A viewer that is further behind, in versions, is told all anew.
_REMEMBERED = 20


class _Caption(NamedTuple):
    """How far a version tells: until when (epoch s), in which steps, and whether all was read."""

    until: int
    every: int
    events: int
    tickers: int
    behind: bool


class SessionView:
    """All of one session; ``look`` on any thread, one call at a time."""

    def __init__(self, layout: Layout, session: str) -> None:
        self._layout, self._session = layout, session
        self._vitals = SessionLiveness(layout, session)
        self._vitals.read()
        if self._vitals.report is None:
            raise FileNotFoundError(layout.report(session))
        report = self._vitals.known
        begin = int(report.started.timestamp())
        end = int(report.ended.timestamp()) + 1 if report.ended else None
        self._table = TickerTable(begin, end)
        self._history = LagHistory(begin)
        self._events = EventLog(layout, session)
        self._tail = SessionTail(layout, session, ())
        self._disk: deque[tuple[float, LatencyHistogram]] = deque()
        self._quiet_since = time.monotonic()
        self._market: str | None = None
        self._burst: tuple[float, int] | None = None
        self._refused = self._vitals.quarantined
        self._marks: dict[int, _Caption] = {}
        self._messages: dict[int, bytes] = {}
        self.version = 0
        #: Set when nothing of the session will ever change, and all of it was read.
        self.final = False

    # --- looking -----------------------------------------------------------------------------

    def read(self) -> None:
        """Read what is new; a new version.

        Raises:
            StoreError: a file is damaged.
            ValueError: so is the report.
        """
        self._vitals.read()
        over = self._vitals.has_ended  # asked before the rows: then all of them are on disk
        self._events.read()
        self._table.follow(self._vitals.tickers)
        if not over:
            self._table.advance(int(time.time()))
        self._tail.follow(self._table.tickers)
        caught_up = not self._tail.is_behind
        rows = list(self._tail.read(Deadline.after(_READ_INTERVAL_S)))
        for each in rows:
            self._table.add(each)
            self._history.add(each)
        if rows:
            self._quiet_since = time.monotonic()
        if caught_up:
            self._note_disk_lag(disk_lags(rows))
        self._note_quarantine()
        self._note_market()
        self._update()
        # Windows that wait to be published, or rebuilt, will still change.
        self.final = over and not self._tail.is_behind and not self._vitals.known.unpublished

    def _update(self) -> None:
        vitals, over = self._vitals, self._vitals.has_ended
        quarantined = vitals.status.quarantined_by_ticker if vitals.status else {}
        if over:
            books = self._vitals.known.per_ticker
            quarantined = {name: one.quarantined for name, one in books.items()}
        self.version += 1
        self._table.draw(
            self.version,
            vitals.rates,
            vitals.status.queued if vitals.status and not over else {},
            self._events.gaps,
            quarantined,
            self._events.refused,
        )
        until = int(self._vitals.known.ended.timestamp()) if self._vitals.known.ended else 0
        self._marks[self.version] = _Caption(
            until or int(time.time()) - _SETTLED_S,
            self._history.every,
            len(self._events.lines),
            len(self._table.tickers),
            self._tail.is_behind,
        )
        self._marks.pop(self.version - _REMEMBERED, None)
        self._messages.clear()

    def _note_disk_lag(self, lags: LatencyHistogram) -> None:
        now = time.monotonic()
        self._disk.append((now, lags))
        while self._disk and self._disk[0][0] < now - _LAG_S:
            self._disk.popleft()

    def _note_quarantine(self) -> None:
        """Rows that are refused one after another are one line, a while after the first."""
        now, count = time.time(), self._vitals.quarantined
        if self._burst is None and count > self._refused:
            self._burst = now, self._refused
        if self._burst is not None and (now - self._burst[0] > _BURST_S or self._vitals.has_ended):
            more = count - self._burst[1]
            self._events.add(
                self._burst[0], "quarantine", f"{count_of(more, 'row')} went to quarantine"
            )
            self._burst = None
        self._refused = count

    def _note_market(self) -> None:
        quiet = time.monotonic() - self._quiet_since
        if self._vitals.state != "connected" or quiet < _QUIET_S:
            self._market = None
        elif self._market is None:
            self._market = is_market_closed(self._vitals.tickers, datetime.now(UTC))

    # --- telling -----------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether there is more to read at once."""
        return self._tail.is_behind

    @property
    def busiest(self) -> str:
        """The ticker with most trades so far; none yet: the first that was asked for."""
        status, report = self._vitals.status, self._vitals.known
        counts = {name: one.trades for name, one in report.per_ticker.items() if name}
        counts |= status.per_ticker if status else {}
        return max(counts, key=lambda name: counts[name], default=(*report.tickers, "")[0])

    @property
    def trades(self) -> dict[str, int]:
        """The rows that were counted, by ticker."""
        return self._table.trades()

    def message(self, since: int) -> bytes:
        """What changed after version ``since``, or all of it if that is 0."""
        found = self._messages.get(since)
        if found is None:
            found = self._messages[since] = msgspec.json.encode(self._message(since))
        return found

    def _message(self, since: int) -> dict[str, Any]:
        mark, had = self._marks[self.version], self._marks.get(since)
        # What was read late may be of any minute: the sparklines are told anew.
        whole = had is None or had.tickers != mark.tickers or had.behind
        steps = whole or had is None or had.every != mark.every
        seen = 0 if whole or had is None else had.events
        return {
            "version": self.version,
            "whole": whole,
            "final": self.final,
            "now": round(time.time(), 3),
            "head": {
                **page_head(self._vitals),
                "market": self._market,
                "behind": self._tail.is_behind,
            },
            "tiles": {
                **tiles(self._vitals),
                "trades": self._history.trades,
                **self._lags(mark.until),
            },
            "tickers": self._table.tickers if whole else None,
            "lines": self._table.lines(0 if whole else since),
            "sparks": self._table.sparks() if whole else None,
            "sparks_of": self._table.sparks_of,
            "history": {
                "every": mark.every,
                "whole": steps,
                "points": self._history.points(
                    self._history.begin if steps or had is None else had.until, mark.until
                ),
            },
            "events": self._events.lines[max(seen, len(self._events.lines) - MAX_EVENTS) :],
        }

    def _lags(self, until: int) -> dict[str, float | None]:
        p50, _, p99 = self._history.recent(until, until if self._vitals.has_ended else _LAG_S)
        disk = LatencyHistogram()
        for _, lags in self._disk:
            disk.merge(lags)
        return {"lag_p50": p50, "lag_p99": p99, "disk_p99": disk.quantile(0.99)}

    @property
    def gaps(self) -> list[GapSpan]:
        """The stretches without a connection."""
        return self._events.gap_bands(self._vitals.known.gaps if self._vitals.has_ended else None)


def page_head(vitals: SessionLiveness) -> dict[str, Any]:
    """What the session is, how it stands, since when and for how long still."""
    report, live = vitals.known, vitals.live
    elapsed = ((report.ended or datetime.now(UTC)) - report.started).total_seconds()
    if live and vitals.state == "dead":
        elapsed = live.elapsed_s  # its time stands still
    return {
        "session": report.session,
        "state": vitals.state,
        "final_state": report.state,
        "reason": report.reason,
        "host": report.host,
        "tickers": len(live.tickers if live else report.tickers),
        "started": report.started.timestamp(),
        "elapsed_s": round(elapsed, 1),
        "remaining_s": round(live.remaining_s, 1) if live else 0.0,
        "silent_s": round(vitals.silent_s, 1),
        "retry": live.retry if live and vitals.state in ("connecting", "reconnecting") else None,
        "error": live.last_error if live else "",
    }


def tiles(vitals: SessionLiveness) -> dict[str, Any]:
    """The tiles, but those that are counted from the rows."""
    report, live = vitals.known, vitals.live
    queued = live.queued if live else {}
    fullest = max(queued, key=lambda ticker: queued[ticker], default="")
    return {
        "rate": round(vitals.rate, 1),
        "received": live.trades if live else report.books.trades,
        "queue": queued.get(fullest, 0),
        "queue_of": fullest,
        "reconnects": live.reconnects if live else report.reconnects,
        "gaps": live.gaps if live else len(report.gaps),
        "gap_s": live.gap_s if live else report.gap_s,
        "outages": live.outages if live else len(report.outages),
        "quarantined": vitals.quarantined,
        "rolled": live.rolled if live else len(report.windows),
        "published": live.published if live else len(report.windows) - len(report.unpublished),
        "files": sum(one.files for one in report.per_ticker.values()),
    }


def is_market_closed(tickers: Iterable[str], now: datetime) -> str | None:
    """A sentence if the market of all ``tickers`` is closed at ``now`` (aware)."""
    if any(market_of(ticker) is not Market.US for ticker in tickers):
        return None
    today = us_extended_session(now.astimezone(NEW_YORK).date())
    if today is not None and today.opens <= now < today.closes:
        return None
    opens = next_session(now).opens.astimezone(NEW_YORK)
    return f"the next US session opens {opens:%a %H:%M} New York"

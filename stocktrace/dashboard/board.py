"""A session as the page shows it, and the newest state of it as a message.

``look`` reads what is new on disk and makes a new version; ``message`` tells a viewer what changed
since the version that it has. It is the same for all who have the same one.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from stocktrace.dashboard.events import MOST, Events, Outage
from stocktrace.dashboard.figures import figures, head
from stocktrace.dashboard.history import History, disk_lags
from stocktrace.dashboard.market import closed
from stocktrace.dashboard.table import Table
from stocktrace.dashboard.tail import SessionTail
from stocktrace.dashboard.vitals import Vitals
from stocktrace.deadline import Deadline
from stocktrace.lags import Lags
from stocktrace.store.layout import Layout
from stocktrace.words import counted

# For so long one look reads; the rest of a late start comes with the next ones.
_LOOK_S = 0.25
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


class _Mark(NamedTuple):
    """How far a version tells: until when (epoch s), in which steps, and whether all was read."""

    until: int
    every: int
    events: int
    tickers: int
    behind: bool


class Board:
    """All of one session; ``look`` on any thread, one call at a time."""

    def __init__(self, layout: Layout, session: str) -> None:
        self._layout, self._session = layout, session
        self._vitals = Vitals(layout, session)
        self._vitals.look()
        if self._vitals.report is None:
            raise FileNotFoundError(layout.report(session))
        report = self._vitals.known
        begin = int(report.started.timestamp())
        end = int(report.ended.timestamp()) + 1 if report.ended else None
        self._table = Table(begin, end)
        self._history = History(begin)
        self._events = Events(layout, session)
        self._tail = SessionTail(layout, session, ())
        self._disk: deque[tuple[float, Lags]] = deque()
        self._quiet_since = time.monotonic()
        self._market: str | None = None
        self._burst: tuple[float, int] | None = None
        self._refused = self._vitals.quarantined
        self._marks: dict[int, _Mark] = {}
        self._messages: dict[int, bytes] = {}
        self.version = 0
        #: Set when nothing of the session will ever change, and all of it was read.
        self.final = False

    # --- looking -----------------------------------------------------------------------------

    def look(self) -> None:
        """Read what is new; a new version.

        Raises:
            StoreError: a file is damaged.
            ValueError: so is the report.
        """
        self._vitals.look()
        over = self._vitals.is_over  # asked before the rows: then all of them are on disk
        self._events.look()
        self._table.follow(self._vitals.tickers)
        if not over:
            self._table.advance(int(time.time()))
        self._tail.follow(self._table.tickers)
        caught_up = not self._tail.behind
        rows = list(self._tail.look(Deadline.after(_LOOK_S)))
        for each in rows:
            self._table.add(each)
            self._history.add(each)
        if rows:
            self._quiet_since = time.monotonic()
        if caught_up:
            self._note_disk_lag(disk_lags(rows))
        self._note_quarantine()
        self._note_market()
        self._draw()
        # Windows that wait to be published, or rebuilt, will still change.
        self.final = over and not self._tail.behind and not self._vitals.known.unpublished

    def _draw(self) -> None:
        vitals, over = self._vitals, self._vitals.is_over
        quarantined = vitals.status.quarantined_of if vitals.status else {}
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
        self._marks[self.version] = _Mark(
            until or int(time.time()) - _SETTLED_S,
            self._history.every,
            len(self._events.lines),
            len(self._table.tickers),
            self._tail.behind,
        )
        self._marks.pop(self.version - _REMEMBERED, None)
        self._messages.clear()

    def _note_disk_lag(self, lags: Lags) -> None:
        now = time.monotonic()
        self._disk.append((now, lags))
        while self._disk and self._disk[0][0] < now - _LAG_S:
            self._disk.popleft()

    def _note_quarantine(self) -> None:
        """Rows that are refused one after another are one line, a while after the first."""
        now, count = time.time(), self._vitals.quarantined
        if self._burst is None and count > self._refused:
            self._burst = now, self._refused
        if self._burst is not None and (now - self._burst[0] > _BURST_S or self._vitals.is_over):
            more = count - self._burst[1]
            self._events.tell(
                self._burst[0], "quarantine", f"{counted(more, 'row')} went to quarantine"
            )
            self._burst = None
        self._refused = count

    def _note_market(self) -> None:
        quiet = time.monotonic() - self._quiet_since
        if self._vitals.state != "connected" or quiet < _QUIET_S:
            self._market = None
        elif self._market is None:
            self._market = closed(self._vitals.tickers, datetime.now(UTC))

    # --- telling -----------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether there is more to read at once."""
        return self._tail.behind

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
                **head(self._vitals),
                "market": self._market,
                "behind": self._tail.behind,
            },
            "tiles": {
                **figures(self._vitals),
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
            "events": self._events.lines[max(seen, len(self._events.lines) - MOST) :],
        }

    def _lags(self, until: int) -> dict[str, float | None]:
        p50, _, p99 = self._history.recent(until, until if self._vitals.is_over else _LAG_S)
        disk = Lags()
        for _, lags in self._disk:
            disk.merge(lags)
        return {"lag_p50": p50, "lag_p99": p99, "disk_p99": disk.quantile(0.99)}

    @property
    def outages(self) -> list[Outage]:
        """The stretches without a connection."""
        return self._events.shaded(self._vitals.known.gaps if self._vitals.is_over else None)

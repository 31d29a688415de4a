"""Coverage: for each ticker and moment of a session, *listening*, or *gap* with its reason.

It is built from the marks, live and again from the tape, so that both agree. The intervals of a
ticker follow one another without holes, from its first subscription until it is dropped or the
session ends.

Tickers in the same state since the same moment are one group. So a disconnect costs one interval,
however many tickers and earlier gaps there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Self

from stocktrace import marks
from stocktrace.clock import was_first_set
from stocktrace.intervals import CONNECTING, CoverageInterval, CoverageSpan
from stocktrace.text import describe_lag
from stocktrace.units import NS_PER_SECOND

#: Start and end of a gap (epoch ns), and its reason.
GapKey = tuple[int, int, str]
# Since when (epoch ns), why it is a gap ("" while listening), and its lag (ns).
_State = tuple[int, str, int]
# A change of the lag by less than this factor does not begin another interval.
_LAG_FACTOR = 2


@dataclass(slots=True)
class CoverageBuilder:
    """Grows from marks until ``close``; for one thread.

    ``reconnects`` counts connections after the first, ``unreadable`` damaged marks. ``new_gaps``
    has the gaps since it was last emptied; ``gap_tickers`` all of them, with the number of their
    tickers.
    """

    spans: list[CoverageSpan] = field(default_factory=list)
    gap_tickers: dict[GapKey, int] = field(default_factory=dict)
    new_gaps: set[GapKey] = field(default_factory=set)
    reconnects: int = 0
    unreadable: int = 0
    #: The subscribed tickers by their state; each is in one group.
    _groups: dict[_State, tuple[str, ...]] = field(default_factory=dict)
    _tickers: set[str] = field(default_factory=set)
    _connected: bool = False
    _was_connected: bool = False
    _last_data: int = 0
    _detected: int = 0
    _disconnect: _State | None = None
    #: How far the feed is behind, and when that was so (epoch ns); 0: it is not.
    _lag: int = 0
    _lag_at: int = 0
    #: The lags of this connection: since when (epoch ns), the first and the largest of them.
    _lags: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def intervals(self) -> list[CoverageInterval]:
        """The intervals of each ticker by itself."""
        return [
            CoverageInterval(ticker, span.start, span.end, span.reason, span.sources, span.lag_s)
            for span in self.spans
            for ticker in span.tickers
        ]

    @classmethod
    def of(cls, intervals: Iterable[CoverageInterval]) -> Self:
        """Make one of intervals that have ended."""
        coverage = cls()
        for interval in intervals:
            coverage.add_span(interval)
        return coverage

    def gaps(self) -> dict[GapKey, int]:
        """Return the gaps, by time, with the number of their tickers."""
        return dict(sorted(self.gap_tickers.items()))

    def data_received(self, stamp: int) -> None:
        """Take in that frames came; only needed when a tape is read."""
        self._last_data = stamp

    def add(self, mark: marks.Mark) -> None:  # noqa: C901 - one case for each mark
        """Take in a mark."""
        stamp = mark.stamp
        match mark:
            case marks.OpeningMark():
                self._on_opening(mark)
            case marks.ConnectedMark():
                self._on_connected(mark)
            case marks.DisconnectedMark():
                self._disconnect = (mark.start or self._last_data or stamp, mark.reason, mark.lag)
                self._connected, self._detected, self._lag = False, stamp, 0
            case marks.LagMark():
                self._on_lag(mark)
            case marks.GapMark():
                self._on_gap(mark)
            case marks.PausedMark():
                self._on_paused(mark)
            case marks.SubscriptionMark():
                self._remove(mark.removed, stamp)
                self._subscribe(mark.added, stamp, "" if self._connected else CONNECTING)
            case marks.RefusedMark():
                self._switch(stamp, f"subscription refused: {mark.text}", mark.tickers)
            case marks.CoveredMark():
                covered = (mark.ticker,), mark.start, mark.end, mark.reason, mark.sources
                self.add_span(CoverageSpan(*covered))
            case marks.EndedMark():
                self.close(stamp)
            case marks.UnknownMark():
                self.unreadable += mark.is_damaged

    def _on_opening(self, mark: marks.OpeningMark) -> None:
        # Each window begins with it; it is news only if the tapes before are missing.
        if not self._tickers and not self.spans:
            self._set_tickers(mark.stamp, mark.tickers)
            if mark.connected:
                self._connected = self._was_connected = True
                self._switch(mark.stamp, "")

    def _on_connected(self, mark: marks.ConnectedMark) -> None:
        if self._disconnect is not None:
            since, reason, lag = self._disconnect
            self._switch(since, reason, lag=lag)
        self._set_tickers(mark.stamp, mark.tickers)
        self.reconnects += self._was_connected
        self._was_connected = True
        self._connected, self._disconnect, self._last_data = True, None, mark.stamp
        self._lag = 0
        self._lags.clear()
        self._switch(mark.stamp, "")

    def _on_lag(self, mark: marks.LagMark) -> None:
        self._lag, self._lag_at = mark.lag, mark.stamp
        since, first, largest = self._lags[-1] if self._lags else (0, 0, 0)
        if first * _LAG_FACTOR <= mark.lag or mark.lag * _LAG_FACTOR <= largest:
            self._lags.append((mark.stamp, mark.lag, mark.lag))
        else:
            self._lags[-1] = since, first, max(largest, mark.lag)

    def _on_gap(self, mark: marks.GapMark) -> None:
        self._disconnect = None
        for state in list(self._groups):
            if state[0] > mark.stamp or was_first_set(state[0], mark.stamp):
                # The clock was set after the interval began.
                tickers = self._groups.pop(state)
                self._end(tickers, state, self._detected)
                self._begin(tickers, (mark.start, mark.reason, mark.lag))
        self._switch(mark.start, mark.reason, lag=mark.lag)

    def _on_paused(self, mark: marks.PausedMark) -> None:
        # Nobody read the socket, and the system buffers only a part.
        start = self._heard_until(mark.start)
        for state in [state for state in self._groups if not state[1]]:
            tickers = self._groups.pop(state)
            self._end(tickers, state, start)
            if not was_first_set(mark.start, mark.stamp):  # otherwise 1970 to now, say
                self._end(tickers, (max(start, state[0]), mark.reason, 0), mark.stamp)
            self._begin(tickers, (mark.stamp, "", 0))  # before its start, if the clock was set back

    def feed_crashed(self, stamp: int, reason: str) -> None:
        """Take in that the feed ended at ``stamp`` without a mark, as with a full disk."""
        self._disconnect = self._disconnect or (self._heard_until(stamp), reason, self._lag)
        self._lag = 0

    def _heard_until(self, stamp: int) -> int:
        """Return until when trades were received, ``stamp`` at the latest."""
        return min(stamp, self._lag_at - self._lag) if self._lag else stamp

    def close(self, stamp: int) -> None:
        """End all intervals at ``stamp``. If the feed is behind then, the rest is a gap."""
        if self._disconnect is not None:
            since, reason, lag = self._disconnect
            self._switch(since, reason, lag=lag)
        elif self._lag:
            reason = f"the feed was {describe_lag(self._lag)} behind at the end"
            self._switch(self._heard_until(stamp), reason, lag=self._lag)
        self._remove(self._tickers.copy(), stamp)

    def add_span(self, span: CoverageSpan | CoverageInterval) -> None:
        """Add an interval that has ended."""
        tickers = span.tickers
        self.spans.append(
            CoverageSpan(tickers, span.start, span.end, span.reason, span.sources, lag_s=span.lag_s)
        )
        if span.reason:
            gap = span.start, span.end, span.reason
            self.gap_tickers[gap] = self.gap_tickers.get(gap, 0) + len(tickers)
            self.new_gaps.add(gap)

    def _set_tickers(self, stamp: int, tickers: Iterable[str]) -> None:
        wanted = dict.fromkeys(tickers)
        self._remove(self._tickers - wanted.keys(), stamp)
        self._subscribe(wanted, stamp, CONNECTING)

    def _subscribe(self, tickers: Iterable[str], stamp: int, reason: str) -> None:
        added = tuple(ticker for ticker in dict.fromkeys(tickers) if ticker not in self._tickers)
        self._tickers.update(added)
        self._begin(added, (stamp, reason, 0))

    def _remove(self, tickers: Collection[str], stamp: int) -> None:
        if tickers:
            for state in list(self._groups):
                self._end(self._take(state, tickers), state, stamp)
            self._tickers.difference_update(tickers)

    def _switch(
        self, stamp: int, reason: str, tickers: Collection[str] | None = None, lag: int = 0
    ) -> None:
        """Begin another state of ``tickers``, or of all, at ``stamp``."""
        for state in [state for state in self._groups if state[1] != reason]:
            switched = self._take(state, tickers)
            self._end(switched, state, stamp)
            self._begin(switched, (max(stamp, state[0]), reason, lag))

    def _take(self, state: _State, tickers: Collection[str] | None) -> tuple[str, ...]:
        """Take ``tickers``, or all, out of a group."""
        group = self._groups.pop(state)
        if tickers is None:
            return group
        chosen = set(tickers)
        self._begin(tuple(ticker for ticker in group if ticker not in chosen), state)
        return tuple(ticker for ticker in group if ticker in chosen)

    def _begin(self, tickers: tuple[str, ...], state: _State) -> None:
        if tickers:
            self._groups[state] = self._groups.get(state, ()) + tickers

    def _end(self, tickers: tuple[str, ...], state: _State, stamp: int) -> None:
        begin, reason, lag = state
        if not tickers or stamp <= begin:
            return
        if not reason:
            for since, _, largest in self._lags:
                if begin < since < stamp:
                    self._add(tickers, begin, since, "", lag)
                    begin = since
                if since < stamp:
                    lag = largest
        self._add(tickers, begin, stamp, reason, lag)

    def _add(self, tickers: tuple[str, ...], start: int, end: int, reason: str, lag: int) -> None:
        self.add_span(CoverageSpan(tickers, start, end, reason, lag_s=lag / NS_PER_SECOND))

"""Coverage: for each ticker and moment of a session, *listening*, or *gap* with its reason.

It is built from the marks, live and again from the tape, so that both agree. The intervals of a
ticker follow one another without holes, from its first subscription until it is dropped or the
session ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from stocktrace import marks
from stocktrace.intervals import CONNECTING, CoverageInterval


@dataclass(slots=True)
class CoverageBuilder:
    """Grows from marks until ``close``; for one thread.

    ``disconnects`` counts lost connections, ``unreadable`` damaged marks.
    """

    intervals: list[CoverageInterval] = field(default_factory=list)
    disconnects: int = 0
    unreadable: int = 0
    _open: dict[str, tuple[int, str]] = field(default_factory=dict)
    _connected: bool = False
    _last_data: int = 0
    _detected: int = 0
    _disconnect: tuple[int, str] | None = None

    def data_received(self, stamp: int) -> None:
        """Take in that frames came; only needed when a tape is read."""
        self._last_data = stamp

    def add(self, mark: marks.Mark) -> None:  # noqa: C901, PLR0912 - one case for each mark
        """Take in a mark."""
        stamp = mark.stamp
        match mark:
            case marks.OpeningMark():
                self._on_opening(mark)
            case marks.ConnectedMark():
                self._on_connected(mark)
            case marks.DisconnectedMark():
                self._connected, self._detected = False, stamp
                self.disconnects += 1
                self._disconnect = (self._last_data or stamp, mark.reason)
            case marks.GapMark():
                self._on_gap(mark)
            case marks.PausedMark():
                self._on_paused(mark)
            case marks.SubscriptionMark():
                for ticker in mark.removed:
                    if ticker in self._open:
                        self._end(ticker, stamp)
                for ticker in mark.added:
                    self._open.setdefault(ticker, (stamp, "" if self._connected else CONNECTING))
            case marks.RefusedMark():
                self._switch(mark.tickers, stamp, f"subscription refused: {mark.text}")
            case marks.CoveredMark():
                self.intervals.append(
                    CoverageInterval(mark.ticker, mark.start, mark.end, mark.reason, mark.sources)
                )
            case marks.EndedMark():
                self.close(stamp)
            case marks.UnknownMark():
                self.unreadable += mark.is_damaged

    def _on_opening(self, mark: marks.OpeningMark) -> None:
        # Each window begins with it; it is news only if the tapes before are missing.
        if not self._open and not self.intervals:
            self._set_tickers(mark.stamp, mark.tickers)
            if mark.connected:
                self._connected = True
                self._switch(self._open, mark.stamp, "")

    def _on_connected(self, mark: marks.ConnectedMark) -> None:
        if self._disconnect is not None:
            self._switch(self._open, *self._disconnect)
        self._set_tickers(mark.stamp, mark.tickers)
        self._connected, self._disconnect, self._last_data = True, None, mark.stamp
        self._switch(self._open, mark.stamp, "")

    def _on_gap(self, mark: marks.GapMark) -> None:
        self._disconnect = None
        for ticker, (begin, _) in list(self._open.items()):
            if begin > mark.stamp:  # the clock was set back after the interval began
                self._end(ticker, self._detected)
                self._open[ticker] = (mark.start, mark.reason)
        self._switch(self._open, mark.start, mark.reason)

    def _on_paused(self, mark: marks.PausedMark) -> None:
        # Nobody read the socket, and the system buffers only a part.
        listening = [ticker for ticker, (_, reason) in self._open.items() if not reason]
        self._switch(listening, mark.start, mark.reason)
        for ticker in listening:
            self._end(ticker, mark.stamp)
            self._open[ticker] = (mark.stamp, "")  # before its start, if the clock was set back

    def feed_crashed(self, stamp: int, reason: str) -> None:
        """Take in that the feed ended at ``stamp`` without a mark, as with a full disk."""
        self._disconnect = (stamp, self._disconnect[1] if self._disconnect is not None else reason)

    def close(self, stamp: int) -> None:
        """End all intervals at ``stamp``."""
        if self._disconnect is not None:
            self._switch(self._open, *self._disconnect)
        for ticker in list(self._open):
            self._end(ticker, stamp)

    def gaps(self) -> dict[tuple[int, int, str], int]:
        """Return the gaps as (start, end, reason), by time, with the number of their tickers."""
        gaps = (interval for interval in self.intervals if interval.reason)
        return dict(sorted(Counter((gap.start, gap.end, gap.reason) for gap in gaps).items()))

    def _set_tickers(self, stamp: int, tickers: Iterable[str]) -> None:
        wanted = dict.fromkeys(tickers)
        for ticker in [ticker for ticker in self._open if ticker not in wanted]:
            self._end(ticker, stamp)
        for ticker in wanted:
            self._open.setdefault(ticker, (stamp, CONNECTING))

    def _switch(self, tickers: Iterable[str], stamp: int, reason: str) -> None:
        for ticker in list(tickers):
            if ticker in self._open and self._open[ticker][1] != reason:
                begin, _ = self._end(ticker, stamp)
                self._open[ticker] = (max(stamp, begin), reason)

    def _end(self, ticker: str, stamp: int) -> tuple[int, str]:
        begin, reason = self._open.pop(ticker)
        if stamp > begin:
            self.intervals.append(CoverageInterval(ticker, begin, stamp, reason))
        return begin, reason

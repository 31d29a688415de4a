"""How far the feed is behind the exchanges: from the trades' own times, whatever the clocks say.

A link that is slower than the market delivers each trade later than the one before. If it is lost,
so are the trades on their way: the gap begins with the newest trade received, not with its receipt.

The clocks of exchanges and machines differ, so each venue has an *offset*: the smallest delay from
a trade's time to its receipt. Late trades, which are honest, do not count: the newest trade of a
venue does, and the venue that is least behind. A lag is not older than the last moment without one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from stocktrace.store.decoded_batch import DecodedRead
from stocktrace.units import MS_PER_DAY, MS_PER_SECOND, NS_PER_MS

_Int64Array = npt.NDArray[np.int64]

#: From this lag on (ms), the feed is behind; Finnhub sends trades up to a second late.
BEHIND_MS = 2 * MS_PER_SECOND
# A lag that is marked is longer by this (ms): trades arrive a little out of order.
_TOLERANCE_MS = 500
# A lag must last that long before it is marked; it is marked again after so long.
_MARK_INTERVAL_MS = MS_PER_SECOND
# While no trades come, it is marked again when it has grown by this factor.
_GROWTH = 1.25
# An offset grows by this share of the time: a clock without NTP drifts by less.
_DRIFT = 1e-4
# A delay that is shorter by so much is a wrong time, unless so many reads in a row have one.
_AHEAD_MS = 2 * MS_PER_SECOND
_CONFIRMATIONS = 3
# Trades that are older than that, or from the future, are those of a replay.
_LONGEST_DELAY_MS = MS_PER_DAY
# Symbols can be invented.
_MAX_VENUES = 64


@lru_cache(1 << 16)
def _venue_of(ticker: str) -> str:
    """Return the venue of a ticker, whose trades have one clock; "" of US stocks."""
    return ticker.rpartition(":")[0]


def _by_venue(
    read: DecodedRead, events: _Int64Array, delays: _Int64Array
) -> dict[str, tuple[int, int]]:
    """Return the newest time and the smallest delay of each venue's trades in a read."""
    names = [ticker for ticker, _ in read.ticker_rows]
    if ":" not in "".join(names):  # a quarter of the time
        return {"": (int(events.max()), int(delays.min()))}
    starts = [rows.start for _, rows in read.ticker_rows]
    newest = np.maximum.reduceat(events, starts).tolist()
    shortest = np.minimum.reduceat(delays, starts).tolist()
    venues: dict[str, tuple[int, int]] = {}
    for ticker, event, delay in zip(names, newest, shortest, strict=True):
        known_event, known_delay = venues.get(venue := _venue_of(ticker), (event, delay))
        venues[venue] = max(event, known_event), min(delay, known_delay)
    return venues


@dataclass(slots=True)
class _VenueClock:
    """The clock of one venue; all times in epoch ms, delays in ms."""

    offset: float | None = None
    #: When the offset was last known.
    known_at: int = 0
    newest: int = 0
    #: Delays that are too short, or the first ones, until they are confirmed.
    unconfirmed: list[float] = field(default_factory=list)

    def lag(self, received: int, newest: int, delay: int, assumed: float) -> float | None:
        """Return the lag after a read; ``None`` if the offset is not known.

        ``delay`` is the smallest of the read. A new offset takes the ``assumed`` lag for granted.
        """
        offset = self.offset
        if offset is not None:
            offset += (received - self.known_at) * _DRIFT
        if offset is None or delay < offset - _AHEAD_MS:
            self.unconfirmed.append(delay - assumed)
            if len(self.unconfirmed) < _CONFIRMATIONS:
                return None
            smallest, second, *_ = sorted(self.unconfirmed)
            offset = smallest if second - smallest <= _AHEAD_MS else second
            self.newest = 0
        self.unconfirmed.clear()
        self.offset, self.known_at = min(offset, delay), received
        self.newest = max(self.newest, newest)
        return received - self.newest - self.offset


@dataclass(slots=True)
class FeedLag:
    """The lag of one feed; for its thread. Times in epoch ms."""

    #: The lag at the last trades, and until when trades were received.
    lag_ms: float = 0.0
    heard_until: float = 0.0
    #: Whether the last mark said that the feed is behind.
    is_marked: bool = False
    _opened_at: int = 0
    _received: int = 0
    _late_since: int = 0
    #: When the last mark was written, and ``heard_until`` then.
    _marked_at: int = 0
    _marked: float = 0.0
    _clocks: dict[str, _VenueClock] = field(default_factory=dict)

    def connection_opened(self, stamp: int) -> None:
        """Take in that a connection began at ``stamp`` (epoch ns): nothing is on its way."""
        self.lag_ms, self.is_marked, self._late_since = 0.0, False, 0
        self.heard_until = self._received = self._opened_at = stamp // NS_PER_MS
        for clock in self._clocks.values():
            clock.newest = 0

    def clock_stepped(self, seconds: float) -> None:
        """Take in that the clock of this machine was set."""
        step = int(seconds * MS_PER_SECOND)
        self.heard_until += step
        self._received += step
        self._opened_at += step
        self._late_since += step if self._late_since else 0
        self._marked_at += step
        self._marked += step
        for clock in self._clocks.values():
            clock.known_at += step
            if clock.offset is not None:
                clock.offset += step

    def add(self, read: DecodedRead) -> None:
        """Take in a read with trades, or with none."""
        if not len(read):
            self._add_silence(read.arrivals[-1].stamp // NS_PER_MS)
            return
        stamps = np.array([frames.stamp for frames in read.arrivals]) // NS_PER_MS
        received = int(stamps[read.arrival.max()])
        lag = self._lag_of(read, stamps, received)
        if lag is None:
            return
        self.lag_ms = max(0.0, min(lag, received - self.heard_until))
        self.heard_until = max(self.heard_until, received - self.lag_ms)
        self._received = received
        if self.lag_ms < BEHIND_MS:
            self._late_since = 0
        else:
            self._late_since = self._late_since or received

    def _lag_of(self, read: DecodedRead, stamps: _Int64Array, received: int) -> float | None:
        """Return the lag of the venue that is least behind, of those in a read."""
        events = read.ts_event
        delays = stamps[read.arrival] - events
        if max(delays.max(), -int(delays.min())) > _LONGEST_DELAY_MS:
            is_odd = (delays > _LONGEST_DELAY_MS) | (delays < -_LONGEST_DELAY_MS)
            delays = np.where(is_odd, 2 * _LONGEST_DELAY_MS, delays)
            events = np.where(is_odd, 0, events)
        lags = []
        for venue, (event, delay) in _by_venue(read, events, delays).items():
            if delay > _LONGEST_DELAY_MS:
                continue
            clock = self._clocks.get(venue)
            if clock is None:
                if len(self._clocks) == _MAX_VENUES:
                    continue
                clock = self._clocks[venue] = _VenueClock()
            lags.append(clock.lag(received, event, delay, self.lag_ms))
        return min((lag for lag in lags if lag is not None), default=None)

    def _add_silence(self, received: int) -> None:
        """Take in frames without trades: with trades on their way, they come after those."""
        if received - self._received >= BEHIND_MS:
            self.lag_ms, self._late_since = 0.0, 0
            self.heard_until = max(self.heard_until, received)

    def due(self, stamp: int, *, at_loss: bool = False) -> int | None:
        """Return the lag (ns) that must be marked at ``stamp`` (epoch ns), or ``None``.

        With ``at_loss``, the connection has ended: whatever is on its way is lost.
        """
        now = stamp // NS_PER_MS
        if at_loss:
            is_behind = self.is_marked or self._late_since
            self.is_marked, self._late_since = False, 0
            return self._lag_at(stamp) if is_behind else None
        if self.is_marked and self.lag_ms < BEHIND_MS / 2:
            self.is_marked = False
            return 0
        is_late = self._late_since and self._received - self._late_since >= _MARK_INTERVAL_MS
        if not (is_late or self.is_marked) or now - self._marked_at < _MARK_INTERVAL_MS:
            return None
        # While no trades come, a mark at times suffices to show the growth.
        has_grown = now - self.heard_until >= _GROWTH * (self._marked_at - self._marked)
        if self.is_marked and self.heard_until == self._marked and not has_grown:
            return None
        self._marked_at, self._marked = now, self.heard_until
        self.is_marked = True
        return self._lag_at(stamp)

    def _lag_at(self, stamp: int) -> int:
        since = max(int(self.heard_until) - _TOLERANCE_MS, self._opened_at)
        return max(0, stamp - since * NS_PER_MS)

"""The chart of one ticker: bars by the time of receipt, with the session's gaps.

Bars are made of seconds, and longer ones are made of these. They are by receipt because the gaps
are. Some trades of US stocks make volume but no price, others neither; all of them are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt

from stocktrace.clock import Deadline
from stocktrace.dashboard.events import GapSpan
from stocktrace.dashboard.rows import TickerRows, none_for_nan
from stocktrace.dashboard.tail import SessionTail
from stocktrace.store.layout import Layout
from stocktrace.units import US_PER_SECOND

#: Lengths of a bar (s) that a viewer can select.
LENGTHS_S = (1, 5, 15, 60)
# A day has 86,400 seconds: so many bars fit a chart, older ones are visible in longer bars.
MAX_BARS = 7200

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
#: Start (epoch s), open, high, low, close, volume and number of trades; the prices are ``None`` if
#: no trade made one.
Bar = tuple[int, float | None, float | None, float | None, float | None, float, int]

# Bars that are joined with each new row. With more of them each read costs more, with fewer all
# bars are copied more often.
_NEW_BARS = 600
_READ_S = 0.25


@dataclass(slots=True)
class BarColumns:
    """Bars as columns, ascending by ``start`` (epoch s); a price is nan if no trade made one."""

    start: Integers
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    trades: Integers

    @classmethod
    def empty(cls) -> Self:
        """Return no bars."""
        integers, floats = np.empty(0, np.int64), np.empty(0)
        return cls(integers, floats, floats, floats, floats, floats, integers)

    @classmethod
    def from_rows(cls, rows: TickerRows) -> Self:
        """Make bars of a second from trades."""
        price = np.where(rows.makes_price, rows.price, np.nan)
        volume = np.where(rows.makes_volume, rows.volume, 0.0)
        ones = np.ones(len(rows), np.int64)
        seconds = rows.received // US_PER_SECOND
        return cls(seconds, price, price, price, price, volume, ones).join(1)

    def join(self, every: int) -> Self:
        """Make bars of ``every`` seconds, aligned to the epoch, from these."""
        start = self.start - self.start % every
        if (np.diff(start) < 0).any():  # the clock was set back
            order = np.argsort(start, kind="stable")
            return self._select(order).join(every)
        if not len(start):
            return self
        firsts = np.flatnonzero(np.diff(start, prepend=start[0] - 1))
        at, priced = np.arange(len(start)), ~np.isnan(self.close)
        first = np.minimum.reduceat(np.where(priced, at, len(at) - 1), firsts)
        last = np.maximum.reduceat(np.where(priced, at, 0), firsts)
        has_price = np.logical_or.reduceat(priced, firsts)
        return type(self)(
            start[firsts],
            np.where(has_price, self.open[first], np.nan),
            np.fmax.reduceat(self.high, firsts),
            np.fmin.reduceat(self.low, firsts),
            np.where(has_price, self.close[last], np.nan),
            np.add.reduceat(self.volume, firsts),
            np.add.reduceat(self.trades, firsts),
        )

    def __add__(self, later: Self) -> Self:
        return type(self)(
            *(np.concatenate((getattr(self, f.name), getattr(later, f.name))) for f in fields(self))
        )

    def _select(self, index: Integers | slice) -> Self:
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def since(self, start: int) -> Self:
        """Return the bars that begin at ``start`` or later."""
        return self._select(slice(int(np.searchsorted(self.start, start)), None))

    def to_rows(self) -> list[Bar]:
        """Return one tuple per bar."""
        prices = none_for_nan(np.stack((self.open, self.high, self.low, self.close)))
        columns = (self.start.tolist(), *prices, self.volume.tolist(), self.trades.tolist())
        return list(zip(*columns, strict=True))


class GrowingBars:
    """Bars of a second to which trades are added; each time only the newest bars are copied."""

    def __init__(self) -> None:
        self._old, self._new = BarColumns.empty(), BarColumns.empty()
        self._newest = 0
        #: Changes when bars before the newest one changed: what was made of them is out of date.
        self.generation = 0

    def add(self, rows: TickerRows) -> None:
        """Add trades."""
        added = BarColumns.from_rows(rows)
        if not len(added.start):
            return
        if added.start[0] < self._newest:
            self.generation += 1
        self._newest = max(self._newest, int(added.start[-1]))
        self._new = (self._new + added).join(1)
        if len(self._new.start) > _NEW_BARS:
            self._old, self._new = (self._old + self._new).join(1), BarColumns.empty()

    def bars(self, every: int, since: int | None = None) -> BarColumns:
        """Return bars of ``every`` seconds from ``since`` (epoch s), or the newest ``MAX_BARS``."""
        if since is None:
            since = self._newest // every * every - (MAX_BARS - 1) * every
        return (self._old.since(since) + self._new.since(since)).join(every)

    @property
    def trades(self) -> int:
        """Number of trades in all bars."""
        return int(self._old.trades.sum() + self._new.trades.sum())


class ChartPosition(NamedTuple):
    """The part of a chart that a viewer has: which generation, up to which bar, which gaps."""

    generation: int = -1
    until: int = 0  # start of the newest bar, epoch s
    gaps: int = 0
    has_open_gap: bool = False


class TickerChart:
    """Bars of one ticker of a session, read by a tail of their own.

    A chart that is opened is read before everything else.
    """

    def __init__(self, layout: Layout, session: str, ticker: str) -> None:
        self.ticker = ticker
        self._tail = SessionTail(layout, session, [ticker])
        self._bars = GrowingBars()
        self._messages: dict[tuple[ChartPosition, int], tuple[bytes, ChartPosition]] = {}
        self._gaps: list[GapSpan] = []

    def read(self, gaps: list[GapSpan]) -> None:
        """Read new rows.

        Raises:
            StoreError: a file is damaged.
        """
        for rows in self._tail.read(Deadline.after(_READ_S)):
            self._bars.add(rows)
        self._gaps = gaps
        self._messages.clear()

    @property
    def is_behind(self) -> bool:
        """True if there is more to read at once."""
        return self._tail.is_behind

    def message(self, seen: ChartPosition, every: int) -> tuple[bytes, ChartPosition]:
        """Return what a viewer at ``seen`` does not have, and its position after that."""
        if (seen, every) not in self._messages:
            self._messages[seen, every] = self._encode(seen, every)
        return self._messages[seen, every]

    def _encode(self, seen: ChartPosition, every: int) -> tuple[bytes, ChartPosition]:
        whole = seen.generation != self._bars.generation
        bars = self._bars.bars(every, None if whole else seen.until).to_rows()
        position = ChartPosition(
            self._bars.generation,
            bars[-1][0] if bars else seen.until,
            len(self._gaps),
            any(gap.end is None for gap in self._gaps),
        )
        message: dict[str, Any] = {
            "ticker": self.ticker,
            "every": every,
            "whole": whole,
            "behind": self.is_behind,
            "bars": bars,
        }
        if whole or position[2:] != seen[2:]:
            message["gaps"] = self._gaps
        return msgspec.json.encode(message), position

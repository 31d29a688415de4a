"""Bars of one ticker by the time of receipt, a second each, and longer ones made of them.

By receipt, because so are the gaps. Of US stocks some trades make volume and no price, others
neither; all of them are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from stocktrace.dashboard.rows import TickerRows

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
#: Start (epoch s), open, high, low, close, volume and how many trades; no price: no trade made one.
Bar = tuple[int, float | None, float | None, float | None, float | None, float, int]
# A day has 86,400 seconds: so many bars fit a chart, older ones are seen in longer bars.
MAX_BARS = 7200
# Bars that are joined with what comes; more make each look dearer, fewer the copies more frequent.
_NEW = 600


@dataclass(slots=True)
class BarColumns:
    """Bars as columns, by ``start`` (epoch s), which rises; prices are nan where there is none."""

    start: Integers
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    trades: Integers

    @classmethod
    def none(cls) -> Self:
        """No bars."""
        whole, real = np.empty(0, np.int64), np.empty(0)
        return cls(whole, real, real, real, real, real, whole)

    @classmethod
    def of(cls, rows: TickerRows) -> Self:
        """Those of trades, of a second each."""
        price = np.where(rows.makes_price, rows.price, np.nan)
        volume = np.where(rows.makes_volume, rows.volume, 0.0)
        each = np.ones(len(rows), np.int64)
        return cls(rows.received // 1_000_000, price, price, price, price, volume, each).joined(1)

    def joined(self, every: int) -> Self:
        """Bars of ``every`` seconds, aligned to the epoch, made of these."""
        start = self.start - self.start % every
        if (np.diff(start) < 0).any():  # the clock was set back
            order = np.argsort(start, kind="stable")
            return self._at(order).joined(every)
        if not len(start):
            return self
        firsts = np.flatnonzero(np.diff(start, prepend=start[0] - 1))
        at, priced = np.arange(len(start)), ~np.isnan(self.close)
        first = np.minimum.reduceat(np.where(priced, at, len(at) - 1), firsts)
        last = np.maximum.reduceat(np.where(priced, at, 0), firsts)
        some = np.logical_or.reduceat(priced, firsts)
        return type(self)(
            start[firsts],
            np.where(some, self.open[first], np.nan),
            np.fmax.reduceat(self.high, firsts),
            np.fmin.reduceat(self.low, firsts),
            np.where(some, self.close[last], np.nan),
            np.add.reduceat(self.volume, firsts),
            np.add.reduceat(self.trades, firsts),
        )

    def __add__(self, later: Self) -> Self:
        return type(self)(
            *(np.concatenate((getattr(self, f.name), getattr(later, f.name))) for f in fields(self))
        )

    def _at(self, order: Integers | slice) -> Self:
        return type(self)(*(getattr(self, field.name)[order] for field in fields(self)))

    def since(self, start: int) -> Self:
        """Those that begin at ``start`` or later."""
        return self._at(slice(int(np.searchsorted(self.start, start)), None))

    def rows(self) -> list[Bar]:
        """One tuple a bar."""
        prices = [
            [None if value != value else value for value in column.tolist()]  # noqa: PLR0124 - nan
            for column in (self.open, self.high, self.low, self.close)
        ]
        columns = (self.start.tolist(), *prices, self.volume.tolist(), self.trades.tolist())
        return list(zip(*columns, strict=True))


class GrowingBars:
    """Bars of a second that are added to; only the newest are copied each time."""

    def __init__(self) -> None:
        self._old, self._new = BarColumns.none(), BarColumns.none()
        self._newest = 0
        #: Changes when bars before the last one changed: what was made of them is out of date.
        self.generation = 0

    def add(self, rows: TickerRows) -> None:
        """Count trades."""
        fresh = BarColumns.of(rows)
        if not len(fresh.start):
            return
        if fresh.start[0] < self._newest:
            self.generation += 1
        self._newest = max(self._newest, int(fresh.start[-1]))
        self._new = (self._new + fresh).joined(1)
        if len(self._new.start) > _NEW:
            self._old, self._new = (self._old + self._new).joined(1), BarColumns.none()

    def every(self, seconds: int, since: int | None = None) -> BarColumns:
        """Bars of ``seconds``: those from ``since`` on (epoch s), or the newest ``MOST``."""
        if since is None:
            since = self._newest // seconds * seconds - (MAX_BARS - 1) * seconds
        return (self._old.since(since) + self._new.since(since)).joined(seconds)

    @property
    def trades(self) -> int:
        """All trades in them."""
        return int(self._old.trades.sum() + self._new.trades.sum())

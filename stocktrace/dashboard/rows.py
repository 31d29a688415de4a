"""Recorded trades as columns, made by the tail, and what is counted of them for the page.

The table has one line per ticker. The history has trades a second and their lag over a whole
session, in a fixed number of steps: when a session is longer, pairs of steps are joined and steps
are twice as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stocktrace.calendar import Market, market_of
from stocktrace.latency import BUCKET_COUNT, BUCKETS_PER_OCTAVE, LatencyHistogram
from stocktrace.query.sale_conditions import bar_eligibility
from stocktrace.units import US_PER_MS, US_PER_SECOND

#: Steps of a history: half an hour second by second; a trading day in steps of 16 s. 2 MB.
STEPS = 1800
_QUANTILES = np.array([0.5, 0.95, 0.99])
#: Points of a sparkline: the last minute of a live session, or the whole of an ended one.
POINTS = 60

#: Start (epoch s), trades a second, and the lags (ms): p50, p95 and p99.
HistoryPoint = tuple[int, float, float | None, float | None, float | None]
#: Number of the ticker, last price, change (%), trades a second, trades recorded, trades queued,
#: gaps, rows in quarantine, and the text of a refusal.
TickerLine = tuple[int, float | None, float | None, float, int, int, int, int, str]


@dataclass(frozen=True, slots=True)
class TickerRows:
    """Trades of ``ticker`` in the order of arrival; all columns have the same length.

    ``received`` is epoch us, ``lag_ms`` float64 from the trade's own time to its receipt;
    ``makes_price`` and ``makes_volume`` mark the trades that count for bars (docs/reading.md).
    ``written`` is when the last one was written to disk (epoch us), if they were read right then.
    """

    ticker: str
    received: npt.NDArray[np.int64]
    lag_ms: npt.NDArray[np.float64]
    price: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    makes_price: npt.NDArray[np.bool_]
    makes_volume: npt.NDArray[np.bool_]
    written: int | None = None

    def __len__(self) -> int:
        return len(self.received)

    @classmethod
    def split(cls, table: pa.Table, portions: Iterable[tuple[str, int, int | None]]) -> list[Self]:
        """Split ``table`` in order into portions of ``(ticker, number of rows, written)``.

        The codes of all portions are evaluated together: one call for each of 5,000 tickers would
        cost more than the rest.
        """
        received = table["ts_recv"].to_numpy().view(np.int64)
        lag_ms = (received - table["ts_event"].to_numpy().view(np.int64) * US_PER_MS) / US_PER_MS
        price, volume = table["price"].to_numpy(), table["volume"].to_numpy()
        prices, volumes = bar_eligibility(table["conditions"])
        all_rows = np.ones(table.num_rows, np.bool_)
        parts, begin = [], 0
        for ticker, count, written in portions:
            at = slice(begin, begin + count)
            begin += count
            us = market_of(ticker) is Market.US
            parts.append(
                cls(
                    ticker,
                    received[at],
                    lag_ms[at],
                    price[at],
                    volume[at],
                    (prices if us else all_rows)[at],
                    (volumes if us else all_rows)[at],
                    written,
                )
            )
        return parts


def none_for_nan(values: npt.NDArray[np.float64]) -> list[Any]:
    """Return the values as a nested list, with ``None`` for nan."""
    cells = values.astype(object)
    cells[np.isnan(values)] = None
    return list(cells.tolist())


def disk_lags(batches: Iterable[TickerRows]) -> LatencyHistogram:
    """Return the lags from receipt to disk, of rows that were read as soon as they were written."""
    lags = LatencyHistogram()
    for rows in batches:
        if rows.written is not None:
            lags.add((rows.written - rows.received) / US_PER_MS)
    return lags


class LagHistory:
    """The rates and lags of a session that begins at ``begin`` (epoch s)."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.step_s = 1
        self._counts = np.zeros(STEPS, np.int64)
        self._lags = np.zeros((STEPS, BUCKET_COUNT), np.int32)

    def add(self, rows: TickerRows) -> None:
        """Count ``rows`` at their time of receipt; those before ``begin`` count at ``begin``."""
        steps = np.maximum(rows.received // US_PER_SECOND - self.begin, 0)
        while int(steps.max()) >= STEPS * self.step_s:
            self._double_steps()
        steps //= self.step_s
        buckets = np.log2(np.maximum(rows.lag_ms, 0.5)) * BUCKETS_PER_OCTAVE + 1
        buckets = np.clip(buckets, 0, BUCKET_COUNT - 1).astype(np.int64)
        first, last = int(steps.min()), int(steps.max()) + 1
        cells = np.bincount(
            (steps - first) * BUCKET_COUNT + buckets, minlength=(last - first) * BUCKET_COUNT
        )
        self._lags[first:last] += cells.reshape(-1, BUCKET_COUNT).astype(np.int32)
        self._counts[first:last] += np.bincount(steps - first, minlength=last - first)

    def _double_steps(self) -> None:
        self.step_s *= 2
        half = STEPS // 2
        for values in (self._counts, self._lags):
            values[:half] = values[0::2] + values[1::2]
            values[half:] = 0

    def points(self, begin: int, end: int) -> list[HistoryPoint]:
        """Return the steps from the one that contains ``begin``, complete at ``end`` (epoch s)."""
        first = max(0, (begin - self.begin) // self.step_s)
        last = max(first, min(STEPS, (end - self.begin) // self.step_s))
        rates = (self._counts[first:last] / self.step_s).tolist()
        quantiles = _quantiles(self._lags[first:last])
        return [
            (self.begin + step * self.step_s, round(rate, 2), p50, p95, p99)
            for step, rate, (p50, p95, p99) in zip(
                range(first, last), rates, quantiles, strict=True
            )
        ]

    def recent(self, end: int, seconds: int) -> tuple[float | None, ...]:
        """Return p50, p95 and p99 (ms) over the last ``seconds`` before ``end`` (epoch s)."""
        last = min(STEPS, (end - self.begin) // self.step_s + 1)
        first = max(0, last - max(1, seconds // self.step_s))
        return tuple(_quantiles(self._lags[first:last].sum(axis=0, keepdims=True))[0])

    @property
    def trades(self) -> int:
        """Number of trades counted."""
        return int(self._counts.sum())


def _quantiles(lags: npt.NDArray[np.int32]) -> list[list[float | None]]:
    """Return for each row of ``lags`` the upper edges of the buckets with p50, p95 and p99."""
    sums = np.cumsum(lags, axis=1, dtype=np.int64)
    totals = sums[:, -1:]
    below = [(sums < np.ceil(share * totals)).sum(axis=1) for share in _QUANTILES]
    edges = np.round(2.0 ** (np.column_stack(below) / BUCKETS_PER_OCTAVE), 1)
    return none_for_nan(np.where(totals > 0, edges, np.nan))


@dataclass(slots=True)
class _TickerFigures:
    """The figures of one ticker, its line, and the version in which that changed."""

    number: int
    trades: int = 0
    first: float | None = None
    last: float | None = None
    last_received: int = 0  # epoch us
    line: TickerLine | None = None
    changed: int = 0


class TickerTable:
    """The lines of a session from ``begin`` to ``end`` (epoch s; ``None`` while it runs)."""

    def __init__(self, begin: int, end: int | None) -> None:
        self._begin, self._end = begin, end
        self._second = 0  # epoch s of the last point of a live session
        self._figures: dict[str, _TickerFigures] = {}
        self._sparks: npt.NDArray[np.float64] = np.full((0, POINTS), np.nan)

    @property
    def tickers(self) -> list[str]:
        """The tickers in the order of their numbers."""
        return list(self._figures)

    def add_tickers(self, tickers: Iterable[str]) -> None:
        """Add a line for each new ticker."""
        new = [ticker for ticker in tickers if ticker not in self._figures]
        for number, ticker in enumerate(new, len(self._figures)):
            self._figures[ticker] = _TickerFigures(number)
        if new:
            more = np.full((len(new), POINTS), np.nan)
            self._sparks = np.concatenate((self._sparks, more))

    def add(self, rows: TickerRows) -> None:
        """Count ``rows``."""
        figures = self._figures[rows.ticker]
        figures.trades += len(rows)
        # A window that was rebuilt from the tape comes late: its prices are not the last ones.
        if not rows.makes_price.any() or rows.received[-1] < figures.last_received:
            return
        figures.last_received = int(rows.received[-1])
        price, at = rows.price[rows.makes_price], rows.received[rows.makes_price] // US_PER_SECOND
        if figures.first is None:
            figures.first = float(price[0])
        figures.last = float(price[-1])
        points = self._points(at)
        ends = np.flatnonzero(np.diff(points, append=POINTS + 1))  # the last trade of each point
        for point, value in zip(points[ends].tolist(), price[ends].tolist(), strict=True):
            if point >= 0:
                self._sparks[figures.number, point:] = value

    def _points(self, seconds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self._end is None:
            return np.minimum(seconds - self._second + POINTS - 1, POINTS - 1)
        span = max(1, self._end - self._begin)
        return np.clip((seconds - self._begin) * POINTS // span, 0, POINTS - 1)

    def advance(self, second: int) -> None:
        """Move the sparklines of a live session on to ``second`` (epoch s)."""
        steps = min(max(0, second - self._second), POINTS)
        if self._end is None and steps:
            self._sparks[:, : POINTS - steps] = self._sparks[:, steps:]
            self._sparks[:, POINTS - steps :] = self._sparks[:, -1:]
        self._second = max(second, self._second)

    def update(
        self,
        version: int,
        rates: Mapping[str, float],
        queued: Mapping[str, int],
        gaps: Mapping[str, int],
        quarantined: Mapping[str, int],
        refused: Mapping[str, str],
    ) -> None:
        """Update the lines; those that change belong to ``version``."""
        for ticker, figures in self._figures.items():
            first, last = figures.first, figures.last
            line = (
                figures.number,
                last,
                round((last / first - 1) * 100, 3) if first and last is not None else None,
                round(rates.get(ticker, 0.0), 1),
                figures.trades,
                queued.get(ticker, 0),
                gaps.get(ticker, 0),
                quarantined.get(ticker, 0),
                refused.get(ticker, ""),
            )
            if line != figures.line:
                figures.line, figures.changed = line, version

    def lines(self, since: int) -> list[TickerLine]:
        """Return the lines that changed after version ``since``."""
        figures = self._figures.values()
        return [each.line for each in figures if each.line is not None and each.changed > since]

    def sparks(self) -> list[list[float | None]]:
        """Return the points of all tickers: ``None`` before the first trade, empty without one."""
        return [
            points if figures.last is not None else []
            for points, figures in zip(
                none_for_nan(self._sparks), self._figures.values(), strict=True
            )
        ]

    @property
    def spark_span(self) -> str:
        """The time that the points span: the last ``minute``, or the whole ``session``."""
        return "minute" if self._end is None else "session"

"""Trades a second and their lag over a whole session, in a fixed number of steps.

When a session is longer than the steps, pairs of steps are joined and steps are twice as long.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from stocktrace.dashboard.rows import TickerRows
from stocktrace.latency import BUCKET_COUNT, BUCKETS_PER_OCTAVE, LatencyHistogram
from stocktrace.units import US_PER_MS, US_PER_SECOND

#: Half an hour second by second; a trading day in steps of 16 s. 2 MB.
STEPS = 1800
_QUANTILES = np.array([0.5, 0.95, 0.99])

#: Start (epoch s), trades a second, and the lags (ms): p50, p95 and p99.
HistoryPoint = tuple[int, float, float | None, float | None, float | None]


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
        quantiles = _quantiles(self._lags[first:last])
        rates = (self._counts[first:last] / self.step_s).tolist()
        starts = (self.begin + step * self.step_s for step in range(first, last))
        return [
            (start, round(rate, 2), *lags)
            for start, rate, lags in zip(starts, rates, quantiles, strict=True)
        ]

    def recent(self, end: int, seconds: int) -> tuple[float | None, ...]:
        """Return p50, p95 and p99 (ms) over the last ``seconds`` before ``end`` (epoch s)."""
        last = min(STEPS, (end - self.begin) // self.step_s + 1)
        first = max(0, last - max(1, seconds // self.step_s))
        return _quantiles(self._lags[first:last].sum(axis=0, keepdims=True))[0]

    @property
    def trades(self) -> int:
        """Number of trades counted."""
        return int(self._counts.sum())


def _quantiles(
    lags: npt.NDArray[np.int32],
) -> list[tuple[float | None, float | None, float | None]]:
    """Return for each row of ``lags`` the upper edges of the buckets with p50, p95 and p99."""
    sums = np.cumsum(lags, axis=1, dtype=np.int64)
    totals = sums[:, -1]
    edges = [
        np.where(
            totals > 0,
            2.0 ** ((sums < np.ceil(share * totals)[:, None]).sum(axis=1) / BUCKETS_PER_OCTAVE),
            np.nan,
        )
        for share in _QUANTILES
    ]
    rounded = np.round(np.column_stack(edges), 1)
    return [
        (None, None, None) if not total else (p50, p95, p99)
        for (p50, p95, p99), total in zip(rounded.tolist(), totals.tolist(), strict=True)
    ]


def disk_lags(batches: Iterable[TickerRows]) -> LatencyHistogram:
    """Return the lags from receipt to disk, of rows that were read as soon as they were written."""
    lags = LatencyHistogram()
    for rows in batches:
        if rows.written is not None:
            lags.add((rows.written - rows.received) / US_PER_MS)
    return lags

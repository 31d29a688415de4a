"""Trades a second and their lag over a whole session, in a fixed number of steps.

When a session outgrows them, neighbours are joined and each step lasts twice as long.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from stocktrace.dashboard.rows import TickerRows
from stocktrace.latency import BUCKET_COUNT, BUCKETS_PER_OCTAVE, LatencyHistogram

#: Half an hour second by second; a trading day in steps of 16 s. 2 MB.
STEPS = 1800
_SHARES = np.array([0.5, 0.95, 0.99])

#: Start (epoch s), trades a second, and the lags (ms) that half, 95 % and 99 % stay within.
HistoryPoint = tuple[int, float, float | None, float | None, float | None]


class LagHistory:
    """Grows with ``add``; begins with the session (epoch s)."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.every = 1
        self._counts = np.zeros(STEPS, np.int64)
        self._lags = np.zeros((STEPS, BUCKET_COUNT), np.int32)

    def add(self, rows: TickerRows) -> None:
        """Count ``rows`` when they were received; what came before the session began, with it."""
        at = np.maximum(rows.received // 1_000_000 - self.begin, 0)
        while int(at.max()) >= STEPS * self.every:
            self._join()
        at //= self.every
        buckets = np.log2(np.maximum(rows.lag_ms, 0.5)) * BUCKETS_PER_OCTAVE + 1
        buckets = np.clip(buckets, 0, BUCKET_COUNT - 1).astype(np.int64)
        first, last = int(at.min()), int(at.max()) + 1
        cells = np.bincount(
            (at - first) * BUCKET_COUNT + buckets, minlength=(last - first) * BUCKET_COUNT
        )
        self._lags[first:last] += cells.reshape(-1, BUCKET_COUNT).astype(np.int32)
        self._counts[first:last] += np.bincount(at - first, minlength=last - first)

    def _join(self) -> None:
        self.every *= 2
        half = STEPS // 2
        for values in (self._counts, self._lags):
            values[:half] = values[0::2] + values[1::2]
            values[half:] = 0

    def points(self, begin: int, end: int) -> list[HistoryPoint]:
        """The steps from the one that holds ``begin`` that are over at ``end`` (epoch s)."""
        first = max(0, (begin - self.begin) // self.every)
        last = max(first, min(STEPS, (end - self.begin) // self.every))
        quantiles = _quantiles(self._lags[first:last])
        rates = (self._counts[first:last] / self.every).tolist()
        starts = range(self.begin + first * self.every, self.begin + last * self.every, self.every)
        return [
            (start, round(rate, 2), *lags)
            for start, rate, lags in zip(starts, rates, quantiles, strict=True)
        ]

    def recent(self, end: int, seconds: int) -> tuple[float | None, ...]:
        """The lags (ms) of the shares over the last ``seconds`` before ``end`` (epoch s)."""
        last = min(STEPS, (end - self.begin) // self.every + 1)
        first = max(0, last - max(1, seconds // self.every))
        return _quantiles(self._lags[first:last].sum(axis=0, keepdims=True))[0]

    @property
    def trades(self) -> int:
        """All trades that were counted."""
        return int(self._counts.sum())


def _quantiles(
    lags: npt.NDArray[np.int32],
) -> list[tuple[float | None, float | None, float | None]]:
    """For each row of ``lags`` the upper edges of the buckets that hold the shares."""
    sums = np.cumsum(lags, axis=1, dtype=np.int64)
    totals = sums[:, -1]
    edges = [
        np.where(
            totals > 0,
            2.0 ** ((sums < np.ceil(share * totals)[:, None]).sum(axis=1) / BUCKETS_PER_OCTAVE),
            np.nan,
        )
        for share in _SHARES
    ]
    found = np.round(np.column_stack(edges), 1)
    return [
        (None, None, None) if not total else (p50, p95, p99)
        for (p50, p95, p99), total in zip(found.tolist(), totals.tolist(), strict=True)
    ]


def disk_lags(rows: Iterable[TickerRows]) -> LatencyHistogram:
    """From receipt until on disk, of rows that were read as soon as they were written."""
    lags = LatencyHistogram()
    for each in rows:
        if each.written is not None:
            lags.add((each.written - each.received) / 1000.0)
    return lags

"""A histogram of delays with four buckets per power of two: 19 % wide, mergeable, fixed in size."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BUCKETS_PER_OCTAVE = 4
# 2^40 ms are 34 years: enough for a replay of an old recording.
BUCKET_COUNT = 40 * BUCKETS_PER_OCTAVE + 1


@dataclass(slots=True)
class LatencyHistogram:
    """Counts delays in milliseconds; bucket 0 is below 1 ms, negative delays included."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BUCKET_COUNT, np.int64))
    max_ms: float = 0.0

    def add(self, delays_ms: npt.NDArray[np.float64]) -> None:
        """Count some delays."""
        if not len(delays_ms):
            return
        self.max_ms = max(self.max_ms, float(delays_ms.max()))
        buckets = np.log2(np.maximum(delays_ms, 0.5)) * BUCKETS_PER_OCTAVE + 1
        buckets = np.clip(buckets, 0, BUCKET_COUNT - 1).astype(np.int64)
        self.counts += np.bincount(buckets, minlength=BUCKET_COUNT)

    def merge(self, other: LatencyHistogram) -> None:
        """Add the counts of ``other``."""
        self.counts += other.counts
        self.max_ms = max(self.max_ms, other.max_ms)

    def quantile(self, share: float) -> float | None:
        """The delay (ms) that ``share`` of all do not exceed: the upper edge of its bucket."""
        total = int(self.counts.sum())
        if not total:
            return None
        bucket = int(np.searchsorted(np.cumsum(self.counts), share * total))
        return min(float(2.0 ** (bucket / BUCKETS_PER_OCTAVE)), max(self.max_ms, 1.0))

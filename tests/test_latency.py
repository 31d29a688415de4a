from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.latency import BUCKET_COUNT, LatencyHistogram

DELAYS = st.lists(st.floats(-1e6, 1e12), min_size=1, max_size=200)


def lags_of(*delays: float) -> LatencyHistogram:
    lags = LatencyHistogram()
    lags.add(np.array(delays, np.float64))
    return lags


def counted(lags: LatencyHistogram) -> dict[int, int]:
    """The buckets that hold something."""
    return {int(at): int(lags.counts[at]) for at in np.flatnonzero(lags.counts)}


def test_an_empty_histogram_has_no_quantile() -> None:
    lags = lags_of()
    assert (counted(lags), lags.max_ms) == ({}, 0.0)
    assert [lags.quantile(share) for share in (0.0, 0.5, 1.0)] == [None, None, None]


def test_bucket_0_has_delays_below_a_millisecond_and_negative_ones() -> None:
    assert counted(lags_of(-5000.0, 0.0, 0.3, 0.999)) == {0: 4}


def test_there_are_four_buckets_per_power_of_two() -> None:
    lags = lags_of(1.0, 1.18, 1.2, 1.5, 1.7, 2.0, 4.0)
    assert counted(lags) == {1: 2, 2: 1, 3: 1, 4: 1, 5: 1, 9: 1}


def test_a_delay_beyond_all_buckets_is_in_the_last() -> None:
    lags = lags_of(1e300)
    assert (counted(lags), lags.max_ms) == ({BUCKET_COUNT - 1: 1}, 1e300)


def test_delays_of_zero_are_within_a_millisecond() -> None:
    assert lags_of(-3.0, 0.1).quantile(0.99) == 1.0


def test_quantiles_of_a_hundred_delays() -> None:
    lags = lags_of(*[10.0] * 98, 700.0, 40_000.0)
    quantiles = [lags.quantile(share) for share in (0.5, 0.98, 0.99, 1.0)]
    assert quantiles == [pytest.approx(2**3.5), pytest.approx(2**3.5), pytest.approx(2**9.5), 40e3]


def test_a_quantile_is_never_longer_than_the_longest() -> None:
    assert lags_of(100.0).quantile(0.5) == 100.0


@given(DELAYS, st.floats(0.0, 1.0, exclude_min=True))
def test_a_quantile_is_at_most_a_bucket_above_the_true_one(
    delays: list[float], share: float
) -> None:
    told = lags_of(*delays).quantile(share)
    assert told is not None
    rank = max(math.ceil(share * len(delays)), 1)
    true = max(sorted(delays)[rank - 1], 1.0)
    assert true * (1 - 1e-9) <= told <= true * 2**0.25 * (1 + 1e-9)


@given(DELAYS, DELAYS)
def test_merged_histograms_count_like_one(some: list[float], others: list[float]) -> None:
    merged = lags_of(*some)
    merged.merge(lags_of(*others))
    together = lags_of(*some, *others)
    assert counted(merged) == counted(together)
    assert merged.max_ms == together.max_ms


def test_two_histograms_share_no_counts() -> None:
    lags_of(5.0)
    assert counted(LatencyHistogram()) == {}

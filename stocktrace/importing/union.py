"""The union of two recordings of one stream: every trade once. Pure.

A trade has no number that distinguishes it from an equal trade (same ``duplicates.KEY``). The union
therefore has as many trades of a key as the recording that has more of them: if both received two
equal trades, or only one received both, the union has two.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stocktrace.query.duplicates import (
    KEY,
    BoolArray,
    Int64Array,
    number_keys,
    receive_times,
)
from stocktrace.units import US_PER_SECOND

#: A line can be minutes late (Finnhub #42: 40). If two recorders received equal trades further
#: apart than this, these are different trades.
LATEST_US = 3_600 * US_PER_SECOND
# Equal trades received this close together show how the two orders fit.
_ANCHOR_US = US_PER_SECOND


class TradeUnion(NamedTuple):
    """``trades`` in order; ``first[i]`` and ``second[i]`` say which recorders received the i-th."""

    trades: pa.Table
    first: BoolArray
    second: BoolArray


def unite_trades(first: pa.Table, second: pa.Table) -> TradeUnion:
    """Unite the trades of one ticker; receive times are by one clock.

    The rows of ``first`` keep their order. A trade of ``second`` alone comes after the trade that
    it follows there if both have that, otherwise at its receive time.
    """
    both = pa.concat_tables([first, second])
    count = len(first)
    mine, theirs = receive_times(first), receive_times(second)
    of_first, of_second = _pairs(number_keys(both.select(KEY)), count)
    near = np.abs(mine[of_first] - theirs[of_second]) <= LATEST_US
    of_first, of_second = of_first[near], of_second[near]
    fresh = np.ones(len(second), np.bool_)
    fresh[of_second] = False
    places = _positions(mine, theirs, of_first, of_second)[fresh]
    rows = np.concatenate([np.arange(count), count + np.flatnonzero(fresh)])
    # A row that is filled in precedes the row whose place it takes.
    filled = np.repeat([1, 0], [count, len(places)])
    order = np.lexsort((filled, np.append(np.arange(count), places)))
    by_first, by_second = rows < count, rows >= count
    by_second[of_first] = True
    return TradeUnion(both.take(pa.array(rows[order])), by_first[order], by_second[order])


def _pairs(keys: Int64Array, count: int) -> tuple[Int64Array, Int64Array]:
    """Pairs of rows that are the same trade: the n-th of a key in the first and in the second."""
    mine, theirs = keys[:count], keys[count:]
    # Key and rank in one number: a rank is less than the number of rows.
    most = len(keys) + 1
    _, of_first, of_second = np.intersect1d(
        mine * most + _ranks(mine),
        theirs * most + _ranks(theirs),
        assume_unique=True,
        return_indices=True,
    )
    return of_first.astype(np.int64), of_second.astype(np.int64)


def _ranks(keys: Int64Array) -> Int64Array:
    """The number of equal keys before each."""
    order = np.argsort(keys, kind="stable")
    begins = np.flatnonzero(np.diff(keys[order], prepend=-1))
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.arange(len(keys)) - np.repeat(begins, np.diff(np.append(begins, len(keys))))
    return ranks


def _positions(
    mine: Int64Array, theirs: Int64Array, of_first: Int64Array, of_second: Int64Array
) -> Int64Array:
    """For each row of the second, the row of the first that it would precede."""
    anchored = np.abs(mine[of_first] - theirs[of_second]) <= _ANCHOR_US
    after = np.full(len(theirs), -1, np.int64)
    after[of_second[anchored]] = of_first[anchored]
    before = np.full(len(theirs), len(mine), np.int64)
    before[of_second[anchored]] = of_first[anchored]
    lowest = np.maximum.accumulate(after) + 1
    highest = np.maximum(np.minimum.accumulate(before[::-1])[::-1], lowest)
    by_time = np.searchsorted(np.maximum.accumulate(mine), theirs, side="right")
    places: Int64Array = np.maximum.accumulate(np.clip(by_time, lowest, highest))
    return places

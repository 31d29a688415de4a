"""Two recordings of one stream, united: what either of them heard, once. Pure.

Equal trades (``copies.KEY``) of both are taken for the same as often as both have them: of a pair
that both heard, two stay, of one that only one of them heard whole, two as well. There is no
number by which a trade could be told from its twin, so what stays of a key is as many as the one
that has more of them.
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

#: A line can be minutes late (Finnhub #42: 40); what one recorder had later than this after the
#: other is another trade.
LATEST_US = 3_600 * US_PER_SECOND
# Trades that came so close together on both sides say how the two orders fit.
_ANCHOR_US = US_PER_SECOND


class TradeUnion(NamedTuple):
    """``trades`` in their order; ``first[i]`` and ``second[i]``: who heard the i-th."""

    trades: pa.Table
    first: BoolArray
    second: BoolArray


def unite_trades(first: pa.Table, second: pa.Table) -> TradeUnion:
    """The trades of one ticker that either heard; receive times are by one clock.

    The rows of ``first`` stay as they are. What ``second`` alone has stands behind the trade that
    it stands behind there, as far as both have that, else where its receive time says.
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
    # A row that is filled in stands before the one whose place it has.
    filled = np.repeat([1, 0], [count, len(places)])
    order = np.lexsort((filled, np.append(np.arange(count), places)))
    heard_first, heard_second = rows < count, rows >= count
    heard_second[of_first] = True
    return TradeUnion(both.take(pa.array(rows[order])), heard_first[order], heard_second[order])


def _pairs(keys: Int64Array, count: int) -> tuple[Int64Array, Int64Array]:
    """Rows of the first and of the second that are the same: the n-th of a key is the n-th."""
    mine, theirs = keys[:count], keys[count:]
    # A row's key and number in one: there are no more equal rows than rows.
    most = len(keys) + 1
    _, of_first, of_second = np.intersect1d(
        mine * most + _ranks(mine),
        theirs * most + _ranks(theirs),
        assume_unique=True,
        return_indices=True,
    )
    return of_first.astype(np.int64), of_second.astype(np.int64)


def _ranks(keys: Int64Array) -> Int64Array:
    """How many equal ones stand before each."""
    order = np.argsort(keys, kind="stable")
    begins = np.flatnonzero(np.diff(keys[order], prepend=-1))
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.arange(len(keys)) - np.repeat(begins, np.diff(np.append(begins, len(keys))))
    return ranks


def _positions(
    mine: Int64Array, theirs: Int64Array, of_first: Int64Array, of_second: Int64Array
) -> Int64Array:
    """For each row of the second, the row of the first before which it would stand."""
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

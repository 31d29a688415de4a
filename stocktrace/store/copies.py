"""Copies: a feed that sends every trade more than once, told from trades that are merely equal.

Nothing in a trade says that it is a copy: two people can trade the same at the same millisecond.
So no row is judged by itself. Of each *key* (ticker, time of event, price, volume, conditions in
any order) the rows that one session received within ``REACH_US`` of one another are counted. A feed
that sends everything twice has even counts only, twins of its own included (a true pair comes four
times); an honest one has many ones among its counts. Where at least ``ENOUGH`` keys in a row, by
their first receipt, have counts that are multiples of 2 (or 3, or 4), everything was sent that
often, and of each key that share of its rows is kept, the first ones; the others are copies.

An exception (a copy that was lost with a connection) does not end such a stretch, if there are few:
one, and one more for every eight keys, between two stretches or at the end of all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Copies were seen 18 to 96 ms after their trade (Finnhub #143: in the next frame); a slow line
#: makes seconds of that.
REACH_US = 10_000_000
#: If three keys in ten were twins, which no market shows, so many in a row would be 1 in 10^8.
ENOUGH = 16
#: Seen were 2 (2026) and 3 (2020).
_MOST = 4
_EXCEPTION_EVERY = 8

#: The columns that make two trades equal.
KEY = ("ts_event", "price", "volume", "conditions")


def numbered(trades: pa.Table) -> Numbers:
    """A number for each row's key; equal rows have the same. ``trades`` are of one ticker."""
    columns = [
        trades["ts_event"].cast("int64").to_numpy(),
        trades["price"].to_numpy(),
        trades["volume"].to_numpy(),
        _conditions(trades["conditions"]),
    ]
    order = np.lexsort(columns)
    differs = np.zeros(len(order), np.bool_)
    for column in columns:
        differs[1:] |= column[order[1:]] != column[order[:-1]]
    keys = np.empty(len(order), np.int64)
    keys[order] = np.cumsum(differs)
    return keys


def _conditions(texts: pa.ChunkedArray) -> Numbers:
    """A number for each list of codes, whatever their order (it varies)."""
    encoded = texts.combine_chunks().dictionary_encode()
    met: dict[tuple[str, ...], int] = {}
    numbers = [
        met.setdefault(tuple(sorted(text.split())), len(met))
        for text in encoded.dictionary.to_pylist()
    ]
    found: Numbers = np.array(numbers, np.int64)[encoded.indices.to_numpy()]
    return found


def copies(keys: Numbers, received: Numbers) -> Flags:
    """Which rows are copies; rows of one ticker and session in the order of arrival.

    ``keys`` as of ``numbered``, ``received`` in epoch us.
    """
    if not len(keys):
        return np.zeros(0, np.bool_)
    order = np.argsort(keys, kind="stable")
    apart = np.abs(np.diff(received[order])) > REACH_US
    begins = np.flatnonzero(np.concatenate(([True], (np.diff(keys[order]) != 0) | apart)))
    counts = np.diff(np.append(begins, len(keys)))
    by_arrival = np.argsort(order[begins])
    times = np.empty(len(counts), np.int64)
    times[by_arrival] = _times(counts[by_arrival])
    rank = np.arange(len(keys)) - np.repeat(begins, counts)
    found = np.empty(len(keys), np.bool_)
    found[order] = rank >= np.repeat(-(-counts // times), counts)
    return found


def _times(counts: Numbers) -> Numbers:
    """How often everything was sent, for each key in the order of their first receipt."""
    times = np.ones(len(counts), np.int64)
    for number in range(_MOST, 1, -1):
        fits = counts % number == 0
        for begin, end in _stretches(fits):
            some = times[begin:end]
            some[some == 1] = number
    return times


def _stretches(fits: Flags) -> list[tuple[int, int]]:
    """Where ``ENOUGH`` in a row fit, ``(begin, end)``, joined over few exceptions."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], fits, [False]))))
    runs = edges.reshape(-1, 2)
    sure: list[tuple[int, int]] = [
        (int(begin), int(end)) for begin, end in runs[runs[:, 1] - runs[:, 0] >= ENOUGH]
    ]
    if not sure:
        return []
    misses = np.concatenate(([0], np.cumsum(~fits)))

    def few(begin: int, end: int) -> bool:
        return bool(misses[end] - misses[begin] <= 1 + (end - begin) // _EXCEPTION_EVERY)

    joined: list[tuple[int, int]] = []
    for begin, end in sure:
        before = joined[-1][1] if joined else 0
        if not few(before, begin):
            joined.append((begin, end))
        elif joined:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((0, end))
    begin, end = joined[-1]
    if few(end, len(fits)):
        joined[-1] = (begin, len(fits))
    return joined

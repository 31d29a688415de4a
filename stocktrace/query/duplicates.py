"""Find duplicates: trades that the feed sent more than once, as opposed to trades that are equal.

Nothing in a trade marks it as a duplicate: two people can trade the same at the same millisecond.
So no row is judged by itself. For each *key* (ticker, time of event, price, volume, conditions in
any order), the rows that one session received within ``MAX_DELAY_US`` of one another are counted. A
feed that sends everything twice has even counts only (a true pair comes four times); an honest one
has many ones among its counts. Where at least ``MIN_RUN`` consecutive keys, by first receipt, have
counts that are multiples of 2 (or 3, or 4), everything was sent that often: of each key that share
of its rows is kept, the first ones; the others are duplicates.

An order that is filled in equal parts makes a run of true pairs, too. They arrive together, one
beside the other; a frame that is sent again comes later, or its rows come A, B, A, B. So where most
repeated rows of a run are neighbours in one receipt, it has to be ``MIN_RUN_TOGETHER`` keys long.

A few exceptions (a duplicate that was lost with a connection) do not end such a run: one, and one
more for every eight keys, between two runs or after the last.

Each session is judged by itself, and each day as a whole, with what was received shortly before and
after it: the result for a row does not depend on which rows are requested.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.dataset import PublishedRows
from stocktrace.store.source import DataSource, read_rows
from stocktrace.store.trade_file import TradeFileReader
from stocktrace.units import US_PER_DAY, epoch_us

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: The last column of trades in which duplicates are marked.
IS_DUPLICATE = pa.field("is_duplicate", pa.bool_(), nullable=False)
#: The columns that make two trades equal.
KEY = ("ts_event", "price", "volume", "conditions")
#: Duplicates were seen 18 to 96 ms after their trade (Finnhub #143: in the next frame); a slow line
#: can make seconds of that.
MAX_DELAY_US = 10_000_000
#: Even if three keys in ten were true pairs, which no market shows, so many in a row would have a
#: chance of 1 in 10^8.
MIN_RUN = 16
#: The same for keys whose rows arrive together, as true pairs do.
MIN_RUN_TOGETHER = 3 * MIN_RUN
# A feed was seen to send everything 2 times (2026) and 3 times (2020).
_MAX_REPEATS = 4
_KEYS_PER_EXCEPTION = 8
# A feed that sends everything twice shows it at once; an honest one costs 1 ms a window.
_SAMPLE_ROWS = 1000
# What two equal trades have in common, apart from conditions, which can be in another order.
_SAMPLED = ("symbol", "ts_event", "price", "volume")
# Of a key, a ticker's number and bits of a hash: a chance agreement costs a closer look.
_HASH_BITS = np.uint64(40)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
# If the feed sends everything twice, all tickers are looked at: to open the file for each of 5,000
# takes ten seconds.
_TICKERS_READ = 500
_EPOCH = date(1970, 1, 1)


def mark_duplicates(source: DataSource, tickers: Sequence[str], day: str) -> pa.Table:
    """Return the published trades of a UTC date, in reading order, with ``IS_DUPLICATE``.

    Raises:
        ConversionError: A file is damaged.
    """
    begin = midnight_us(day)
    end = begin + US_PER_DAY
    received = read_received(source, tickers, begin - MAX_DELAY_US, end + MAX_DELAY_US)
    symbols = received.trades["symbol"].combine_chunks().dictionary_encode()
    codes = symbols.indices.to_numpy().astype(np.int64)
    keys, times = number_keys(received.trades, codes), received.times
    flags = np.zeros(len(keys), np.bool_)
    streams = codes * len(received.sessions) + received.session
    order = np.argsort(streams, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(streams[order])) + 1):
        flags[rows] = find_duplicates(keys[rows], times[rows])
    marked = received.trades.append_column(IS_DUPLICATE, pa.array(flags))
    return marked.filter(pa.array((times >= begin) & (times < end)))


def count_window_duplicates(published: PublishedRows) -> dict[str, int]:
    """Return how many of a window's trades are duplicates, by ticker if there are any.

    Each window is judged by itself: those received within ``MAX_DELAY_US`` of its begin or end may
    be missed. Tickers are looked at more closely only if their first trades repeat.

    Raises:
        ConversionError: The rows cannot be read.
    """
    suspects: set[str] = set()
    for path in published.paths:
        with TradeFileReader(path) as file:
            for table in file.read_heads(_SAMPLE_ROWS, _SAMPLED):
                suspects |= _find_suspects(table)
    counts: dict[str, int] = {}
    tickers = sorted(suspects)
    for begin in range(0, len(tickers), _TICKERS_READ):
        counts |= _count_duplicates(published.read(tickers[begin : begin + _TICKERS_READ]))
    return counts


def _count_duplicates(tables: Iterable[pa.Table]) -> dict[str, int]:
    """Return how many trades of each ticker are duplicates; the tables are sorted by ticker."""
    trades = pa.concat_tables(tables)
    symbols = trades["symbol"].combine_chunks().dictionary_encode()
    codes = symbols.indices.to_numpy().astype(np.int64)
    keys, times = number_keys(trades, codes), receive_times(trades)
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    counts: dict[str, int] = {}
    for begin, end in itertools.pairwise(edges):
        if count := int(find_duplicates(keys[begin:end], times[begin:end]).sum()):
            counts[symbols.dictionary[int(codes[begin])].as_py()] = count
    return counts


def _find_suspects(trades: pa.Table) -> set[str]:
    """Return the tickers with enough repeated keys to be a run; ``trades`` has ``_SAMPLED``.

    Sorting the keys as columns takes five times as long as sorting hashes.
    """
    symbols = trades["symbol"].combine_chunks().dictionary_encode()
    codes = symbols.indices.to_numpy().astype(np.uint64)
    begins = np.flatnonzero(np.diff(codes, prepend=codes[:1] + np.uint64(1)))
    rank = np.arange(len(codes)) - np.repeat(begins, np.diff(begins, append=len(codes)))
    hashes = np.zeros(len(codes), np.uint64)
    for name in _SAMPLED[1:]:
        hashes ^= trades[name].to_numpy().view(np.uint64)
        hashes *= _FACTOR
        hashes ^= hashes >> np.uint64(32)
    keys = (codes << _HASH_BITS | hashes >> (np.uint64(64) - _HASH_BITS))[rank < _SAMPLE_ROWS]
    keys.sort()
    is_repeat = keys[1:] == keys[:-1]
    is_repeat[1:] &= ~is_repeat[:-1]  # of three, too, one
    repeated = np.bincount((keys[1:][is_repeat] >> _HASH_BITS).astype(np.int64))
    return {symbols.dictionary[at].as_py() for at in np.flatnonzero(repeated >= MIN_RUN).tolist()}


# --- the method --------------------------------------------------------------------------------


def number_keys(trades: pa.Table, *more: Int64Array) -> Int64Array:
    """Return a number for the key of each row; equal trades have the same.

    All trades belong to one ticker, or ``more`` columns distinguish the tickers.
    """
    columns = [
        trades["ts_event"].cast("int64").to_numpy(),
        trades["price"].to_numpy(),
        trades["volume"].to_numpy(),
        _number_conditions(trades["conditions"]),
        *more,
    ]
    order = np.lexsort(columns)
    differs = np.zeros(len(order), np.bool_)
    for column in columns:
        differs[1:] |= column[order[1:]] != column[order[:-1]]
    keys = np.empty(len(order), np.int64)
    keys[order] = np.cumsum(differs)
    return keys


def _number_conditions(texts: pa.ChunkedArray) -> Int64Array:
    """Return a number for each list of codes; their order, which varies, does not matter."""
    encoded = texts.combine_chunks().dictionary_encode()
    lists = [" ".join(sorted(text.split())) for text in encoded.dictionary.to_pylist()]
    numbers = np.unique(np.array(lists, object), return_inverse=True)[1]
    by_row: Int64Array = numbers[encoded.indices.to_numpy()]
    return by_row


def find_duplicates(keys: Int64Array, received: Int64Array) -> BoolArray:
    """Return which rows are duplicates; rows of one ticker and session in the order of arrival.

    ``keys`` are those of ``number_keys``, ``received`` is epoch us.
    """
    if not len(keys):
        return np.zeros(0, np.bool_)
    order = np.argsort(keys, kind="stable")
    is_late = np.abs(np.diff(received[order])) > MAX_DELAY_US
    begins = np.flatnonzero(np.concatenate(([True], (np.diff(keys[order]) != 0) | is_late)))
    counts = np.diff(np.append(begins, len(keys)))
    firsts, lasts = order[begins], order[begins + counts - 1]
    is_apart = (lasts - firsts >= counts) | (received[lasts] != received[firsts])
    by_arrival = np.argsort(firsts)
    repeats = np.empty(len(counts), np.int64)
    repeats[by_arrival] = _find_repeats(counts[by_arrival], is_apart[by_arrival])
    rank = np.arange(len(keys)) - np.repeat(begins, counts)
    flags = np.empty(len(keys), np.bool_)
    flags[order] = rank >= np.repeat(-(-counts // repeats), counts)
    return flags


def _find_repeats(counts: Int64Array, is_apart: BoolArray) -> Int64Array:
    """Return how often the feed sent each key; keys in the order of their first receipt.

    ``is_apart`` says of each key whether its rows are not neighbours in one receipt.
    """
    repeats = np.ones(len(counts), np.int64)
    for number in range(_MAX_REPEATS, 1, -1):
        for begin, end in _find_runs(counts % number == 0):
            together = np.count_nonzero((counts > 1)[begin:end] & ~is_apart[begin:end])
            if 2 * together > end - begin and end - begin < MIN_RUN_TOGETHER:
                continue
            run = repeats[begin:end]
            run[run == 1] = number
    return repeats


def _find_runs(fits: BoolArray) -> list[tuple[int, int]]:
    """Return ``(begin, end)`` of runs of at least ``MIN_RUN``, joined over few exceptions."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], fits, [False]))))
    runs = edges.reshape(-1, 2)
    long_runs = runs[runs[:, 1] - runs[:, 0] >= MIN_RUN].tolist()
    if not long_runs:
        return []
    exceptions = np.concatenate(([0], np.cumsum(~fits)))

    def is_tolerable(begin: int, end: int) -> bool:
        allowed = 1 + (end - begin) // _KEYS_PER_EXCEPTION
        return bool(exceptions[end] - exceptions[begin] <= allowed)

    begin, end = 0, 0  # an empty run, which the first one can join
    joined: list[tuple[int, int]] = []
    for next_begin, next_end in long_runs:
        if not is_tolerable(end, next_begin):
            joined.append((begin, end))
            begin = next_begin
        end = next_end
    return [*joined, (begin, len(fits) if is_tolerable(end, len(fits)) else end)]


# --- trades by receive time, with their sessions -----------------------------------------------


@dataclass(frozen=True, slots=True)
class ReceivedTrades:
    """Trades (``TRADE_SCHEMA``) in reading order; row i comes from ``sessions[session[i]]``."""

    trades: pa.Table
    session: Int64Array
    sessions: Sequence[str]

    @property
    def times(self) -> Int64Array:
        """When they were received, epoch us."""
        return receive_times(self.trades)


def receive_times(trades: pa.Table) -> Int64Array:
    """Return ``ts_recv`` as epoch us."""
    times: Int64Array = trades["ts_recv"].cast("int64").to_numpy()
    return times


def midnight_us(day: str) -> int:
    """Return when a UTC date begins, epoch us."""
    return epoch_us(datetime.fromisoformat(day).replace(tzinfo=UTC))


def read_received(
    source: DataSource, tickers: Sequence[str], begin: int, end: int
) -> ReceivedTrades:
    """Read what was received of ``tickers`` at ``begin`` <= t < ``end`` (epoch us).

    Row groups of other tickers and times are not read.

    Raises:
        ConversionError: A file is damaged.
    """
    columns = [*TRADE_SCHEMA.names, "session"]
    days = range(begin // US_PER_DAY, (end - 1) // US_PER_DAY + 1)
    table = read_rows(
        source,
        [(_EPOCH + timedelta(day)).isoformat() for day in days],
        columns,
        tickers=tickers,
        bounds={"ts_recv": (begin, end)},
    )
    sessions = table["session"].combine_chunks().dictionary_encode()
    return ReceivedTrades(
        table.select(TRADE_SCHEMA.names),
        sessions.indices.to_numpy().astype(np.int64),
        sessions.dictionary.to_pylist(),
    )

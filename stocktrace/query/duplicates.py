"""Reading trades with copies marked or left out (``copies`` says what a copy is).

Judged is each session by itself, and a day as a whole with what was received shortly before and
after it: what is asked for has no influence on what a row is taken for.
"""
# MERGED """Copies: a feed that sends every trade more than once, told from trades that are merely equal.
#
# Nothing in a trade says that it is a copy: two people can trade the same at the same millisecond.
# So no row is judged by itself. Of each *key* (ticker, time of event, price, volume, conditions in
# any order) the rows that one session received within ``REACH_US`` of one another are counted. A feed
# that sends everything twice has even counts only, twins of its own included (a true pair comes four
# times); an honest one has many ones among its counts. Where at least ``ENOUGH`` keys in a row, by
# their first receipt, have counts that are multiples of 2 (or 3, or 4), everything was sent that
# often, and of each key that share of its rows is kept, the first ones; the others are copies.
#
# An exception (a copy that was lost with a connection) does not end such a stretch, if there are few:
# one, and one more for every eight keys, between two stretches or at the end of all.
# """
# MERGED """The published trades of a ticker from a stretch of receive time, and whose each of them is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.store import footer
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, is_day_file
from stocktrace.store.partition import (
    WindowRows,
    WindowRowsReader,
    retry_on_compaction,
    session_rows,
)
from stocktrace.store.source import DataSource
from stocktrace.units import US_PER_DAY, epoch_us

#: The last column of trades in which copies are marked.
IS_DUPLICATE = pa.field("copy", pa.bool_(), nullable=False)
# A feed that doubles shows it at once; an honest one costs a thousandth of a second a window.
_SAMPLE = 1000


def mark_duplicates(shelf: DataSource, ticker: str, day: str) -> pa.Table:
    """A ticker's published trades of a UTC date, in the order in which readers have them.

    Returns:
        ``SCHEMA`` and ``COPY``.

    Raises:
        ConversionError: a file does not tell of what sessions it is.
    """
    return retry_on_compaction(partial(_mark_ticker_day, shelf, ticker, midnight_us(day)))


def _mark_ticker_day(shelf: DataSource, ticker: str, begin: int) -> pa.Table:
    end = begin + US_PER_DAY
    some = read_received(shelf, ticker, begin - MAX_DELAY_US, end + MAX_DELAY_US)
    keys, times = as_key_columns(some.trades.select(KEY)), some.times
    flags = np.zeros(len(keys), np.bool_)
    for session in range(len(some.sessions)):
        rows = np.flatnonzero(some.whose == session)
        flags[rows] = find_duplicates(keys[rows], times[rows])
    marked = some.trades.append_column(IS_DUPLICATE, pa.array(flags))
    return marked.filter(pa.array((times >= begin) & (times < end)))


def count_session_duplicates(layout: Layout, session: str, dates: Iterable[str]) -> dict[str, int]:
    """How many of a session's published trades are copies, for each ticker that has some.

    Only what is published under ``dates`` is looked at: those of the session's windows.
    Copies are looked for at the beginning of each window, and counted where there are some, day by
    day: those of what came within ``REACH_US`` of midnight may be missed.
    """
    return retry_on_compaction(partial(_session_pieces, layout, session, dates))


def _session_pieces(layout: Layout, session: str, dates: Iterable[str]) -> dict[str, int]:
    rows = WindowRowsReader()
    found: dict[str, int] = defaultdict(int)
    try:
        for (ticker, _), some in groupby(session_rows(layout, session, dates), _ticker_and_date):
            windows = [piece for _, piece in some]
            if any(_count_duplicates(rows.head(piece, _SAMPLE)) for piece in windows):
                whole = [pa.Table.from_batches(rows.rows(piece), TRADE_SCHEMA) for piece in windows]
                found[ticker] += _count_duplicates(pa.concat_tables(whole))
    finally:
        rows.close()
    return dict(sorted(found.items()))


def _ticker_and_date(held: tuple[str, WindowRows]) -> tuple[str, str]:
    ticker, piece = held
    return ticker, piece.part.date


def _count_duplicates(trades: pa.Table) -> int:
    return int(find_duplicates(as_key_columns(trades), receive_times(trades)).sum())


Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: Copies were seen 18 to 96 ms after their trade (Finnhub #143: in the next frame); a slow line
#: makes seconds of that.
MAX_DELAY_US = 10_000_000
#: If three keys in ten were twins, which no market shows, so many in a row would be 1 in 10^8.
MIN_RUN = 16
#: Seen were 2 (2026) and 3 (2020).
_MAX_COPIES = 4
_EXCEPTION_EVERY = 8

#: The columns that make two trades equal.
KEY = ("ts_event", "price", "volume", "conditions")


def as_key_columns(trades: pa.Table) -> Int64Array:
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


def _conditions(texts: pa.ChunkedArray) -> Int64Array:
    """A number for each list of codes, whatever their order (it varies)."""
    encoded = texts.combine_chunks().dictionary_encode()
    met: dict[tuple[str, ...], int] = {}
    numbers = [
        met.setdefault(tuple(sorted(text.split())), len(met))
        for text in encoded.dictionary.to_pylist()
    ]
    found: Int64Array = np.array(numbers, np.int64)[encoded.indices.to_numpy()]
    return found


def find_duplicates(keys: Int64Array, received: Int64Array) -> BoolArray:
    """Which rows are copies; rows of one ticker and session in the order of arrival.

    ``keys`` as of ``numbered``, ``received`` in epoch us.
    """
    if not len(keys):
        return np.zeros(0, np.bool_)
    order = np.argsort(keys, kind="stable")
    apart = np.abs(np.diff(received[order])) > MAX_DELAY_US
    begins = np.flatnonzero(np.concatenate(([True], (np.diff(keys[order]) != 0) | apart)))
    counts = np.diff(np.append(begins, len(keys)))
    by_arrival = np.argsort(order[begins])
    times = np.empty(len(counts), np.int64)
    times[by_arrival] = _times(counts[by_arrival])
    rank = np.arange(len(keys)) - np.repeat(begins, counts)
    found = np.empty(len(keys), np.bool_)
    found[order] = rank >= np.repeat(-(-counts // times), counts)
    return found


def _times(counts: Int64Array) -> Int64Array:
    """How often everything was sent, for each key in the order of their first receipt."""
    times = np.ones(len(counts), np.int64)
    for number in range(_MAX_COPIES, 1, -1):
        fits = counts % number == 0
        for begin, end in _runs(fits):
            some = times[begin:end]
            some[some == 1] = number
    return times


def _runs(fits: BoolArray) -> list[tuple[int, int]]:
    """Where ``ENOUGH`` in a row fit, ``(begin, end)``, joined over few exceptions."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], fits, [False]))))
    runs = edges.reshape(-1, 2)
    sure: list[tuple[int, int]] = [
        (int(begin), int(end)) for begin, end in runs[runs[:, 1] - runs[:, 0] >= MIN_RUN]
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


_RECEIVED = TRADE_SCHEMA.get_field_index("ts_recv")
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class ReceivedTrades:
    """Trades (``SCHEMA``) in the order in which readers have them.

    ``sessions[whose[i]]`` is the session of the i-th.
    """

    trades: pa.Table
    whose: Int64Array
    sessions: Sequence[str]

    @property
    def times(self) -> Int64Array:
        """When they were received, epoch us."""
        return receive_times(self.trades)


def receive_times(trades: pa.Table) -> Int64Array:
    """``ts_recv``, epoch us."""
    times: Int64Array = trades["ts_recv"].cast("int64").to_numpy()
    return times


def midnight_us(day: str) -> int:
    """When a UTC date begins, epoch us."""
    return epoch_us(datetime.fromisoformat(day).replace(tzinfo=UTC))


def read_received(shelf: DataSource, ticker: str, begin: int, end: int) -> ReceivedTrades:
    """What was received of ``ticker`` from ``begin`` until before ``end`` (epoch us).

    Row groups of other times are not read.

    Raises:
        ConversionError: a file does not tell of what sessions it is.
        FileNotFoundError: a day was compacted meanwhile.
    """
    numbers: dict[str, int] = {}
    tables, whose = [TRADE_SCHEMA.empty_table()], [np.empty(0, np.int64)]
    for number in range(begin // US_PER_DAY, (end - 1) // US_PER_DAY + 1):
        day = (_EPOCH + timedelta(number)).isoformat()
        for path in shelf.trade_files(ticker, day):
            table, sessions = _read_rows(path, shelf.files, numbers, begin, end)
            tables.append(table)
            whose.append(sessions)
    return ReceivedTrades(pa.concat_tables(tables), np.concatenate(whose), list(numbers))


def _read_rows(
    path: str, files: pafs.FileSystem, numbers: dict[str, int], begin: int, end: int
) -> tuple[pa.Table, Int64Array]:
    with pq.ParquetFile(path, filesystem=files, page_checksum_verification=True) as file:
        facts = file.metadata
        sizes = [facts.row_group(at).num_rows for at in range(facts.num_row_groups)]
        ends = np.cumsum(sizes)
        near = [at for at in range(len(sizes)) if _may_contain(facts.row_group(at), begin, end)]
        if not near:
            return TRADE_SCHEMA.empty_table(), np.empty(0, np.int64)
        sessions = _session_of_rows(Path(path), facts, numbers)
        whose = np.concatenate([sessions[ends[at] - sizes[at] : ends[at]] for at in near])
        table = file.read_row_groups(near, TRADE_SCHEMA.names)
    times = receive_times(table)
    inside = (times >= begin) & (times < end)
    return table.filter(pa.array(inside)), whose[inside]


def _may_contain(group: pq.RowGroupMetaData, begin: int, end: int) -> bool:
    limits = group.column(_RECEIVED).statistics
    if limits is None or not limits.has_min_max:
        return True
    return bool(limits.max_raw >= begin and limits.min_raw < end)


def _session_of_rows(path: Path, facts: pq.FileMetaData, numbers: dict[str, int]) -> Int64Array:
    """The number of each row's session."""
    parts = _parts(path, facts) if is_day_file(path) else [(WindowId.parse(path), facts.num_rows)]
    pairs = [(numbers.setdefault(part.session, len(numbers)), rows) for part, rows in parts]
    whose = np.repeat([number for number, _ in pairs], [rows for _, rows in pairs])
    if len(whose) != facts.num_rows:
        raise ConversionError(f"{path} has {facts.num_rows} rows, but tells of others.")
    return whose


def _parts(path: Path, facts: pq.FileMetaData) -> list[tuple[WindowId, int]]:
    try:
        told = footer.parse_windows((facts.metadata or {})[b"stocktrace.parts"].decode())
    except (KeyError, ValueError) as error:
        raise ConversionError(f"{path} does not tell what it is made of: {error}.") from error
    return [(part, rows) for part, rows, _ in told]

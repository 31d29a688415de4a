"""Two recordings of one stream, by one clock, and their union: every trade once.

A trade has no number that distinguishes it from an equal trade (same ``duplicates.KEY``). The union
therefore has as many trades of a key as the recording that has more of them: if both received two
equal trades, or only one received both, the union has two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.errors import StoreError
from stocktrace.feed import protocol
from stocktrace.importing.csv_source import TimedFrame
from stocktrace.intervals import CoverageInterval
from stocktrace.query.coverage import read_coverage
from stocktrace.query.duplicates import (
    KEY,
    BoolArray,
    Int64Array,
    midnight_us,
    number_keys,
    read_received,
    receive_times,
)
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.coverage import COVERAGE_SCHEMA
from stocktrace.store.dataset import list_published
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import
from stocktrace.store.source import FolderSource, tickers_of_date
from stocktrace.trade import Trade
from stocktrace.units import NS_PER_US, US_PER_DAY, US_PER_SECOND

#: A line can be minutes late (Finnhub #42: 40). If two recorders received equal trades further
#: apart than this, these are different trades.
LATEST_US = 3_600 * US_PER_SECOND
# Equal trades received this close together show how the two orders fit.
_ANCHOR_US = US_PER_SECOND
# Each day is united with this much of its neighbours, so that both agree on trades near midnight.
_CONTEXT_US = 2 * LATEST_US
# More samples do not improve the median.
_SAMPLES_A_DAY = 20_000
_ROWS = 10_000
# So many tickers are read together: a published file has all, and opening it costs a millisecond.
_TICKERS = 256


@dataclass(frozen=True, slots=True)
class RecorderData:
    """The captures of a data folder; ``offset_us`` is subtracted from their times.

    Imported sessions, backfills included, were not captured and are left out.
    """

    layout: Layout
    offset_us: int = 0

    def days(self) -> dict[str, set[str]]:
        """The UTC dates (by its own clock) that can have trades, and the tickers of each."""
        source = FolderSource(self.layout)
        return {day: tickers_of_date(source, day) for day in source.dates()}

    def digest(self) -> bytes:
        """A digest of everything published, whatever the files it is in."""
        parts = sorted(
            (window.session, window.window, rows.content.hash)
            for window, rows in list_published(self.layout, self.layout.dates()).items()
            if not is_import(window.session)
        )
        return hashlib.blake2b(repr((parts, list(self.coverage()))).encode()).digest()

    def trades(self, tickers: Sequence[str], begin: int, end: int) -> Iterator[pa.Table]:
        """The trades of each ticker that were received at ``begin`` <= t < ``end`` (epoch us).

        The trades of sessions that ran at the same time are united; they have one clock.
        """
        source, offset = FolderSource(self.layout), self.offset_us
        received = read_received(source, tickers, begin + offset, end + offset)
        symbols = pc.index_in(received.trades["symbol"], pa.array(tickers)).to_numpy()
        order = np.argsort(symbols, kind="stable")
        captured = [name for name in sorted(received.sessions) if not is_import(name)]
        at = TRADE_SCHEMA.get_field_index("ts_recv")
        for rows in np.split(order, np.searchsorted(symbols[order], range(1, len(tickers)))):
            trades = received.trades[:0]
            for name in captured:
                own = rows[received.session[rows] == received.sessions.index(name)]
                trades = unite_trades(trades, received.trades.take(pa.array(own))).trades
            times = pa.array(receive_times(trades) - offset).cast(TRADE_SCHEMA.field(at).type)
            yield trades.set_column(at, TRADE_SCHEMA.field(at), times)

    def coverage(self) -> Iterator[CoverageInterval]:
        """The coverage of all sessions; ``sources`` is the session."""
        frame = read_coverage(data_dir=self.layout.root)
        for name in ("start", "end"):
            frame[name] = (frame[name].astype("int64") - self.offset_us) * NS_PER_US
        columns = [frame[name] for name in COVERAGE_SCHEMA.names]
        for session, ticker, start, end, state, reason, sources, lag in zip(*columns, strict=True):
            listeners = "" if state == "gap" else sources or session
            yield CoverageInterval(ticker, start, end, reason, listeners, lag)


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """``second`` by the clock of ``first``; ``offset_us`` is ``None`` if the offset is unknown."""

    first: RecorderData
    second: RecorderData
    offset_us: int | None

    @classmethod
    def of(cls, first: RecorderData, second: RecorderData) -> Self:
        """Align by the median difference of receive times, of trades without an equal trade.

        Raises:
            StoreError: the clocks differ by too much.
        """
        days, others = first.days(), second.days()
        samples = [
            sample
            for day in sorted(days.keys() & others.keys())
            for sample in _differences(first, second, day, sorted(days[day] & others[day]))
        ]
        differences = np.concatenate([np.empty(0, np.int64), *samples])
        offset = int(np.median(differences)) if len(differences) else None
        if abs(offset or 0) > LATEST_US:
            raise StoreError(
                f"Receive times of {second.layout.root} differ from those of {first.layout.root} "
                f"by {(offset or 0) / US_PER_SECOND:+,.0f} s: equal trades cannot be matched if a "
                "clock was wrong by more than an hour."
            )
        return cls(first, replace(second, offset_us=offset or 0), offset)

    def days(self) -> dict[int, list[str]]:
        """The UTC dates that can have trades (as their first epoch us), and the tickers of each."""
        days: dict[int, set[str]] = {}
        for recording in (self.first, self.second):
            for day, tickers in recording.days().items():
                begin = midnight_us(day) - recording.offset_us
                for edge in (begin, begin + US_PER_DAY - 1):
                    days.setdefault(edge - edge % US_PER_DAY, set()).update(tickers)
        return {day: sorted(days[day]) for day in sorted(days)}

    def counts(self) -> tuple[int, int, int]:
        """Count the trades that both received, that only the first did, and only the second."""
        both = first = second = 0
        for day, tickers in self.days().items():
            for union in self._unite(tickers, day):
                both += int((union.first & union.second).sum())
                first += int((union.first & ~union.second).sum())
                second += int((union.second & ~union.first).sum())
        return both, first, second

    def frames(self) -> Iterator[Iterator[TimedFrame]]:
        """A frame for each trade of the union, by receive time; per ticker in order of arrival."""
        for day, tickers in self.days().items():
            tables = [union.trades for union in self._unite(tickers, day)]
            # Within a ticker the order of arrival stays, even where a clock stepped back.
            times = [np.maximum.accumulate(receive_times(table)) for table in tables]
            order = np.argsort(np.concatenate(times), kind="stable")
            trades = pa.concat_tables(tables).take(pa.array(order))
            for row in range(0, len(trades), _ROWS):
                yield _frames(trades.slice(row, _ROWS))

    def _unite(self, tickers: Sequence[str], day: int) -> Iterator[TradeUnion]:
        """Unite the trades of each ticker that were received on a day."""
        begin, end = day - _CONTEXT_US, day + US_PER_DAY + _CONTEXT_US
        for first, second in _read_both(self.first, self.second, tickers, begin, end):
            union = unite_trades(first, second)
            times = receive_times(union.trades)
            inside = (times >= day) & (times < day + US_PER_DAY)
            yield TradeUnion(
                union.trades.filter(pa.array(inside)), union.first[inside], union.second[inside]
            )


def _read_both(
    first: RecorderData, second: RecorderData, tickers: Sequence[str], begin: int, end: int
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the trades of each ticker at ``begin`` <= t < ``end`` (epoch us) in both recordings."""
    for at in range(0, len(tickers), _TICKERS):
        some = tickers[at : at + _TICKERS]
        yield from zip(first.trades(some, begin, end), second.trades(some, begin, end), strict=True)


def _frames(trades: pa.Table) -> Iterator[TimedFrame]:
    columns = [
        receive_times(trades).tolist(),
        trades["symbol"].to_pylist(),
        trades["ts_event"].cast("int64").to_pylist(),
        *(trades[name].to_pylist() for name in ("price", "volume", "conditions")),
    ]
    for received, ticker, event, price, volume, text in zip(*columns, strict=True):
        codes = tuple(text.split(" ")) if text else None
        trade = Trade(ticker, price, event, volume, codes)
        yield received * NS_PER_US, protocol.encode([trade])


def _differences(
    first: RecorderData, second: RecorderData, day: str, tickers: Sequence[str]
) -> Iterator[Int64Array]:
    """Yield for each ticker how much later the second received trades without an equal trade."""
    begin = midnight_us(day)
    for tables in _read_both(first, second, tickers, begin, begin + US_PER_DAY):
        keys = number_keys(pa.concat_tables(tables).select(KEY))
        count = len(tables[0])
        of_first, of_second = _pairs(keys, count)
        sides = keys[:count], keys[count:]
        is_single = [np.bincount(side, minlength=len(keys) + 1) == 1 for side in sides]
        singles = (is_single[0] & is_single[1])[keys[of_first]]
        mine, theirs = (receive_times(table) for table in tables)
        differences: Int64Array = (theirs[of_second] - mine[of_first])[singles]
        yield differences[:: 1 + len(differences) // _SAMPLES_A_DAY]


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

"""Two recordings by one clock, and their union."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa

from stocktrace.feed import protocol
from stocktrace.importing.csv_source import TimedFrame
from stocktrace.importing.recorder_data import RecorderData
from stocktrace.importing.union import LATEST_US, TradeUnion, unite_trades
from stocktrace.query.duplicates import KEY, Int64Array, midnight_us, number_keys, receive_times
from stocktrace.trade import Trade
from stocktrace.units import NS_PER_US, US_PER_DAY

# Each day is united with this much of its neighbours, so that both agree on trades near midnight.
_CONTEXT_US = 2 * LATEST_US
# More samples do not improve the median.
_SAMPLES_A_DAY = 20_000
_ROWS = 10_000


class MergeCounts(NamedTuple):
    """How many trades both received, and how many only one did."""

    both: int
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """``second`` by the clock of ``first``; ``offset_us`` is ``None`` if the offset is unknown."""

    first: RecorderData
    second: RecorderData
    offset_us: int | None

    @classmethod
    def of(cls, first: RecorderData, second: RecorderData) -> Self:
        """Align by the median difference of receive times, of trades without an equal trade."""
        common = sorted(first.days() & second.days())
        samples = [np.empty(0, np.int64), *(_differences(first, second, *day) for day in common)]
        differences = np.concatenate(samples)
        offset = int(np.median(differences)) if len(differences) else None
        return cls(first, replace(second, offset_us=offset or 0), offset)

    def days(self) -> dict[int, list[str]]:
        """The UTC dates that can have trades (as their first epoch us), and the tickers of each."""
        days: dict[int, set[str]] = {}
        for recording in (self.first, self.second):
            for ticker, day in recording.days():
                begin = midnight_us(day) - recording.offset_us
                for edge in (begin, begin + US_PER_DAY - 1):
                    days.setdefault(edge - edge % US_PER_DAY, set()).add(ticker)
        return {day: sorted(days[day]) for day in sorted(days)}

    def counts(self) -> MergeCounts:
        """Count the trades of all days."""
        both = first = second = 0
        for day, tickers in self.days().items():
            for ticker in tickers:
                union = self._unite(ticker, day)
                both += int((union.first & union.second).sum())
                first += int((union.first & ~union.second).sum())
                second += int((union.second & ~union.first).sum())
        return MergeCounts(both, first, second)

    def frames(self) -> Iterator[list[TimedFrame]]:
        """A frame for each trade of the union, by receive time; per ticker in order of arrival."""
        for day, tickers in self.days().items():
            tables = [self._unite(ticker, day).trades for ticker in tickers]
            # Within a ticker the order of arrival stays, even where a clock stepped back.
            times = [np.maximum.accumulate(receive_times(table)) for table in tables]
            order = np.argsort(np.concatenate(times), kind="stable")
            names = np.repeat(tickers, [len(table) for table in tables])[order].tolist()
            trades = pa.concat_tables(tables).take(pa.array(order))
            for row in range(0, len(trades), _ROWS):
                yield _frames(names[row : row + _ROWS], trades.slice(row, _ROWS))

    def _unite(self, ticker: str, day: int) -> TradeUnion:
        begin, end = day - _CONTEXT_US, day + US_PER_DAY + _CONTEXT_US
        union = unite_trades(
            self.first.trades(ticker, begin, end), self.second.trades(ticker, begin, end)
        )
        times = receive_times(union.trades)
        inside = (times >= day) & (times < day + US_PER_DAY)
        return TradeUnion(
            union.trades.filter(pa.array(inside)), union.first[inside], union.second[inside]
        )


def _frames(tickers: list[str], trades: pa.Table) -> list[TimedFrame]:
    columns = [
        receive_times(trades).tolist(),
        tickers,
        trades["ts_event"].cast("int64").to_pylist(),
        *(trades[name].to_pylist() for name in ("price", "volume", "conditions")),
    ]
    return [
        (received * NS_PER_US, protocol.encode([Trade(ticker, price, event, volume, _codes(text))]))
        for received, ticker, event, price, volume, text in zip(*columns, strict=True)
    ]


def _codes(text: str) -> tuple[str, ...] | None:
    return tuple(text.split(" ")) if text else None


def _differences(first: RecorderData, second: RecorderData, ticker: str, day: str) -> Int64Array:
    begin = midnight_us(day)
    tables = [data.trades(ticker, begin, begin + US_PER_DAY) for data in (first, second)]
    keys = number_keys(pa.concat_tables(tables).select(KEY))
    sides = keys[: len(tables[0])], keys[len(tables[0]) :]
    uniques = [np.unique(side, return_index=True, return_counts=True) for side in sides]
    firsts, seconds = ((key[counts == 1], row[counts == 1]) for key, row, counts in uniques)
    _, of_first, of_second = np.intersect1d(
        firsts[0], seconds[0], assume_unique=True, return_indices=True
    )
    mine, theirs = (receive_times(table) for table in tables)
    differences: Int64Array = theirs[seconds[1][of_second]] - mine[firsts[1][of_first]]
    return differences[:: 1 + len(differences) // _SAMPLES_A_DAY]

"""Two recordings by one clock, and what they come to together."""

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

# So that of what is near midnight both sides of it are seen on both days.
_CONTEXT_US = 2 * LATEST_US
# More do not make the median better.
_SAMPLES_A_DAY = 20_000
_ROWS = 10_000


class MergeCounts(NamedTuple):
    """How many trades both heard, and how many one alone."""

    both: int
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """``second`` is moved to the clock of ``first``, if ``ahead_us`` tells by how much."""

    first: RecorderData
    second: RecorderData
    ahead_us: int | None

    @classmethod
    def of(cls, first: RecorderData, second: RecorderData) -> Self:
        """Compare the receive times of what both heard: the median of the differences.

        Only trades that have no equal tell.
        """
        common = sorted(first.days().keys() & second.days().keys())
        samples = [np.empty(0, np.int64), *(_differences(first, second, *each) for each in common)]
        found = np.concatenate(samples)
        ahead = int(np.median(found)) if len(found) else None
        return cls(first, replace(second, ahead_us=ahead or 0), ahead)

    def days(self) -> dict[int, list[str]]:
        """The UTC dates that trades can be of (as the first epoch us), and of which tickers."""
        found: dict[int, set[str]] = {}
        for recording in (self.first, self.second):
            for ticker, day in recording.days():
                begin = midnight_us(day) - recording.ahead_us
                for edge in (begin, begin + US_PER_DAY - 1):
                    found.setdefault(edge - edge % US_PER_DAY, set()).add(ticker)
        return {day: sorted(found[day]) for day in sorted(found)}

    def counts(self) -> MergeCounts:
        """Look at everything once."""
        both = first = second = 0
        for day, tickers in self.days().items():
            for ticker in tickers:
                one = self._unite(ticker, day)
                both += int((one.first & one.second).sum())
                first += int((one.first & ~one.second).sum())
                second += int((one.second & ~one.first).sum())
        return MergeCounts(both, first, second)

    def frames(self) -> Iterator[list[TimedFrame]]:
        """Each trade that either heard, once, by receive time; within a ticker as they arrived."""
        for day, tickers in self.days().items():
            tables = [self._unite(ticker, day).trades for ticker in tickers]
            # In a ticker the order is that of arrival, also where a clock stepped back.
            times = [np.maximum.accumulate(receive_times(table)) for table in tables]
            order = np.argsort(np.concatenate(times), kind="stable")
            names = np.repeat(tickers, [len(table) for table in tables])[order].tolist()
            trades = pa.concat_tables(tables).take(pa.array(order))
            for at in range(0, len(trades), _ROWS):
                yield _frames(names[at : at + _ROWS], trades.slice(at, _ROWS))

    def _unite(self, ticker: str, day: int) -> TradeUnion:
        begin, end = day - _CONTEXT_US, day + US_PER_DAY + _CONTEXT_US
        one = unite_trades(
            self.first.trades(ticker, begin, end), self.second.trades(ticker, begin, end)
        )
        times = receive_times(one.trades)
        inside = (times >= day) & (times < day + US_PER_DAY)
        return TradeUnion(
            one.trades.filter(pa.array(inside)), one.first[inside], one.second[inside]
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
    tables = [each.trades(ticker, begin, begin + US_PER_DAY) for each in (first, second)]
    keys = number_keys(pa.concat_tables(tables).select(KEY))
    sides = keys[: len(tables[0])], keys[len(tables[0]) :]
    alone = [np.unique(side, return_index=True, return_counts=True) for side in sides]
    firsts, seconds = ((names[counts == 1], at[counts == 1]) for names, at, counts in alone)
    _, of_first, of_second = np.intersect1d(
        firsts[0], seconds[0], assume_unique=True, return_indices=True
    )
    mine, theirs = (receive_times(table) for table in tables)
    found: Int64Array = theirs[seconds[1][of_second]] - mine[firsts[1][of_first]]
    return found[:: 1 + len(found) // _SAMPLES_A_DAY]

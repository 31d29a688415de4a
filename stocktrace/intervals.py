"""Intervals of time, and all arithmetic with them. Pure.

A span is ``(start, end)``, end exclusive, in one unit throughout a call. Merged spans are sorted,
and do not overlap or touch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import islice
from operator import itemgetter
from typing import TypeVar

from stocktrace.calendar import NEW_YORK, us_extended_session
from stocktrace.units import NS_PER_DAY, NS_PER_US, epoch_us, utc_datetime

#: The reason of a gap before the first connection, or before a ticker is first subscribed.
CONNECTING = "connecting"

TimeSpan = tuple[int, int]


@dataclass(frozen=True, slots=True)
class CoverageInterval:
    """A span of one ticker, ``start`` <= t < ``end`` (epoch ns).

    ``reason`` says why it is a gap; it is empty while the ticker is listened to. In a merge,
    ``sources`` are the sessions that listened. ``lag_s`` is how far the feed was behind: at most
    while it listened, and at the loss before a gap, which begins that much before the last receipt.
    """

    ticker: str
    start: int
    end: int
    reason: str
    sources: str = ""
    lag_s: float = 0.0

    @property
    def tickers(self) -> tuple[str, ...]:
        """Its ticker, as a ``CoverageSpan`` has several."""
        return (self.ticker,)

    def split_at_midnight(self) -> Iterator[CoverageInterval]:
        """Its parts, each within one UTC day."""
        return _split_at_midnight(self)


@dataclass(frozen=True, slots=True)
class CoverageSpan:
    """The same interval of many ``tickers``: a disconnect of 5,000 is one object, not 5,000."""

    tickers: tuple[str, ...]
    start: int
    end: int
    reason: str
    sources: str = ""
    lag_s: float = 0.0

    def split_at_midnight(self) -> Iterator[CoverageSpan]:
        """Its parts, each within one UTC day."""
        return _split_at_midnight(self)


_Interval = TypeVar("_Interval", CoverageInterval, CoverageSpan)


def _split_at_midnight(interval: _Interval) -> Iterator[_Interval]:
    start = interval.start
    while start < interval.end:
        end = min(start - start % NS_PER_DAY + NS_PER_DAY, interval.end)
        yield replace(interval, start=start, end=end)
        start = end


def merge_spans(spans: Iterable[TimeSpan]) -> list[TimeSpan]:
    """Join the spans that overlap or touch."""
    merged: list[TimeSpan] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged


def subtract_spans(span: TimeSpan, taken: Sequence[TimeSpan]) -> list[TimeSpan]:
    """The parts of ``span`` that the merged spans ``taken`` leave out."""
    left = []
    begin, end = span
    # A ticker has thousands of spans, and thousands of gaps to subtract them from.
    for start, stop in islice(taken, bisect_right(taken, begin, key=itemgetter(1)), None):
        if start >= end:
            break
        if start > begin:
            left.append((begin, start))
        begin = stop
    if begin < end:
        left.append((begin, end))
    return left


def covered_length(span: TimeSpan, spans: Sequence[TimeSpan]) -> int:
    """How much of ``span`` the merged ``spans`` cover."""
    return span[1] - span[0] - sum(end - start for start, end in subtract_spans(span, spans))


def widen_spans(spans: Iterable[TimeSpan], margin: int) -> list[TimeSpan]:
    """The spans with ``margin`` more at both edges, or less if it is negative."""
    return [(start - margin, end + margin) for start, end in spans]


def split_by_date(spans: Iterable[TimeSpan]) -> dict[date, list[TimeSpan]]:
    """The parts of ``spans`` (us) in the extended hours of US stocks, by New York date."""
    days: dict[date, list[TimeSpan]] = {}
    for begin, end in spans:
        day, last = (
            utc_datetime(us * NS_PER_US).astimezone(NEW_YORK).date() for us in (begin, end)
        )
        while day <= last:
            if (hours := us_extended_session(day)) is not None:
                start, stop = max(begin, epoch_us(hours.opens)), min(end, epoch_us(hours.closes))
                if start < stop:
                    days.setdefault(day, []).append((start, stop))
            day += timedelta(days=1)
    return days

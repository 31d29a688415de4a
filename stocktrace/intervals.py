"""Stretches of time in which we listened, and in which we did not."""
# MERGED """What of a gap is missing: while the market was open and no other session listened. Pure.
#
# Times are epoch us, stretches are ``(start, end)``, end exclusive, in order and apart.
# """

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from operator import itemgetter

from stocktrace.calendar import NEW_YORK, us_extended_session

#: The reason of a gap before the first connection stood, or a ticker was first asked for.
CONNECTING = "connecting"


@dataclass(frozen=True, slots=True)
class Gap:
    """From ``start`` to ``end`` (UTC epoch ns) nothing of ``tickers`` could reach us.

    ``start`` is the last sign of life before the loss, ``end`` when the tickers had been asked for
    again: trades near both edges may have come all the same.
    """

    start: int
    end: int
    tickers: tuple[str, ...]
    reason: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.start) / 1e9


@dataclass(frozen=True, slots=True)
class CoverageInterval:
    """One stretch of one ticker, ``start`` <= t < ``end`` (epoch ns).

    ``reason`` is empty while it is listened to, else says why it is not; ``by`` are the sessions
    that listened, where that is not the one whose stretch it is: in a merge.
    """

    ticker: str
    start: int
    end: int
    reason: str
    sources: str = ""


TimeSpan = tuple[int, int]
_US_PER_SECOND = 1_000_000


def merge_spans(stretches: Iterable[TimeSpan]) -> list[TimeSpan]:
    """The same time, in order and apart."""
    found: list[TimeSpan] = []
    for start, end in sorted(stretches):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def subtract_spans(stretch: TimeSpan, taken: Sequence[TimeSpan]) -> list[TimeSpan]:
    """What is left of ``stretch`` without those ``taken``."""
    left = []
    begin, end = stretch
    # A ticker has thousands of them, and thousands of gaps.
    for start, stop in islice(taken, bisect_right(taken, begin, key=itemgetter(1)), None):
        if start >= end:
            break
        if start > begin:
            left.append((begin, start))
        begin = stop
    if begin < end:
        left.append((begin, end))
    return left


def split_by_date(stretches: Sequence[TimeSpan]) -> dict[date, list[TimeSpan]]:
    """What of ``stretches`` is in the extended hours of US stocks, by New York date."""
    found: dict[date, list[TimeSpan]] = {}
    for begin, end in stretches:
        day = new_york_date(begin)
        while day <= new_york_date(end):
            hours = us_extended_session(day)
            if hours is not None:
                start, stop = max(begin, _epoch_us(hours.opens)), min(end, _epoch_us(hours.closes))
                if start < stop:
                    found.setdefault(day, []).append((start, stop))
            day += timedelta(days=1)
    return found


def new_york_date(us: int) -> date:
    """The New York date of a time."""
    return datetime.fromtimestamp(us / _US_PER_SECOND, NEW_YORK).date()


def _epoch_us(when: datetime) -> int:
    return round(when.timestamp() * _US_PER_SECOND)

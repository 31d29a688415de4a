"""What of a gap is missing: while the market was open and no other session listened. Pure.

Times are epoch us, stretches are ``(start, end)``, end exclusive, in order and apart.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from itertools import islice
from operator import itemgetter

from stocktrace.calendar import NEW_YORK, us_extended

Stretch = tuple[int, int]
_US_PER_SECOND = 1_000_000


def together(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The same time, in order and apart."""
    found: list[Stretch] = []
    for start, end in sorted(stretches):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def without(stretch: Stretch, taken: Sequence[Stretch]) -> list[Stretch]:
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


def by_date(stretches: Sequence[Stretch]) -> dict[date, list[Stretch]]:
    """What of ``stretches`` is in the extended hours of US stocks, by New York date."""
    found: dict[date, list[Stretch]] = {}
    for begin, end in stretches:
        day = new_york(begin)
        while day <= new_york(end):
            hours = us_extended(day)
            if hours is not None:
                start, stop = max(begin, _us(hours.opens)), min(end, _us(hours.closes))
                if start < stop:
                    found.setdefault(day, []).append((start, stop))
            day += timedelta(days=1)
    return found


def new_york(us: int) -> date:
    """The New York date of a time."""
    return datetime.fromtimestamp(us / _US_PER_SECOND, NEW_YORK).date()


def _us(when: datetime) -> int:
    return round(when.timestamp() * _US_PER_SECOND)

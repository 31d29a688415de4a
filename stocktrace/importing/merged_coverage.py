"""The coverage of a merge: when any recorder listened, and which. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from stocktrace.intervals import CoverageInterval

_AND = " + "


def merge_coverage(intervals: Iterable[CoverageInterval]) -> list[CoverageInterval]:
    """Merge the coverage of several sessions; ``sources`` of each interval names its session.

    A ticker is listened to while any session listens, and ``sources`` has all that do. Otherwise
    it is a gap with the reasons of all. It has no interval while no session subscribed to it.
    """
    tickers: dict[str, list[CoverageInterval]] = defaultdict(list)
    for interval in intervals:
        tickers[interval.ticker].append(interval)
    return [
        interval
        for ticker in sorted(tickers)
        for interval in _join_adjacent(_overlay(ticker, tickers[ticker]))
    ]


def _overlay(ticker: str, intervals: list[CoverageInterval]) -> Iterator[CoverageInterval]:
    """The intervals between neighbouring edges."""
    edges: dict[int, list[tuple[CoverageInterval, int]]] = defaultdict(list)
    for interval in intervals:
        edges[interval.start].append((interval, 1))
        edges[interval.end].append((interval, -1))
    listening: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    before = 0
    for edge in sorted(edges):
        if +listening:
            yield CoverageInterval(ticker, before, edge, "", _AND.join(sorted(+listening)))
        elif +reasons:
            yield CoverageInterval(ticker, before, edge, "; ".join(sorted(+reasons)))
        for interval, change in edges[edge]:
            if interval.reason:
                reasons[interval.reason] += change
            else:
                for session in interval.sources.split(_AND):
                    listening[session] += change
        before = edge


def _join_adjacent(intervals: Iterable[CoverageInterval]) -> Iterator[CoverageInterval]:
    """Join neighbours with the same reason and sources."""
    last: CoverageInterval | None = None
    for interval in intervals:
        if last is not None and replace(last, start=last.end, end=interval.end) == interval:
            last = replace(last, end=interval.end)
            continue
        if last is not None:
            yield last
        last = interval
    if last is not None:
        yield last

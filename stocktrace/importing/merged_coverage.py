"""When either of two recorders listened, and which: their coverages as one. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from stocktrace.intervals import CoverageInterval

_AND = " + "


def merge_coverage(stretches: Iterable[CoverageInterval]) -> list[CoverageInterval]:
    """The stretches of each ticker, one after another; ``by`` of each is the session it is of.

    A ticker is listened to while any session does, and ``by`` says which do; else the reasons of
    all stand together. Where none was asked for it, there is nothing.
    """
    tickers: dict[str, list[CoverageInterval]] = defaultdict(list)
    for stretch in stretches:
        tickers[stretch.ticker].append(stretch)
    return [
        each
        for ticker in sorted(tickers)
        for each in _join_adjacent(_split_spans(ticker, tickers[ticker]))
    ]


def _split_spans(ticker: str, stretches: list[CoverageInterval]) -> Iterator[CoverageInterval]:
    """Pieces between neighbouring edges."""
    edges: dict[int, list[tuple[CoverageInterval, int]]] = defaultdict(list)
    for stretch in stretches:
        edges[stretch.start].append((stretch, 1))
        edges[stretch.end].append((stretch, -1))
    listening: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    before = 0
    for edge in sorted(edges):
        if +listening:
            yield CoverageInterval(ticker, before, edge, "", _AND.join(sorted(+listening)))
        elif +reasons:
            yield CoverageInterval(ticker, before, edge, "; ".join(sorted(+reasons)))
        for stretch, change in edges[edge]:
            if stretch.reason:
                reasons[stretch.reason] += change
            else:
                for session in stretch.sources.split(_AND):
                    listening[session] += change
        before = edge


def _join_adjacent(pieces: Iterable[CoverageInterval]) -> Iterator[CoverageInterval]:
    """Neighbours that say the same as one."""
    last: CoverageInterval | None = None
    for piece in pieces:
        if last is None:
            last = piece
        elif (last.end, last.reason, last.sources) == (piece.start, piece.reason, piece.sources):
            last = CoverageInterval(last.ticker, last.start, piece.end, last.reason, last.sources)
        else:
            yield last
            last = piece
    if last is not None:
        yield last

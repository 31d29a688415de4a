"""When either of two recorders listened, and which: their coverages as one. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from stocktrace.gap import Interval

_AND = " + "


def joint_coverage(stretches: Iterable[Interval]) -> list[Interval]:
    """The stretches of each ticker, one after another; ``by`` of each is the session it is of.

    A ticker is listened to while any session does, and ``by`` says which do; else the reasons of
    all stand together. Where none was asked for it, there is nothing.
    """
    tickers: dict[str, list[Interval]] = defaultdict(list)
    for stretch in stretches:
        tickers[stretch.ticker].append(stretch)
    return [each for ticker in sorted(tickers) for each in _joined(_cut(ticker, tickers[ticker]))]


def _cut(ticker: str, stretches: list[Interval]) -> Iterator[Interval]:
    """Pieces between neighbouring edges."""
    edges: dict[int, list[tuple[Interval, int]]] = defaultdict(list)
    for stretch in stretches:
        edges[stretch.start].append((stretch, 1))
        edges[stretch.end].append((stretch, -1))
    listening: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    before = 0
    for edge in sorted(edges):
        if +listening:
            yield Interval(ticker, before, edge, "", _AND.join(sorted(+listening)))
        elif +reasons:
            yield Interval(ticker, before, edge, "; ".join(sorted(+reasons)))
        for stretch, change in edges[edge]:
            if stretch.reason:
                reasons[stretch.reason] += change
            else:
                for session in stretch.by.split(_AND):
                    listening[session] += change
        before = edge


def _joined(pieces: Iterable[Interval]) -> Iterator[Interval]:
    """Neighbours that say the same as one."""
    last: Interval | None = None
    for piece in pieces:
        if last is None:
            last = piece
        elif (last.end, last.reason, last.by) == (piece.start, piece.reason, piece.by):
            last = Interval(last.ticker, last.start, piece.end, last.reason, last.by)
        else:
            yield last
            last = piece
    if last is not None:
        yield last

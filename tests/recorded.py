"""Sessions by hand: what came when, as tapes of a session that died, published by recovery."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from stocktrace.marks import ConnectedMark, EndedMark, Mark, OpeningMark
from stocktrace.record.recovery import recover
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, compact_utc
from stocktrace.store.tape import TapeFrames
from stocktrace.units import NS_PER_DAY
from tests.remains import write_tape

MS = 10**6  # ns
SECOND = 10**9

#: ticker, time of event (ms), price, volume, condition codes.
Trade = tuple[str, int, float, float, tuple[str, ...]]


def frame(trades: Iterable[Trade]) -> bytes:
    """A frame of trades as Finnhub spells it."""
    data = [{"c": list(c) or None, "p": p, "s": s, "t": t, "v": v} for s, t, p, v, c in trades]
    return json.dumps({"data": data, "type": "trade"}, separators=(",", ":")).encode()


def record(root: Path, session: str, entries: Sequence[Mark | TapeFrames]) -> Layout:
    """A data folder in which ``session`` heard ``entries``, a window a UTC day."""
    layout = Layout(root)
    days = itertools.groupby(entries, key=lambda entry: entry.stamp // NS_PER_DAY)
    for number, (_, some) in enumerate(days, 1):
        heard = list(some)
        window = f"{compact_utc(heard[0].stamp)}_{number:05}"
        opening = OpeningMark(heard[0].stamp, connected=False, tickers=())
        write_tape(layout, WindowId(session, window), [opening, *heard])
    (recovered,) = recover(layout)
    assert recovered.balanced
    return layout


def listening(
    tickers: Sequence[str], start: int, end: int, arrivals: Iterable[tuple[int, list[Trade]]]
) -> list[Mark | TapeFrames]:
    """A capture from ``start`` to ``end`` and what it heard of ``arrivals``."""
    heard = [
        TapeFrames(stamp, [frame(trades)]) for stamp, trades in arrivals if start <= stamp < end
    ]
    return [
        ConnectedMark(start, tuple(tickers)),
        *heard,
        EndedMark(end),
    ]

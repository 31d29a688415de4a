"""Reading trades with copies marked or left out (``copies`` says what a copy is).

Judged is each session by itself, and a day as a whole with what was received shortly before and
after it: what is asked for has no influence on what a row is taken for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from itertools import groupby

import numpy as np
import pyarrow as pa

from stocktrace.store.columns import SCHEMA
from stocktrace.store.copies import KEY, REACH_US, copies, numbered
from stocktrace.store.layout import Layout
from stocktrace.store.partition import Piece, PieceReader, of_session, steadily
from stocktrace.store.received import US_PER_DAY, midnight, received, times_of
from stocktrace.store.shelf import Shelf

#: The last column of trades in which copies are marked.
COPY = pa.field("copy", pa.bool_(), nullable=False)
# A feed that doubles shows it at once; an honest one costs a thousandth of a second a window.
_SAMPLE = 1000


def with_copies_marked(shelf: Shelf, ticker: str, day: str) -> pa.Table:
    """A ticker's published trades of a UTC date, in the order in which readers have them.

    Returns:
        ``SCHEMA`` and ``COPY``.

    Raises:
        ConversionError: a file does not tell of what sessions it is.
    """
    return steadily(partial(_marked, shelf, ticker, midnight(day)))


def _marked(shelf: Shelf, ticker: str, begin: int) -> pa.Table:
    end = begin + US_PER_DAY
    some = received(shelf, ticker, begin - REACH_US, end + REACH_US)
    keys, times = numbered(some.trades.select(KEY)), some.times
    flags = np.zeros(len(keys), np.bool_)
    for session in range(len(some.sessions)):
        rows = np.flatnonzero(some.whose == session)
        flags[rows] = copies(keys[rows], times[rows])
    marked = some.trades.append_column(COPY, pa.array(flags))
    return marked.filter(pa.array((times >= begin) & (times < end)))


def copies_of_session(layout: Layout, session: str, dates: Iterable[str]) -> dict[str, int]:
    """How many of a session's published trades are copies, for each ticker that has some.

    Only what is published under ``dates`` is looked at: those of the session's windows.
    Copies are looked for at the beginning of each window, and counted where there are some, day by
    day: those of what came within ``REACH_US`` of midnight may be missed.
    """
    return steadily(partial(_of_session, layout, session, dates))


def _of_session(layout: Layout, session: str, dates: Iterable[str]) -> dict[str, int]:
    rows = PieceReader()
    found: dict[str, int] = defaultdict(int)
    try:
        for (ticker, _), some in groupby(of_session(layout, session, dates), _ticker_and_date):
            windows = [piece for _, piece in some]
            if any(_count(rows.head(piece, _SAMPLE)) for piece in windows):
                whole = [pa.Table.from_batches(rows.rows(piece), SCHEMA) for piece in windows]
                found[ticker] += _count(pa.concat_tables(whole))
    finally:
        rows.close()
    return dict(sorted(found.items()))


def _ticker_and_date(held: tuple[str, Piece]) -> tuple[str, str]:
    ticker, piece = held
    return ticker, piece.part.date


def _count(trades: pa.Table) -> int:
    return int(copies(numbered(trades), times_of(trades)).sum())

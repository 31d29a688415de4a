"""A data folder as one recorder of a merge: its trades and its coverage, by another clock.

What was imported, ticks that repair a gap among it, was not captured and has no part in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce

import pyarrow as pa

from stocktrace.gap import Interval
from stocktrace.store.columns import SCHEMA
from stocktrace.store.coverage import read_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import
from stocktrace.store.partition import date_of, folders, pieces, steadily, ticker_of
from stocktrace.store.received import received, times_of
from stocktrace.store.shelf import Folder
from stocktrace.store.union import unite

_NS_PER_US = 1000


@dataclass(frozen=True, slots=True)
class Recording:
    """What the sessions of a data folder heard; ``ahead_us`` is taken off its receive times."""

    layout: Layout
    ahead_us: int = 0

    def days(self) -> dict[tuple[str, str], None]:
        """The tickers and UTC dates (of its own clock) that can have trades."""
        found = ((ticker_of(folder), date_of(folder)) for folder in folders(self.layout))
        return dict.fromkeys(found)

    def digest(self) -> bytes:
        """Of all that is published, however it is parted into files."""
        parts = sorted(
            (ticker_of(folder), piece.part.session, piece.part.window, piece.content)
            for folder in folders(self.layout)
            for piece in pieces(folder)
            if not is_import(piece.part.session)
        )
        return hashlib.blake2b(repr((parts, list(self.coverage()))).encode()).digest()

    def trades(self, ticker: str, begin: int, end: int) -> pa.Table:
        """What was received of a ticker from ``begin`` until before ``end`` (epoch us).

        What several sessions heard at a time is united; they have one clock.
        """
        shelf, ahead = Folder(self.layout), self.ahead_us
        some = steadily(partial(received, shelf, ticker, begin + ahead, end + ahead))
        captured = sorted(name for name in some.sessions if not is_import(name))
        parts = [
            some.trades.filter(pa.array(some.whose == some.sessions.index(name)))
            for name in captured
        ]
        trades = reduce(lambda first, second: unite(first, second).trades, parts, some.trades[:0])
        at = SCHEMA.get_field_index("ts_recv")
        shifted = pa.array(times_of(trades) - ahead).cast(SCHEMA.field(at).type)
        return trades.set_column(at, SCHEMA.field(at), shifted)

    def coverage(self) -> Iterator[Interval]:
        """When it was listened, and when not; ``by`` is the session."""
        frame = read_coverage(data_dir=self.layout.root)
        times = (
            ((frame[name].astype("int64") - self.ahead_us) * _NS_PER_US).tolist()
            for name in ("start", "end")
        )  # they are in us
        rows = zip(
            frame["session"], frame["symbol"], *times, frame["state"], frame["reason"], strict=True
        )
        for session, ticker, start, end, state, reason in rows:
            if state == "gap":
                yield Interval(ticker, start, end, reason)
            else:
                yield Interval(ticker, start, end, "", reason or session)

"""A data folder as one recorder of a merge: its trades and its coverage, by another clock.

What was imported, ticks that repair a gap among it, was not captured and has no part in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce

import pyarrow as pa

from stocktrace.importing.union import unite_trades
from stocktrace.intervals import CoverageInterval
from stocktrace.query.coverage import read_coverage
from stocktrace.query.duplicates import read_received, receive_times
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import
from stocktrace.store.partition import (
    list_window_rows,
    partition_date,
    partition_folders,
    partition_ticker,
    retry_on_compaction,
)
from stocktrace.store.source import FolderSource
from stocktrace.units import NS_PER_US


@dataclass(frozen=True, slots=True)
class RecorderData:
    """What the sessions of a data folder heard; ``ahead_us`` is taken off its receive times."""

    layout: Layout
    ahead_us: int = 0

    def days(self) -> dict[tuple[str, str], None]:
        """The tickers and UTC dates (of its own clock) that can have trades."""
        found = (
            (partition_ticker(folder), partition_date(folder))
            for folder in partition_folders(self.layout)
        )
        return dict.fromkeys(found)

    def digest(self) -> bytes:
        """Of all that is published, however it is parted into files."""
        parts = sorted(
            (partition_ticker(folder), piece.part.session, piece.part.window, piece.content)
            for folder in partition_folders(self.layout)
            for piece in list_window_rows(folder)
            if not is_import(piece.part.session)
        )
        return hashlib.blake2b(repr((parts, list(self.coverage()))).encode()).digest()

    def trades(self, ticker: str, begin: int, end: int) -> pa.Table:
        """What was received of a ticker from ``begin`` until before ``end`` (epoch us).

        What several sessions heard at a time is united; they have one clock.
        """
        shelf, ahead = FolderSource(self.layout), self.ahead_us
        some = retry_on_compaction(
            partial(read_received, shelf, ticker, begin + ahead, end + ahead)
        )
        captured = sorted(name for name in some.sessions if not is_import(name))
        parts = [
            some.trades.filter(pa.array(some.session == some.sessions.index(name)))
            for name in captured
        ]
        trades = reduce(
            lambda first, second: unite_trades(first, second).trades, parts, some.trades[:0]
        )
        at = TRADE_SCHEMA.get_field_index("ts_recv")
        shifted = pa.array(receive_times(trades) - ahead).cast(TRADE_SCHEMA.field(at).type)
        return trades.set_column(at, TRADE_SCHEMA.field(at), shifted)

    def coverage(self) -> Iterator[CoverageInterval]:
        """When it was listened, and when not; ``by`` is the session."""
        frame = read_coverage(data_dir=self.layout.root)
        times = (
            ((frame[name].astype("int64") - self.ahead_us) * NS_PER_US).tolist()
            for name in ("start", "end")
        )  # they are in us
        rows = zip(
            frame["session"],
            frame["symbol"],
            *times,
            frame["state"],
            frame["reason"],
            frame["sources"],
            strict=True,
        )
        for session, ticker, start, end, state, reason, sources in rows:
            if state == "gap":
                yield CoverageInterval(ticker, start, end, reason)
            else:
                yield CoverageInterval(ticker, start, end, "", sources or session)

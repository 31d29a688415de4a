"""A data folder as one recorder of a merge: its trades and coverage, by the merge's clock.

Imported sessions, backfills included, were not captured and are left out.
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
    """The captures of a data folder; ``offset_us`` is subtracted from their times."""

    layout: Layout
    offset_us: int = 0

    def days(self) -> set[tuple[str, str]]:
        """The tickers and UTC dates (by its own clock) that can have trades."""
        return {
            (partition_ticker(folder), partition_date(folder))
            for folder in partition_folders(self.layout)
        }

    def digest(self) -> bytes:
        """A digest of everything published, whatever the files it is in."""
        parts = sorted(
            (partition_ticker(folder), rows.part.session, rows.part.window, rows.content)
            for folder in partition_folders(self.layout)
            for rows in list_window_rows(folder)
            if not is_import(rows.part.session)
        )
        return hashlib.blake2b(repr((parts, list(self.coverage()))).encode()).digest()

    def trades(self, ticker: str, begin: int, end: int) -> pa.Table:
        """The trades of a ticker that were received at ``begin`` <= t < ``end`` (epoch us).

        The trades of sessions that ran at the same time are united; they have one clock.
        """
        source, offset = FolderSource(self.layout), self.offset_us
        received = retry_on_compaction(
            partial(read_received, source, ticker, begin + offset, end + offset)
        )
        captures = sorted(name for name in received.sessions if not is_import(name))
        parts = [
            received.trades.filter(pa.array(received.session == received.sessions.index(name)))
            for name in captures
        ]
        trades = reduce(
            lambda first, second: unite_trades(first, second).trades, parts, received.trades[:0]
        )
        at = TRADE_SCHEMA.get_field_index("ts_recv")
        shifted = pa.array(receive_times(trades) - offset).cast(TRADE_SCHEMA.field(at).type)
        return trades.set_column(at, TRADE_SCHEMA.field(at), shifted)

    def coverage(self) -> Iterator[CoverageInterval]:
        """The coverage of all sessions; ``sources`` is the session."""
        frame = read_coverage(data_dir=self.layout.root)
        times = (
            ((frame[name].astype("int64") - self.offset_us) * NS_PER_US).tolist()
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

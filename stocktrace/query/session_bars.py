"""Bars of what one session recorded of a ticker, from CSV, Parquet or compacted files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pyarrow as pa

from stocktrace.query.bar_grid import BarGrid
from stocktrace.query.bars import make_bars_by_receipt
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, encode_ticker
from stocktrace.store.partition import WindowRowsReader, list_window_rows, retry_on_compaction
from stocktrace.store.segments import read_open_segment
from stocktrace.units import MS_PER_SECOND


def read_session_bars(
    layout: Layout, session: str, ticker: str, every_s: int, begin: datetime, end: datetime
) -> pa.Table:
    """Read the trades that ``session`` recorded of ``ticker`` as bars, by receive time.

    By receive time, because the session's gaps are: the trades of a replay may have happened at any
    time. Bars have ``every_s`` seconds and cover the UTC days from ``begin`` to ``end``.

    Returns:
        The columns of ``read_bars`` without ``gap_seconds``.

    Raises:
        ConversionError: A file is damaged.
    """
    days = [begin.date() + timedelta(n) for n in range((end.date() - begin.date()).days + 1)]
    dates = [day.isoformat() for day in days]
    batches = retry_on_compaction(lambda: list(_read_batches(layout, session, ticker, dates)))
    trades = pa.Table.from_batches(batches, TRADE_SCHEMA)
    return make_bars_by_receipt(ticker, trades, BarGrid.of_days(every_s * MS_PER_SECOND, days))


def _read_batches(
    layout: Layout, session: str, ticker: str, dates: list[str]
) -> Iterator[pa.RecordBatch]:
    # Read CSV first: if it is published in the meantime, its window is found in Parquet.
    unpublished = {
        WindowId.parse(path): list(read_open_segment(path))
        for path in layout.root.glob(f"csv/{encode_ticker(ticker)}/{session}-*.csv*")
    }
    with WindowRowsReader() as reader:
        for date in dates:
            for rows in list_window_rows(layout.partition(ticker, date), session):
                unpublished.pop(rows.part, None)
                yield from reader.rows(rows)
    for window in sorted(unpublished, key=lambda each: each.number):
        yield from unpublished[window]

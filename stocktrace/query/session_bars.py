"""What one session recorded of a ticker, wherever it stands by now: CSV, Parquet, a day's file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pyarrow as pa

from stocktrace.query.bar_grid import BarGrid
from stocktrace.query.bars import bars_by_receipt
from stocktrace.store import parquet
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, encode_ticker
from stocktrace.store.partition import WindowRowsReader, list_window_rows, retry_on_compaction
from stocktrace.units import MS_PER_SECOND


def read_session_bars(
    layout: Layout, session: str, ticker: str, every_s: int, begin: datetime, end: datetime
) -> pa.Table:
    """The trades that ``session`` recorded of ``ticker`` as bars, by the time of receipt.

    By receipt, because so are the session's gaps: what is recorded from a replay may have happened
    at any time. Bars are of the UTC days from ``begin`` to ``end``, each of ``every_s`` seconds.

    Returns:
        Those of ``read_bars``, without ``gap``.

    Raises:
        ConversionError: a file is damaged.
    """
    days = [begin.date() + timedelta(n) for n in range((end.date() - begin.date()).days + 1)]
    dates = [day.isoformat() for day in days]
    batches = retry_on_compaction(lambda: list(_batches(layout, session, ticker, dates)))
    trades = pa.Table.from_batches(batches, TRADE_SCHEMA)
    return bars_by_receipt(ticker, trades, BarGrid.of_days(every_s * MS_PER_SECOND, days))


def _batches(
    layout: Layout, session: str, ticker: str, dates: list[str]
) -> Iterator[pa.RecordBatch]:
    # The CSV first: one that goes meanwhile is in Parquet, and then all is read again.
    waiting = {
        WindowId.parse(path): list(parquet.read_open_csv(path))
        for path in layout.root.glob(f"csv/{encode_ticker(ticker)}/{session}-*.csv*")
    }
    reader = WindowRowsReader()
    try:
        for date in dates:
            for piece in list_window_rows(layout.partition(ticker, date), session):
                waiting.pop(piece.part, None)
                yield from reader.rows(piece)
    finally:
        reader.close()
    for part in sorted(waiting, key=lambda each: each.number):
        yield from waiting[part]

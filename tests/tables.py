"""Published windows made by hand, without tape and CSV."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.conversion import write_window_file
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.trade_file import TradeFileReader, with_texts

#: Event time (epoch ms), price, volume, conditions; received when it happened.
Row = tuple[int, float, float, str]
#: All columns of a trade but its ticker.
COLUMNS = pa.schema(list(TRADE_SCHEMA)[1:])


def table_of(rows: Sequence[Row]) -> pa.Table:
    """``rows`` of one ticker as they are published (``COLUMNS``)."""
    times, prices, volumes, conditions = zip(*rows, strict=True) if rows else ((), (), (), ())
    received = [time * 1000 for time in times]
    columns = [pa.array(times, pa.int64()), pa.array(received, pa.int64())]
    return pa.table([*columns, prices, volumes, conditions], COLUMNS.names).cast(COLUMNS)


def put(layout: Layout, ticker: str, window: WindowId, table: pa.Table) -> None:
    """Publish a ticker's rows (with ``COLUMNS``) of a window; those of other tickers stay."""
    path = layout.window_file(window)
    path.parent.mkdir(parents=True, exist_ok=True)
    symbols = pa.repeat(pa.scalar(ticker), len(table))
    tables = {ticker: table.select(COLUMNS.names).add_column(0, TRADE_SCHEMA.field(0), symbols)}
    if path.exists():
        with TradeFileReader(path) as file:
            for name in file.count_trades().keys() - {ticker}:
                rows = file.read(TRADE_SCHEMA.names, tickers=[name])
                tables[name] = with_texts([rows], TRADE_SCHEMA.names)
    in_order = [tables[name] for name in sorted(tables)]
    write_window_file(path, window, in_order, sum(map(len, in_order)))

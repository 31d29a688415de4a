"""Published windows made by hand, without tape and CSV."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from stocktrace.store import parquet
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.checksum import content_hash
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId

#: Event time (epoch ms), price, volume, conditions; received when it happened.
Row = tuple[int, float, float, str]


def table_of(rows: Sequence[Row]) -> pa.Table:
    """``rows`` as they are published."""
    times = pa.array([row[0] for row in rows], pa.int64())
    columns = [
        times.cast(TRADE_SCHEMA.types[0]),
        pa.array([row[0] * 1000 for row in rows], pa.int64()).cast(TRADE_SCHEMA.types[1]),
        *(
            pa.array([row[at] for row in rows], kind)
            for at, kind in enumerate(TRADE_SCHEMA.types[2:], 1)
        ),
    ]
    return pa.Table.from_arrays(columns, schema=TRADE_SCHEMA)


def put(layout: Layout, ticker: str, part: WindowId, table: pa.Table) -> None:
    """Publish a window; what was there is replaced."""
    path = layout.parquet(ticker, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    with parquet.trade_writer(path) as writer:
        writer.write_table(table)
        content = content_hash(iter(table.to_batches())).hexdigest()
        writer.add_key_value_metadata({"stocktrace.content": content})

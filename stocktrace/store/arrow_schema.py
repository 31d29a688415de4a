"""The columns of recorded trades and of published files, in their order."""

from __future__ import annotations

import pyarrow as pa

#: A recorded trade, as in a segment.
TRADE_SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("ts_event", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("ts_recv", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("price", pa.float64(), nullable=False),
        pa.field("volume", pa.float64(), nullable=False),
        pa.field("conditions", pa.string(), nullable=False),
    ]
)
#: A published file: trades, and for each the session and the number of the window that recorded it.
#: ``date`` is the Hive partition in its path.
FILE_SCHEMA = (
    TRADE_SCHEMA
    .append(pa.field("session", pa.string(), nullable=False))
    .append(pa.field("window_number", pa.int32(), nullable=False))
)  # fmt: skip

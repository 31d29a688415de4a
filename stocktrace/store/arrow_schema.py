"""The columns of a published file, in their order."""

from __future__ import annotations

import pyarrow as pa

#: ``symbol`` and ``date`` are Hive partitions in its path.
TRADE_SCHEMA = pa.schema(
    [
        pa.field("ts_event", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("ts_recv", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("price", pa.float64(), nullable=False),
        pa.field("volume", pa.float64(), nullable=False),
        pa.field("conditions", pa.string(), nullable=False),
    ]
)

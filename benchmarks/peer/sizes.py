"""Bytes of the same trades in the formats of others; reads one Parquet file per ticker.

    python sizes.py FOLDER

It prints JSON. DBN has no conditions and numbers instruments. pcodec packs each column by itself,
at its highest level, and is not a file format: it shows about how small five columns can be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from pcodec import ChunkConfig, standalone

_DBN_ZSTD = 3  # the level of Databento's files
_FIXED = 1_000_000_000  # DBN's unit of prices


def as_dbn(table: pa.Table) -> int:
    """Return the size of one trade message per trade, compressed."""
    events = table["ts_event"].cast("int64").to_pylist()
    received = table["ts_recv"].cast("int64").to_pylist()
    prices, volumes = table["price"].to_pylist(), table["volume"].to_pylist()
    records = bytearray()
    for number, (event, receipt, price, volume) in enumerate(
        zip(events, received, prices, volumes, strict=True)
    ):
        records += bytes(
            dbn.TradeMsg(
                publisher_id=1,
                instrument_id=1,
                ts_event=event * 1_000_000,
                price=round(price * _FIXED),
                size=int(volume),
                action=dbn.Action.TRADE,
                side=dbn.Side.NONE,
                depth=0,
                ts_recv=receipt * 1000,
                ts_in_delta=0,
                sequence=number,
            )
        )
    return len(zstandard.ZstdCompressor(level=_DBN_ZSTD).compress(bytes(records)))


def as_pcodec(table: pa.Table) -> int:
    """Return the size of five columns; conditions are numbers of a few different texts."""
    codes = table["conditions"].combine_chunks().dictionary_encode()
    columns = [
        table["ts_event"].cast("int64").to_numpy(),
        table["ts_recv"].cast("int64").to_numpy(),
        table["price"].to_numpy(),
        table["volume"].to_numpy(),
        codes.indices.to_numpy().astype(np.uint16),
    ]
    config = ChunkConfig(compression_level=12)
    texts = "\n".join(codes.dictionary.to_pylist())
    return sum(len(standalone.simple_compress(column, config)) for column in columns) + len(texts)


def main() -> None:
    """Measure and print."""
    sizes: dict[str, Any] = {"dbn": 0, "pcodec": 0}
    for path in sorted(Path(sys.argv[1]).glob("*.parquet")):
        table = pq.read_table(path)
        sizes["dbn"] += as_dbn(table)
        sizes["pcodec"] += as_pcodec(table)
    print(json.dumps(sizes))


main()

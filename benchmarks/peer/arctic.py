"""ArcticDB: loads the trades of an archive and answers questions, each a line of JSON.

    python arctic.py FOLDER

One of its symbols for each ticker, indexed by the exchange's time, in LMDB: as its documentation
does it. ``{"load": DATASET, "library": NAME}`` loads, ``{"library", "symbols", "bounds", "bars"}``
asks.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
from arcticdb import Arctic, QueryBuilder, ReadRequest, WritePayload

store = Arctic(f"lmdb://{sys.argv[1]}?map_size=20GB")


def load(library: str, dataset: str) -> None:
    """Write one symbol for each ticker, unless that is done."""
    if library in store.list_libraries():
        return
    columns = ["symbol", "ts_event", "ts_recv", "price", "volume", "conditions"]
    frame = ds.dataset(dataset, partitioning="hive").to_table(columns=columns).to_pandas()
    for name in ("ts_event", "ts_recv"):
        frame[name] = frame[name].dt.tz_localize(None).astype("datetime64[ns]")
    created = store.create_library(library)
    frame = frame.set_index("ts_event")
    frame.index.name = "ts_event"
    payloads = [
        WritePayload(str(symbol), rows.drop(columns="symbol").sort_index(kind="stable"))
        for symbol, rows in frame.groupby("symbol", sort=True)
    ]
    for begin in range(0, len(payloads), 500):
        created.write_batch(payloads[begin : begin + 500])


def answer(request: dict[str, Any]) -> int:
    """Read trades or daily bars. Return the number of rows."""
    library = store[request["library"]]
    begin, end = request["bounds"]
    span = (pd.Timestamp(begin, unit="ms"), pd.Timestamp(end - 1, unit="ms"))
    builder = None
    if request["bars"]:
        builder = (
            QueryBuilder()
            .resample("1D")
            .agg(
                {
                    "open": ("price", "first"),
                    "high": ("price", "max"),
                    "low": ("price", "min"),
                    "close": ("price", "last"),
                    "volume": ("volume", "sum"),
                    "trades": ("price", "count"),
                }
            )
        )
    symbols = request["symbols"]
    if len(symbols) == 1:
        return len(library.read(symbols[0], date_range=span, query_builder=builder).data)
    requests = [ReadRequest(symbol, date_range=span, query_builder=builder) for symbol in symbols]
    frames = [item.data for item in library.read_batch(requests)]
    return len(pd.concat(frames, keys=symbols))


for line in sys.stdin:
    given = json.loads(line)
    if "load" in given:
        load(given["library"], given["load"])
        result: dict[str, float] = {}
    else:
        began = time.process_time()
        rows = answer(given)
        result = {"cpu": time.process_time() - began, "rows": rows}
    print(json.dumps(result), flush=True)

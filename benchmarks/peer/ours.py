"""stocktrace with everything on: tape, queues, pandera, CSV, Parquet, tape compression."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from pydantic import SecretStr

import stocktrace.live.capturing
from benchmarks.peer.meter import Meter
from stocktrace.live.handle import Handle
from stocktrace.rows import Rows
from stocktrace.settings import Settings
from stocktrace.status import Status
from stocktrace.store import schema
from stocktrace.store.batch import Columns
from stocktrace.store.read import Read
from stocktrace.store.tape import Frames
from stocktrace.trade import Trade


def main() -> None:
    """Record until all trades are in, then end in order."""
    given: dict[str, Any] = json.loads(os.environ.get("BENCH_SETTINGS", "{}"))
    settings = Settings.load(
        url=meter.url, data_dir=meter.folder, finnhub_api_key=SecretStr("bench"), **given
    )
    handle = Handle()

    def watch(status: Status) -> None:
        if status.trades >= meter.trades:
            handle.stop("all were sent")

    report = stocktrace.live.capturing.capture(
        meter.tickers, lasting="1h", settings=settings, watch=watch, handle=handle
    )
    books = report.books
    parquet = sum(one.parquet for one in report.per_ticker.values())
    spilled = sum(len(names) for names in report.spilled.values())
    meter.done(rows=books.recorded, parquet=parquet, windows=len(report.windows), spilled=spilled)
    if not books.trades == books.recorded == parquet == meter.trades:
        sys.exit(f"{meter.trades} were sent: {books}, {parquet} in Parquet")


# pandera imports a good part of itself in its first call: 0.15 s, once in the life of a process.
read = Read([Frames(0, [b""])], Rows.of([[Trade("A", 1.0, 0, 1.0)]]))
schema.failures(Columns.of([("A", [(read, range(1))])]).frame())
meter = Meter()
main()

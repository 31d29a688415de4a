"""stocktrace with everything on: tape, queues, pandera, CSV, Parquet, tape compression."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from pydantic import SecretStr

import stocktrace.live.api
from benchmarks.peer.meter import Meter
from stocktrace.live.control import CaptureControl
from stocktrace.sessions.status import CaptureStatus
from stocktrace.settings import Settings
from stocktrace.store import validation
from stocktrace.store.batch import BatchColumns
from stocktrace.store.decoded_batch import DecodedRead
from stocktrace.store.tape import TapeFrames
from stocktrace.trade import Trade
from stocktrace.trade_columns import TradeColumns


def main() -> None:
    """Record until all trades have arrived, then stop cleanly."""
    overrides: dict[str, Any] = json.loads(os.environ.get("BENCH_SETTINGS", "{}"))
    settings = Settings.load(
        url=meter.url, data_dir=meter.folder, finnhub_api_key=SecretStr("bench"), **overrides
    )
    control = CaptureControl()

    def watch(status: CaptureStatus) -> None:
        if status.trades >= meter.trades:
            control.stop("all trades were received")

    report = stocktrace.live.api.capture(
        meter.tickers, duration="1h", settings=settings, on_status=watch, control=control
    )
    books = report.books
    parquet = sum(ticker.parquet for ticker in report.per_ticker.values())
    spilled = sum(len(names) for names in report.spilled.values())
    meter.report(rows=books.recorded, parquet=parquet, windows=len(report.windows), spilled=spilled)
    if not books.trades == books.recorded == parquet == meter.trades:
        sys.exit(f"{meter.trades} trades were sent: {books}, {parquet} in Parquet")


# pandera imports much of itself in its first call, which takes 0.15 s once per process.
read = DecodedRead([TapeFrames(0, [b""])], TradeColumns.of([[Trade("A", 1.0, 0, 1.0)]]))
validation.find_failures(BatchColumns([("A", [(read, range(1))])]).frame())
meter = Meter()
main()

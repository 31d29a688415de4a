"""alpaca-py: ``StockDataStream`` with a handler per trade, rows to one buffered CSV file."""

from __future__ import annotations

import asyncio
import csv
import time

from alpaca.data.live import StockDataStream
from alpaca.data.models import Trade

from benchmarks.peer.meter import Meter

meter = Meter()
file = (meter.folder / "trades.csv").open("w", newline="")
writer = csv.writer(file)
rows = 0


async def on_trade(trade: Trade) -> None:
    """Write a row; the last one ends the stream."""
    global rows  # noqa: PLW0603 - as in their example
    codes = " ".join(trade.conditions or ())
    writer.writerow([trade.symbol, trade.timestamp, time.time_ns(), trade.price, trade.size, codes])
    rows += 1
    if rows == meter.trades:
        await stream.stop_ws()


stream = StockDataStream("key", "secret", url_override=meter.url)
stream.subscribe_trades(on_trade, *meter.tickers)
asyncio.run(stream._run_forever())  # noqa: SLF001 - what ``run`` does, but for its log lines
file.close()
meter.report()

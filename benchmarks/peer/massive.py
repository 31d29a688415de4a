"""massive (formerly polygon): ``WebSocketClient``, a handler per frame, one buffered CSV file."""

from __future__ import annotations

import asyncio
import csv
import time
from urllib.parse import urlsplit

from massive import WebSocketClient
from massive.websocket.models import EquityTrade, WebSocketMessage

from benchmarks.peer.meter import Meter

meter = Meter()
file = (meter.folder / "trades.csv").open("w", newline="")
writer = csv.writer(file)
rows = 0


async def on_messages(messages: list[WebSocketMessage]) -> None:
    """Write rows; the last one ends the client."""
    global rows  # noqa: PLW0603 - as in their example
    stamp = time.time_ns()
    for trade in messages:
        assert isinstance(trade, EquityTrade)
        codes = " ".join(map(str, trade.conditions or ()))
        writer.writerow([trade.symbol, trade.timestamp, stamp, trade.price, trade.size, codes])
    rows += len(messages)
    if rows >= meter.trades:
        await client.close()


client = WebSocketClient(
    "key",
    feed=urlsplit(meter.url).netloc,
    secure=False,
    subscriptions=[f"T.{ticker}" for ticker in meter.tickers],
)
asyncio.run(client.connect(on_messages, max_size=None))
file.close()
meter.report()

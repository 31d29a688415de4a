"""cryptofeed 2.4 and 3: its OKX feed with a callback per trade, rows to one buffered CSV file.

Its WebSocket takes ``wss`` addresses only and its symbols come from OKX's web site: both are
pointed at the sender. Nothing else of it is touched.
"""

from __future__ import annotations

import csv
import os
from typing import Any

import cryptofeed.connection
from cryptofeed import FeedHandler
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import TRADES
from cryptofeed.exchanges import OKX
from cryptofeed.symbols import Symbols
from cryptofeed.types import Trade

from benchmarks.peer.meter import Meter

meter = Meter()
file = (meter.folder / "trades.csv").open("w", newline="")
writer = csv.writer(file)
rows = 0
handler = FeedHandler({"log": {"disabled": True, "filename": "", "level": "WARNING"}})
dial = cryptofeed.connection.connect


def connect(address: str, **options: Any) -> Any:
    """Without TLS."""
    return dial(address.replace("wss:", "ws:"), **options)


async def on_trade(trade: Trade, stamp: float) -> None:
    """Write a row; the last one ends the process."""
    global rows  # noqa: PLW0603 - as in their example
    writer.writerow([trade.symbol, trade.timestamp, stamp, trade.price, trade.amount, trade.side])
    rows += 1
    if rows == meter.trades:
        file.close()
        meter.report()
        os._exit(0)  # version 3 does not end by itself


cryptofeed.connection.connect = connect
pairs = {f"{ticker}-USDT": f"{ticker}-USDT" for ticker in meter.tickers}
Symbols.set(OKX.id, pairs, {"instrument_type": dict.fromkeys(pairs, "spot"), "tick_size": {}})
OKX.websocket_endpoints = [WebsocketEndpoint(meter.url.replace("ws:", "wss:"))]
handler.add_feed(OKX(symbols=list(pairs), channels=[TRADES], callbacks={TRADES: on_trade}))
handler.run(install_signal_handlers=False)

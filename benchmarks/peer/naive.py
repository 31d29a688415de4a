"""Like many small Finnhub recorders: WebSocketApp, ``json``, a thread per ticker, open per row."""

from __future__ import annotations

import csv
import json
import queue
import threading
import time
from typing import Any

import websocket

from benchmarks.peer.meter import Meter

meter = Meter()
queues: dict[str, queue.Queue[dict[str, Any] | None]] = {
    ticker: queue.Queue() for ticker in meter.tickers
}
received = 0


def record(ticker: str) -> None:
    """Write the trades of one ticker."""
    while (trade := queues[ticker].get()) is not None:
        with (meter.folder / f"{ticker}.csv").open("a", newline="") as file:
            codes = " ".join(trade["c"] or ())
            csv.writer(file).writerow(
                [trade["s"], trade["t"], trade["stamp"], trade["p"], trade["v"], codes]
            )


def on_open(app: websocket.WebSocketApp) -> None:
    """Subscribe, as Finnhub's own example does."""
    for ticker in meter.tickers:
        app.send(json.dumps({"type": "subscribe", "symbol": ticker}))


def on_message(app: websocket.WebSocketApp, message: str) -> None:
    """Pass each trade to the thread of its ticker."""
    global received  # noqa: PLW0603 - as in the example
    for trade in json.loads(message)["data"]:
        trade["stamp"] = time.time_ns()
        queues[trade["s"]].put(trade)
        received += 1
    if received >= meter.trades:
        app.close()


threads = [threading.Thread(target=record, args=(ticker,)) for ticker in meter.tickers]
for thread in threads:
    thread.start()
websocket.WebSocketApp(meter.url, on_open=on_open, on_message=on_message).run_forever()
for ticker in meter.tickers:
    queues[ticker].put(None)
for thread in threads:
    thread.join()
meter.report()

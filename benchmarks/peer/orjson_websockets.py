"""A careful small recorder: websockets, orjson, one buffered CSV file."""

from __future__ import annotations

import asyncio
import time

import orjson
import websockets

from benchmarks.peer.meter import Meter


async def main() -> None:
    """Record all trades."""
    rows = 0
    with (meter.folder / "trades.csv").open("w", buffering=1 << 16) as file:
        async with websockets.connect(meter.url, max_size=None, compression=None) as socket:
            for ticker in meter.tickers:
                await socket.send(orjson.dumps({"type": "subscribe", "symbol": ticker}).decode())
            async for message in socket:
                stamp = time.time_ns()
                trades = orjson.loads(message)["data"]
                file.writelines(
                    f"{t['s']},{t['t']},{stamp},{t['p']},{t['v']},{' '.join(t['c'] or ())}\n"
                    for t in trades
                )
                rows += len(trades)
                if rows >= meter.trades:
                    break


meter = Meter()
asyncio.run(main())
meter.report()

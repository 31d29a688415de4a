"""nautilus_trader: its Rust WebSocket, msgspec and ``TradeTick``, as its own adapters do it.

Its message bus passes each tick to a handler that writes CSV, or, with the argument ``feather``, to
its ``StreamingFeatherWriter``.
"""

from __future__ import annotations

import asyncio
import csv
import sys
from typing import TYPE_CHECKING

import msgspec
from nautilus_trader.cache.cache import Cache
from nautilus_trader.common.component import LiveClock, MessageBus
from nautilus_trader.core.nautilus_pyo3 import WebSocketClient, WebSocketConfig
from nautilus_trader.model.data import TradeTick
from nautilus_trader.model.enums import AggressorSide
from nautilus_trader.model.identifiers import InstrumentId, TradeId, TraderId
from nautilus_trader.model.objects import Price, Quantity
from nautilus_trader.persistence.writer import StreamingFeatherWriter
from nautilus_trader.test_kit.providers import TestInstrumentProvider

from benchmarks.peer.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Callable


class Trade(msgspec.Struct):
    """A trade as Finnhub sends it."""

    s: str
    p: float
    t: int
    v: float
    c: list[str] | None = None


class Message(msgspec.Struct):
    """A frame of trades."""

    data: list[Trade]


meter = Meter()
clock = LiveClock()
decoder = msgspec.json.Decoder(Message)
ids = {ticker: InstrumentId.from_str(f"{ticker}.XNAS") for ticker in meter.tickers}
bus = MessageBus(trader_id=TraderId("BENCH-001"), clock=clock)
done = asyncio.Event()
rows = 0


def on_message(raw: bytes) -> None:
    """Decode a frame and publish its ticks on the bus."""
    global rows  # noqa: PLW0603 - one counter
    stamp = clock.timestamp_ns()
    for trade in decoder.decode(raw).data:
        tick = TradeTick(
            ids[trade.s],
            Price(trade.p, 4),
            Quantity(trade.v, 0),
            AggressorSide.NO_AGGRESSOR,
            TradeId(str(rows)),
            trade.t * 1_000_000,
            stamp,
        )
        bus.publish(f"data.trades.XNAS.{trade.s}", tick)
        rows += 1
    if rows >= meter.trades:
        loop.call_soon_threadsafe(done.set)


async def main() -> None:
    """Record all trades."""
    global loop  # noqa: PLW0603 - known only now
    loop = asyncio.get_running_loop()
    write: Callable[[TradeTick], None]
    if sys.argv[-1] == "feather":
        cache = Cache()
        for ticker in meter.tickers:
            cache.add_instrument(TestInstrumentProvider.equity(ticker, "XNAS"))
        feather = StreamingFeatherWriter(str(meter.folder / "feather"), cache, clock)
        write, close = feather.write, feather.close
    else:
        file = (meter.folder / "trades.csv").open("w", newline="")
        writer = csv.writer(file)

        def write(tick: TradeTick) -> None:
            writer.writerow(
                [tick.instrument_id, tick.ts_event, tick.ts_init, tick.price, tick.size]
            )

        close = file.close
    bus.subscribe("data.trades*", write)
    config = WebSocketConfig(meter.url, [])
    client = await WebSocketClient.connect(loop, config, on_message)
    for ticker in meter.tickers:
        await client.send_text(msgspec.json.encode({"type": "subscribe", "symbol": ticker}))
    await done.wait()
    close()
    meter.report()
    await client.disconnect()


loop: asyncio.AbstractEventLoop
asyncio.run(main())

"""The limit of Python: picows, typed msgspec, buffered CSV; no validation, no tape."""

from __future__ import annotations

import asyncio
import time
from typing import TextIO

import msgspec
import picows

from benchmarks.peer.meter import Meter


class Trade(msgspec.Struct, gc=False):
    """A trade as Finnhub sends it."""

    s: str
    p: float
    t: int
    v: float
    c: tuple[str, ...] | None = None


class Message(msgspec.Struct, gc=False):
    """A frame of trades."""

    data: list[Trade]


decode = msgspec.json.Decoder(Message).decode


class Listener(picows.WSListener):
    """Writes each frame's trades."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._left = meter.trades

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Subscribe."""
        for ticker in meter.tickers:
            transport.send(
                picows.WSMsgType.TEXT, f'{{"type":"subscribe","symbol":"{ticker}"}}'.encode()
            )

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Write its trades to CSV."""
        stamp = time.time_ns()
        trades = decode(frame.get_payload_as_memoryview()).data
        self._file.write(
            "".join([f"{t.s},{t.t},{stamp},{t.p},{t.v},{' '.join(t.c or ())}\n" for t in trades])
        )
        self._left -= len(trades)
        if self._left <= 0:
            transport.disconnect()


async def main() -> None:
    """Record all trades."""
    with (meter.folder / "trades.csv").open("w", buffering=1 << 16) as file:
        transport, _ = await picows.ws_connect(lambda: Listener(file), meter.url)
        await transport.wait_disconnected()


meter = Meter()
asyncio.run(main())
meter.report()

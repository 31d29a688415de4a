"""A client for the simulator, and scripts for it to play."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from stocktrace.simulator import Simulator

SECOND = 1_000_000_000


class Client:
    """A plain client; every wait ends after 5 s."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def subscribe(self, *symbols: str) -> None:
        for symbol in symbols:
            self.socket.send(json.dumps({"type": "subscribe", "symbol": symbol}))

    def unsubscribe(self, symbol: str) -> None:
        self.socket.send(json.dumps({"type": "unsubscribe", "symbol": symbol}))

    def frame(self) -> bytes:
        frame = self.socket.recv(timeout=5, decode=False)
        assert isinstance(frame, bytes)
        return frame

    def frames(self, count: int) -> list[bytes]:
        return [self.frame() for _ in range(count)]

    def trades(self, count: int) -> list[dict[str, Any]]:
        trades: list[dict[str, Any]] = []
        while len(trades) < count:
            trades += json.loads(self.frame()).get("data", [])
        return trades

    def remaining_prices(self) -> list[float]:
        """Read to the end of the connection. Return the prices."""
        seen: list[float] = []
        while True:
            try:
                seen += prices(self.trades(1))
            except ConnectionClosed:
                return seen


Dial = Callable[..., Client]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Connect to a simulator, with its key or another."""
    with ExitStack() as sockets:

        def dial(simulator: Simulator, key: str | None = None, **options: Any) -> Client:
            url = f"{simulator.url}/?token={key or simulator.settings.key}"
            socket = connect(url, compression=None, proxy=None, close_timeout=0.2, **options)
            sockets.callback(socket.close)
            return Client(socket)

        yield dial


def frame_of(*trades: tuple[str, float], t: int = 1_700_000_000_000) -> bytes:
    """Make a frame as Finnhub writes it, from ``(symbol, price)``."""
    rows = [{"c": ["1"], "p": price, "s": symbol, "t": t, "v": 100} for symbol, price in trades]
    return json.dumps({"data": rows, "type": "trade"}, separators=(",", ":")).encode()


def numbered(count: int, symbol: str = "AAPL") -> list[tuple[int, bytes]]:
    """Make ``count`` frames of one trade, with prices 1, 2, 3 … and stamps a second apart."""
    return [(n * SECOND, frame_of((symbol, n))) for n in range(1, count + 1)]


def prices(trades: list[dict[str, Any]]) -> list[float]:
    return [trade["p"] for trade in trades]

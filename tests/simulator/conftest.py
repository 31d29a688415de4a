"""A client for the simulator, and scripts for it to play."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from stocktrace.simulator import Simulator, SimulatorSettings
from tests.tls import Authority, relay

SECOND = 1_000_000_000
#: A handshake.
UPGRADE = (
    b"GET /?token=demo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


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


@pytest.fixture(params=["ws", "wss"])
def settings(request: pytest.FixtureRequest, authority: Authority) -> SimulatorSettings:
    """A simulator that begins at once and keeps what it sent, over TCP and over TLS."""
    tls = authority if request.param == "wss" else None
    return SimulatorSettings(settle=0.01, keep=True, tls=tls)


@pytest.fixture
def dial(authority: Authority) -> Iterator[Dial]:
    """Connect to a simulator, with its key or another."""
    with ExitStack() as sockets:

        def dial(simulator: Simulator, key: str | None = None, **options: Any) -> Client:
            port = simulator.port
            if simulator.settings.tls is not None:
                port = sockets.enter_context(relay(port, far=authority.client()))
            url = f"ws://127.0.0.1:{port}/?token={key or simulator.settings.key}"
            socket = connect(url, compression=None, proxy=None, close_timeout=0.2, **options)
            sockets.callback(socket.close)
            return Client(socket)

        yield dial


def request_upgrade(simulator: Simulator, authority: Authority) -> socket.socket:
    """Connect, over TLS if the simulator speaks it, and send a handshake."""
    client = socket.create_connection(("127.0.0.1", simulator.port), timeout=5)
    if simulator.settings.tls is not None:
        client = authority.client().wrap_socket(
            client, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        )
    client.sendall(UPGRADE)
    return client


def frame_of(*trades: tuple[str, float], t: int = 1_700_000_000_000) -> bytes:
    """Make a frame as Finnhub writes it, from ``(symbol, price)``."""
    rows = [{"c": ["1"], "p": price, "s": symbol, "t": t, "v": 100} for symbol, price in trades]
    return json.dumps({"data": rows, "type": "trade"}, separators=(",", ":")).encode()


def numbered(count: int, symbol: str = "AAPL") -> list[tuple[int, bytes]]:
    """Make ``count`` frames of one trade, with prices 1, 2, 3 … and stamps a second apart."""
    return [(n * SECOND, frame_of((symbol, n))) for n in range(1, count + 1)]


def prices(trades: list[dict[str, Any]]) -> list[float]:
    return [trade["p"] for trade in trades]

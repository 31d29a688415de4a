"""A simulated Finnhub on loopback: plays recordings or a synthetic market, with any fault.

For a demo without a key, the replay of one's own tapes, and tests that know what was sent::

    with Exchange(SyntheticMarket(seed=1, rate=500), ExchangeSettings(key="demo")) as exchange:
        exchange.url  # "ws://127.0.0.1:54321"
"""

from stocktrace.exchange.connection import Connection
from stocktrace.exchange.exchange import Exchange, serve
from stocktrace.exchange.faults import Fault
from stocktrace.exchange.market import SyntheticMarket, synthetic_frames
from stocktrace.exchange.playback import Tape
from stocktrace.exchange.settings import ExchangeSettings, RestSettings
from stocktrace.exchange.source import Script, Source

__all__ = [
    "Connection",
    "Exchange",
    "ExchangeSettings",
    "Fault",
    "RestSettings",
    "Script",
    "Source",
    "SyntheticMarket",
    "Tape",
    "serve",
    "synthetic_frames",
]

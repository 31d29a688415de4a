"""A simulated Finnhub on loopback: plays recordings or a synthetic market, with any fault.

For a demo without a key, the replay of one's own tapes, and tests that know what was sent::

    with Exchange(SyntheticMarket(seed=1, rate=500), ExchangeSettings(key="demo")) as exchange:
        exchange.url  # "ws://127.0.0.1:54321"
"""

from stocktrace.simulator.connection import SimulatedConnection
from stocktrace.simulator.faults import Fault
from stocktrace.simulator.market import SyntheticMarket, synthetic_frames
from stocktrace.simulator.playback import TapeSource
from stocktrace.simulator.settings import RestSettings, SimulatorSettings
from stocktrace.simulator.simulator import Simulator, run_simulator
from stocktrace.simulator.source import FrameSource, ScriptedSource

__all__ = [
    "Fault",
    "FrameSource",
    "RestSettings",
    "ScriptedSource",
    "SimulatedConnection",
    "Simulator",
    "SimulatorSettings",
    "SyntheticMarket",
    "TapeSource",
    "run_simulator",
    "synthetic_frames",
]

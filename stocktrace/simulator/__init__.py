"""A simulated Finnhub on loopback: plays recordings or a synthetic market, with any fault.

For a demo without a key, for replaying your own tapes, and for tests that know what was sent::

    with Simulator(SyntheticMarket(seed=1, rate=500), SimulatorSettings(key="demo")) as simulator:
        simulator.url  # "ws://127.0.0.1:54321"
"""

from stocktrace.simulator.client_link import SimulatedConnection
from stocktrace.simulator.faults import Fault
from stocktrace.simulator.market import SyntheticMarket, synthetic_frames
from stocktrace.simulator.settings import RestSettings, SimulatorSettings
from stocktrace.simulator.simulator import Simulator, run_simulator
from stocktrace.simulator.sources import FrameSource, ScriptedSource, TapeSource
from stocktrace.simulator.tls import Authority

__all__ = [
    "Authority",
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

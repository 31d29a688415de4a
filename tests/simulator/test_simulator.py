from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from websockets.exceptions import ConnectionClosed

from stocktrace.errors import SettingsError, StocktraceError
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SimulatorSettings, run_simulator
from stocktrace.simulator.client_link import ClientLink
from stocktrace.simulator.gateway import Gateway
from stocktrace.store.tape import TapeFrames
from tests.simulator.conftest import Dial, numbered

QUICK = SimulatorSettings(settle=0)


class Broken:
    """A source that raises an exception while it is played."""

    speed = 0.0
    loop = False

    def check(self) -> None: ...

    def entries(self, start: int, tickers: Callable[[], Sequence[str]]) -> Iterator[TapeFrames]:
        yield TapeFrames(1, [numbered(1)[0][1]])
        raise ZeroDivisionError("the source broke")


class SetAfterPlay(threading.Event):
    """An event that is set after a few waits on a simulator that has played to the end."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__()
        self._simulator = simulator
        self._left = 3

    def wait(self, timeout: float | None = None) -> bool:
        del timeout
        assert self._simulator.finished.wait(10)
        self._left -= 1
        return self._left < 0


def test_the_end_of_the_play_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    simulator = Simulator(ScriptedSource([]), SimulatorSettings(settle=None))
    with caplog.at_level("INFO", logger="stocktrace.simulator"):
        run_simulator(simulator, SetAfterPlay(simulator))
    (message,) = caplog.messages
    assert message == (
        "everything was played, but no trade was sent: no client was subscribed to its tickers. "
        "Connections stay open with heartbeats only. Press Ctrl-C to stop the simulator."
    )


def test_it_listens_on_loopback_only() -> None:
    with Simulator(ScriptedSource([])) as simulator:
        assert simulator.url == f"ws://127.0.0.1:{simulator.port}"


def test_a_port_in_use_is_reported() -> None:
    with Simulator(ScriptedSource([])) as simulator:
        other = Simulator(ScriptedSource([]), SimulatorSettings(port=simulator.port))
        with pytest.raises(SettingsError, match=f"cannot listen on port {simulator.port}"):
            other.start()


def test_stopping_closes_with_1001_and_ends_the_thread(dial: Dial) -> None:
    before = set(threading.enumerate())
    simulator = Simulator(ScriptedSource([]), QUICK)
    assert repr(simulator) == "<Simulator, not started>"
    simulator.stop()
    simulator.start()
    client = dial(simulator)
    simulator.stop()
    simulator.stop()
    with pytest.raises(ConnectionClosed) as ended:
        client.frame()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1001
    left = set(threading.enumerate()) - before
    assert "stocktrace-simulator" not in [thread.name for thread in left]


def test_stopping_does_not_wait_for_the_play(dial: Dial) -> None:
    with Simulator(ScriptedSource(numbered(9), loop=True, speed=0.001), QUICK) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        client.trades(1)


def test_a_wait_that_times_out_describes_the_simulator() -> None:
    with (
        Simulator(ScriptedSource([])) as simulator,
        pytest.raises(TimeoutError, match="0 dials, 0 connections"),
    ):
        simulator.wait_for(lambda simulator: simulator.dials == 1, timeout=0.01)


def test_an_exception_in_the_source_ends_the_simulator_and_is_raised(dial: Dial) -> None:
    simulator = Simulator(Broken(), QUICK).start()
    client = dial(simulator)
    client.subscribe("AAPL")
    with pytest.raises(StocktraceError, match="the source broke") as failed:
        simulator.wait_for(lambda simulator: simulator.finished.is_set())
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    with pytest.raises(StocktraceError, match="the source broke"):
        simulator.stop()
    with pytest.raises(StocktraceError, match="the source broke"):
        simulator.mute()


def test_an_exception_in_the_gateway_ends_the_simulator(
    dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Gateway, "_receive", bug)
    simulator = Simulator(ScriptedSource([]), QUICK).start()
    dial(simulator).subscribe("AAPL")
    with pytest.raises(StocktraceError, match="a bug"):
        simulator.wait_for(lambda simulator: False)
    with pytest.raises(StocktraceError, match="a bug"):
        simulator.stop()


def test_an_exception_in_a_timer_ends_the_simulator(
    dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ClientLink, "stall", bug)
    simulator = Simulator(ScriptedSource([]), QUICK, [Fault("stall", after_seconds=0.01)]).start()
    dial(simulator)
    with pytest.raises(StocktraceError, match="a bug"):
        simulator.wait_for(lambda simulator: False)
    with pytest.raises(StocktraceError, match="a bug"):
        simulator.stop()


def test_run_simulator_returns_when_it_is_stopped(dial: Dial) -> None:
    stop = threading.Event()
    simulator = Simulator(ScriptedSource([]), QUICK)
    server = threading.Thread(target=run_simulator, args=(simulator, stop))
    server.start()
    simulator.started.wait(5)
    dial(simulator)
    stop.set()
    server.join(5)
    assert not server.is_alive()


def test_run_simulator_raises_when_the_simulator_fails() -> None:
    class BrokenAtOnce(Broken):
        def entries(self, start: int, tickers: Callable[[], Sequence[str]]) -> Iterator[TapeFrames]:
            raise ZeroDivisionError("the source broke")

    with pytest.raises(StocktraceError, match="the source broke"):
        run_simulator(Simulator(BrokenAtOnce(), SimulatorSettings(settle=None)))

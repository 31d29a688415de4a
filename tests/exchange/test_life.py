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
from tests.exchange.conftest import Dial, numbered

QUICK = SimulatorSettings(settle=0)


class Broken:
    """A source that breaks while it is played."""

    speed = 0.0
    loop = False

    def check(self) -> None: ...

    def entries(self, start: int, tickers: Callable[[], Sequence[str]]) -> Iterator[TapeFrames]:
        yield TapeFrames(1, [numbered(1)[0][1]])
        raise ZeroDivisionError("the source broke")


class Looks(threading.Event):
    """Is set after a few looks at an exchange that has played to the end."""

    def __init__(self, exchange: Simulator) -> None:
        super().__init__()
        self._exchange = exchange
        self._left = 3

    def wait(self, timeout: float | None = None) -> bool:
        del timeout
        assert self._exchange.finished.wait(10)
        self._left -= 1
        return self._left < 0


def test_that_the_recording_is_over_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Simulator(ScriptedSource([]), SimulatorSettings(settle=None))
    with caplog.at_level("INFO", logger="stocktrace.simulator"):
        run_simulator(exchange, Looks(exchange))
    (told,) = caplog.messages
    assert told == (
        "the recording is over, and no trade was sent: nobody was subscribed to its tickers "
        "meanwhile; connections stay open with heartbeats only, Ctrl-C ends the exchange"
    )


def test_it_listens_on_loopback_only() -> None:
    with Simulator(ScriptedSource([])) as exchange:
        assert exchange.url == f"ws://127.0.0.1:{exchange.port}"


def test_a_port_that_is_taken_is_told() -> None:
    with Simulator(ScriptedSource([])) as exchange:
        other = Simulator(ScriptedSource([]), SimulatorSettings(port=exchange.port))
        with pytest.raises(SettingsError, match=f"cannot listen on port {exchange.port}"):
            other.start()


def test_stopping_closes_with_1001_and_ends_the_thread(dial: Dial) -> None:
    before = set(threading.enumerate())
    exchange = Simulator(ScriptedSource([]), QUICK)
    assert repr(exchange) == "<Exchange, not started>"
    exchange.stop()
    exchange.start()
    client = dial(exchange)
    exchange.stop()
    exchange.stop()
    with pytest.raises(ConnectionClosed) as ended:
        client.frame()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1001
    left = set(threading.enumerate()) - before
    assert "stocktrace-exchange" not in [thread.name for thread in left]


def test_it_stops_in_the_middle_of_a_play(dial: Dial) -> None:
    with Simulator(ScriptedSource(numbered(9), loop=True, speed=0.001), QUICK) as exchange:
        client = dial(exchange)
        client.subscribe("AAPL")
        client.trades(1)


def test_a_wait_that_fails_says_how_things_stand() -> None:
    with (
        Simulator(ScriptedSource([])) as exchange,
        pytest.raises(TimeoutError, match="0 dials, 0 connections"),
    ):
        exchange.wait_for(lambda exchange: exchange.dials == 1, timeout=0.01)


def test_a_source_that_breaks_ends_the_exchange_and_is_told(dial: Dial) -> None:
    exchange = Simulator(Broken(), QUICK).start()
    client = dial(exchange)
    client.subscribe("AAPL")
    with pytest.raises(StocktraceError, match="the source broke") as died:
        exchange.wait_for(lambda exchange: exchange.finished.is_set())
    assert isinstance(died.value.__cause__, ZeroDivisionError)
    with pytest.raises(StocktraceError, match="the source broke"):
        exchange.stop()
    with pytest.raises(StocktraceError, match="the source broke"):
        exchange.mute()


def test_a_bug_at_the_door_ends_the_exchange(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Gateway, "_receive", bug)
    exchange = Simulator(ScriptedSource([]), QUICK).start()
    dial(exchange).subscribe("AAPL")
    with pytest.raises(StocktraceError, match="a bug"):
        exchange.wait_for(lambda exchange: False)
    with pytest.raises(StocktraceError, match="a bug"):
        exchange.stop()


def test_a_bug_in_a_timer_ends_the_exchange(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ClientLink, "stall", bug)
    exchange = Simulator(ScriptedSource([]), QUICK, [Fault("stall", after_seconds=0.01)]).start()
    dial(exchange)
    with pytest.raises(StocktraceError, match="a bug"):
        exchange.wait_for(lambda exchange: False)
    with pytest.raises(StocktraceError, match="a bug"):
        exchange.stop()


def test_serving_lasts_until_it_is_stopped(dial: Dial) -> None:
    stop = threading.Event()
    exchange = Simulator(ScriptedSource([]), QUICK)
    server = threading.Thread(target=run_simulator, args=(exchange, stop))
    server.start()
    exchange.started.wait(5)
    dial(exchange)
    stop.set()
    server.join(5)
    assert not server.is_alive()


def test_serving_ends_when_the_exchange_dies() -> None:
    class BrokenAtOnce(Broken):
        def entries(self, start: int, tickers: Callable[[], Sequence[str]]) -> Iterator[TapeFrames]:
            raise ZeroDivisionError("the source broke")

    with pytest.raises(StocktraceError, match="the source broke"):
        run_simulator(Simulator(BrokenAtOnce(), SimulatorSettings(settle=None)))
